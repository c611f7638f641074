/* SPDX-License-Identifier: Apache-2.0 */
/* lease.c: which subscriptions this child serves, and how they come and go.
 *
 * The database decides (renew.c asks). What we write carries the lease's epoch, so that a child that lost a
 * lease without knowing cannot spoil anything. A subscription that changed in any way is not patched here
 * but left and leased again; one that others should have is left in the same way and then given.
 */
#include "notify/private.h"

#include <string.h>

#include <apr_hash.h>
#include <apr_strings.h>
#include <http_log.h>

#include "core/uri_template.h"

APLOG_USE_MODULE(pubsubpull);

/* Columns of notify_lease. */
enum {
    L_ID,
    L_EPOCH,
    L_VERSION,
    L_NAME,
    L_CALLBACK,
    L_KEY,
    L_TABLE,
    L_POSITION,
    L_DONE,
    L_TIMEOUT,
    L_CONCURRENCY,
    L_FIRST,
    L_MAX,
    L_PARKED,
    L_HEADERS,
    L_SECRETS,
    L_FORMAT,
    L_BATCH,
    L_RATE,
    L_LATEST,
    L_CALLS
};

struct psp_leases_t {
    apr_hash_t *by_id; /* int -> psp_sub_t *, keys inside the subscriptions */
    psp_sub_t *first;
    int leaving; /* subscriptions that are not active */
    int calls;   /* those that follow API calls */
};

psp_leases_t *psp_leases_make(psp_child_t *c)
{
    psp_leases_t *l = apr_pcalloc(c->p, sizeof *l);

    l->by_id = apr_hash_make(c->p);
    return l;
}

psp_sub_t *psp_leases_first(const psp_child_t *c)
{
    return c->leases->first;
}

psp_sub_t *psp_leases_find(const psp_child_t *c, int id)
{
    return apr_hash_get(c->leases->by_id, &id, sizeof id);
}

int psp_leases_calls(const psp_child_t *c)
{
    return c->leases->calls;
}

/* --- Coming --- */

static apr_int64_t number(const psp_rows_t *rows, int row, int column)
{
    const char *text = psp_rows_get(rows, row, column);

    return text ? apr_atoi64(text) : 0;
}

static const char *text(apr_pool_t *p, const psp_rows_t *rows, int row, int column)
{
    const char *value = psp_rows_get(rows, row, column);

    return apr_pstrdup(p, value ? value : "");
}

static int at_least(apr_int64_t value, int least)
{
    return value < least ? least : value > APR_INT32_MAX ? APR_INT32_MAX : (int)value;
}

static void set_keys(psp_sub_t *sub, const char *names)
{
    apr_array_header_t *keys = apr_array_make(sub->p, 4, sizeof(const char *));
    char *state = NULL, *name;
    char *copy = apr_pstrdup(sub->p, names ? names : "");

    for (name = apr_strtok(copy, ",", &state); name; name = apr_strtok(NULL, ",", &state)) {
        const char *decoded = psp_percent_decode(sub->p, name);

        APR_ARRAY_PUSH(keys, const char *) = decoded ? decoded : name;
    }
    sub->keys = (const char *const *)keys->elts;
    sub->nkeys = keys->nelts;
}

/* How much at a time, and how fast. */
static void set_amounts(psp_sub_t *sub, const psp_rows_t *rows, int row)
{
    const char *rate = psp_rows_get(rows, row, L_RATE);
    double puts = rate ? atof(rate) : 0;

    sub->concurrency = at_least(number(rows, row, L_CONCURRENCY), 1);
    sub->batch = at_least(number(rows, row, L_BATCH), 1);
    sub->latest = *text(sub->p, rows, row, L_LATEST) == 't';
    sub->pace = puts > 0 ? (apr_interval_time_t)(APR_USEC_PER_SEC / puts) : 0;
    sub->room = 2 * sub->batch * (sub->concurrency < 8 ? sub->concurrency : 8);
    sub->room = sub->room < PSP_LANE_EVENTS     ? PSP_LANE_EVENTS
                : sub->room > PSP_LANE_DONE / 4 ? PSP_LANE_DONE / 4
                                                : sub->room;
}

static psp_sub_t *make_sub(psp_child_t *c, const psp_rows_t *rows, int row)
{
    psp_leases_t *l = c->leases;
    psp_sub_t *sub;
    apr_pool_t *p;

    apr_pool_create(&p, c->p);
    apr_pool_tag(p, "psp_subscription");
    sub = apr_pcalloc(p, sizeof *sub);
    sub->p = p;
    sub->id = (int)number(rows, row, L_ID);
    sub->epoch = number(rows, row, L_EPOCH);
    sub->version = number(rows, row, L_VERSION);
    sub->name = text(p, rows, row, L_NAME);
    sub->callback = text(p, rows, row, L_CALLBACK);
    sub->plain = !strchr(sub->callback, '{');
    sub->table = text(p, rows, row, L_TABLE);
    sub->calls = *text(p, rows, row, L_CALLS) == 't';
    l->calls += sub->calls;
    set_keys(sub, psp_rows_get(rows, row, L_KEY));
    sub->timeout = apr_time_from_msec(at_least(number(rows, row, L_TIMEOUT), 1));
    set_amounts(sub, rows, row);
    sub->retry_first = apr_time_from_msec(at_least(number(rows, row, L_FIRST), 1));
    sub->retry_max = apr_time_from_msec(at_least(number(rows, row, L_MAX), 1));
    sub->headers = text(p, rows, row, L_HEADERS);
    sub->secrets = "";
    sub->cloudevents = strcmp(text(p, rows, row, L_FORMAT), "cloudevents") == 0;
    sub->next = l->first;
    if (l->first) {
        l->first->previous = sub;
    }
    l->first = sub;
    apr_hash_set(l->by_id, &sub->id, sizeof sub->id, sub);
    return sub;
}

