/* SPDX-License-Identifier: Apache-2.0 */
/* lease.c: which subscriptions this child serves, and how they come and go.
 *
 * The database decides, in its own time. A small call every second renews all leases and tells whether
 * we know what we hold; only if not, or when there is something to take, a second one says what is
 * different. What we write carries the lease's epoch, so that a child that lost a lease without knowing
 * cannot spoil anything. A subscription that changed in any way is not patched here but left and leased
 * again; one that others should have is left in the same way and then given. Renewals go by the
 * session of the request records, so that a long read cannot delay them.
 */
#include "notify/private.h"

#include <stdlib.h>
#include <string.h>

#include <apr_hash.h>
#include <apr_strings.h>
#include <http_log.h>

#include "core/json.h"
#include "core/uri_template.h"

APLOG_USE_MODULE(pubsubpull);

#define INTERVAL apr_time_from_sec(1)
#define LEASE "4" /* seconds in the database */
#define LEASE_TIME apr_time_from_sec(4)
#define TRUST apr_time_from_sec(3)    /* send nothing when the last renewal is older */
#define PAUSE apr_time_from_sec(1)    /* after a restart, or a lease that failed */
#define ASKED apr_time_from_msec(20)  /* between calls that somebody asks for */
#define RETRY apr_time_from_msec(200) /* after a conflict or the like */
#define REFRESH apr_time_from_sec(60) /* read all anew: old secrets end by themselves */

/* Columns of notify_renew. */
enum { R_HELD, R_EPOCHS, R_VERSIONS, R_TAKES, R_GIVES, R_PARKED, R_NEXT };

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
    L_LATEST
};

struct psp_leases_t {
    apr_hash_t *by_id; /* int -> psp_sub_t *, keys inside the subscriptions */
    psp_sub_t *first;
    int leaving; /* subscriptions that are not active */
    int calling;
    int asked;
    int differs;               /* what we hold is not what we know */
    apr_int64_t failing_since; /* 0: the last call succeeded */
    int troubled;              /* said so in the log */
    apr_int64_t sent_at;
    apr_int64_t renew_at;
    apr_int64_t refresh_at;
    apr_int64_t not_before;  /* after trouble */
    apr_int64_t valid_since; /* when the last successful renewal was sent; 0: none */
    const char *previous;    /* id of a child that died, whose leases are given back first */
};

psp_leases_t *psp_leases_make(psp_child_t *c, const char *previous)
{
    psp_leases_t *l = apr_pcalloc(c->p, sizeof *l);

    l->by_id = apr_hash_make(c->p);
    l->previous = *previous ? previous : NULL;
    l->asked = 1;
    return l;
}

void psp_leases_ask(psp_child_t *c)
{
    c->leases->asked = 1;
}

int psp_leases_valid(const psp_child_t *c)
{
    return c->leases->valid_since && c->now - c->leases->valid_since <= TRUST;
}

psp_sub_t *psp_leases_first(const psp_child_t *c)
{
    return c->leases->first;
}

psp_sub_t *psp_leases_find(const psp_child_t *c, int id)
{
    return apr_hash_get(c->leases->by_id, &id, sizeof id);
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

/* The log is told once. Conflicts and time-outs are usual and worth a word only when they last. */
static void failed(psp_child_t *c, const psp_result_t *result)
{
    psp_leases_t *l = c->leases;
    int again = result->http == HTTP_SERVICE_UNAVAILABLE;

    l->not_before = c->now + (again ? RETRY : PAUSE);
    l->failing_since = l->failing_since ? l->failing_since : c->now;
    if (!again) {
        psp_gate_doubt(c);
    }
    if (l->troubled || psp_gate_away(c) || (again && c->now < l->failing_since + TRUST)) {
        return;
    }
    l->troubled = 1;
    if (again) {
        ap_log_error(
            APLOG_MARK, APLOG_ERR, result->rv, c->server,
            "PSP0435: the leases cannot be renewed, and nothing is sent until they are: %s",
            psp_gate_cause(c));
        return;
    }
    ap_log_error(APLOG_MARK, APLOG_ERR, result->rv, c->server,
                 "PSP0430: cannot lease subscriptions: %s", psp_gate_cause(c));
}

/* True when the call succeeded. */
static int succeeded(psp_child_t *c, const psp_result_t *result)
{
    psp_leases_t *l = c->leases;

    psp_child_again(c);
    l->calling = 0;
    if (result->rv != APR_SUCCESS) {
        failed(c, result);
        return 0;
    }
    if (l->troubled) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0436: the leases are renewed again, after %d s",
                     (int)apr_time_sec(c->now - l->failing_since));
    }
    l->troubled = 0;
    l->failing_since = 0;
    return 1;
}

