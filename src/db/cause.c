/* SPDX-License-Identifier: Apache-2.0 */
/* cause.c: why a call failed: one line for the log, and our result for the caller. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include "db/private.h"

/* libpq ends its messages with a newline and breaks long ones; a log line wants one line. */
void psp_conn_cause(psp_conn_t *c, const char *text)
{
    char *at;

    apr_cpystrn(c->cause, text, sizeof(c->cause));
    for (at = c->cause; *at; at++) {
        if ((unsigned char)*at < ' ') {
            *at = ' ';
        }
    }
    while (at > c->cause && at[-1] == ' ') {
        *--at = '\0';
    }
}

const char *psp_pg_sqlstate(const PGresult *error)
{
    return PQresultErrorField(error, PG_DIAG_SQLSTATE);
}

int psp_pg_is_fatal(const PGresult *error)
{
    const char *severity = PQresultErrorField(error, PG_DIAG_SEVERITY_NONLOCALIZED);

    return severity && (!strcmp(severity, "FATAL") || !strcmp(severity, "PANIC"));
}

psp_result_t psp_result_unavailable(apr_status_t rv)
{
    return (psp_result_t){
        .rv = rv,
        .http = 503,
        .type = "database-unavailable",
        .detail = "The database cannot be reached. Try again in a few seconds; if that does not"
                  " help, the administrator finds the reason in the error log.",
        .retry_after = PSP_DB_RETRY_AFTER,
    };
}

psp_result_t psp_result_lost(void)
{
    return (psp_result_t){
        .rv = APR_ECONNRESET,
        .http = 503,
        .type = "database-lost",
        .detail = "The connection to the database was lost during the call, so it may or may not"
                  " have taken effect. Look, or send the same request again: that is safe.",
        .retry_after = PSP_DB_RETRY_AFTER,
    };
}

psp_result_t psp_result_timeout(void)
{
    return (psp_result_t){
        .rv = APR_TIMEUP,
        .http = 503,
        .type = "database-timeout",
        .detail = "The database did not answer in time. Try again in a few seconds, or ask for less"
                  " at a time.",
        .retry_after = PSP_DB_RETRY_AFTER,
    };
}

psp_result_t psp_result_busy(void)
{
    return (psp_result_t){
        .rv = APR_TIMEUP,
        .http = 503,
        .type = "database-timeout",
        .detail = "All database sessions of this process were in use. Try again in a few seconds;"
                  " if that happens often, the administrator should raise PubSubPullPool.",
        .retry_after = PSP_DB_RETRY_AFTER,
    };
}

/* What SQLSTATEs other than PSnnn mean. The first entry that the state begins with counts; {} in a
 * detail is the state. */
static const struct {
    const char *state;
    int http;
    apr_status_t rv;
    const char *type;
    int retry_after;
    const char *detail;
} meanings[] = {
    {"42501", 403, APR_EACCES, "database-forbidden", 0,
     "The database role of this server lacks a right that is needed here. The administrator finds"
     " in the error log which one to grant; those on the schema pubsubpull come with:"
     " psql -f sql/roles.sql -f sql/install.sql."},
    {"22021", 400, APR_EGENERAL, "bad-encoding", 0,
     "The request holds text that is not UTF-8. Send UTF-8."},
    {"22P05", 400, APR_EGENERAL, "bad-encoding", 0,
     "The request holds a character that the database cannot store, such as NUL. Leave it out."},
    {"57014", 503, APR_TIMEUP, "database-timeout", PSP_DB_RETRY_AFTER,
     "The database gave up because the call took too long. Try again in a few seconds, or ask for"
     " less at a time."},
    {"08P01", 500, APR_EGENERAL, "database-error", 0, NULL},
    {"08", 503, APR_ECONNRESET, "database-unavailable", PSP_DB_RETRY_AFTER,
     "The database cannot be reached. Try again in a few seconds."},
    {"53", 503, APR_EAGAIN, "database-busy", PSP_DB_RETRY_AFTER,
     "The database lacks connections, memory or disk space. Try again later; the administrator"
     " finds in the error log what is missing."},
    {"57", 503, APR_ECONNRESET, "database-unavailable", PSP_DB_RETRY_AFTER,
     "The database is starting or stopping. Try again in a few seconds."},
    {"40", 503, APR_EAGAIN, "database-conflict", 1,
     "Another transaction was in the way and nothing was changed. Send the same request again."},
    {"55P03", 503, APR_EAGAIN, "database-conflict", 1,
     "Another transaction holds a lock that is needed and nothing was changed. Send the same"
     " request again."},
    {"25006", 503, APR_EAGAIN, "database-read-only", PSP_DB_RETRY_AFTER,
     "The database accepts no changes at the moment (read-only, or a standby). Try again later."},
    {"42883", 500, APR_EGENERAL, "database-schema", 0,
     "A function of schema pubsubpull is missing. The administrator installs or upgrades the schema"
     " with: psql -f sql/roles.sql -f sql/install.sql."},
    {"3F000", 500, APR_EGENERAL, "database-schema", 0,
     "Schema pubsubpull is missing. The administrator installs it with: psql -f sql/roles.sql -f "
     "sql/install.sql."},
    {"42P01", 500, APR_EGENERAL, "database-schema", 0,
     "A table of schema pubsubpull is missing. The administrator installs or upgrades the schema"
     " with: psql -f sql/roles.sql -f sql/install.sql."},
    {"", 500, APR_EGENERAL, "database-error", 0, NULL},
};

