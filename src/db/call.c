/* SPDX-License-Identifier: Apache-2.0 */
/* call.c: one call on one connection, step by step: set the time limit, prepare, run, collect the
 * answer. */

#include <poll.h>
#include <stdio.h>
#include <string.h>

#include <apr_strings.h>

#include "db/private.h"

/* Calls are few and constant; should somebody build texts, the server's memory stays bounded all
 * the same. */
#define PSP_STATEMENTS_MAX 256

/*
 * The server ends a statement at nine tenths of the caller's time: its backend and locks are free
 * again, and the session can be used on. Our own deadline, after which the connection is closed, is
 * for a server that is silent. In steps, because callers pass what is left of their time and each
 * change costs a round trip.
 */
int psp_statement_ms(apr_interval_time_t timeout)
{
    apr_interval_time_t ms = timeout / 10000 * 9;

    if (ms > 2000) {
        ms -= ms % 500;
    }
    return ms < 1 ? 1 : ms > APR_INT32_MAX ? APR_INT32_MAX : (int)ms;
}

/* What functions rely on, whatever an administrator has set for the role: how strings and names are written. */
#define PSP_SETTINGS                                                                               \
    "; SET standard_conforming_strings = on; SET quote_all_identifiers = off; SET array_nulls = "  \
    "on"

/* Returns false when libpq did not take it. Nothing of a call that follows from a failure here can
 * have an effect: the Sync that commits goes last. */
static int send_next(psp_conn_t *c)
{
    const psp_statement_t *st = c->statement;

    if (c->server_ms != st->server_ms) {
        char set[256];

        (void)snprintf(set, sizeof(set), "SET statement_timeout = %d%s", st->server_ms,
                       c->server_ms < 0 ? PSP_SETTINGS : "");
        c->phase = PSP_CONN_SETTING;
        return PQsendQuery(c->pg, set);
    }
    c->name = apr_hash_get(c->names, st->text, APR_HASH_KEY_STRING);
    if (!c->name && apr_hash_count(c->names) < PSP_STATEMENTS_MAX) {
        c->phase = PSP_CONN_PREPARING;
        c->name = apr_psprintf(c->p, "psp%u", apr_hash_count(c->names));
        return PQsendPrepare(c->pg, c->name, st->text, 0, NULL);
    }
    c->phase = PSP_CONN_RUNNING;
    if (!c->name) {
        return PQsendQueryParams(c->pg, st->text, st->n, NULL, st->params, NULL, NULL, 0);
    }
    return PQsendQueryPrepared(c->pg, c->name, st->n, st->params, NULL, NULL, 0);
}

static void drop_reply(psp_conn_t *c)
{
    PQclear(c->reply);
    c->reply = NULL;
}

static int is_error(const PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);

    return status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK;
}

/* Takes one result. An error replaces rows that came before it: the commit follows the rows and may
 * fail (deferred constraints). Returns false when nothing more is to be had from this connection.
 */
static int keep(psp_conn_t *c, PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);

    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
        if (c->phase == PSP_CONN_RUNNING) {
            c->completed = 1;
        }
    }
    else if (status != PGRES_FATAL_ERROR || !psp_pg_sqlstate(result)) {
        /* libpq's own error, or COPY, which no call of ours uses and libpq would repeat for ever */
        c->broken = 1;
        psp_conn_cause(c, status == PGRES_FATAL_ERROR ? PQresultErrorMessage(result)
                                                      : PQresStatus(status));
    }
    else if (psp_pg_is_fatal(result)) {
        c->broken = 1;
        psp_conn_cause(c, PQresultErrorMessage(result));
    }
    if (!c->reply || (is_error(result) && !is_error(c->reply))) {
        PQclear(c->reply);
        c->reply = result;
    }
    else {
        PQclear(result);
    }
    return !c->broken;
}

/* Reads what is there; true when the phase is over: the server said ReadyForQuery, so a commit is
 * known, or the connection is broken. PQgetResult is called only when it does not wait. */
static int collect(psp_conn_t *c)
{
    while (!PQisBusy(c->pg)) {
        PGresult *result = PQgetResult(c->pg);

        if (!result || !keep(c, result)) {
            return 1;
        }
    }
    return 0;
}

