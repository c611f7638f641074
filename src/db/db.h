/* SPDX-License-Identifier: Apache-2.0 */
/* db.h: the database as the other rooms see it: sessions, calls of SQL functions, rows of text. */
#ifndef PSP_DB_DB_H
#define PSP_DB_DB_H

#include <apr_pools.h>
#include <apr_time.h>

#include "core/result.h"

/** The version of the schema that this module speaks; sql/web.sql says the same in pubsubpull.schema_version(). */
#define PSP_SCHEMA_VERSION 4

/** Rows of a finished call, all values as text. Valid until the pool given to the call is cleared. */
typedef struct psp_rows_t psp_rows_t;

int psp_rows_count(const psp_rows_t *rows);
/** A value, or NULL for SQL's NULL. Rows and columns count from 0. */
const char *psp_rows_get(const psp_rows_t *rows, int row, int column);
apr_size_t psp_rows_length(const psp_rows_t *rows, int row, int column);

/** What is wrong with a connection string, as the end of a sentence, or NULL. Never repeats any of it: it may hold a
 * password. Connects to nothing. */
const char *psp_db_check_conninfo(apr_pool_t *p, const char *conninfo);

/* --- Connections of others, which libpq made as well (PGconn *) --- */

/** Set pubsubpull.request for the session; a transaction that somebody left open is rolled back first.
 * @return 0: the connection cannot be used any more, and its owner will notice */
int psp_db_tell(void *connection, const char *envelope, apr_interval_time_t timeout);
int psp_db_in_transaction(void *connection);

/* --- What happened, for the log: results speak to clients and tell nothing of hosts, roles and SQL --- */

typedef enum {
    PSP_DB_CONNECTED,   /* a session was opened; cause is empty */
    PSP_DB_UNREACHABLE, /* a session could not be opened */
    PSP_DB_LOST,        /* a session broke or an upgrade outdated it; it is replaced when needed */
    PSP_DB_LATE, /* no answer before the deadline; cause is the call, or that all sessions were in use */
    PSP_DB_FAILED /* the server refused a call for a reason that the client is not to blame for */
} psp_db_event_t;

/** @param cause one line in libpq's or PostgreSQL's words, without secrets; valid during the callback only */
typedef void psp_db_report_fn(void *baton, psp_db_event_t event, apr_status_t rv,
                              const char *cause);

/* --- Calls that wait, for request handlers (never without a deadline) --- */

/** One child process's pool of sessions. Sessions are opened when first needed and reopened when broken. */
typedef struct psp_db_pool_t psp_db_pool_t;

/** @param max most sessions at a time; @param p owner, lives as long as the child process */
apr_status_t psp_db_pool_make(psp_db_pool_t **pool, const char *conninfo, int min, int max,
                              apr_pool_t *p);

/** Who wants to hear what happens. Set before the first call; report comes from the thread that calls. */
void psp_db_pool_report(psp_db_pool_t *pool, psp_db_report_fn *report, void *baton);

/**
 * Call SQL and wait for its rows. A session is taken from the pool and given back; each call is one transaction.
 * Statements are prepared once per session. A session found broken before anything was sent is replaced, once.
 * @param call one statement with $1…$n, e.g. "SELECT * FROM pubsubpull.get_table($1, $2)"
 * @param params text values, NULL for SQL's NULL
 * @param timeout microseconds for everything: waiting for a session, connecting, the call; the call is cancelled after
 * @param rows set on success
 * @return result: SQLSTATE PSnnn raised by our functions becomes http nnn with its message as detail and its
 *         CONSTRAINT as type; 42501 becomes 403; 22021 and 22P05 (not UTF-8, NUL) 400; class 08, 53, 57, 40,
 *         25006 and 55P03 become 503; anything else 500
 */
psp_result_t psp_db_call(psp_db_pool_t *pool, apr_pool_t *p, const char *call, int n,
                         const char *const *params, apr_interval_time_t timeout,
                         const psp_rows_t **rows);

/* --- Streams: results of any size, a row at a time --- */

typedef struct psp_stream_t psp_stream_t;

typedef struct psp_stream_spec_t {
    const char *first; /* a call in the stream's transaction, before COPY */
    int n;
    const char *const *params;
    const char *copy; /* COPY (…) TO STDOUT (FORMAT binary), with one column of text or json */
} psp_stream_spec_t;

/**
 * Begin a transaction, REPEATABLE READ and READ ONLY, make the first call and start COPY. At most half of a pool's
 * sessions stream at a time: beyond that the result is 503. The stream is closed with p at the latest.
 * @param timeout until COPY has started
 * @param rows of the first call
 */
psp_result_t psp_db_stream_open(psp_db_pool_t *pool, apr_pool_t *p, const psp_stream_spec_t *spec,
                                apr_interval_time_t timeout, const psp_rows_t **rows,
                                psp_stream_t **stream);

/**
 * The next row, valid until the next call; the byte after it may be written to.
 * @param wait how long the server may be silent; 0: do not wait
 * @return APR_SUCCESS; APR_EAGAIN: nothing there yet (only when not waiting); APR_EOF: that was all, and the server says so;
 *         anything else: broken off. After the last two the stream is closed.
 */
apr_status_t psp_db_stream_next(psp_stream_t *s, char **row, apr_size_t *length,
                                apr_interval_time_t wait);

/** Why it broke off. */
const psp_result_t *psp_db_stream_result(const psp_stream_t *s);

/** End it early: its session is closed, which ends its transaction. */
void psp_db_stream_close(psp_stream_t *s);

/* --- Calls that do not wait, for the notifier's event loop --- */

/** One session with a queue of calls, each finished by a callback, in order. Reconnects by itself with back-off;
 * while it is away queued calls fail with http 503 at once. */
typedef struct psp_session_t psp_session_t;

/** rows is NULL on failure and, like result, valid only during the callback. */
typedef void psp_session_done_fn(void *baton, const psp_result_t *result, const psp_rows_t *rows);

/** Makes the session; connecting starts at the first step. application_name shows in pg_stat_activity. NULL: no memory. */
psp_session_t *psp_session_make(apr_pool_t *p, const char *conninfo, const char *application_name);

/** Who wants to hear what happens. */
void psp_session_report(psp_session_t *s, psp_db_report_fn *report, void *baton);

/**
 * Queue a call; strings are copied. done is always called exactly once, never from within this function (but not if
 * the session's pool goes first: drain before). done may send calls; it must not step, drain or destroy the session.
 * @param timeout counts from when the call's turn comes, not from here
 */
void psp_session_send(psp_session_t *s, const char *call, int n, const char *const *params,
                      apr_interval_time_t timeout, psp_session_done_fn *done, void *baton);

/** The socket to wait for, or -1; *events gets APR_POLLIN/APR_POLLOUT bits. */
int psp_session_fd(const psp_session_t *s, short *events);

/** Do what can be done without waiting. Call when the socket is ready or the time of psp_session_next came.
 * @param now microseconds above zero, of a clock that is never set */
void psp_session_step(psp_session_t *s, apr_time_t now);

/** When step wants to be called at the latest (time-outs, reconnect); 0: no wish. */
apr_time_t psp_session_next(const psp_session_t *s);

int psp_session_ready(const psp_session_t *s); /* connected */
int psp_session_idle(const psp_session_t *s);  /* no call queued or under way */

/** Number of times the session was connected since it was made. */
apr_uint32_t psp_session_connects(const psp_session_t *s);

#endif
