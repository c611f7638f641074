/* SPDX-License-Identifier: Apache-2.0 */
/* session.c: one session for an event loop: a queue of calls, finished in order, and reconnecting
 * by itself. */

#include <poll.h>
#include <stdlib.h>

#include <apr_general.h>
#include <apr_poll.h>
#include <apr_strings.h>

#include "core/backoff.h"
#include "db/private.h"

#define PSP_CONNECT_TIMEOUT apr_time_from_sec(5)
#define PSP_RECONNECT_FIRST apr_time_from_msec(100)
#define PSP_RECONNECT_MAX apr_time_from_sec(5)
#define PSP_SETTLED                                                                                \
    apr_time_from_sec(                                                                             \
        1) /* a connection that held this long is replaced at once                   \
                          */

#define AT_ONCE 1 /* a time that has passed */

typedef struct psp_queued_t {
    apr_pool_t *p; /* of this call alone: its strings, rows and result */
    psp_statement_t statement;
    apr_interval_time_t timeout;
    apr_time_t deadline; /* 0: its turn has not come */
    int retried;
    psp_session_done_fn *done;
    void *baton;
    struct psp_queued_t *next;
} psp_queued_t;

struct psp_session_t {
    apr_pool_t *p; /* parent of the pools of calls */
    psp_conn_t conn;
    const char *conninfo;
    const char *application_name;
    psp_queued_t *head; /* the one under way, or next */
    psp_queued_t **tail;
    int attempts;        /* to connect that failed since the last good connection */
    apr_time_t retry_at; /* when closed: connect then */
    apr_time_t connect_deadline;
    apr_time_t settled; /* when connected: worth an immediate reconnect after this */
    apr_uint32_t connects;
    int stepping;
    psp_db_report_fn *report;
    void *baton;
};

psp_session_t *psp_session_make(apr_pool_t *p, const char *conninfo, const char *application_name)
{
    psp_session_t *s = apr_pcalloc(p, sizeof(*s));

    if (psp_conn_init(&s->conn, p) != APR_SUCCESS ||
        psp_pool_make(&s->p, p, "psp_session") != APR_SUCCESS) {
        return NULL;
    }
    s->conninfo = apr_pstrdup(p, conninfo);
    s->application_name = apr_pstrdup(p, application_name);
    s->tail = &s->head;
    return s;
}

void psp_session_report(psp_session_t *s, psp_db_report_fn *report, void *baton)
{
    s->report = report;
    s->baton = baton;
}

static void report(const psp_session_t *s, psp_db_event_t event, apr_status_t rv, const char *cause)
{
    if (s->report) {
        s->report(s->baton, event, rv, cause);
    }
}

void psp_session_send(psp_session_t *s, const char *call, int n, const char *const *params,
                      apr_interval_time_t timeout, psp_session_done_fn *done, void *baton)
{
    const char **copies;
    psp_queued_t *q;
    apr_pool_t *p;

    if (apr_pool_create(&p, s->p) != APR_SUCCESS) {
        abort(); /* as httpd's pools do when memory is out: there is nobody to tell */
    }
    q = apr_pcalloc(p, sizeof(*q));
    copies = apr_pcalloc(p, sizeof(*copies) * (apr_size_t)(n + 1));
    for (int i = 0; i < n; i++) {
        copies[i] = apr_pstrdup(p, params[i]); /* NULL stays NULL */
    }
    q->p = p;
    q->statement.text = apr_pstrdup(p, call);
    q->statement.n = n;
    q->statement.params = copies;
    q->statement.server_ms = psp_statement_ms(timeout);
    q->timeout = timeout;
    q->done = done;
    q->baton = baton;
    *s->tail = q;
    s->tail = &q->next;
}

/* Takes the first call off the queue and tells its owner. */
static void finish_head(psp_session_t *s, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_queued_t *q = s->head;

    s->head = q->next;
    if (!s->head) {
        s->tail = &s->head;
    }
    q->done(q->baton, result, rows);
    apr_pool_destroy(q->p);
}

static void fail_head(psp_session_t *s, psp_result_t result)
{
    finish_head(s, &result, NULL);
}

/* Fails what is queued now, but not what the callbacks queue: that would never end. */
static void fail_all(psp_session_t *s, psp_result_t result)
{
    int n = 0;

    for (const psp_queued_t *q = s->head; q; q = q->next) {
        n++;
    }
    while (n-- > 0) {
        fail_head(s, result);
    }
}

/* Closed until the next attempt; a connection that was of use is replaced at once. */
static void disconnect(psp_session_t *s, apr_time_t now)
{
    apr_uint32_t random = 0;

    if (s->conn.phase != PSP_CONN_CONNECTING && now >= s->settled) {
        s->attempts = 0;
        s->retry_at = now;
    }
    else {
        if (s->attempts < 30) {
            s->attempts++;
        }
        if (apr_generate_random_bytes((unsigned char *)&random, sizeof(random)) != APR_SUCCESS) {
            random = (apr_uint32_t)now;
        }
        s->retry_at =
            now + psp_backoff(s->attempts, PSP_RECONNECT_FIRST, PSP_RECONNECT_MAX, random);
    }
    psp_conn_close(&s->conn);
}

/* The states. Each returns true when there may be more to do without waiting. */

