/* SPDX-License-Identifier: Apache-2.0 */
/* borrow.c: a connection of somebody else's (mod_dbd) is told which request it works for. */
#include "db/db.h"

#include <poll.h>
#include <sys/socket.h>

#include <libpq-fe.h>

/* Waits for one answer; its owner may have made the connection one that does not block. 0: it did
 * not come in time, or the connection is lost. */
static int wait_answer(PGconn *pg, apr_time_t deadline)
{
    while (PQisBusy(pg)) {
        int unsent = PQflush(pg);
        struct pollfd wait = {.fd = PQsocket(pg),
                              .events = (short)(unsent ? POLLIN | POLLOUT : POLLIN)};
        apr_time_t left = deadline - apr_time_now();

        if (left <= 0 || poll(&wait, 1, (int)(left / 1000) + 1) == 0 || !PQconsumeInput(pg)) {
            return 0;
        }
    }
    return 1;
}

static int run(PGconn *pg, const char *text, int n, const char *const *params, apr_time_t deadline)
{
    PGresult *result;
    int good = 1;

    if (!PQsendQueryParams(pg, text, n, NULL, params, NULL, NULL, 0)) {
        return 0;
    }
    do {
        if (!wait_answer(pg, deadline)) {
            return 0;
        }
        result = PQgetResult(pg);
        if (result && PQresultStatus(result) != PGRES_TUPLES_OK &&
            PQresultStatus(result) != PGRES_COMMAND_OK) {
            good = 0;
        }
        PQclear(result);
    } while (result);
    return good;
}

/* Its owner finds it broken and opens another. Meanwhile nothing can be written on it. */
static void doom(PGconn *pg)
{
    if (PQsocket(pg) >= 0) {
        (void)shutdown(PQsocket(pg), SHUT_RDWR);
        (void)PQconsumeInput(pg);
    }
}

int psp_db_tell(void *connection, const char *envelope, apr_interval_time_t timeout)
{
    PGconn *pg = connection;
    apr_time_t deadline = apr_time_now() + timeout;

    if (PQstatus(pg) != CONNECTION_OK) {
        return 0;
    }
    if (PQtransactionStatus(pg) != PQTRANS_IDLE && !run(pg, "ROLLBACK", 0, NULL, deadline)) {
        doom(pg);
        return 0;
    }
    if (!run(pg, "SELECT pg_catalog.set_config('pubsubpull.request', $1, false)", 1, &envelope,
             deadline)) {
        doom(pg);
        return 0;
    }
    return 1;
}

int psp_db_in_transaction(void *connection)
{
    return PQtransactionStatus(connection) != PQTRANS_IDLE;
}
