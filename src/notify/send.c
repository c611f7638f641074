/* SPDX-License-Identifier: Apache-2.0 */
/* send.c: picks what to send next, subscription by subscription, and judges what came back. */
#include "notify/wire.h"

#include <string.h>

#include <apr_strings.h>
#include <http_log.h>

#include "core/backoff.h"

APLOG_USE_MODULE(pubsubpull);

#define PAUSE apr_time_from_msec(50) /* when there were no sockets */
/* A receiver is down after so many failures in a row over so long a time, or so many however fast: one that fails
 * for some of the keys only is not, and others must not wait for it. */
#define DOWN_FAILURES 5
#define DOWN_AFTER apr_time_from_sec(2)
#define DOWN_SURELY 32
#define PROBE_GAP apr_time_from_sec(5) /* between fresh ones, while a receiver is down */
#define BURST apr_time_from_msec(20)   /* with a rate: how far it may catch up after a pause */

/* What choose() says beside 0 and 1. */
enum { NOTHING = -1, LATER = -2 };

struct psp_sender_t {
    apr_pool_t *scratch;     /* URLs of one turn */
    psp_sub_t *first, *last; /* by turn_next: those that may have something to send */
    apr_int64_t not_before;
};

psp_sender_t *psp_sender_make(psp_child_t *c)
{
    psp_sender_t *s = apr_pcalloc(c->p, sizeof *s);

    apr_pool_create(&s->scratch, c->p);
    apr_pool_tag(s->scratch, "psp_send");
    return s;
}

void psp_sender_turn(psp_child_t *c, psp_sub_t *sub)
{
    psp_sender_t *s = c->sender;

    if (sub->in_turn) {
        return;
    }
    sub->in_turn = 1;
    sub->turn_next = NULL;
    if (s->last) {
        s->last->turn_next = sub;
    }
    else {
        s->first = sub;
    }
    s->last = sub;
}

static psp_sub_t *next_turn(psp_sender_t *s)
{
    psp_sub_t *sub = s->first;

    if (sub) {
        s->first = sub->turn_next;
        if (!s->first) {
            s->last = NULL;
        }
        sub->in_turn = 0;
    }
    return sub;
}

void psp_sender_forget(psp_child_t *c, psp_sub_t *sub)
{
    psp_sender_t *s = c->sender;
    psp_sub_t *stop = s->last, *turn = NULL;

    while (sub->in_turn && turn != stop) {
        turn = next_turn(s);
        if (turn != sub) {
            psp_sender_turn(c, turn);
        }
    }
}

/* --- Picking --- */

/* When sockets get scarce everybody gets few, so that slow receivers cannot take them all. */
static int limit(const psp_child_t *c, const psp_sub_t *sub)
{
    int max = psp_sockets_max(c->sockets);
    int fair = c->flying < max / 2 ? sub->concurrency : c->flying < max / 4 * 3 ? 2 : 1;

    return sub->concurrency < fair ? sub->concurrency : fair;
}

/* Which of its queues to send from: 0 fresh, 1 parked, or NOTHING now, or LATER. */
static int choose(const psp_child_t *c, psp_sub_t *sub)
{
    int fresh = sub->ready.first != NULL;
    int parked = psp_line_ready(sub);

    if (sub->state != PSP_SUB_ACTIVE || (!fresh && !parked)) {
        return NOTHING;
    }
    if (sub->pace && sub->send_at > c->now) {
        return LATER;
    }
    if (sub->down) { /* one probe at a time, and a fresh one now and then: what is parked may be due in hours */
        if (sub->flying || parked) {
            return sub->flying ? NOTHING : 1;
        }
        if (sub->unsaved || sub->fresh_at > c->now) {
            return NOTHING;
        }
        sub->fresh_at = c->now + PROBE_GAP;
        return 0;
    }
    if (sub->flying >= limit(c, sub)) {
        return NOTHING;
    }
    if (fresh && parked) { /* neither starves the other */
        sub->due_turn = !sub->due_turn && 2 * sub->flying_due < sub->concurrency;
        return sub->due_turn;
    }
    return parked;
}

/* --- Judging --- */

static char *copy_error(const char *text)
{
    apr_size_t size = strlen(text) + 1;

    return memcpy(psp_child_alloc(NULL, size), text, size);
}

static void log_down(psp_child_t *c, const psp_sub_t *sub, const psp_event_t *e)
{
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, c->server,
                 "PSP0440: subscription %s: %d deliveries in a row failed, it is only probed until "
                 "one arrives: %.200s",
                 sub->name, sub->failures, e->error);
}

/* Those of a batch failed together; the first has the time of their next try. */
static void mark(psp_event_t *first, const char *error)
{
    apr_int64_t batch = first->batch ? first->batch : first->batch_next ? first->id : 0;
    psp_event_t *e;

    for (e = first; e; e = e->batch_next) {
        e->attempts = first->attempts;
        e->status = first->status;
        e->error = copy_error(error);
        e->delay = e == first ? first->delay : -1;
        e->batch = batch;
    }
}

