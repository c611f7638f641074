/* SPDX-License-Identifier: Apache-2.0 */
/* body.c: the body of a PUT: small, JSON, and in time. */
#include "web/private.h"

#include <apr_strings.h>
#include <http_protocol.h>
#include <util_filter.h>

#include "config/config.h"

static int refuse(psp_call_t *c, int *answer, int status, const char *type, const char *detail)
{
    *answer = psp_web_problem(c->r, status, type, detail, 0);
    return 0;
}

static int check_headers(psp_call_t *c, int *answer)
{
    const char *type = apr_table_get(c->r->headers_in, "Content-Type");
    const char *coding = apr_table_get(c->r->headers_in, "Content-Encoding");
    const char *length = apr_table_get(c->r->headers_in, "Content-Length");

    if (type) {
        apr_size_t n = strcspn(type, "; \t");

        if (n != sizeof("application/json") - 1 || ap_cstr_casecmpn(type, "application/json", n)) {
            return refuse(c, answer, HTTP_UNSUPPORTED_MEDIA_TYPE, "not-json",
                          "The body has to be JSON: send Content-Type: application/json.");
        }
    }
    if (coding && ap_cstr_casecmp(coding, "identity")) {
        return refuse(c, answer, HTTP_UNSUPPORTED_MEDIA_TYPE, "content-encoding",
                      "The body has to be sent as it is, without Content-Encoding.");
    }
    if (length && apr_atoi64(length) > PSP_WEB_BODY_MAX) {
        return refuse(c, answer, HTTP_REQUEST_ENTITY_TOO_LARGE, "too-large",
                      "The body must not be larger than 64 KiB.");
    }
    return 1;
}

/* Returns 1 at the end of the body, 0 when there is more, -1 when it is too much. */
static int append(apr_bucket_brigade *bb, char *buffer, apr_size_t *used, apr_status_t *rv)
{
    apr_bucket *b;

    for (b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = APR_BUCKET_NEXT(b)) {
        const char *data;
        apr_size_t length;

        if (APR_BUCKET_IS_EOS(b)) {
            return 1;
        }
        if (APR_BUCKET_IS_METADATA(b)) {
            continue;
        }
        if ((*rv = apr_bucket_read(b, &data, &length, APR_BLOCK_READ)) != APR_SUCCESS) {
            return 1;
        }
        if (length > PSP_WEB_BODY_MAX - *used) {
            return -1;
        }
        memcpy(buffer + *used, data, length);
        *used += length;
    }
    return 0;
}

/* httpd's Timeout is for a single read; a client that sends a byte now and then would hold a thread
 * for hours. */
static int read_all(psp_call_t *c, char *buffer, apr_size_t *used, apr_status_t *rv)
{
    request_rec *r = c->r;
    apr_time_t deadline = apr_time_now() + r->server->timeout;
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    int end = 0;

    while (!end) {
        *rv = ap_get_brigade(r->input_filters, bb, AP_MODE_READBYTES, APR_BLOCK_READ,
                             HUGE_STRING_LEN);
        if (*rv != APR_SUCCESS) {
            break;
        }
        end = append(bb, buffer, used, rv);
        apr_brigade_cleanup(bb);
        if (!end && apr_time_now() > deadline) {
            *rv = APR_TIMEUP;
            break;
        }
    }
    (void)apr_brigade_destroy(bb);
    return end;
}

int psp_body_read(psp_call_t *c, int *answer)
{
    request_rec *r = c->r;
    char *buffer;
    apr_size_t used = 0;
    apr_status_t rv;
    int end;

    if (!check_headers(c, answer)) {
        return 0;
    }
    buffer = apr_palloc(r->pool, PSP_WEB_BODY_MAX + 1);
    end = read_all(c, buffer, &used, &rv);
    if (end < 0) {
        return refuse(c, answer, HTTP_REQUEST_ENTITY_TOO_LARGE, "too-large",
                      "The body must not be larger than 64 KiB.");
    }
    if (rv != APR_SUCCESS) {
        /* The connection is in no state to be used on; httpd has the words for what went wrong. */
        r->connection->keepalive = AP_CONN_CLOSE;
        *answer = APR_STATUS_IS_TIMEUP(rv) ? HTTP_REQUEST_TIME_OUT
                                           : ap_map_http_request_error(rv, HTTP_BAD_REQUEST);
        return 0;
    }
    buffer[used] = '\0';
    if (!psp_utf8_valid(buffer, used)) {
        return refuse(c, answer, HTTP_BAD_REQUEST, "bad-encoding",
                      "The body is not UTF-8, or holds a NUL.");
    }
    c->body = buffer;
    return 1;
}

/* A response before the body was read: what is left of a small one is read away, a large one costs
 * the connection. r->status has to be set, so that no "100 Continue" invites a client to send what
 * nobody wants. */
void psp_settle_body(request_rec *r)
{
    const char *length = apr_table_get(r->headers_in, "Content-Length");

    if (r->main) {
        return;
    }
    if (apr_table_get(r->headers_in, "Transfer-Encoding") ||
        (length && apr_atoi64(length) > PSP_WEB_BODY_MAX)) {
        r->connection->keepalive = AP_CONN_CLOSE;
        return;
    }
    (void)ap_discard_request_body(r); /* closes the connection itself when it fails */
}