static void leased(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    apr_hash_t *places;
    apr_pool_t *p;
    int i;

    if (!succeeded(c, result)) {
        c->leases->differs = 1;
        return;
    }
    apr_pool_create(&p, c->p);
    places = apr_hash_make(p);
    for (i = 0; i < psp_rows_count(rows); i++) {
        take(c, places, rows, i);
    }
    apr_pool_destroy(p);
}

/* --- Staying --- */

static int knows(const psp_child_t *c, const psp_rows_t *rows)
{
    apr_int64_t held = 0, epochs = 0, versions = 0;
    const psp_sub_t *sub;

    for (sub = c->leases->first; sub; sub = sub->next) {
        if (sub->state != PSP_SUB_LOST) {
            held++;
            epochs += sub->epoch;
            versions += sub->version;
        }
    }
    return held == number(rows, 0, R_HELD) && epochs == number(rows, 0, R_EPOCHS) &&
           versions == number(rows, 0, R_VERSIONS);
}

/* "id:count,id:count": all others have none. */
static void take_parked(psp_child_t *c, const char *at)
{
    psp_sub_t *sub;

    for (sub = c->leases->first; sub; sub = sub->next) {
        sub->parked = 0;
    }
    while (at && *at) {
        char *end;

        sub = psp_leases_find(c, (int)strtol(at, &end, 10));
        if (sub && *end == ':') {
            sub->parked = apr_atoi64(end + 1);
        }
        at = strchr(end, ',');
        at = at ? at + 1 : NULL;
    }
}

static void renewed(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_leases_t *l = c->leases;
    apr_int64_t next;

    if (!succeeded(c, result) || psp_rows_count(rows) != 1) {
        return;
    }
    if (l->valid_since && l->sent_at - l->valid_since > LEASE_TIME) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0434: the leases were not renewed for %d s; another server may have taken "
                     "the subscriptions",
                     (int)apr_time_sec(l->sent_at - l->valid_since));
    }
    l->valid_since = l->sent_at;
    l->differs = l->differs || l->previous || number(rows, 0, R_TAKES) > 0 || !knows(c, rows);
    take_parked(c, psp_rows_get(rows, 0, R_PARKED));
    if (psp_rows_get(rows, 0, R_NEXT)) { /* look when somebody's lease may end */
        next = c->now + apr_time_from_msec(number(rows, 0, R_NEXT));
        l->renew_at = next < l->renew_at ? next : l->renew_at;
    }
    psp_give_some(c, number(rows, 0, R_GIVES));
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
    c->leases->not_before = c->now + PAUSE;
}

