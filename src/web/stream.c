/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c: a response without a known end: lines go out in pieces, and what breaks is seen to break. */
#include "web/private.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <util_filter.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

struct psp_out_t {
    request_rec *r;
    apr_bucket_brigade *bb;
    apr_socket_t *socket; /* NULL: not ours to wait for */
    apr_interval_time_t usual;
    apr_size_t used;
    int sent; /* something went to the client */
    char piece[PSP_WEB_PIECE];
};

static apr_status_t restore(void *baton)
{
    psp_out_t *out = baton;

    apr_socket_timeout_set(out->socket, out->usual);
    return APR_SUCCESS;
}

psp_out_t *psp_out_open(psp_call_t *c)
{
    request_rec *r = c->r;
    psp_out_t *out = apr_pcalloc(r->pool, sizeof(*out));

    out->r = r;
    out->bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    /* The streams of HTTP/2 share a connection, whose waiting is not for us to change. */
    out->socket = r->connection->master ? NULL : ap_get_conn_socket(r->connection);
    if (out->socket && apr_socket_timeout_get(out->socket, &out->usual) == APR_SUCCESS) {
        apr_socket_timeout_set(out->socket, psp_config_stream_timeout(r->server));
        apr_pool_cleanup_register(r->pool, out, restore, apr_pool_cleanup_null);
    }
    ap_set_content_type(r, c->type);
    apr_table_setn(r->headers_out, "Cache-Control", "private, no-store");
    return out;
}

int psp_out_sent(const psp_out_t *out)
{
    return out->sent;
}

static apr_status_t pass(psp_out_t *out)
{
    apr_status_t rv = ap_pass_brigade(out->r->output_filters, out->bb);

    apr_brigade_cleanup(out->bb);
    out->sent = 1;
    if (rv == APR_SUCCESS && out->r->connection->aborted) {
        rv = APR_ECONNABORTED;
    }
    if (rv != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_INFO, rv, out->r,
                      "PSP0331: a stream ends, for its client is gone or takes nothing");
    }
    return rv;
}

/* The bytes are read, or copied, before this returns. */
static apr_status_t pass_bytes(psp_out_t *out, const char *bytes, apr_size_t length)
{
    APR_BRIGADE_INSERT_TAIL(
        out->bb, apr_bucket_transient_create(bytes, length, out->r->connection->bucket_alloc));
    return pass(out);
}

apr_status_t psp_out_write(psp_out_t *out, const char *bytes, apr_size_t length)
{
    apr_status_t rv = APR_SUCCESS;

    if (length > sizeof(out->piece) - out->used && out->used) {
        rv = pass_bytes(out, out->piece, out->used);
        out->used = 0;
    }
    if (rv == APR_SUCCESS && length > sizeof(out->piece)) {
        return pass_bytes(out, bytes, length);
    }
    if (rv == APR_SUCCESS) {
        memcpy(out->piece + out->used, bytes, length);
        out->used += length;
    }
    return rv;
}

apr_status_t psp_out_flush(psp_out_t *out)
{
    apr_bucket_alloc_t *alloc = out->r->connection->bucket_alloc;

    if (out->used) {
        APR_BRIGADE_INSERT_TAIL(out->bb, apr_bucket_transient_create(out->piece, out->used, alloc));
        out->used = 0;
    }
    APR_BRIGADE_INSERT_TAIL(out->bb, apr_bucket_flush_create(alloc));
    return pass(out);
}

apr_status_t psp_out_end(psp_out_t *out)
{
    apr_status_t rv = APR_SUCCESS;

    if (out->used) {
        rv = pass_bytes(out, out->piece, out->used);
        out->used = 0;
    }
    return rv;
}

/* As mod_proxy does when its backend breaks: no last chunk, the connection is closed, or the stream
 * of HTTP/2 reset. */
void psp_out_break(psp_out_t *out, apr_status_t rv)
{
    request_rec *r = out->r;
    apr_bucket_alloc_t *alloc = r->connection->bucket_alloc;

    ap_log_rerror(APLOG_MARK, APLOG_ERR, rv, r,
                  "PSP0330: a stream is broken off, for the database failed");
    r->connection->keepalive = AP_CONN_CLOSE;
    APR_BRIGADE_INSERT_TAIL(out->bb,
                            ap_bucket_error_create(HTTP_BAD_GATEWAY, NULL, r->pool, alloc));
    APR_BRIGADE_INSERT_TAIL(out->bb, apr_bucket_eos_create(alloc));
    (void)pass(out);
}