static int seems_down(const psp_child_t *c, const psp_sub_t *sub)
{
    return sub->failures >= DOWN_SURELY ||
           (sub->failures >= DOWN_FAILURES && c->now - sub->failing_since >= DOWN_AFTER);
}

static void failed(psp_child_t *c, psp_event_t *e, const char *error, int retry_after)
{
    psp_sub_t *sub = e->sub;
    apr_interval_time_t asked = apr_time_from_sec(retry_after);
    int gone = e->status == HTTP_GONE;

    e->attempts++;
    e->gone = gone;
    e->delay = psp_backoff(e->attempts, sub->retry_first, sub->retry_max, psp_child_random(c));
    asked = asked > sub->retry_max ? sub->retry_max : asked;
    e->delay = e->delay < asked ? asked : e->delay;
    mark(e, error);
    if (sub->failures++ == 0) {
        sub->failing_since = c->now;
    }
    if (!sub->down && seems_down(c, sub) && sub->state == PSP_SUB_ACTIVE) {
        sub->down = 1;
        sub->probe_gap = 0;
        sub->probe_at = sub->fresh_at =
            c->now + (sub->retry_first < PROBE_GAP ? sub->retry_first : PROBE_GAP);
        log_down(c, sub, e);
    }
    if (gone) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, c->server,
                     "PSP0442: subscription %s is disabled: its receiver answered 410", sub->name);
    }
    psp_lane_failed(c, e); /* which may free it */
    if (gone) {
        psp_leases_stop(c, sub, 0);
    }
}

static void succeeded(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;

    if (sub->down) {
        sub->down = 0;
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0441: subscription %s: deliveries arrive again, after %d s", sub->name,
                     (int)apr_time_sec(c->now - sub->failing_since));
        psp_feed_wake(c);
    }
    sub->failures = 0;
    psp_lane_succeeded(c, e);
}

void psp_sender_done(psp_child_t *c, psp_event_t *e, const psp_put_result_t *result)
{
    psp_sub_t *sub = e->sub;
    char error[PSP_PUT_KEPT + 64];

    psp_count_result(e, result);
    e->status = result->outcome == PSP_PUT_ANSWERED ? result->status : 0;
    if (result->outcome == PSP_PUT_LOCAL) {
        c->sender->not_before = c->now + PAUSE;
        psp_lane_return(c, e);
    }
    else if (result->outcome == PSP_PUT_LOST && !e->lost) {
        e->lost = 1; /* at once again, on a connection of its own */
        psp_lane_return(c, e);
    }
    else if (e->status >= 200 && e->status < 300) {
        succeeded(c, e);
    }
    else if (e->status) {
        apr_snprintf(error, sizeof error, "the receiver answered %d%s%s", e->status,
                     *result->error ? ": " : "", result->error);
        failed(c, e, error, result->retry_after);
    }
    else {
        failed(c, e, result->error, 0);
    }
    psp_sender_turn(c, sub);
}

/* --- Sending --- */

static void start(psp_child_t *c, psp_sub_t *sub, int due)
{
    psp_event_t *e = psp_lane_take(c, sub, due);
    const char *error = NULL;
    const char *url = psp_target(c->sender->scratch, sub, sub->calls ? e->request : e->key, &error);

    psp_count(PSP_COUNT_RETRIED, e->attempts > 0);
    if (!url) {
        psp_count(PSP_COUNT_FAILED_URL, 1);
        e->status = 0;
        failed(c, e, error, 0);
        return;
    }
    if (sub->batch > 1) {
        psp_event_join(c, e);
    }
    if (sub->pace) {
        sub->send_at = (sub->send_at < c->now - BURST ? c->now - BURST : sub->send_at) + sub->pace;
    }
    if (psp_deliver_put(c->deliver, e, url) != APR_SUCCESS) {
        psp_count(PSP_COUNT_FAILED_LOCAL, 1);
        c->sender->not_before = c->now + PAUSE;
        psp_lane_return(c, e);
    }
}

void psp_sender_step(psp_child_t *c)
{
    psp_sender_t *s = c->sender;
    psp_sub_t *sub, *later = NULL;

    if (c->stopping || !s->first || !psp_renew_valid(c)) {
        return;
    }
    apr_pool_clear(s->scratch);
    while (c->now >= s->not_before && c->flying < psp_sockets_max(c->sockets) &&
           (sub = next_turn(s)) != NULL) {
        int due;

        psp_line_expire(c, sub);
        due = choose(c, sub);
        if (due >= 0) {
            start(c, sub, due);
            psp_sender_turn(c, sub);
        }
        else if (due == LATER) {
            psp_child_want(c, sub->send_at);
            sub->in_turn = 1; /* in a list of its own for now */
            sub->turn_next = later;
            later = sub;
        }
    }
    while ((sub = later) != NULL) {
        later = sub->turn_next;
        sub->in_turn = 0;
        psp_sender_turn(c, sub);
    }
    if (s->first && c->now < s->not_before) {
        psp_child_want(c, s->not_before);
    }
}
