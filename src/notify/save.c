/* SPDX-License-Identifier: Apache-2.0 */
/* save.c: writes positions, failures and successes of parked deliveries: one document at a time.
 *
 * A document is kept until the database took it, and sent again as it is when that is uncertain: all it
 * says may be said twice. A position counts failed changes as done, so it never goes without the
 * failures; and as the failures park later changes of their keys, nothing is read while they are
 * owed, and no failure is written while a read is under way that did not know of it.
 */
#include "notify/private.h"

#include <http_log.h>

#include "core/json.h"

APLOG_USE_MODULE(pubsubpull);

#define GAP apr_time_from_msec(10)       /* between documents, positions only */
#define URGENT_GAP apr_time_from_msec(2) /* when there are failures */
#define IDLE_GAP apr_time_from_sec(10)   /* for positions that only moved */
#define PER_ID 20                        /* microseconds to wait longer for each id in done */
#define DOCUMENT_MAX (1024 * 1024)       /* begin no further position beyond */
#define RETRY apr_time_from_msec(200)

struct psp_saver_t {
    apr_pool_t *doc_p;    /* of the document, cleared before the next */
    const char *doc;      /* sent, or to be sent again; NULL: none */
    psp_queue_t waiting;  /* events for the next document */
    psp_queue_t out;      /* events in the document */
    int owed;             /* fresh failures in both */
    psp_sub_t *dirty;     /* by dirty_next */
    psp_sub_t **doc_subs; /* whose positions are in the document */
    int ndoc_subs;
    int moved; /* subscriptions that only moved */
    int calling;
    apr_int64_t not_before;
    apr_int64_t idle_at; /* when positions that only moved are saved next */
};

psp_saver_t *psp_saver_make(psp_child_t *c)
{
    psp_saver_t *v = apr_pcalloc(c->p, sizeof *v);

    apr_pool_create(&v->doc_p, c->p);
    apr_pool_tag(v->doc_p, "psp_save");
    v->idle_at = c->now + IDLE_GAP;
    return v;
}

static void clear_moved(psp_saver_t *v, psp_sub_t *sub)
{
    v->moved -= sub->moved;
    sub->moved = 0;
}

void psp_saver_dirty(psp_child_t *c, psp_sub_t *sub)
{
    if (!sub->dirty && sub->state != PSP_SUB_LOST) {
        sub->dirty = 1;
        sub->dirty_next = c->saver->dirty;
        c->saver->dirty = sub;
    }
}

void psp_saver_moved(psp_child_t *c, psp_sub_t *sub)
{
    if (!sub->moved) {
        sub->moved = 1;
        c->saver->moved++;
    }
}

void psp_saver_add(psp_child_t *c, psp_event_t *e)
{
    psp_saver_t *v = c->saver;

    if (e->sub->state == PSP_SUB_LOST) {
        psp_event_free(c, e);
        return;
    }
    e->sub->unsaved++;
    v->owed += e->state == PSP_EVENT_FAILED && e->page;
    psp_queue_push(&v->waiting, e);
}

static psp_event_t *pop(psp_saver_t *v, psp_queue_t *q)
{
    psp_event_t *e = psp_queue_pop(q);

    if (e) {
        e->sub->unsaved--;
        v->owed -= e->state == PSP_EVENT_FAILED && e->page;
    }
    return e;
}

void psp_saver_forget(psp_child_t *c, psp_sub_t *sub)
{
    psp_saver_t *v = c->saver;
    psp_queue_t keep = {NULL, NULL, 0};
    psp_sub_t **at = &v->dirty;
    psp_event_t *e;

    clear_moved(v, sub);
    while (sub->dirty && *at) {
        if (*at == sub) {
            *at = sub->dirty_next;
            sub->dirty = 0;
            break;
        }
        at = &(*at)->dirty_next;
    }
    while ((e = pop(v, &v->waiting)) != NULL) {
        if (e->sub == sub) {
            psp_event_free(c, e);
            continue;
        }
        e->sub->unsaved++;
        v->owed += e->state == PSP_EVENT_FAILED && e->page;
        psp_queue_push(&keep, e);
    }
    v->waiting = keep;
}

