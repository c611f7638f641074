/* SPDX-License-Identifier: Apache-2.0 */
/* gate.c: is the database there, and is its schema ours? Nothing else is asked of it before. */
#include "notify/private.h"

#include <apr_strings.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define RETRY apr_time_from_msec(200)
#define SCHEMA_RETRY apr_time_from_sec(5)

struct psp_gate_t {
    int open;
    int calling;
    apr_uint32_t connects; /* of the session when its schema was last asked for */
    apr_int64_t check_at;
    int away; /* said in the log that the database is away */
    apr_int64_t away_since;
    int unfit;       /* said in the log that the schema does not fit */
    char cause[512]; /* of the latest trouble, in the database's words */
};

static void reported(void *baton, psp_db_event_t event, apr_status_t rv, const char *cause)
{
    psp_child_t *c = baton;
    psp_gate_t *g = c->gate;

    if (event == PSP_DB_CONNECTED) {
        return; /* good news when the schema was seen */
    }
    apr_cpystrn(g->cause, cause, sizeof g->cause);
    if (event == PSP_DB_LATE) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, rv, c->server,
                     "PSP0412: the notifier gave up waiting for the database: %s", cause);
        return;
    }
    if (event == PSP_DB_FAILED || g->away || c->stopping) {
        return;
    }
    g->away = 1;
    g->away_since = c->now;
    ap_log_error(APLOG_MARK, APLOG_ERR, rv, c->server,
                 "PSP0410: the notifier has no database; deliveries wait and records of requests "
                 "are kept in memory: %s",
                 cause);
}

psp_gate_t *psp_gate_make(psp_child_t *c)
{
    psp_gate_t *g = apr_pcalloc(c->p, sizeof *g);

    psp_session_report(c->db, reported, c);
    psp_session_report(c->records_db, reported, c);
    return g;
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

static void returned(psp_child_t *c)
{
    psp_gate_t *g = c->gate;

    if (g->away) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0411: the notifier has its database back, after %d s",
                     (int)apr_time_sec(c->now - g->away_since));
    }
    g->away = 0;
}

static void welcome(psp_child_t *c)
{
    psp_gate_t *g = c->gate;

    g->open = 1;
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

    g->check_at = c->now + SCHEMA_RETRY;
    if (g->unfit) {
        return;
    }
    g->unfit = 1;
    if (version) {
        ap_log_error(APLOG_MARK, APLOG_ERR, APR_EMISMATCH, c->server,
                     "PSP0415: the database has version %s of the schema pubsubpull, this module "
                     "needs %d: psql -v ON_ERROR_STOP=1 -f sql/install.sql",
                     version, PSP_SCHEMA_VERSION);
        return;
    }
    ap_log_error(APLOG_MARK, APLOG_ERR, APR_ENOENT, c->server,
                 "PSP0414: the database lacks the schema pubsubpull, or its role may not use it "
                 "(%s): psql -v ON_ERROR_STOP=1 -f sql/install.sql",
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
            returned(c);
            refuse(c, NULL);
        }
        return;
    }
    returned(c);
    version = psp_rows_count(rows) == 1 ? psp_rows_get(rows, 0, 0) : NULL;
    if (version && atoi(version) == PSP_SCHEMA_VERSION) {
        welcome(c);
        return;
    }
    refuse(c, version ? version : "an unknown");
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
    if (g->open || g->calling || c->stopping) {
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
