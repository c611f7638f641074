/* SPDX-License-Identifier: Apache-2.0 */
/* requests.c: /requests/ and /requests/{id}: who did what, and all that it changed. */
#include "audit/audit.h"

#include "core/json.h"

/* What a list can be filtered by; the database knows how. */
static const char *const filters[] = {"user",  "method", "path", "status", "from",  "to", "remote",
                                      "cause", "table",  "key",  "odd",    "since", NULL};
static const char *const requests_query[] = {"user", "method", "path",  "status", "from",
                                             "to",   "remote", "cause", "table",  "key",
                                             "odd",  "since",  "limit", NULL};

static const char *given_filters(psp_call_t *c)
{
    psp_json_t *j = psp_json_make(c->r->pool, 256);
    int i;

    psp_json_raw(j, "{");
    for (i = 0; filters[i]; i++) {
        const char *value = psp_web_query(c, filters[i]);

        if (value) {
            psp_json_name(j, filters[i]);
            psp_json_string(j, value);
        }
    }
    psp_json_raw(j, "}");
    return psp_json_text(j);
}

static int get_requests(psp_call_t *c)
{
    const char *params[] = {c->base, given_filters(c), NULL, psp_web_query(c, "limit")};
    psp_result_t result;

    /* Only these tell something of tables. */
    if (psp_web_query(c, "table") || psp_web_query(c, "odd")) {
        result = psp_web_readable(c, &params[2]);
        if (result.rv != APR_SUCCESS) {
            return psp_web_fail(c->r, &result);
        }
    }
    return psp_web_answer(c, "SELECT * FROM pubsubpull.requests_get($1, $2, $3, $4)", 4, params);
}

static int get_request(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], NULL};
    psp_result_t result = psp_web_readable(c, &params[2]);

    if (result.rv != APR_SUCCESS) {
        return psp_web_fail(c->r, &result);
    }
    return psp_web_answer(c, "SELECT * FROM pubsubpull.request_get($1, $2, $3)", 3, params);
}

const psp_route_t psp_audit_routes[] = {
    {.pattern = "requests/", .get = get_requests, .query = requests_query},
    {.pattern = "requests/*", .get = get_request},
    {.pattern = NULL},
};
