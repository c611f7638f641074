/* SPDX-License-Identifier: Apache-2.0 */
/* gate.c: is the database there, and is its schema ours? Nothing else is asked of it before. */
#include "notify/private.h"

#include <apr_strings.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define RETRY apr_time_from_msec(200)
#define SCHEMA_RETRY apr_time_from_sec(5)
#define SCHEMA_AGAIN apr_time_from_sec(10) /* another module may upgrade it at any time */
#define QUIET apr_time_from_sec(10)        /* between lines about refused calls */

enum { DB = 1, RECORDS_DB = 2 };

typedef struct watched_t {
    psp_child_t *c;
    int session;
} watched_t;

struct psp_gate_t {
    watched_t watched[2];
    int open;
    int calling;
    apr_uint32_t connects; /* of the session when its schema was last asked for */
    apr_int64_t check_at;
    int away; /* sessions that are; said in the log that the database is */
    apr_int64_t away_since;
    apr_int64_t refused_at; /* said in the log that it refused a call */
    int unfit;              /* said in the log that the schema does not fit */
    char cause[512];        /* of the latest trouble, in the database's words */
};

static void returned(psp_child_t *c, int session)
{
    psp_gate_t *g = c->gate;

    if (g->away == session) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0411: the notifier has its database back, after %d s",
                     (int)apr_time_sec(c->now - g->away_since));
    }
    g->away &= ~session;
}

/* What is refused is tried again, or said where it matters. */
static void refused(psp_child_t *c, apr_status_t rv, const char *cause)
{
    psp_gate_t *g = c->gate;

    if (!g->refused_at || c->now >= g->refused_at + QUIET) {
        g->refused_at = c->now;
        ap_log_error(APLOG_MARK, APLOG_INFO, rv, c->server,
                     "PSP0437: the database refused a call of the notifier: %s", cause);
    }
}

static void reported(void *baton, psp_db_event_t event, apr_status_t rv, const char *cause)
{
    const watched_t *w = baton;
    psp_child_t *c = w->c;
    psp_gate_t *g = c->gate;

    if (event == PSP_DB_CONNECTED) {
        if (w->session == RECORDS_DB) { /* of the other it is good news when the schema was seen */
            returned(c, RECORDS_DB);
        }
        return;
    }
    apr_cpystrn(g->cause, cause, sizeof g->cause);
    if (event == PSP_DB_LATE) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, rv, c->server,
                     "PSP0412: the notifier gave up waiting for the database: %s", cause);
        return;
    }
    if (event == PSP_DB_FAILED) {
        refused(c, rv, cause);
        return;
    }
    if (event == PSP_DB_LOST) { /* another is opened at once; if that fails it is trouble */
        ap_log_error(APLOG_MARK, APLOG_INFO, rv, c->server,
                     "PSP0438: a session of the notifier ended: %s", cause);
        return;
    }
    if (c->stopping) {
        return;
    }
    if (!g->away) {
        g->away_since = c->now;
        ap_log_error(
            APLOG_MARK, APLOG_ERR, rv, c->server,
            "PSP0410: the notifier has no database; deliveries wait and records of requests "
            "are kept in memory: %s",
            cause);
    }
    g->away |= w->session;
}

psp_gate_t *psp_gate_make(psp_child_t *c)
{
    psp_gate_t *g = apr_pcalloc(c->p, sizeof *g);

    g->watched[0] = (watched_t){c, DB};
    g->watched[1] = (watched_t){c, RECORDS_DB};
    psp_session_report(c->db, reported, &g->watched[0]);
    psp_session_report(c->records_db, reported, &g->watched[1]);
    return g;
}

int psp_gate_away(const psp_child_t *c)
{
    return c->gate->away != 0;
}

int psp_gate_open(const psp_child_t *c)
{
    return c->gate->open;
}

const char *psp_gate_cause(const psp_child_t *c)
{
    return c->gate->cause;
}

void psp_gate_doubt(psp_child_t *c)
{
    c->gate->open = 0;
    c->gate->check_at = 0;
}

static void welcome(psp_child_t *c)
{
    psp_gate_t *g = c->gate;

    g->open = 1;
    g->check_at = c->now + SCHEMA_AGAIN;
    if (g->unfit) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0416: the schema pubsubpull is there and of version %d",
                     PSP_SCHEMA_VERSION);
    }
    g->unfit = 0;
}

static void refuse(psp_child_t *c, const char *version)
{
    psp_gate_t *g = c->gate;

    g->open = 0;
    g->check_at = c->now + SCHEMA_RETRY;
    if (g->unfit) {
        return;
    }
    g->unfit = 1;
    if (version) {
        ap_log_error(APLOG_MARK, APLOG_ERR, APR_EMISMATCH, c->server,
                     "PSP0415: the database has version %s of the schema pubsubpull, this module "
                     "needs %d: %s",
                     version, PSP_SCHEMA_VERSION,
                     atoi(version) < PSP_SCHEMA_VERSION
                         ? "psql -v ON_ERROR_STOP=1 -f sql/roles.sql -f sql/install.sql"
                         : "install the module of that version, and restart httpd");
        return;
    }
    psp_leases_restart(c); /* in a new schema the same numbers are other subscriptions */
    ap_log_error(APLOG_MARK, APLOG_ERR, APR_ENOENT, c->server,
                 "PSP0414: the database lacks the schema pubsubpull, or its role may not use it "
                 "(%s): psql -v ON_ERROR_STOP=1 -f sql/roles.sql -f sql/install.sql",
                 g->cause);
}

static void checked(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_gate_t *g = c->gate;
    const char *version;

    psp_child_again(c);
    g->calling = 0;
    if (result->rv != APR_SUCCESS) {
        g->check_at = c->now + RETRY;
        if (result->http != HTTP_SERVICE_UNAVAILABLE) {
            returned(c, DB);
            refuse(c, NULL);
        }
        return;
    }
    returned(c, DB);
    version = psp_rows_count(rows) == 1 ? psp_rows_get(rows, 0, 0) : NULL;
    if (version && atoi(version) == PSP_SCHEMA_VERSION) {
        welcome(c);
        return;
    }
    refuse(c, version ? version : "0");
}

void psp_gate_step(psp_child_t *c)
{
    psp_gate_t *g = c->gate;

    if (!psp_session_ready(c->db)) {
        g->open = 0;
        return;
    }
    if (g->connects != psp_session_connects(c->db)) {
        g->connects = psp_session_connects(c->db);
        psp_gate_doubt(c);
    }
    if (g->calling || (g->open && c->stopping)) {
        return;
    }
    if (c->now < g->check_at) {
        psp_child_want(c, g->check_at);
        return;
    }
    g->calling = 1;
    psp_session_send(c->db, "SELECT pubsubpull.schema_version()", 0, NULL, PSP_DB_TIMEOUT, checked,
                     c);
}