/*
 * The connection is gone. An error of class 57P (the server shuts down, or ends idle sessions) that
 * came before any CommandComplete proves that the transaction was not committed: the commit follows
 * CommandComplete. This holds for SELECTs, which all our calls are; CALL and utility statements
 * commit on their own.
 */
static psp_step_t gone(const psp_conn_t *c)
{
    const char *sqlstate;

    if (c->phase != PSP_CONN_RUNNING) {
        return PSP_STEP_AGAIN;
    }
    sqlstate = c->reply ? psp_pg_sqlstate(c->reply) : NULL;
    if (!c->completed && sqlstate && !strncmp(sqlstate, "57P", 3)) {
        return PSP_STEP_AGAIN;
    }
    return PSP_STEP_LOST;
}

/* After an upgrade of the schema statements prepared before it may fail although their text is
 * still good. */
static int is_stale(const psp_conn_t *c)
{
    static const char *const stale[] = {
        "0A000", /* cached plan must not change result type */
        "26000", /* no such prepared statement */
        "42883", /* no such function: the types of its parameters were bound when prepared */
    };
    const char *sqlstate = psp_pg_sqlstate(c->reply);

    if (!c->reused || !sqlstate) {
        return 0;
    }
    for (apr_size_t i = 0; i < sizeof(stale) / sizeof(*stale); i++) {
        if (!strcmp(sqlstate, stale[i])) {
            return 1;
        }
    }
    return 0;
}

static psp_step_t done(psp_conn_t *c)
{
    c->phase = PSP_CONN_IDLE;
    c->events = POLLIN;
    if (PQstatus(c->pg) != CONNECTION_OK) {
        c->doomed = 1;
        psp_conn_cause(c, PQerrorMessage(c->pg));
    }
    else if (PQtransactionStatus(c->pg) != PQTRANS_IDLE) {
        c->doomed = 1; /* whoever comes next must not inherit it */
        psp_conn_cause(c, "a call left a transaction open");
    }
    return PSP_STEP_DONE;
}

/* A phase is over: WAIT means that the next one was sent. */
static psp_step_t phase_over(psp_conn_t *c)
{
    if (c->broken) {
        return gone(c);
    }
    if (c->phase == PSP_CONN_RUNNING && is_stale(c)) {
        psp_conn_cause(c, PQresultErrorMessage(c->reply));
        return PSP_STEP_AGAIN;
    }
    if (c->phase == PSP_CONN_RUNNING || !c->reply || is_error(c->reply)) {
        return done(c);
    }
    if (c->phase == PSP_CONN_SETTING) {
        c->server_ms = c->statement->server_ms;
    }
    else {
        apr_hash_set(c->names, apr_pstrdup(c->p, c->statement->text), APR_HASH_KEY_STRING, c->name);
        c->reused = 0;
    }
    drop_reply(c);
    if (!send_next(c)) {
        psp_conn_cause(c, PQerrorMessage(c->pg));
        return PSP_STEP_AGAIN;
    }
    return PSP_STEP_WAIT;
}

void psp_conn_call(psp_conn_t *c, const psp_statement_t *statement)
{
    drop_reply(c);
    c->cause[0] = '\0';
    c->completed = 0;
    c->broken = 0;
    c->statement = statement;
    c->reused = apr_hash_get(c->names, statement->text, APR_HASH_KEY_STRING) != NULL;
    if (!send_next(c)) {
        psp_conn_cause(c, PQerrorMessage(c->pg));
        c->phase = PSP_CONN_SETTING; /* gone() will say AGAIN: nothing was sent */
        c->broken = 1;
    }
}

psp_step_t psp_conn_pump(psp_conn_t *c)
{
    for (;;) {
        psp_step_t step;
        int pending = PQflush(c->pg);

        /* A failure of either shows in collect(), after the last words of the server, which say
         * more. */
        (void)PQconsumeInput(c->pg);
        if (!c->broken && !collect(c)) {
            c->events = pending > 0 ? POLLIN | POLLOUT : POLLIN;
            return PSP_STEP_WAIT;
        }
        step = phase_over(c);
        if (step != PSP_STEP_WAIT) {
            return step;
        }
    }
}
