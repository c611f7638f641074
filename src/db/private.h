/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room share: one connection that never waits, and its outcomes.
 */
#ifndef PSP_DB_PRIVATE_H
#define PSP_DB_PRIVATE_H

#include <apr_hash.h>
#include <libpq-fe.h>

#include "db/db.h"

/** Seconds that clients are told to wait when the database cannot be used. */
#define PSP_DB_RETRY_AFTER 5

typedef enum {
    PSP_CONN_CLOSED,
    PSP_CONN_CONNECTING,
    PSP_CONN_IDLE,
    PSP_CONN_SETTING, /* statement_timeout is being set */
    PSP_CONN_PREPARING,
    PSP_CONN_RUNNING /* the statement itself */
} psp_phase_t;

typedef enum {
    PSP_STEP_WAIT,  /* wait until the socket is ready for conn->events, then step again */
    PSP_STEP_READY, /* connected */
    PSP_STEP_DONE,  /* the server has answered: psp_conn_take gives rows or error */
    PSP_STEP_AGAIN, /* the connection must be closed; the statement certainly had no effect */
    PSP_STEP_LOST,  /* the connection must be closed; nobody knows what became of the statement */
    PSP_STEP_LATE   /* only from those who wait: the deadline passed */
} psp_step_t;

/** One call as the caller gave it; strings belong to the caller until the call is over. */
typedef struct psp_statement_t {
    const char *text;
    int n;
    const char *const *params;
    int server_ms; /* statement_timeout: the server gives up by itself before our deadline */
} psp_statement_t;

/** One connection. At any time one thread owns it and everything in it. */
typedef struct psp_conn_t {
    apr_pool_t *p;     /* own allocator; cleared by close, which ends pg and reply too */
    PGconn *pg;        /* NULL: closed */
    apr_hash_t *names; /* text of a call -> name of its prepared statement, in p */
    psp_phase_t phase;
    short events; /* poll(2) bits to wait for */
    int server_ms;
    const psp_statement_t *statement;
    const char *name; /* of the statement that is being prepared or run; NULL: unnamed */
    PGresult *reply;
    int reused;      /* the statement was prepared by an earlier call */
    int completed;   /* CommandComplete was seen; the commit follows it */
    int broken;      /* the answer to the call will not come (any more) */
    int doomed;      /* answered or idle, but must not be used again */
    char cause[512]; /* why it failed, one line, survives close */
} psp_conn_t;

/* cause.c */
/** Notes why it failed: one line. */
void psp_conn_cause(psp_conn_t *c, const char *text);
/** The error that it answered, for the caller; the cause is noted if the log should know. */
psp_result_t psp_conn_error(psp_conn_t *c, apr_pool_t *p);
/** Severity FATAL or PANIC: the server closes the connection after this error. */
int psp_pg_is_fatal(const PGresult *error);
const char *psp_pg_sqlstate(const PGresult *error);
psp_result_t psp_result_unavailable(apr_status_t rv);
psp_result_t psp_result_lost(void);
psp_result_t psp_result_timeout(void);
psp_result_t psp_result_busy(void);

/* connect.c */
/** A pool with an allocator of its own, so that its thread needs no lock. */
apr_status_t psp_pool_make(apr_pool_t **made, apr_pool_t *parent, const char *tag);
apr_status_t psp_conn_init(psp_conn_t *c, apr_pool_t *parent);
/** Starts to connect; psp_conn_step goes on until READY or LOST. A failure shows at the first step.
 */
void psp_conn_open(psp_conn_t *c, const char *conninfo, const char *application_name);
psp_step_t psp_conn_step(psp_conn_t *c);
/** An idle connection: is it still there? Reads what the server said meanwhile. */
int psp_conn_alive(psp_conn_t *c);
void psp_conn_close(psp_conn_t *c);

/* call.c */
/** Starts a call on an idle connection; psp_conn_step goes on until DONE, AGAIN or LOST. */
void psp_conn_call(psp_conn_t *c, const psp_statement_t *statement);
psp_step_t psp_conn_pump(psp_conn_t *c);
int psp_statement_ms(apr_interval_time_t timeout);

/* pool.c: a session of its own for somebody, for a while. */
typedef struct psp_slot_t psp_slot_t;
/** NULL: all were in use until the deadline. */
psp_slot_t *psp_slot_take(psp_db_pool_t *pool, apr_time_t deadline);
/** Makes sure that it is connected: READY, LOST or LATE. */
psp_step_t psp_slot_ready(psp_db_pool_t *pool, psp_slot_t *slot, apr_time_t deadline);
psp_conn_t *psp_slot_conn(psp_slot_t *slot);
/** A session that is not idle is closed. */
void psp_slot_give(psp_db_pool_t *pool, psp_slot_t *slot);
/** False: as many streams as there may be are under way. */
int psp_pool_begin_stream(psp_db_pool_t *pool);
void psp_pool_end_stream(psp_db_pool_t *pool);
void psp_pool_tell(const psp_db_pool_t *pool, psp_db_event_t event, apr_status_t rv,
                   const char *cause);

/* rows.c */
/** The answer of a finished call: rows, owned by p, or the reason why not. */
psp_result_t psp_conn_take(psp_conn_t *c, apr_pool_t *p, const psp_rows_t **rows);

#endif
