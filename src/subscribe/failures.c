/* SPDX-License-Identifier: Apache-2.0 */
/* failures.c: /subscriptions/{name}/failures/: deliveries that did not succeed; try again or discard, one or all. */
#include "subscribe/subscribe.h"

#include "record/record.h"

/* The id of one failure, or NULL: all of them. */
static const char *which(const psp_call_t *c)
{
    return *c->segments[3] ? c->segments[3] : NULL;
}

static int get_failures(psp_call_t *c)
{
    const char *params[] = {c->base,
                            c->segments[1],
                            c->user,
                            psp_web_admin(c),
                            psp_web_query(c, "since"),
                            psp_web_query(c, "limit")};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.failures_get($1, $2, $3, $4, $5, $6)", 6,
                          params);
}

static int put_failure(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->user, psp_web_admin(c), which(c), c->body};
    int answer = psp_web_answer(c, "SELECT * FROM pubsubpull.failure_put($1, $2, $3, $4, $5, $6)",
                                6, params);

    psp_record_wake();
    return answer;
}

static int delete_failure(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->user, psp_web_admin(c), which(c)};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.failure_delete($1, $2, $3, $4, $5)", 5,
                          params);
}

static const char *const failures_query[] = {"since", "limit", NULL};

const psp_route_t psp_failure_routes[] = {
    {.pattern = "subscriptions/*/failures/",
     .get = get_failures,
     .put = put_failure,
     .del = delete_failure,
     .query = failures_query},
    {.pattern = "subscriptions/*/failures/*", .put = put_failure, .del = delete_failure},
    {.pattern = NULL},
};
