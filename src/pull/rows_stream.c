/* SPDX-License-Identifier: Apache-2.0 */
/* rows_stream.c: all rows of a table as lines of JSON, as they were at one moment. */
#include "pull/private.h"

#include <apr_strings.h>
#include <http_protocol.h>

#include "config/config.h"

/* A line ends with its row. Line breaks that a value of type json has between its tokens become
 * blanks. */
static void make_line(char *row, apr_size_t length)
{
    char *at;

    for (at = row; (at = memchr(at, '\n', length - (apr_size_t)(at - row))); *at = ' ') {
    }
    for (at = row; (at = memchr(at, '\r', length - (apr_size_t)(at - row))); *at = ' ') {
    }
    row[length] = '\n';
}

/* The first lines go out at once; later whatever fills a piece. */
static apr_status_t pump(psp_out_t *out, psp_stream_t *stream, apr_interval_time_t timeout,
                         int *client)
{
    *client = 0;
    for (;;) {
        apr_size_t length;
        apr_status_t rv;
        char *row;

        rv = psp_db_stream_next(stream, &row, &length, 0);
        if (APR_STATUS_IS_EAGAIN(rv)) {
            if (!psp_out_sent(out) && (*client = (rv = psp_out_flush(out)) != APR_SUCCESS)) {
                return rv;
            }
            rv = psp_db_stream_next(stream, &row, &length, timeout);
        }
        if (rv != APR_SUCCESS) {
            return rv;
        }
        make_line(row, length);
        if ((rv = psp_out_write(out, row, length + 1)) != APR_SUCCESS) {
            *client = 1;
            return rv;
        }
    }
}

static int send_rows(psp_call_t *c, psp_stream_t *stream)
{
    psp_out_t *out = psp_out_open(c);
    int client;
    apr_status_t rv;

    if (c->r->header_only) {
        psp_db_stream_close(stream);
        return OK;
    }
    rv = pump(out, stream, psp_config_stream_timeout(c->r->server), &client);
    if (APR_STATUS_IS_EOF(rv)) {
        (void)psp_out_end(out);
    }
    else if (client) {
        psp_db_stream_close(stream);
    }
    else if (psp_out_sent(out)) {
        psp_out_break(out, rv);
    }
    else {
        apr_table_unset(c->r->headers_out, "Link");
        return psp_web_fail(c->r, psp_db_stream_result(stream));
    }
    return OK;
}

int psp_pull_rows_stream(psp_call_t *c)
{
    request_rec *r = c->r;
    const char *given = psp_web_query(c, "changes");
    const char *params[] = {
        c->base,
        c->segments[1],
        psp_web_query(c, "limit"),
        psp_web_query(c, "order"),
        psp_web_query(c, "after"),
        given,
        psp_web_query(c, "fields"),
    };
    const char *first[] = {psp_web_envelope(c), NULL};
    psp_stream_spec_t spec = {
        .first = "SELECT * FROM pubsubpull.stream_begin($1, $2)", .n = 2, .params = first};
    const psp_rows_t *plan, *begun;
    const char *changes;
    psp_stream_t *stream;
    psp_result_t result;

    result =
        psp_web_ask(c, "SELECT body, next FROM pubsubpull.rows_copy($1, $2, $3, $4, $5, $6, $7)", 7,
                    params, &plan);
    if (result.rv != APR_SUCCESS) {
        return psp_web_fail(r, &result);
    }
    spec.copy = psp_rows_get(plan, 0, 0);
    changes = psp_rows_get(plan, 0, 1);
    first[1] = changes ? "true" : "false";
    result = psp_db_stream_open(psp_web_db(c), r->pool, &spec, PSP_WEB_TIMEOUT, &begun, &stream);
    if (result.rv != APR_SUCCESS) {
        return psp_web_fail(r, &result);
    }
    if (changes && !given && *psp_rows_get(begun, 0, 1) != 't') {
        result = psp_web_call(c, "SELECT pubsubpull.await_flush()", 0, NULL, &plan);
        if (result.rv != APR_SUCCESS) {
            psp_db_stream_close(stream);
            return psp_web_fail(r, &result);
        }
    }
    if (changes) {
        apr_table_addn(r->headers_out, "Link",
                       apr_pstrcat(r->pool, "<", changes, given ? given : psp_rows_get(begun, 0, 0),
                                   ">; rel=\"changes\"", NULL));
    }
    return send_rows(c, stream);
}
