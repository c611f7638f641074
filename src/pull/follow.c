/* SPDX-License-Identifier: Apache-2.0 */
/* follow.c: changes as lines (NDJSON) up to now, and as Server-Sent Events for as long as the client stays. */
#include "pull/private.h"

#include <apr_strings.h>
#include <http_protocol.h>

#define HEARTBEAT apr_time_from_sec(15)
#define EVENTS_MAX                                                                                 \
    apr_time_from_sec(3600) /* then the client comes again, and Require is asked again */

static const char *link_to(psp_call_t *c, const char *url, const char *rel)
{
    return apr_pstrcat(c->r->pool, "<", url, ">; rel=\"", rel, "\"", NULL);
}

int psp_pull_fail(psp_call_t *c, const psp_result_t *result)
{
    apr_table_t *out = c->r->headers_out;
    const char *start = c->base;

    if (result->http == HTTP_GONE) {
        if (c->nsegments > 2) {
            start = apr_pstrcat(c->r->pool, c->base, "/tables/", c->raw_segments[1], NULL);
            apr_table_addn(out, "Link",
                           link_to(c, apr_pstrcat(c->r->pool, start, "/rows/", NULL), "rows"));
        }
        apr_table_addn(out, "Link",
                       link_to(c, apr_pstrcat(c->r->pool, start, "/changes/", NULL), "first"));
    }
    return psp_web_fail(c->r, result);
}

static apr_status_t write_body(psp_out_t *out, const psp_walk_t *f)
{
    const char *body = psp_walk_get(f, PSP_WALK_BODY);

    return body ? psp_out_write(out, body, psp_walk_length(f, PSP_WALK_BODY)) : APR_SUCCESS;
}

/* The link to go on with is known before the first line: where the batch ends that is read here. */
int psp_pull_lines(psp_call_t *c, psp_walk_t *f, apr_interval_time_t wait)
{
    psp_wake_t why;
    psp_result_t result = wait ? psp_walk_await(f, apr_time_now() + wait, &why) : psp_walk_poll(f);
    int single = psp_web_query(c, "limit") != NULL;
    psp_out_t *out;

    if (result.rv != APR_SUCCESS) {
        return psp_pull_fail(c, &result);
    }
    out = psp_out_open(c);
    apr_table_addn(c->r->headers_out, "Link",
                   link_to(c, apr_pstrdup(c->r->pool, psp_walk_get(f, PSP_WALK_NEXT)), "next"));
    if (c->r->header_only || write_body(out, f) != APR_SUCCESS) {
        return OK;
    }
    while (psp_walk_more(f) && !single) {
        result = psp_walk_poll(f);
        if (result.rv != APR_SUCCESS) {
            psp_out_break(out, result.rv);
            return OK;
        }
        if (write_body(out, f) != APR_SUCCESS) {
            return OK;
        }
    }
    (void)psp_out_end(out);
    return OK;
}

/* An event without data moves the place from which a client comes again, and shows that we are here. */
static apr_status_t beat(psp_out_t *out, const psp_walk_t *f, const char *before)
{
    const char *cursor = psp_walk_get(f, PSP_WALK_CURSOR);
    apr_status_t rv = psp_out_write(out, before, strlen(before));

    if (rv == APR_SUCCESS) {
        rv = psp_out_write(out, "id: ", 4);
    }
    if (rv == APR_SUCCESS) {
        rv = psp_out_write(out, cursor, strlen(cursor));
    }
    if (rv == APR_SUCCESS) {
        rv = psp_out_write(out, "\n\n", 2);
    }
    return rv == APR_SUCCESS ? psp_out_flush(out) : rv;
}

static void send_events(psp_walk_t *f, psp_out_t *out)
{
    apr_time_t end = apr_time_now() + EVENTS_MAX;

    while (apr_time_now() < end) {
        psp_wake_t why;
        psp_result_t result = psp_walk_await(f, apr_time_now() + HEARTBEAT, &why);
        apr_status_t rv = APR_SUCCESS;

        if (result.rv != APR_SUCCESS || why == PSP_WAKE_GONE || why == PSP_WAKE_STOP) {
            break; /* it comes again */
        }
        if (why == PSP_WAKE_TIME) {
            rv = beat(out, f, ":\n");
        }
        else if ((rv = write_body(out, f)) == APR_SUCCESS && !psp_walk_more(f)) {
            rv = psp_out_flush(out);
        }
        if (rv != APR_SUCCESS) {
            return;
        }
    }
    (void)psp_out_end(out);
}

int psp_pull_events(psp_call_t *c, psp_walk_t *f)
{
    psp_result_t result = psp_walk_poll(f);
    psp_out_t *out;

    if (result.rv == APR_SUCCESS && !c->r->header_only) {
        result = psp_walk_join(f);
    }
    if (result.rv != APR_SUCCESS) {
        return psp_pull_fail(c, &result);
    }
    out = psp_out_open(c);
    apr_table_setn(c->r->headers_out, "X-Accel-Buffering", "no");
    if (c->r->header_only) {
        return OK;
    }
    if (psp_out_write(out, "retry: 2000\n", sizeof("retry: 2000\n") - 1) == APR_SUCCESS &&
        (psp_walk_found(f) ? write_body(out, f) : beat(out, f, "")) == APR_SUCCESS &&
        psp_out_flush(out) == APR_SUCCESS) {
        send_events(f, out);
    }
    return OK;
}
