/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c: the sessions that the request handlers of one process share, and calls that wait for
 * their answer. */

#include <errno.h>
#include <poll.h>

#include <apr_strings.h>
#include <apr_thread_cond.h>
#include <apr_thread_mutex.h>

#include "core/counters.h"
#include "db/private.h"

#define PSP_POOL_IDLE apr_time_from_sec(60) /* sessions above the minimum are closed after this */

struct psp_slot_t {
    psp_conn_t conn;
    apr_time_t since; /* last given back */
    struct psp_slot_t *next;
};

struct psp_db_pool_t {
    const char *conninfo;
    int min;
    apr_thread_mutex_t *mutex; /* guards what follows, never held while the network is used */
    apr_thread_cond_t *given;
    psp_slot_t *idle;  /* connected, the most recently used first */
    psp_slot_t *empty; /* not connected */
    int open;          /* sessions not in empty: idle or taken */
    int waiters;
    int streams, max_streams;
    psp_db_report_fn *report;
    void *baton;
};

apr_status_t psp_db_pool_make(psp_db_pool_t **pool, const char *conninfo, int min, int max,
                              apr_pool_t *p)
{
    psp_db_pool_t *made = apr_pcalloc(p, sizeof(*made));
    apr_status_t rv;

    made->conninfo = apr_pstrdup(p, conninfo);
    made->min = min;
    made->max_streams = max > 1 ? max / 2 : 1; /* calls must not wait for those who read slowly */
    rv = apr_thread_mutex_create(&made->mutex, APR_THREAD_MUTEX_DEFAULT, p);
    if (rv == APR_SUCCESS) {
        rv = apr_thread_cond_create(&made->given, p);
    }
    /* All slots now, while p has one user only; each has an allocator of its own for the thread
     * that takes it. They are children of p and so go before the mutex, with their connections. */
    for (int i = 0; rv == APR_SUCCESS && i < (max > 0 ? max : 1); i++) {
        psp_slot_t *slot = apr_pcalloc(p, sizeof(*slot));

        rv = psp_conn_init(&slot->conn, p);
        slot->next = made->empty;
        made->empty = slot;
    }
    *pool = rv == APR_SUCCESS ? made : NULL;
    return rv;
}

void psp_db_pool_report(psp_db_pool_t *pool, psp_db_report_fn *report, void *baton)
{
    pool->report = report;
    pool->baton = baton;
}

void psp_pool_tell(const psp_db_pool_t *pool, psp_db_event_t event, apr_status_t rv,
                   const char *cause)
{
    if (pool->report) {
        pool->report(pool->baton, event, rv, cause);
    }
}

static psp_slot_t *pop(psp_slot_t **list)
{
    psp_slot_t *slot = *list;

    if (slot) {
        *list = slot->next;
        slot->next = NULL;
    }
    return slot;
}

static void push(psp_slot_t **list, psp_slot_t *slot)
{
    slot->next = *list;
    *list = slot;
}

/* NULL: all were in use until the deadline. Who comes while others wait waits too, or those might
 * wait for ever. */
psp_slot_t *psp_slot_take(psp_db_pool_t *pool, apr_time_t deadline)
{
    psp_slot_t *slot = NULL;
    int waited = 0;

    apr_thread_mutex_lock(pool->mutex);
    while (!slot) {
        apr_interval_time_t left;

        if (waited || !pool->waiters) {
            slot = pop(&pool->idle);
            if (!slot) {
                slot = pop(&pool->empty);
                pool->open += slot != NULL;
            }
        }
        left = deadline - apr_time_now();
        if (slot || left <= 0) {
            break;
        }
        pool->waiters++;
        psp_count(PSP_COUNT_POOL_WAITS, !waited);
        (void)apr_thread_cond_timedwait(pool->given, pool->mutex,
                                        left); /* why it woke shows above */
        pool->waiters--;
        waited = 1;
    }
    if (slot && pool->waiters && (pool->idle || pool->empty)) {
        apr_thread_cond_signal(pool->given); /* one signal may have stood for several slots */
    }
    apr_thread_mutex_unlock(pool->mutex);
    return slot;
}

/* Cuts off the end of idle: what nobody needed for a while, above the minimum. Call with the mutex
 * held. */
static psp_slot_t *take_expired(psp_db_pool_t *pool, apr_time_t now)
{
    psp_slot_t **at = &pool->idle;
    psp_slot_t *expired, *slot;
    int fresh = 0, old = 0, keep;

    for (slot = pool->idle; slot; slot = slot->next) {
        if (now - slot->since < PSP_POOL_IDLE) {
            fresh++;
        }
        else {
            old++;
        }
    }
    keep = fresh + old - (pool->open - pool->min);
    for (keep = keep > fresh ? keep : fresh; *at && keep > 0; keep--) {
        at = &(*at)->next;
    }
    expired = *at;
    *at = NULL;
    return expired;
}

static void close_expired(psp_db_pool_t *pool, psp_slot_t *expired)
{
    psp_slot_t *slot;

    while ((slot = pop(&expired))) {
        psp_conn_close(&slot->conn);
        apr_thread_mutex_lock(pool->mutex);
        push(&pool->empty, slot);
        pool->open--;
        if (pool->waiters) {
            apr_thread_cond_signal(pool->given);
        }
        apr_thread_mutex_unlock(pool->mutex);
    }
}