/* New subscriptions that are at the same place share it, so that one read serves them all. */
static void place(psp_sub_t *sub, apr_hash_t *places, const psp_rows_t *rows, int row)
{
    const char *at = psp_rows_get(rows, row, L_POSITION);
    psp_pos_t *pos;

    at = at ? at : "";
    pos = apr_hash_get(places, at, APR_HASH_KEY_STRING);
    if (pos) {
        psp_place_begin(sub, pos, psp_rows_get(rows, row, L_DONE));
        return;
    }
    pos = psp_pos_make(at);
    psp_place_begin(sub, pos, psp_rows_get(rows, row, L_DONE));
    apr_hash_set(places, pos->text, APR_HASH_KEY_STRING, pos);
    psp_pos_drop(pos); /* the subscription has it */
}

static void take(psp_child_t *c, apr_hash_t *places, const psp_rows_t *rows, int row)
{
    psp_sub_t *sub = psp_leases_find(c, (int)number(rows, row, L_ID));

    if (!psp_rows_get(rows, row, L_NAME)) { /* paused, deleted, or taken by another server */
        if (sub) {
            psp_leases_stop(c, sub, 0);
        }
        return;
    }
    if (!sub) {
        sub = make_sub(c, rows, row);
        place(sub, places, rows, row);
        sub->more = 1;
        ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, c->server, "serving subscription %s", sub->name);
        psp_feed_wake(c);
    }
    else if (sub->state == PSP_SUB_ACTIVE && sub->epoch != number(rows, row, L_EPOCH)) {
        psp_leases_stop(c, sub, 1); /* we lost it and got it back: its place may be another */
    }
    else if (sub->state == PSP_SUB_ACTIVE && sub->version != number(rows, row, L_VERSION)) {
        psp_leases_stop(c, sub, 0);
    }
    if (psp_rows_get(rows, row, L_SECRETS) &&
        strcmp(sub->secrets, psp_rows_get(rows, row, L_SECRETS)) != 0) { /* or an old one expired */
        sub->secrets = text(sub->p, rows, row, L_SECRETS);
    }
    sub->parked = number(rows, row, L_PARKED);
}

void psp_leases_take(psp_child_t *c, const psp_rows_t *rows)
{
    apr_hash_t *places;
    apr_pool_t *p;
    int i;

    apr_pool_create(&p, c->p);
    places = apr_hash_make(p);
    for (i = 0; i < psp_rows_count(rows); i++) {
        take(c, places, rows, i);
    }
    apr_pool_destroy(p);
}

/* --- Going --- */

void psp_leases_stop(psp_child_t *c, psp_sub_t *sub, int lost)
{
    if (sub->state == PSP_SUB_ACTIVE) {
        c->leases->leaving++;
        psp_lane_drop(c, sub);
    }
    if (sub->state != PSP_SUB_LOST && lost) {
        psp_saver_forget(c, sub);
    }
    if (sub->state == PSP_SUB_ACTIVE || lost) {
        sub->state = lost ? PSP_SUB_LOST : PSP_SUB_LEAVING;
    }
}

void psp_leases_restart(psp_child_t *c)
{
    psp_sub_t *sub;

    for (sub = c->leases->first; sub; sub = sub->next) {
        psp_leases_stop(c, sub, 1);
    }
    psp_renew_pause(c);
}

static void free_sub(psp_child_t *c, psp_sub_t *sub)
{
    psp_leases_t *l = c->leases;

    l->leaving--;
    l->calls -= sub->calls;
    apr_hash_set(l->by_id, &sub->id, sizeof sub->id, NULL);
    if (sub->previous) {
        sub->previous->next = sub->next;
    }
    else {
        l->first = sub->next;
    }
    if (sub->next) {
        sub->next->previous = sub->previous;
    }
    psp_saver_forget(c, sub);
    psp_sender_forget(c, sub);
    psp_place_end(sub);
    apr_pool_destroy(sub->p);
}

void psp_leases_sweep(psp_child_t *c)
{
    psp_sub_t *sub = c->leases->leaving ? c->leases->first : NULL;

    while (sub) {
        psp_sub_t *next = sub->next;

        if (sub->state != PSP_SUB_ACTIVE && !sub->flying && !sub->dirty && !sub->unsaved &&
            !sub->in_doc) {
            psp_give_left(c, sub);
            free_sub(c, sub);
            psp_renew_ask(c); /* it may be to be served anew */
        }
        sub = next;
    }
}
