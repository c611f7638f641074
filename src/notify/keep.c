/* SPDX-License-Identifier: Apache-2.0 */
/* keep.c: has the log kept as long as PubSubPullRetention says: the database does it, in short calls, and tells
 * what an operator should know. */
#include "notify/private.h"

#include <stdlib.h>

#include <apr_strings.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define FIRST apr_time_from_sec(1)   /* after the start */
#define PAUSE apr_time_from_msec(50) /* when there is more to do: leases are renewed in between */
#define RETRY apr_time_from_sec(5)
#define REPORT apr_time_from_sec(3600) /* between log lines about the same trouble */

/* Columns of notify_maintain. */
enum { M_EVENT, M_NAME, M_AT, M_SECONDS };

struct psp_keep_t {
    int calling;
    apr_int64_t call_at;
    apr_int64_t report_at; /* not again before: the log cannot be trimmed */
    apr_int64_t copied_at; /* and that it is a copy */
    int troubled;          /* said so in the log */
};

psp_keep_t *psp_keep_make(psp_child_t *c)
{
    psp_keep_t *k = apr_pcalloc(c->p, sizeof *k);

    k->call_at = c->now + FIRST;
    return k;
}

static void tell(psp_child_t *c, const char *event, const char *name, const char *at)
{
    psp_keep_t *k = c->keep;

    if (strcmp(event, "risk") == 0) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, c->server,
                     "PSP0460: subscription %s loses its place in the log at %s unless it gets on",
                     name, at);
    }
    else if (strcmp(event, "lost") == 0) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, c->server,
                     "PSP0461: subscription %s lost its place in the log and is disabled", name);
    }
    else if (strcmp(event, "interrupted") == 0) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, c->server,
                     "PSP0120: subscription %s lost its place and is disabled: its table was not "
                     "published for a time",
                     name);
    }
    else if (strcmp(event, "dropped") == 0) {
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, c->server,
                     "PSP0462: changes up to %s are dropped, they are older than "
                     "PubSubPullRetention",
                     at);
    }
    else if (strcmp(event, "silent") == 0) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, c->server,
                     "PSP0105: changes of %s are not logged: triggers are disabled or gone", name);
    }
    else if (strcmp(event, "copied") == 0 && c->now >= k->copied_at) {
        k->copied_at = c->now + REPORT;
        ap_log_error(
            APLOG_MARK, APLOG_ERR, 0, c->server,
            "PSP0121: nothing is sent: the database was restored from a dump or copied. If its "
            "subscriptions are to go on here, call SELECT pubsubpull.adopt_log()");
    }
    else if (strcmp(event, "stuck") == 0 && c->now >= k->report_at) {
        k->report_at = c->now + REPORT;
        ap_log_error(APLOG_MARK, APLOG_WARNING, APR_EBUSY, c->server,
                     "PSP0463: changes up to %s should be dropped and cannot be: a transaction "
                     "that wrote to or reads that part of the log is still open",
                     at);
    }
}

static void maintained(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_keep_t *k = c->keep;
    int row;

    psp_child_again(c);
    k->calling = 0;
    k->call_at = c->now + RETRY;
    if (result->rv != APR_SUCCESS) {
        if (result->http != HTTP_SERVICE_UNAVAILABLE && !k->troubled) {
            k->troubled = 1;
            psp_gate_doubt(c);
            ap_log_error(APLOG_MARK, APLOG_ERR, result->rv, c->server,
                         "PSP0464: cannot trim the log of changes: %s", psp_gate_cause(c));
        }
        return;
    }
    k->troubled = 0;
    for (row = 0; row < psp_rows_count(rows); row++) {
        const char *event = psp_rows_get(rows, row, M_EVENT);
        const char *name = psp_rows_get(rows, row, M_NAME);
        const char *at = psp_rows_get(rows, row, M_AT);
        const char *seconds = psp_rows_get(rows, row, M_SECONDS);

        tell(c, event ? event : "", name ? name : "", at ? at : "");
        if (seconds) {
            k->call_at = c->now + PAUSE + apr_time_from_sec(atoi(seconds));
        }
    }
}

void psp_keep_step(psp_child_t *c)
{
    psp_keep_t *k = c->keep;
    const char *retention = NULL;
    char number[16];

    if (k->calling || c->stopping || !c->config->notifier || !psp_gate_open(c)) {
        return;
    }
    if (c->now < k->call_at) {
        psp_child_want(c, k->call_at);
        return;
    }
    if (!psp_session_ready(c->records_db)) {
        return;
    }
    if (c->config->retention > 0) {
        apr_snprintf(number, sizeof number, "%d", c->config->retention);
        retention = number;
    }
    k->calling = 1;
    psp_session_send(c->records_db, "SELECT * FROM pubsubpull.notify_maintain($1)", 1, &retention,
                     PSP_RECORDS_TIMEOUT, maintained, c);
}