static void free_sub(psp_child_t *c, psp_sub_t *sub)
{
    psp_leases_t *l = c->leases;

    l->leaving--;
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

static void sweep(psp_child_t *c)
{
    psp_sub_t *sub = c->leases->leaving ? c->leases->first : NULL;

    while (sub) {
        psp_sub_t *next = sub->next;

        if (sub->state != PSP_SUB_ACTIVE && !sub->flying && !sub->dirty && !sub->unsaved &&
            !sub->in_doc) {
            psp_give_left(c, sub);
            free_sub(c, sub);
            c->leases->asked = 1; /* it may be to be served anew */
        }
        sub = next;
    }
}

/* --- Asking --- */

static void ignored(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    (void)baton;
    (void)result; /* whatever it is: leases end by themselves */
    (void)rows;
}

/* On the session of the renewals, so that none comes after it. */
void psp_leases_release(psp_child_t *c)
{
    if (psp_gate_open(c) && c->config->notifier) {
        psp_session_send(c->records_db, "SELECT pubsubpull.notify_leave($1)", 1, &c->id,
                         PSP_RECORDS_TIMEOUT, ignored, c);
    }
}

static void write_known(psp_json_t *j, const psp_sub_t *sub, apr_int64_t value)
{
    psp_json_raw(j, psp_json_length(j) > 1 ? "," : "");
    psp_json_int(j, sub->state == PSP_SUB_LOST ? 0 : value);
}

/* What we know, as three arrays of SQL, so that the answer is what differs. */
static void send_lease(psp_child_t *c, int refresh)
{
    psp_leases_t *l = c->leases;
    const char *params[4] = {c->id};
    psp_json_t *known[3];
    const psp_sub_t *sub;
    apr_pool_t *p;
    int i;

    apr_pool_create(&p, c->p);
    for (i = 0; i < 3; i++) {
        known[i] = psp_json_make(p, 8192);
        psp_json_raw(known[i], "{");
    }
    for (sub = l->first; sub; sub = sub->next) {
        write_known(known[0], sub, sub->id);
        write_known(known[1], sub, sub->epoch);
        write_known(known[2], sub, refresh ? 0 : sub->version);
    }
    for (i = 0; i < 3; i++) {
        psp_json_raw(known[i], "}");
        params[i + 1] = psp_json_text(known[i]);
    }
    if (l->previous) { /* not before we are known to be alive: others would take what it held */
        psp_session_send(c->records_db, "SELECT pubsubpull.notify_release($1)", 1, &l->previous,
                         PSP_RECORDS_TIMEOUT, ignored, c);
        l->previous = NULL;
    }
    l->calling = 1;
    l->differs = 0;
    psp_session_send(c->records_db, "SELECT * FROM pubsubpull.notify_lease($1, $2, $3, $4)", 4,
                     params, PSP_RECORDS_TIMEOUT, leased, c);
    apr_pool_destroy(p);
}

static void send_renew(psp_child_t *c)
{
    psp_leases_t *l = c->leases;
    const char *params[2] = {c->id, LEASE};

    l->calling = 1;
    l->asked = 0;
    l->sent_at = c->now;
    l->renew_at = c->now + INTERVAL;
    psp_session_send(c->records_db, "SELECT * FROM pubsubpull.notify_renew($1, $2)", 2, params,
                     PSP_RECORDS_TIMEOUT, renewed, c);
}

static apr_int64_t later(apr_int64_t a, apr_int64_t b)
{
    return a > b ? a : b;
}

void psp_leases_step(psp_child_t *c)
{
    psp_leases_t *l = c->leases;
    apr_int64_t when;
    int refresh;

    sweep(c);
    if (l->calling || c->stopping || !c->config->notifier || !psp_gate_open(c)) {
        return;
    }
    psp_give_send(c); /* before what differs is read: these are known to be left */
    refresh = c->now >= l->refresh_at;
    if ((l->differs || refresh) && psp_leases_valid(c) && c->now >= l->not_before) {
        l->refresh_at = refresh ? c->now + REFRESH : l->refresh_at;
        send_lease(c, refresh);
        return;
    }
    when = l->asked ? l->sent_at + ASKED : l->renew_at;
    when = later(when < l->renew_at ? when : l->renew_at, l->not_before);
    if (c->now < when) {
        psp_child_want(c, when);
        return;
    }
    send_renew(c);
}