void psp_slot_give(psp_db_pool_t *pool, psp_slot_t *slot)
{
    psp_slot_t *expired;

    if (slot->conn.doomed || slot->conn.phase != PSP_CONN_IDLE) {
        psp_conn_close(&slot->conn);
    }
    apr_thread_mutex_lock(pool->mutex);
    slot->since = apr_time_now();
    if (slot->conn.phase == PSP_CONN_IDLE) {
        push(&pool->idle, slot);
    }
    else {
        push(&pool->empty, slot);
        pool->open--;
    }
    expired = take_expired(pool, slot->since);
    if (pool->waiters) {
        apr_thread_cond_signal(pool->given);
    }
    apr_thread_mutex_unlock(pool->mutex);
    close_expired(pool, expired);
}

/* Steps until something happened or the deadline passed. */
static psp_step_t drive(psp_conn_t *c, apr_time_t deadline)
{
    for (;;) {
        psp_step_t step = psp_conn_step(c);
        apr_interval_time_t left;
        struct pollfd wait;

        if (step != PSP_STEP_WAIT) {
            return step;
        }
        left = deadline - apr_time_now();
        if (left <= 0) {
            return PSP_STEP_LATE;
        }
        left = (left + 999) / 1000;
        wait = (struct pollfd){.fd = PQsocket(c->pg), .events = c->events};
        if (poll(&wait, 1, left > APR_INT32_MAX ? APR_INT32_MAX : (int)left) < 0 &&
            errno != EINTR) {
            psp_conn_cause(c, "poll() failed");
            return PSP_STEP_LOST;
        }
    }
}

/* Makes sure that the session is connected. PSP_STEP_READY, LOST or LATE. */
static psp_step_t make_ready(psp_db_pool_t *pool, psp_conn_t *c, apr_time_t deadline)
{
    psp_step_t step;

    if (c->phase == PSP_CONN_IDLE) {
        if (psp_conn_alive(c)) {
            return PSP_STEP_READY;
        }
        psp_pool_tell(pool, PSP_DB_LOST, APR_ECONNRESET, c->cause);
    }
    psp_conn_open(c, pool->conninfo, "pubsubpull");
    step = drive(c, deadline);
    if (step == PSP_STEP_READY) {
        psp_pool_tell(pool, PSP_DB_CONNECTED, APR_SUCCESS, "");
    }
    else if (step == PSP_STEP_LATE) {
        psp_pool_tell(pool, PSP_DB_UNREACHABLE, APR_TIMEUP, "the server did not answer in time");
    }
    else {
        psp_pool_tell(pool, PSP_DB_UNREACHABLE, APR_ECONNREFUSED, c->cause);
    }
    return step;
}

psp_step_t psp_slot_ready(psp_db_pool_t *pool, psp_slot_t *slot, apr_time_t deadline)
{
    return make_ready(pool, &slot->conn, deadline);
}

psp_conn_t *psp_slot_conn(psp_slot_t *slot)
{
    return &slot->conn;
}

int psp_pool_begin_stream(psp_db_pool_t *pool)
{
    int may;

    apr_thread_mutex_lock(pool->mutex);
    may = pool->streams < pool->max_streams;
    pool->streams += may;
    apr_thread_mutex_unlock(pool->mutex);
    return may;
}

void psp_pool_end_stream(psp_db_pool_t *pool)
{
    apr_thread_mutex_lock(pool->mutex);
    pool->streams--;
    apr_thread_mutex_unlock(pool->mutex);
}

/* Calls on one slot, at most twice: the second time only when the first certainly had no effect. */
static psp_result_t call_on(psp_db_pool_t *pool, psp_conn_t *c, const psp_statement_t *statement,
                            apr_time_t deadline, apr_pool_t *p, const psp_rows_t **rows)
{
    psp_result_t result;

    for (int tries = 1;; tries++) {
        psp_step_t step = make_ready(pool, c, deadline);

        if (step != PSP_STEP_READY) {
            return psp_result_unavailable(step == PSP_STEP_LATE ? APR_TIMEUP : APR_ECONNREFUSED);
        }
        psp_conn_call(c, statement);
        step = drive(c, deadline);
        if (step == PSP_STEP_DONE) {
            if (c->doomed) {
                psp_pool_tell(pool, PSP_DB_LOST, APR_ECONNRESET, c->cause);
            }
            result = psp_conn_take(c, p, rows);
            if (c->cause[0]) {
                psp_pool_tell(pool, PSP_DB_FAILED, result.rv, c->cause);
            }
            return result;
        }
        if (step == PSP_STEP_LATE) {
            psp_pool_tell(pool, PSP_DB_LATE, APR_TIMEUP, statement->text);
            c->doomed = 1;
            return psp_result_timeout();
        }
        psp_pool_tell(pool, PSP_DB_LOST, APR_ECONNRESET, c->cause);
        psp_conn_close(c);
        if (step != PSP_STEP_AGAIN) {
            return psp_result_lost();
        }
        if (tries == 2) {
            return psp_result_unavailable(APR_ECONNRESET);
        }
    }
}

psp_result_t psp_db_call(psp_db_pool_t *pool, apr_pool_t *p, const char *call, int n,
                         const char *const *params, apr_interval_time_t timeout,
                         const psp_rows_t **rows)
{
    const psp_statement_t statement = {
        .text = call, .n = n, .params = params, .server_ms = psp_statement_ms(timeout)};
    apr_time_t deadline = apr_time_now() + timeout;
    psp_slot_t *slot;
    psp_result_t result;

    *rows = NULL;
    if (timeout <= 0) {
        return psp_result_timeout();
    }
    slot = psp_slot_take(pool, deadline);
    if (!slot) {
        psp_pool_tell(pool, PSP_DB_LATE, APR_TIMEUP, "all sessions of the pool were in use");
        return psp_result_busy();
    }
    result = call_on(pool, &slot->conn, &statement, deadline, p, rows);
    psp_slot_give(pool, slot);
    return result;
}