int psp_saver_owes(const psp_child_t *c)
{
    return c->saver->owed > 0;
}

int psp_saver_clean(const psp_child_t *c)
{
    const psp_saver_t *v = c->saver;

    return !v->doc && !v->dirty && !v->waiting.first && !v->moved;
}

/* --- The document --- */

static void write_number(psp_json_t *j, const char *name, apr_int64_t value)
{
    psp_json_name(j, name);
    psp_json_int(j, value);
}

static void write_event(psp_json_t *j, const psp_event_t *e)
{
    psp_json_raw(j, "{");
    write_number(j, "subscription", e->sub->id);
    write_number(j, "epoch", e->sub->epoch);
    write_number(j, "change", e->id);
}

static void write_failure(psp_json_t *j, const psp_event_t *e)
{
    int i;

    write_event(j, e);
    psp_json_name(j, "key");
    psp_json_string(j, e->key);
    write_number(j, "attempts", e->attempts);
    if (e->delay >= 0) {
        write_number(j, "delay", apr_time_as_msec(e->delay));
    }
    if (e->batch) {
        write_number(j, "batch", e->batch);
    }
    psp_json_name(j, "status");
    if (e->status) {
        psp_json_int(j, e->status);
    }
    else {
        psp_json_raw(j, "null");
    }
    psp_json_name(j, "error");
    psp_json_string(j, e->error);
    psp_json_name(j, "gone");
    psp_json_raw(j, e->gone ? "true" : "false");
    psp_json_name(j, "behind");
    psp_json_raw(j, "[");
    for (i = 0; i < e->nbehind; i++) {
        psp_json_raw(j, i ? "," : "");
        psp_json_int(j, e->behind[i]);
    }
    psp_json_raw(j, "]}");
}

/* Events in the given state, as an array. */
static void write_events(psp_json_t *j, const psp_queue_t *q, psp_event_state_t state)
{
    const psp_event_t *e;
    const char *comma = "";

    psp_json_raw(j, "[");
    for (e = q->first; e; e = e->next) {
        if (e->state != state) {
            continue;
        }
        psp_json_raw(j, comma);
        comma = ",";
        if (state == PSP_EVENT_FAILED) {
            write_failure(j, e);
        }
        else {
            write_event(j, e);
            psp_json_raw(j, "}");
        }
    }
    psp_json_raw(j, "]");
}

static void write_position(psp_saver_t *v, psp_json_t *j, psp_sub_t *sub)
{
    psp_json_raw(j, v->ndoc_subs ? "," : "");
    psp_place_write(sub, j);
    clear_moved(v, sub);
    sub->in_doc = 1;
    v->doc_subs[v->ndoc_subs++] = sub;
}

static int write_positions(psp_child_t *c, psp_json_t *j, int idle)
{
    psp_saver_t *v = c->saver;
    psp_sub_t *sub;
    int most = v->moved, ids = 0;

    for (sub = v->dirty; sub; sub = sub->dirty_next) {
        most++;
    }
    v->doc_subs = apr_palloc(v->doc_p, (apr_size_t)(most + 1) * sizeof(psp_sub_t *));
    psp_json_raw(j, "[");
    while ((sub = v->dirty) != NULL && psp_json_length(j) < DOCUMENT_MAX) {
        v->dirty = sub->dirty_next;
        sub->dirty = 0;
        ids += sub->ndone + sub->skip_left;
        write_position(v, j, sub);
    }
    for (sub = idle ? psp_leases_first(c) : NULL; sub; sub = sub->next) {
        if (sub->moved && !sub->in_doc) {
            write_position(v, j, sub);
        }
    }
    psp_json_raw(j, "]");
    return ids;
}