static psp_result_t from_meaning(const char *state, apr_pool_t *p)
{
    apr_size_t i = 0;

    while (strncmp(state, meanings[i].state, strlen(meanings[i].state)) != 0) {
        i++; /* the last one fits all */
    }
    return (psp_result_t){
        .rv = meanings[i].rv,
        .http = meanings[i].http,
        .type = meanings[i].type,
        .retry_after = meanings[i].retry_after,
        .detail =
            meanings[i].detail
                ? meanings[i].detail
                : apr_psprintf(p,
                               "The database refused the call (SQLSTATE %.5s). This is a fault"
                               " of the server, not of the request; the administrator finds"
                               " the reason in the error log.",
                               state),
    };
}

/* SQLSTATE PSnnn is how our SQL functions say what to answer; 0: this is none. */
static int http_of(const char *state)
{
    int http;

    if (strncmp(state, "PS", 2) != 0 || strlen(state) != 5 ||
        strspn(state + 2, "0123456789") != 3) {
        return 0;
    }
    http = (int)strtol(state + 2, NULL, 10);
    return http >= 300 && http <= 599 ? http : 0;
}

static psp_result_t from_problem(const PGresult *error, int http, apr_pool_t *p)
{
    const char *detail = PQresultErrorField(error, PG_DIAG_MESSAGE_PRIMARY);
    const char *hint = PQresultErrorField(error, PG_DIAG_MESSAGE_HINT);
    const char *type = PQresultErrorField(error, PG_DIAG_CONSTRAINT_NAME);

    return (psp_result_t){
        .rv = http == 404   ? APR_ENOENT
              : http == 403 ? APR_EACCES
                            : APR_EGENERAL,
        .http = http,
        .type = apr_pstrdup(p, type ? type : "error"),
        .detail = apr_pstrcat(p, detail ? detail : "", hint ? " " : NULL, hint, NULL),
        .retry_after = http == 503 ? PSP_DB_RETRY_AFTER : 0,
    };
}

/*
 * The cause for the log is SQLSTATE and primary message only: DETAIL and CONTEXT may quote rows or
 * documents, and with them somebody's secrets. PostgreSQL's own log has the rest. What is the
 * client's fault is no cause for a log line.
 */
psp_result_t psp_conn_error(psp_conn_t *c, apr_pool_t *p)
{
    const char *state = c->reply ? psp_pg_sqlstate(c->reply) : NULL;
    const char *message = c->reply ? PQresultErrorField(c->reply, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    char cause[sizeof(c->cause)];
    psp_result_t result;
    int http;

    state = state ? state : "XX000";
    http = http_of(state);
    if (http) {
        return from_problem(c->reply, http, p);
    }
    if (strcmp(state, "25006") == 0) {
        c->doomed = 1; /* another session may be let write, or find another server */
    }
    result = from_meaning(state, p);
    if (result.http != 400) {
        (void)snprintf(cause, sizeof(cause), "%.5s: %s", state, message ? message : "no answer");
        psp_conn_cause(c, cause);
    }
    return result;
}
