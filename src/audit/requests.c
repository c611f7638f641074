/* SPDX-License-Identifier: Apache-2.0 */
/* requests.c: /requests/ and /requests/{id}: who did what, and all that it changed. */
#include "audit/audit.h"

static int get_requests(psp_call_t *c)
{
    const char *params[] = {
        c->base,
        psp_web_query(c, "user"),
        psp_web_query(c, "method"),
        psp_web_query(c, "path"),
        psp_web_query(c, "status"),
        psp_web_query(c, "since"),
        psp_web_query(c, "limit"),
    };

    return psp_web_answer(c, "SELECT * FROM pubsubpull.requests_get($1, $2, $3, $4, $5, $6, $7)", 7,
                          params);
}

static int get_request(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1]};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.request_get($1, $2)", 2, params);
}

static const char *const requests_query[] = {"user",  "method", "path", "status",
                                             "since", "limit",  NULL};

const psp_route_t psp_audit_routes[] = {
    {.pattern = "requests/", .get = get_requests, .query = requests_query},
    {.pattern = "requests/*", .get = get_request},
    {.pattern = NULL},
};
