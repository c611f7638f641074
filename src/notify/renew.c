/* SPDX-License-Identifier: Apache-2.0 */
/* renew.c: keeps the leases, learns what they are and tells when this child leaves.
 *
 * The database decides, in its own time. A small call every second renews all leases and tells whether
 * we know what we hold; only if not, or when there is something to take, a second one says what is
 * different. These calls go by the session of the request records, so that a long read cannot delay them.
 */
#include "notify/private.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>
#include <http_log.h>

#include "core/json.h"

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

struct psp_renew_t {
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

psp_renew_t *psp_renew_make(psp_child_t *c, const char *previous)
{
    psp_renew_t *r = apr_pcalloc(c->p, sizeof *r);

    r->previous = *previous ? previous : NULL;
    r->asked = 1;
    return r;
}

void psp_renew_ask(psp_child_t *c)
{
    c->renew->asked = 1;
}

int psp_renew_valid(const psp_child_t *c)
{
    return c->renew->valid_since && c->now - c->renew->valid_since <= TRUST;
}

void psp_renew_pause(psp_child_t *c)
{
    c->renew->not_before = c->now + PAUSE;
}

/* The log is told once. Conflicts and time-outs are usual and worth a word only when they last. */
static void failed(psp_child_t *c, const psp_result_t *result)
{
    psp_renew_t *r = c->renew;
    int again = result->http == HTTP_SERVICE_UNAVAILABLE;

    r->not_before = c->now + (again ? RETRY : PAUSE);
    r->failing_since = r->failing_since ? r->failing_since : c->now;
    if (!again) {
        psp_gate_doubt(c);
    }
    if (r->troubled || psp_gate_away(c) || (again && c->now < r->failing_since + TRUST)) {
        return;
    }
    r->troubled = 1;
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
    psp_renew_t *r = c->renew;

    psp_child_again(c);
    r->calling = 0;
    if (result->rv != APR_SUCCESS) {
        failed(c, result);
        return 0;
    }
    if (r->troubled) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0436: the leases are renewed again, after %d s",
                     (int)apr_time_sec(c->now - r->failing_since));
    }
    r->troubled = 0;
    r->failing_since = 0;
    return 1;
}

static void leased(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;

    if (!succeeded(c, result)) {
        c->renew->differs = 1;
        return;
    }
    psp_leases_take(c, rows);
}

/* --- Staying --- */

static apr_int64_t number(const psp_rows_t *rows, int column)
{
    const char *text = psp_rows_get(rows, 0, column);

    return text ? apr_atoi64(text) : 0;
}

static int knows(const psp_child_t *c, const psp_rows_t *rows)
{
    apr_int64_t held = 0, epochs = 0, versions = 0;
    const psp_sub_t *sub;

    for (sub = psp_leases_first(c); sub; sub = sub->next) {
        if (sub->state != PSP_SUB_LOST) {
            held++;
            epochs += sub->epoch;
            versions += sub->version;
        }
    }
    return held == number(rows, R_HELD) && epochs == number(rows, R_EPOCHS) &&
           versions == number(rows, R_VERSIONS);
}

/* "id:count,id:count": all others have none. */
static void take_parked(psp_child_t *c, const char *at)
{
    psp_sub_t *sub;

    for (sub = psp_leases_first(c); sub; sub = sub->next) {
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
    psp_renew_t *r = c->renew;
    apr_int64_t next;

    if (!succeeded(c, result) || psp_rows_count(rows) != 1) {
        return;
    }
    if (r->valid_since && r->sent_at - r->valid_since > LEASE_TIME) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0434: the leases were not renewed for %d s; another server may have taken "
                     "the subscriptions",
                     (int)apr_time_sec(r->sent_at - r->valid_since));
    }
    r->valid_since = r->sent_at;
    r->differs = r->differs || r->previous || number(rows, R_TAKES) > 0 || !knows(c, rows);
    take_parked(c, psp_rows_get(rows, 0, R_PARKED));
    if (psp_rows_get(rows, 0, R_NEXT)) { /* look when somebody's lease may end */
        next = c->now + apr_time_from_msec(number(rows, R_NEXT));
        r->renew_at = next < r->renew_at ? next : r->renew_at;
    }
    psp_give_some(c, number(rows, R_GIVES));
}

/* --- Asking --- */

static void ignored(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    (void)baton;
    (void)result; /* whatever it is: leases end by themselves */
    (void)rows;
}

/* On the session of the renewals, so that none comes after it. */
void psp_renew_leave(psp_child_t *c)
{
    if (psp_gate_open(c) && c->config->notifier) {
        psp_session_send(c->records_db, "SELECT pubsubpull.notify_leave($1)", 1, &c->id,
                         PSP_RECORDS_TIMEOUT, ignored, c);
    }
}

static void write_known(psp_json_t *j, apr_int64_t value)
{
    psp_json_raw(j, psp_json_length(j) > 1 ? "," : "");
    psp_json_int(j, value);
}

/* What we know, as three arrays of SQL, so that the answer is what differs. */
static void send_lease(psp_child_t *c, int refresh)
{
    psp_renew_t *r = c->renew;
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
    for (sub = psp_leases_first(c); sub; sub = sub->next) {
        if (sub->state != PSP_SUB_LOST) {
            write_known(known[0], sub->id);
            write_known(known[1], sub->epoch);
            write_known(known[2], refresh ? 0 : sub->version);
        }
    }
    for (i = 0; i < 3; i++) {
        psp_json_raw(known[i], "}");
        params[i + 1] = psp_json_text(known[i]);
    }
    if (r->previous) { /* not before we are known to be alive: others would take what it held */
        psp_session_send(c->records_db, "SELECT pubsubpull.notify_release($1)", 1, &r->previous,
                         PSP_RECORDS_TIMEOUT, ignored, c);
        r->previous = NULL;
    }
    r->calling = 1;
    r->differs = 0;
    psp_session_send(c->records_db, "SELECT * FROM pubsubpull.notify_lease($1, $2, $3, $4)", 4,
                     params, PSP_RECORDS_TIMEOUT, leased, c);
    apr_pool_destroy(p);
}

static void send_renew(psp_child_t *c)
{
    psp_renew_t *r = c->renew;
    const char *params[2] = {c->id, LEASE};

    r->calling = 1;
    r->asked = 0;
    r->sent_at = c->now;
    r->renew_at = c->now + INTERVAL;
    psp_session_send(c->records_db, "SELECT * FROM pubsubpull.notify_renew($1, $2)", 2, params,
                     PSP_RECORDS_TIMEOUT, renewed, c);
}

static apr_int64_t later(apr_int64_t a, apr_int64_t b)
{
    return a > b ? a : b;
}

void psp_renew_step(psp_child_t *c)
{
    psp_renew_t *r = c->renew;
    apr_int64_t when;
    int refresh;

    psp_leases_sweep(c);
    if (r->calling || c->stopping || !c->config->notifier || !psp_gate_open(c)) {
        return;
    }
    psp_give_send(c); /* before what differs is read: these are known to be left */
    refresh = c->now >= r->refresh_at;
    if ((r->differs || refresh) && psp_renew_valid(c) && c->now >= r->not_before) {
        r->refresh_at = refresh ? c->now + REFRESH : r->refresh_at;
        send_lease(c, refresh);
        return;
    }
    when = r->asked ? r->sent_at + ASKED : r->renew_at;
    when = later(when < r->renew_at ? when : r->renew_at, r->not_before);
    if (c->now < when) {
        psp_child_want(c, when);
        return;
    }
    send_renew(c);
}
