/* SPDX-License-Identifier: Apache-2.0 */
/* connect.c: open, watch and close one connection without ever waiting for the server. */

#include <poll.h>
#include <string.h>

#include <apr_strings.h>

#include "db/private.h"

/*
 * What may still wait in here: libpq looks host names up with getaddrinfo(). A numeric address or a
 * socket directory in the connection string never gets to a name server, so that is what the
 * documentation recommends.
 */

/* Memory beyond this goes back to the system when a connection closes or a call ends. */
#define PSP_KEEP ((apr_size_t)1024 * 1024)

static apr_status_t finish(void *baton)
{
    psp_conn_t *c = baton;

    PQclear(c->reply); /* NULL is fine for both */
    PQfinish(c->pg);
    c->reply = NULL;
    c->pg = NULL;
    c->phase = PSP_CONN_CLOSED;
    return APR_SUCCESS;
}

apr_status_t psp_pool_make(apr_pool_t **made, apr_pool_t *parent, const char *tag)
{
    apr_allocator_t *allocator;
    apr_status_t rv = apr_allocator_create(&allocator);

    if (rv != APR_SUCCESS) {
        return rv;
    }
    apr_allocator_max_free_set(allocator, PSP_KEEP);
    rv = apr_pool_create_ex(made, parent, NULL, allocator);
    if (rv != APR_SUCCESS) {
        apr_allocator_destroy(allocator);
        return rv;
    }
    apr_allocator_owner_set(allocator, *made);
    apr_pool_tag(*made, tag);
    return APR_SUCCESS;
}

apr_status_t psp_conn_init(psp_conn_t *c, apr_pool_t *parent)
{
    memset(c, 0, sizeof(*c));
    return psp_pool_make(&c->p, parent, "psp_conn");
}

/* Nothing that the server remarks is for anybody, unless it says that it is about to close the
 * connection. */
static void on_notice(void *baton, const PGresult *notice)
{
    psp_conn_t *c = baton;

    if (psp_pg_is_fatal(notice)) {
        c->doomed = 1;
        psp_conn_cause(c, PQresultErrorMessage(notice));
    }
}

void psp_conn_open(psp_conn_t *c, const char *conninfo, const char *application_name)
{
    /* What stands before dbname is a default that the administrator's string replaces; what follows
     * is ours. */
    const char *const keywords[] = {"keepalives_idle",
                                    "keepalives_interval",
                                    "keepalives_count",
                                    "dbname",
                                    "application_name",
                                    "client_encoding",
                                    NULL};
    const char *const values[] = {"30", "10", "3", conninfo, application_name, "UTF8", NULL};
    const char *wrong;

    psp_conn_close(c);
    c->phase = PSP_CONN_CONNECTING;
    c->cause[0] = '\0';
    wrong = psp_db_check_conninfo(c->p, conninfo);
    if (wrong) { /* libpq would quote from it */
        psp_conn_cause(c, apr_pstrcat(c->p, "the connection string ", wrong, NULL));
        return;
    }
    c->names = apr_hash_make(c->p);
    c->pg = PQconnectStartParams(keywords, values, 1);
    apr_pool_cleanup_register(c->p, c, finish, apr_pool_cleanup_null);
    if (!c->pg) {
        psp_conn_cause(c, "out of memory");
        return;
    }
    PQsetNoticeReceiver(c->pg, on_notice, c);
    (void)PQsetErrorVerbosity(c->pg, PQERRORS_TERSE); /* DETAIL and CONTEXT may quote secrets */
    c->events = POLLOUT; /* as libpq asks for before the first PQconnectPoll */
}

static int socket_ready(const psp_conn_t *c, short events)
{
    struct pollfd wait = {.fd = PQsocket(c->pg), .events = events};

    return wait.fd >= 0 && poll(&wait, 1, 0) > 0;
}

/* PQconnectPoll takes a socket that is still connecting for a connected one, so it must not be
 * called too early. */
static psp_step_t go_on_connecting(psp_conn_t *c)
{
    if (!c->pg) {
        return PSP_STEP_LOST; /* the cause was set by psp_conn_open */
    }
    if (PQstatus(c->pg) != CONNECTION_BAD) {
        if (!socket_ready(c, c->events)) {
            return PSP_STEP_WAIT;
        }
        switch (PQconnectPoll(c->pg)) {
        case PGRES_POLLING_READING:
            c->events = POLLIN;
            return PSP_STEP_WAIT;
        case PGRES_POLLING_WRITING:
            c->events = POLLOUT;
            return PSP_STEP_WAIT;
        case PGRES_POLLING_OK:
            if (PQsetnonblocking(c->pg, 1) == 0) {
                c->phase = PSP_CONN_IDLE;
                c->events = POLLIN;
                c->server_ms = -1;
                return PSP_STEP_READY;
            }
            break;
        default:
            break;
        }
    }
    psp_conn_cause(c, PQerrorMessage(c->pg));
    return PSP_STEP_LOST;
}

psp_step_t psp_conn_step(psp_conn_t *c)
{
    switch (c->phase) {
    case PSP_CONN_CLOSED:
        return PSP_STEP_LOST;
    case PSP_CONN_CONNECTING:
        return go_on_connecting(c);
    case PSP_CONN_IDLE:
        return PSP_STEP_READY;
    default:
        return psp_conn_pump(c);
    }
}

int psp_conn_alive(psp_conn_t *c)
{
    if (c->phase != PSP_CONN_IDLE) {
        return 0;
    }
    while (!c->doomed && socket_ready(c, POLLIN)) {
        if (!PQconsumeInput(c->pg)) {
            if (!c->cause[0]) {
                psp_conn_cause(c, PQerrorMessage(c->pg));
            }
            return 0;
        }
        if (PQisBusy(c->pg)) { /* for its effect: what came in goes to on_notice */
            return 0;
        }
    }
    return !c->doomed;
}

void psp_conn_close(psp_conn_t *c)
{
    apr_pool_clear(c->p); /* runs finish() */
    c->names = NULL;
    c->phase = PSP_CONN_CLOSED;
    c->statement = NULL;
    c->name = NULL;
    c->broken = 0;
    c->doomed = 0;
    c->server_ms = -1;
}
