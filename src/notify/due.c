/* SPDX-License-Identifier: Apache-2.0 */
/* due.c: fetches parked deliveries whose time has come.
 *
 * A receiver that is down is probed: one of its parked deliveries at a time, asked for ever more
 * rarely, and nothing else is sent to it until one arrives.
 */
#include "notify/private.h"

#include <apr_strings.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define POLL apr_time_from_msec(100)
#define PROBE_GAP_MAX apr_time_from_sec(5)
#define BATCH 64    /* most deliveries of one call: others of this session wait for it */
#define LANE_DUE 64 /* ask for no more when a subscription has so many waiting */
/* The database returns a delivery again ten seconds after the time-out of its request. */
#define CLAIM apr_time_from_sec(8)
#define PAUSE apr_time_from_sec(1) /* after trouble */

/* Columns of notify_due. */
enum {
    SUBSCRIPTION,
    CHANGE,
    KEY,
    BODY,
    ATTEMPTS,
    BARRIER,
    DELETES,
    REQUEST,
    TOGETHER,
    HOPS,
    FOLLOWS
};

static const psp_news_columns_t columns = {.id = CHANGE,
                                           .key = KEY,
                                           .barrier = BARRIER,
                                           .body = BODY,
                                           .deletes = DELETES,
                                           .request = REQUEST,
                                           .hops = HOPS,
                                           .batch = TOGETHER,
                                           .follows = FOLLOWS};

struct psp_due_t {
    apr_pool_t *call_p; /* of the call under way */
    int calling;
    int troubled; /* said so in the log */
    apr_int64_t at;
    apr_int64_t sent_at;
};

psp_due_t *psp_due_make(psp_child_t *c)
{
    psp_due_t *d = apr_pcalloc(c->p, sizeof *d);

    apr_pool_create(&d->call_p, c->p);
    apr_pool_tag(d->call_p, "psp_due");
    return d;
}

void psp_due_wake(psp_child_t *c)
{
    c->due->at = c->now;
}

static void take(psp_child_t *c, const psp_rows_t *rows, int row)
{
    const char *subscription = psp_rows_get(rows, row, SUBSCRIPTION);
    const char *attempts = psp_rows_get(rows, row, ATTEMPTS);
    psp_sub_t *sub = subscription ? psp_leases_find(c, atoi(subscription)) : NULL;
    psp_news_t news = psp_news_read(rows, row, &columns);

    news.body = news.body ? news.body : ""; /* a DELETE */
    if (sub && sub->state == PSP_SUB_ACTIVE && (sub->batch > 1 || !news.batch)) {
        psp_line_push(c, sub, &news, attempts ? atoi(attempts) : 0, c->due->sent_at + CLAIM);
    }
}

static void fetched(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_due_t *d = c->due;
    int i;

    psp_child_again(c);
    d->calling = 0;
    if (result->rv != APR_SUCCESS) {
        d->at = c->now + PAUSE;
        if (result->http == HTTP_SERVICE_UNAVAILABLE) {
            return;
        }
        psp_gate_doubt(c);
        if (!d->troubled) {
            d->troubled = 1;
            ap_log_error(APLOG_MARK, APLOG_ERR, result->rv, c->server,
                         "PSP0433: cannot fetch deliveries to retry: %s", psp_gate_cause(c));
        }
        return;
    }
    d->troubled = 0;
    for (i = 0; i < psp_rows_count(rows); i++) {
        take(c, rows, i);
    }
    if (psp_rows_count(rows) >= BATCH) {
        d->at = c->now; /* there may be more */
    }
}

static void fetch(psp_child_t *c, const char *ids, int most)
{
    psp_due_t *d = c->due;
    const char *params[3];

    params[0] = c->id;
    params[1] = apr_pstrcat(d->call_p, "{", ids, "}", NULL);
    params[2] = apr_itoa(d->call_p, most);
    d->calling = 1;
    d->sent_at = c->now;
    psp_session_send(c->db, "SELECT * FROM pubsubpull.notify_due($1, $2, $3)", 3, params,
                     PSP_DB_TIMEOUT, fetched, c);
}

static int candidate(const psp_sub_t *sub)
{
    return sub->state == PSP_SUB_ACTIVE && sub->parked > 0;
}

/* Probe one receiver that is down; true when a call was made. */
static int probe(psp_child_t *c)
{
    psp_sub_t *sub;

    for (sub = psp_leases_first(c); sub; sub = sub->next) {
        if (!candidate(sub) || !sub->down || sub->flying || sub->due.count || sub->line.count) {
            continue;
        }
        if (sub->probe_at > c->now) {
            psp_child_want(c, sub->probe_at);
            continue;
        }
        sub->probe_gap = sub->probe_gap < POLL ? POLL : 2 * sub->probe_gap;
        sub->probe_gap = sub->probe_gap > PROBE_GAP_MAX ? PROBE_GAP_MAX : sub->probe_gap;
        sub->probe_at = c->now + sub->probe_gap;
        fetch(c, apr_itoa(c->due->call_p, sub->id), 1);
        return 1;
    }
    return 0;
}

/* Ask for the others together. */
static void ask(psp_child_t *c)
{
    psp_due_t *d = c->due;
    apr_array_header_t *ids = apr_array_make(d->call_p, 16, sizeof(const char *));
    psp_sub_t *sub;

    for (sub = psp_leases_first(c); sub; sub = sub->next) {
        if (sub->down && sub->ready.first) {
            psp_sender_turn(c, sub); /* a fresh one may be the probe */
        }
        if (candidate(sub) && !sub->down && !sub->line.count && sub->due.count < LANE_DUE) {
            APR_ARRAY_PUSH(ids, const char *) = apr_itoa(d->call_p, sub->id);
        }
    }
    d->at = c->now + POLL;
    if (ids->nelts) {
        fetch(c, apr_array_pstrcat(d->call_p, ids, ','), BATCH);
    }
}

void psp_due_step(psp_child_t *c)
{
    psp_due_t *d = c->due;

    if (d->calling || c->stopping || !psp_gate_open(c) || !psp_renew_valid(c) ||
        c->bytes > 2 * PSP_TOTAL_BYTES) {
        return;
    }
    if (!psp_leases_first(c)) {
        return;
    }
    if (c->now < d->at) {
        psp_child_want(c, d->at);
        return;
    }
    apr_pool_clear(d->call_p);
    if (!probe(c)) {
        ask(c);
        psp_child_want(c, d->at);
    }
}