static void build(psp_child_t *c, int idle)
{
    psp_saver_t *v = c->saver;
    psp_json_t *j;
    int ids;

    apr_pool_clear(v->doc_p);
    v->out = v->waiting;
    v->waiting = (psp_queue_t){NULL, NULL, 0};
    v->ndoc_subs = 0;
    j = psp_json_make(v->doc_p, 16 * 1024);
    psp_json_raw(j, "{\"failed\":");
    write_events(j, &v->out, PSP_EVENT_FAILED);
    psp_json_raw(j, ",\"sent\":");
    write_events(j, &v->out, PSP_EVENT_SENT);
    psp_json_raw(j, ",\"positions\":");
    ids = write_positions(c, j, idle);
    psp_json_raw(j, "}");
    v->doc = psp_json_text(j);
    v->not_before = c->now + GAP + ids * PER_ID;
    if (idle) {
        v->idle_at = c->now + IDLE_GAP;
    }
}

/* --- Sending it --- */

static void finish(psp_child_t *c)
{
    psp_saver_t *v = c->saver;
    psp_event_t *e;
    int i;

    for (i = 0; i < v->ndoc_subs; i++) {
        v->doc_subs[i]->in_doc = 0;
    }
    v->ndoc_subs = 0;
    v->doc = NULL;
    while ((e = pop(v, &v->out)) != NULL) {
        if (e->state == PSP_EVENT_FAILED) {
            psp_lane_parked(c, e);
            continue;
        }
        e->sub->parked -= e->sub->parked > 0;
        if (e->sub->parked > 0) {
            psp_due_wake(c); /* the next of its key has its turn */
        }
        psp_event_free(c, e);
    }
}

static void lose(psp_child_t *c, const psp_rows_t *rows)
{
    int i;

    for (i = 0; i < psp_rows_count(rows); i++) {
        const char *id = psp_rows_get(rows, i, 0);
        psp_sub_t *sub = id ? psp_leases_find(c, atoi(id)) : NULL;

        if (sub) {
            psp_leases_stop(c, sub, 1);
        }
    }
}

static void saved(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_saver_t *v = c->saver;

    psp_child_again(c);
    v->calling = 0;
    if (result->rv == APR_SUCCESS) {
        finish(c);
        lose(c, rows);
        return;
    }
    if (result->http == HTTP_SERVICE_UNAVAILABLE) {
        v->not_before = c->now + RETRY;
        return;
    }
    ap_log_error(APLOG_MARK, APLOG_ERR, result->rv, c->server,
                 "PSP0432: the database refuses results of deliveries, which will be repeated: %s",
                 psp_gate_cause(c));
    psp_gate_doubt(c);
    finish(c);
    psp_leases_restart(c);
}

/* Is there something to save, and when? */
static int wanted(const psp_child_t *c, apr_int64_t *when, int *idle)
{
    const psp_saver_t *v = c->saver;

    *idle = v->moved && (c->stopping || c->now >= v->idle_at);
    *when = v->not_before;
    if (v->doc) {
        return 1;
    }
    if (c->stopping) {
        *when = c->now;
    }
    else if (v->waiting.first) {
        *when = v->not_before - GAP + URGENT_GAP;
    }
    if (v->owed && psp_feed_reading(c)) {
        return 0; /* the end of the read turns the loop */
    }
    return v->waiting.first || v->dirty || *idle;
}

void psp_saver_step(psp_child_t *c)
{
    psp_saver_t *v = c->saver;
    const char *params[2];
    apr_int64_t when;
    int idle;

    if (v->moved && !v->calling && psp_gate_open(c)) {
        psp_child_want(c, v->idle_at);
    }
    if (v->calling || !psp_gate_open(c) || !wanted(c, &when, &idle)) {
        return;
    }
    if (c->now < when) {
        psp_child_want(c, when);
        return;
    }
    if (!v->doc) {
        build(c, idle);
    }
    params[0] = c->id;
    params[1] = v->doc;
    v->calling = 1;
    psp_session_send(c->db, "SELECT * FROM pubsubpull.notify_save($1, $2)", 2, params,
                     PSP_DB_TIMEOUT, saved, c);
}
