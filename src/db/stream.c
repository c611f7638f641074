/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c: the result of one COPY, row by row as it comes, in a transaction that sees one moment. */

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "db/private.h"

struct psp_stream_t {
    apr_pool_t *p; /* the caller's */
    psp_db_pool_t *pool;
    psp_slot_t *slot; /* NULL: over */
    psp_conn_t *c;    /* slot's */
    char *message;    /* libpq's: the row that was given last */
    psp_result_t result;
};

/* Nobody's operators come before PostgreSQL's. */
static const char begin[] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
                            "SET LOCAL search_path = pg_catalog, pg_temp";
static const char signature[] = "PGCOPY\n\377\r\n"; /* and its NUL */

/* Until the socket may have news. */
static psp_step_t wait_for(const psp_conn_t *c, int pending, apr_time_t deadline)
{
    struct pollfd wait = {.fd = PQsocket(c->pg),
                          .events = (short)(pending ? POLLIN | POLLOUT : POLLIN)};
    apr_interval_time_t left = (deadline - apr_time_now() + 999) / 1000;

    if (left <= 0) {
        return PSP_STEP_LATE;
    }
    if (poll(&wait, 1, left > APR_INT32_MAX ? APR_INT32_MAX : (int)left) < 0 && errno != EINTR) {
        return PSP_STEP_LOST;
    }
    return PSP_STEP_WAIT;
}

static int ready(const psp_conn_t *c)
{
    struct pollfd look = {.fd = PQsocket(c->pg), .events = POLLIN};

    return poll(&look, 1, 0) > 0;
}

/* The result of what was sent, in c->reply. DONE, LOST or LATE. */
static psp_step_t await(psp_conn_t *c, apr_time_t deadline)
{
    for (;;) {
        int pending = PQflush(c->pg);
        psp_step_t step;

        /* A failure of either shows as a result, whose words say more. */
        (void)PQconsumeInput(c->pg);
        while (!PQisBusy(c->pg)) {
            PGresult *result = PQgetResult(c->pg);

            if (!result) {
                return PQstatus(c->pg) == CONNECTION_OK ? PSP_STEP_DONE : PSP_STEP_LOST;
            }
            PQclear(c->reply);
            c->reply = result;
            if (PQresultStatus(result) == PGRES_COPY_OUT) {
                return PSP_STEP_DONE;
            }
        }
        step = wait_for(c, pending > 0, deadline);
        if (step != PSP_STEP_WAIT) {
            return step;
        }
    }
}

/* Gives the session back; one that is in the middle of something is closed by that, which ends what
 * the server does for it. */
static void leave(psp_stream_t *s)
{
    PQfreemem(s->message);
    s->message = NULL;
    if (s->slot) {
        psp_slot_give(s->pool, s->slot);
        psp_pool_end_stream(s->pool);
        s->slot = NULL;
        s->c = NULL;
    }
}

static apr_status_t cleanup(void *baton)
{
    leave(baton);
    return APR_SUCCESS;
}

void psp_db_stream_close(psp_stream_t *s)
{
    apr_pool_cleanup_run(s->p, s, cleanup);
}

/* One statement, up to its result. What failed is told to the pool's reporter and *result says it
 * to clients. */
static int run(psp_stream_t *s, int sent, apr_time_t deadline, ExecStatusType wanted,
               psp_result_t *result)
{
    const psp_rows_t *none;
    psp_conn_t *c = s->c;
    psp_step_t step = sent ? await(c, deadline) : PSP_STEP_LOST;

    if (step == PSP_STEP_DONE && c->reply && PQresultStatus(c->reply) == wanted) {
        return 1;
    }
    if (step == PSP_STEP_LATE) {
        psp_pool_tell(s->pool, PSP_DB_LATE, APR_TIMEUP, "a stream could not begin");
        *result = psp_result_timeout();
    }
    else if (step == PSP_STEP_DONE && c->reply) {
        *result = psp_conn_take(c, s->p, &none);
        if (c->cause[0]) {
            psp_pool_tell(s->pool, PSP_DB_FAILED, result->rv, c->cause);
        }
    }
    else {
        psp_conn_cause(c, PQerrorMessage(c->pg));
        psp_pool_tell(s->pool, PSP_DB_LOST, APR_ECONNRESET, c->cause);
        *result = psp_result_unavailable(APR_ECONNRESET);
    }
    return 0;
}

