/* SPDX-License-Identifier: Apache-2.0 */
/* subscriptions.c: /subscriptions/ and what is below: who is told what. */
#include "subscribe/subscribe.h"

#include <apr_strings.h>

#include "core/uri_template.h"
#include "record/record.h"

static const char *header(const psp_call_t *c, const char *name)
{
    return apr_table_get(c->r->headers_in, name);
}

/* The notifier learns at once of what was changed. */
static int answer_and_wake(psp_call_t *c, const char *call, int n, const char *const *params)
{
    int answer = psp_web_answer(c, call, n, params);

    psp_record_wake();
    return answer;
}

static int get_all(psp_call_t *c)
{
    const char *params[] = {c->base, c->user, psp_web_admin(c)};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.subscriptions_get($1, $2, $3)", 3, params);
}

static int get(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->user, psp_web_admin(c)};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.subscription_get($1, $2, $3, $4)", 4,
                          params);
}

/* Who may not GET what would be sent may not have it sent either. True when httpd allows it, else the request is answered. */
static int may_get(psp_call_t *c, const char *path, int *answer)
{
    apr_pool_t *p = c->r->pool;

    if (psp_web_may_get(c->r, apr_pstrcat(p, c->prefix, path, NULL))) {
        return 1;
    }
    *answer = psp_web_problem(c->r, HTTP_FORBIDDEN, "forbidden",
                              apr_pstrcat(p, "You may not GET ", c->base, path,
                                          ", so you cannot subscribe to it either.", NULL),
                              0);
    return 0;
}

/* The changes of a table, or requests, or both. With requests comes what they changed, in the tables that are put into names. */
static int may_follow(psp_call_t *c, const char **names, int *answer)
{
    apr_pool_t *p = c->r->pool;
    const char *params[] = {c->body};
    const psp_rows_t *rows;
    const char *table, *requests;
    psp_result_t result =
        psp_web_call(c, "SELECT * FROM pubsubpull.subscription_scope($1)", 1, params, &rows);

    if (result.rv != APR_SUCCESS) {
        *answer = psp_web_fail(c->r, &result);
        return 0;
    }
    table = psp_rows_get(rows, 0, 0);
    requests = psp_rows_get(rows, 0, 1);
    if (table &&
        !may_get(c, apr_pstrcat(p, "/tables/", psp_percent_encode(p, table), "/changes/", NULL),
                 answer)) {
        return 0;
    }
    if (requests && *requests == 't') {
        if (!may_get(c, "/requests/", answer)) {
            return 0;
        }
        result = psp_web_readable(c, names);
        if (result.rv != APR_SUCCESS) {
            *answer = psp_web_fail(c->r, &result);
            return 0;
        }
    }
    return 1;
}

static int put(psp_call_t *c)
{
    const char *params[] = {c->base,
                            c->segments[1],
                            c->user,
                            psp_web_admin(c),
                            c->body,
                            header(c, "If-Match"),
                            header(c, "If-None-Match"),
                            NULL};
    int answer;

    if (!may_follow(c, &params[7], &answer)) {
        return answer;
    }
    return answer_and_wake(
        c, "SELECT * FROM pubsubpull.subscription_put($1, $2, $3, $4, $5, $6, $7, $8)", 8, params);
}

static int del(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->user, psp_web_admin(c),
                            header(c, "If-Match")};

    return answer_and_wake(c, "SELECT * FROM pubsubpull.subscription_delete($1, $2, $3, $4, $5)", 5,
                           params);
}

static int get_state(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->user, psp_web_admin(c)};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.subscription_state_get($1, $2, $3, $4)", 4,
                          params);
}

static int put_state(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->user, psp_web_admin(c), c->body};

    return answer_and_wake(c, "SELECT * FROM pubsubpull.subscription_state_put($1, $2, $3, $4, $5)",
                           5, params);
}

static int get_position(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->user, psp_web_admin(c)};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.subscription_position_get($1, $2, $3, $4)",
                          4, params);
}

static int put_position(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->user, psp_web_admin(c), c->body};

    return answer_and_wake(
        c, "SELECT * FROM pubsubpull.subscription_position_put($1, $2, $3, $4, $5)", 5, params);
}

const psp_route_t psp_subscribe_routes[] = {
    {.pattern = "subscriptions/", .get = get_all},
    {.pattern = "subscriptions/*", .get = get, .put = put, .del = del},
    {.pattern = "subscriptions/*/state", .get = get_state, .put = put_state},
    {.pattern = "subscriptions/*/position", .get = get_position, .put = put_position},
    {.pattern = NULL},
};
