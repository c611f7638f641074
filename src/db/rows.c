/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c: the rows of text that the server answered. */

#include "db/private.h"

struct psp_rows_t {
    PGresult *pg; /* cleared by a cleanup of the pool that the rows were made in */
};

int psp_rows_count(const psp_rows_t *rows)
{
    return PQntuples(rows->pg);
}

const char *psp_rows_get(const psp_rows_t *rows, int row, int column)
{
    if (row < 0 || row >= PQntuples(rows->pg) || column < 0 || column >= PQnfields(rows->pg) ||
        PQgetisnull(rows->pg, row, column)) {
        return NULL;
    }
    return PQgetvalue(rows->pg, row, column);
}

apr_size_t psp_rows_length(const psp_rows_t *rows, int row, int column)
{
    return psp_rows_get(rows, row, column) ? (apr_size_t)PQgetlength(rows->pg, row, column) : 0;
}

static apr_status_t clear(void *pg)
{
    PQclear(pg);
    return APR_SUCCESS;
}

/* c->cause is empty afterwards unless there is something for the log. */
psp_result_t psp_conn_take(psp_conn_t *c, apr_pool_t *p, const psp_rows_t **rows)
{
    ExecStatusType status = PQresultStatus(c->reply);
    psp_rows_t *made;
    psp_result_t result;

    *rows = NULL;
    c->cause[0] = '\0';
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
        result = psp_conn_error(c, p);
        PQclear(c->reply);
        c->reply = NULL;
        return result;
    }
    made = apr_palloc(p, sizeof(*made));
    made->pg = c->reply;
    c->reply = NULL;
    apr_pool_cleanup_register(p, made->pg, clear, apr_pool_cleanup_null);
    *rows = made;
    return (psp_result_t){.rv = APR_SUCCESS};
}