static int start(psp_stream_t *s, const psp_stream_spec_t *spec, apr_time_t deadline,
                 const psp_rows_t **rows, psp_result_t *result)
{
    psp_conn_t *c = s->c;
    psp_step_t step = psp_slot_ready(s->pool, s->slot, deadline);

    if (step != PSP_STEP_READY) {
        *result = psp_result_unavailable(step == PSP_STEP_LATE ? APR_TIMEUP : APR_ECONNREFUSED);
        return 0;
    }
    c->phase = PSP_CONN_RUNNING; /* until the transaction is over; see leave */
    if (!run(s, PQsendQuery(c->pg, begin), deadline, PGRES_COMMAND_OK, result) ||
        !run(s, PQsendQueryParams(c->pg, spec->first, spec->n, NULL, spec->params, NULL, NULL, 0),
             deadline, PGRES_TUPLES_OK, result)) {
        return 0;
    }
    *result = psp_conn_take(c, s->p, rows);
    return run(s, PQsendQuery(c->pg, spec->copy), deadline, PGRES_COPY_OUT, result);
}

psp_result_t psp_db_stream_open(psp_db_pool_t *pool, apr_pool_t *p, const psp_stream_spec_t *spec,
                                apr_interval_time_t timeout, const psp_rows_t **rows,
                                psp_stream_t **stream)
{
    apr_time_t deadline = apr_time_now() + timeout;
    psp_stream_t *s = apr_pcalloc(p, sizeof(*s));
    psp_result_t result = {.rv = APR_SUCCESS};

    *rows = NULL;
    *stream = s;
    s->p = p;
    s->pool = pool;
    if (!psp_pool_begin_stream(pool)) {
        return psp_result_busy();
    }
    s->slot = psp_slot_take(pool, deadline);
    if (!s->slot) {
        psp_pool_end_stream(pool);
        return psp_result_busy();
    }
    s->c = psp_slot_conn(s->slot);
    apr_pool_cleanup_register(p, s, cleanup, apr_pool_cleanup_null);
    if (!start(s, spec, deadline, rows, &result)) {
        psp_db_stream_close(s);
    }
    return result;
}

/* After the last row: did the server mean it? */
static apr_status_t finish(psp_stream_t *s, apr_interval_time_t wait)
{
    apr_time_t deadline = apr_time_now() + wait;

    PQclear(s->c->reply);
    s->c->reply = NULL;
    if (!run(s, 1, deadline, PGRES_COMMAND_OK, &s->result) ||
        !run(s, PQsendQuery(s->c->pg, "COMMIT"), deadline, PGRES_COMMAND_OK, &s->result)) {
        psp_db_stream_close(s);
        return s->result.rv;
    }
    PQclear(s->c->reply);
    s->c->reply = NULL;
    s->c->phase = PSP_CONN_IDLE;
    psp_db_stream_close(s);
    return APR_EOF;
}

/* A message holds one row in COPY's binary format: number of columns, length, bytes. The first
 * begins with a header. Returns 0 for one without a row. */
static int unwrap(char *message, int size, char **row, apr_size_t *length)
{
    unsigned char *at = (unsigned char *)message;
    unsigned char *end = at + size;

    if (size >= 19 && !memcmp(message, signature, sizeof(signature))) {
        at += 19;
    }
    if (end - at < 6 || at[0] || at[1] != 1) {
        return 0;
    }
    *row = (char *)at + 6;
    *length = (apr_size_t)(end - at) - 6;
    return 1;
}

const psp_result_t *psp_db_stream_result(const psp_stream_t *s)
{
    return &s->result;
}

static apr_status_t broken(psp_stream_t *s, int late)
{
    apr_status_t rv = late ? APR_TIMEUP : APR_ECONNRESET;

    psp_pool_tell(s->pool, late ? PSP_DB_LATE : PSP_DB_LOST, rv,
                  late ? "a stream got no more rows" : "the session of a stream");
    s->result = late ? psp_result_timeout() : psp_result_lost();
    psp_db_stream_close(s);
    return rv;
}

apr_status_t psp_db_stream_next(psp_stream_t *s, char **row, apr_size_t *length,
                                apr_interval_time_t wait)
{
    apr_time_t deadline = 0;

    for (;;) {
        psp_step_t step;
        int size;

        PQfreemem(s->message);
        s->message = NULL;
        size = PQgetCopyData(s->c->pg, &s->message, 1);
        if (size > 0) {
            if (unwrap(s->message, size, row, length)) {
                return APR_SUCCESS;
            }
            continue;
        }
        if (size < 0) {
            return finish(s, wait > 0 ? wait : apr_time_from_sec(1));
        }
        if (wait <= 0 && !ready(s->c)) {
            return APR_EAGAIN;
        }
        if (wait > 0) {
            deadline = deadline ? deadline : apr_time_now() + wait;
            step = wait_for(s->c, 0, deadline);
            if (step != PSP_STEP_WAIT) {
                return broken(s, step == PSP_STEP_LATE);
            }
        }
        if (!PQconsumeInput(s->c->pg)) {
            return broken(s, 0);
        }
    }
}