static int step_closed(psp_session_t *s, apr_time_t now)
{
    if (s->attempts > 0) {
        fail_all(s, psp_result_unavailable(APR_ECONNREFUSED));
    }
    if (now < s->retry_at) {
        return 0;
    }
    psp_conn_open(&s->conn, s->conninfo, s->application_name);
    s->connect_deadline = now + PSP_CONNECT_TIMEOUT;
    return 1;
}

static int step_connecting(psp_session_t *s, apr_time_t now)
{
    psp_step_t step = psp_conn_step(&s->conn);

    if (step == PSP_STEP_READY) {
        s->connects++;
        s->settled = now + PSP_SETTLED;
        report(s, PSP_DB_CONNECTED, APR_SUCCESS, "");
        return 1;
    }
    if (step == PSP_STEP_WAIT && now < s->connect_deadline) {
        if (s->attempts > 0) {
            fail_all(s, psp_result_unavailable(APR_ECONNREFUSED));
        }
        else if (s->head && s->head->deadline && now >= s->head->deadline) {
            fail_head(s, psp_result_timeout()); /* it was sent once and is to be sent again */
        }
        return 0;
    }
    if (step == PSP_STEP_WAIT) {
        psp_conn_cause(&s->conn, "the server did not answer in time");
    }
    report(s, PSP_DB_UNREACHABLE, step == PSP_STEP_WAIT ? APR_TIMEUP : APR_ECONNREFUSED,
           s->conn.cause);
    disconnect(s, now);
    return 1;
}

static int step_idle(psp_session_t *s, apr_time_t now)
{
    psp_queued_t *q = s->head;

    if (!psp_conn_alive(&s->conn)) {
        report(s, PSP_DB_LOST, APR_ECONNRESET, s->conn.cause);
        disconnect(s, now);
        return 1;
    }
    if (!q) {
        return 0;
    }
    if (q->timeout <= 0) {
        fail_head(s, psp_result_timeout());
        return 1;
    }
    if (!q->deadline) {
        q->deadline = now + q->timeout;
    }
    psp_conn_call(&s->conn, &q->statement);
    return 1;
}

static void finish_call(psp_session_t *s, apr_time_t now)
{
    const psp_rows_t *rows;
    psp_result_t result;

    s->attempts = 0;
    s->settled = now;
    if (s->conn.doomed) {
        report(s, PSP_DB_LOST, APR_ECONNRESET, s->conn.cause);
    }
    result = psp_conn_take(&s->conn, s->head->p, &rows);
    if (s->conn.cause[0]) {
        report(s, PSP_DB_FAILED, result.rv, s->conn.cause);
    }
    if (s->conn.doomed) {
        disconnect(s, now);
    }
    finish_head(s, &result, rows);
}

static int step_calling(psp_session_t *s, apr_time_t now)
{
    psp_step_t step = psp_conn_step(&s->conn);

    if (step == PSP_STEP_WAIT && now < s->head->deadline) {
        return 0;
    }
    if (step == PSP_STEP_DONE) {
        finish_call(s, now);
        return 1;
    }
    if (step == PSP_STEP_WAIT) {
        report(s, PSP_DB_LATE, APR_TIMEUP, s->head->statement.text);
        disconnect(s, now);
        fail_head(s, psp_result_timeout());
        return 1;
    }
    report(s, PSP_DB_LOST, APR_ECONNRESET, s->conn.cause);
    disconnect(s, now);
    if (step == PSP_STEP_AGAIN && !s->head->retried) {
        s->head->retried = 1;
    }
    else {
        fail_head(s, step == PSP_STEP_AGAIN ? psp_result_unavailable(APR_ECONNRESET)
                                            : psp_result_lost());
    }
    return 1;
}

void psp_session_step(psp_session_t *s, apr_time_t now)
{
    int more = !s->stepping;

    while (more) {
        s->stepping = 1;
        switch (s->conn.phase) {
        case PSP_CONN_CLOSED:
            more = step_closed(s, now);
            break;
        case PSP_CONN_CONNECTING:
            more = step_connecting(s, now);
            break;
        case PSP_CONN_IDLE:
            more = step_idle(s, now);
            break;
        default:
            more = step_calling(s, now);
            break;
        }
        if (!more) {
            s->stepping = 0;
        }
    }
}

int psp_session_fd(const psp_session_t *s, short *events)
{
    *events = 0;
    if (!s->conn.pg) {
        return -1;
    }
    *events = (short)((s->conn.events & POLLIN ? APR_POLLIN : 0) |
                      (s->conn.events & POLLOUT ? APR_POLLOUT : 0));
    return PQsocket(s->conn.pg);
}

apr_time_t psp_session_next(const psp_session_t *s)
{
    if (s->head && s->attempts > 0 && !psp_session_ready(s)) {
        return AT_ONCE; /* to fail what is queued */
    }
    switch (s->conn.phase) {
    case PSP_CONN_CLOSED:
        return s->retry_at ? s->retry_at : AT_ONCE;
    case PSP_CONN_CONNECTING:
        if (s->head && s->head->deadline && s->head->deadline < s->connect_deadline) {
            return s->head->deadline;
        }
        return s->connect_deadline;
    case PSP_CONN_IDLE:
        return s->head ? AT_ONCE : 0;
    default: /* a call is under way */
        return s->head ? s->head->deadline : 0;
    }
}

int psp_session_ready(const psp_session_t *s)
{
    return s->conn.phase >= PSP_CONN_IDLE;
}

int psp_session_idle(const psp_session_t *s)
{
    return !s->head;
}

apr_uint32_t psp_session_connects(const psp_session_t *s)
{
    return s->connects;
}
