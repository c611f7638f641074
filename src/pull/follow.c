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

typedef struct follow_t {
    psp_call_t *c;
    psp_walk_t *f;
    psp_out_t *out;
    apr_time_t end;
} follow_t;

static follow_t *make(psp_call_t *c, psp_walk_t *f)
{
    follow_t *w = apr_pcalloc(c->r->pool, sizeof(*w));

    w->c = c;
    w->f = f;
    return w;
}

/* The link to go on with is known before the first line: where the batch ends that was read. */
static int send_lines(psp_call_t *c, psp_walk_t *f)
{
    int single = psp_web_query(c, "limit") != NULL;
    psp_out_t *out = psp_out_open(c);
    psp_result_t result;

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

static int lines_turn(void *baton, psp_wake_t why, apr_time_t *deadline)
{
    follow_t *w = baton;
    psp_result_t result;

    (void)deadline;
    if (why == PSP_WAKE_NEWS) {
        result = psp_walk_seek(w->f);
        if (result.rv != APR_SUCCESS) {
            (void)psp_pull_fail(w->c, &result);
            return 0;
        }
        if (!psp_walk_found(w->f)) {
            return 1;
        }
    }
    (void)send_lines(w->c, w->f);
    return 0;
}

int psp_pull_lines(psp_call_t *c, psp_walk_t *f, apr_interval_time_t wait)
{
    apr_time_t deadline = apr_time_now() + wait;
    psp_result_t result = psp_walk_poll(f);

    if (result.rv == APR_SUCCESS && wait && !psp_walk_found(f) && !psp_walk_more(f)) {
        result = psp_walk_join(f);
        if (result.rv == APR_SUCCESS) {
            return psp_walk_stay(f, deadline, lines_turn, make(c, f));
        }
    }
    return result.rv == APR_SUCCESS ? send_lines(c, f) : psp_pull_fail(c, &result);
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

/* *sent: there was something. */
static apr_status_t send_events(const follow_t *w, int *sent)
{
    psp_result_t result;
    apr_status_t rv = APR_SUCCESS;

    do {
        result = psp_walk_seek(w->f);
        if (result.rv != APR_SUCCESS) {
            (void)psp_out_end(w->out); /* it comes again */
            return result.rv;
        }
        if (!psp_walk_found(w->f)) {
            break;
        }
        *sent = 1;
        rv = write_body(w->out, w->f);
    } while (rv == APR_SUCCESS && psp_walk_goes_on(w->f));
    return rv == APR_SUCCESS && *sent ? psp_out_flush(w->out) : rv;
}

static int events_turn(void *baton, psp_wake_t why, apr_time_t *deadline)
{
    const follow_t *w = baton;
    apr_time_t now = apr_time_now();
    int sent = why == PSP_WAKE_TIME;
    apr_status_t rv;

    if (why == PSP_WAKE_GONE || why == PSP_WAKE_STOP || now >= w->end) {
        (void)psp_out_end(w->out);
        return 0;
    }
    rv = sent ? beat(w->out, w->f, ":\n") : send_events(w, &sent);
    if (sent) {
        *deadline = now + HEARTBEAT < w->end ? now + HEARTBEAT : w->end;
    }
    return rv == APR_SUCCESS;
}

int psp_pull_events(psp_call_t *c, psp_walk_t *f)
{
    psp_result_t result = psp_walk_poll(f);
    follow_t *w = make(c, f);

    if (result.rv == APR_SUCCESS && !c->r->header_only) {
        result = psp_walk_join(f);
    }
    if (result.rv != APR_SUCCESS) {
        return psp_pull_fail(c, &result);
    }
    w->out = psp_out_open(c);
    w->end = apr_time_now() + EVENTS_MAX;
    apr_table_setn(c->r->headers_out, "X-Accel-Buffering", "no");
    apr_table_setn(c->r->subprocess_env, "nokeepalive", "1"); /* see away.c */
    if (c->r->header_only) {
        return OK;
    }
    if (psp_out_write(w->out, "retry: 2000\n", sizeof("retry: 2000\n") - 1) != APR_SUCCESS ||
        (psp_walk_found(f) ? write_body(w->out, f) : beat(w->out, f, "")) != APR_SUCCESS ||
        psp_out_flush(w->out) != APR_SUCCESS) {
        return OK;
    }
    return psp_walk_stay(f, apr_time_now() + HEARTBEAT, events_turn, w);
}
