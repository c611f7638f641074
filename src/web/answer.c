/* SPDX-License-Identifier: Apache-2.0 */
/* answer.c: from an SQL function's row to an HTTP response. */
#include "web/private.h"

#include <apr_strings.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>

#include "config/config.h"
#include "core/uri_template.h"

APLOG_USE_MODULE(pubsubpull);

enum { STATUS, BODY, ETAG, NEXT, LOCATION };

/* Where names of tables stand in all URLs and calls: /tables/{t}…, and $2 after the base. */
#define TABLE_SEGMENT 1
#define TABLE_PARAM 1

/* A refusal here is an answer and no attempt: httpd's authorization would log each as an error. */
static const struct ap_logconf *silent(apr_pool_t *p)
{
    struct ap_logconf *log = apr_pcalloc(p, sizeof *log);

    ap_reset_module_loglevels(log, APLOG_EMERG);
    log->level = APLOG_EMERG;
    return log;
}

int psp_web_may(request_rec *r, const char *method, const char *path)
{
    const struct ap_logconf *log = r->connection->log;
    request_rec *sub;
    int may;

    r->connection->log = silent(r->pool);
    sub = ap_sub_req_method_uri(method, path, r, NULL);
    r->connection->log = log;
    may = sub->status == HTTP_OK;
    ap_destroy_sub_req(sub);
    return may;
}

const char *psp_web_admin(const psp_call_t *c)
{
    return c->admin ? "true" : "false";
}

int psp_web_may_get(request_rec *r, const char *path)
{
    return psp_web_may(r, "GET", path);
}

/* Filters that compress put their name at the end of an entity tag. The client sends it back so, but
 * what it means is decided here, before they run. */
static void strip_codings(request_rec *r)
{
    static const char *const codings[] = {"-gzip\"", "-br\"", NULL};
    const char *sent = apr_table_get(r->headers_in, "If-None-Match");
    const char *at;
    int i;

    if (!sent) {
        return;
    }
    for (i = 0; codings[i]; i++) {
        while ((at = strstr(sent, codings[i]))) {
            sent = apr_pstrcat(r->pool, apr_pstrmemdup(r->pool, sent, (apr_size_t)(at - sent)),
                               strchr(at, '"'), NULL);
        }
    }
    apr_table_setn(r->headers_in, "If-None-Match", sent);
}

/* Only entity tags count: these resources have no Last-Modified. Returns true when the answer is
 * without a body. */
static int is_conditional(request_rec *r, int *answer)
{
    if (r->method_number != M_GET || r->status != HTTP_OK || r->no_local_copy ||
        !apr_table_get(r->headers_out, "ETag")) {
        return 0;
    }
    if (ap_condition_if_match(r, r->headers_out) == AP_CONDITION_NOMATCH) {
        *answer = psp_web_problem(r, HTTP_PRECONDITION_FAILED, "changed",
                                  "The resource is not, or no longer, what If-Match names. GET it "
                                  "again without that header.",
                                  0);
        return 1;
    }
    strip_codings(r);
    if (ap_condition_if_none_match(r, r->headers_out) >= AP_CONDITION_WEAK) {
        r->status = HTTP_NOT_MODIFIED;
        *answer = OK;
        return 1;
    }
    return 0;
}

static void set_headers(psp_call_t *c, const psp_rows_t *rows)
{
    request_rec *r = c->r;
    const char *etag = psp_rows_get(rows, 0, ETAG);
    const char *next = psp_rows_get(rows, 0, NEXT);
    const char *location = psp_rows_get(rows, 0, LOCATION);

    /* Private: what one user may read must not be handed to another by a cache. */
    apr_table_setn(r->headers_out, "Cache-Control", "private, no-cache");
    if (etag) {
        int weak = !strncmp(etag, "W/", 2);

        apr_table_setn(r->headers_out, "ETag",
                       apr_pstrcat(r->pool, weak ? "W/\"" : "\"", etag + 2 * weak, "\"", NULL));
    }
    if (next) {
        apr_table_addn(r->headers_out, "Link",
                       apr_pstrcat(r->pool, "<", next, ">; rel=\"next\"", NULL));
    }
    if (location) {
        apr_table_setn(r->headers_out, r->status == HTTP_CREATED ? "Location" : "Content-Location",
                       location);
    }
}

int psp_web_send(psp_call_t *c, const psp_rows_t *rows)
{
    request_rec *r = c->r;
    const char *status = psp_rows_get(rows, 0, STATUS);
    const char *body = psp_rows_get(rows, 0, BODY);
    int answer = OK;

    r->status = status ? (int)apr_atoi64(status) : 0;
    if (!ap_is_HTTP_SUCCESS(r->status)) {
        const psp_result_t nonsense = {
            .rv = APR_EGENERAL,
            .http = HTTP_INTERNAL_SERVER_ERROR,
            .type = "database-error",
            .detail = "The database gave no answer that HTTP knows. This is a fault of the server.",
        };
        return psp_web_fail(r, &nonsense);
    }
    set_headers(c, rows);
    if (is_conditional(r, &answer)) {
        return answer;
    }
    psp_settle_body(r);
    if (!body) {
        r->status = r->status == HTTP_OK ? HTTP_NO_CONTENT : r->status;
        return OK;
    }
    ap_set_content_type(r, "application/json");
    ap_set_content_length(r, (apr_off_t)psp_rows_length(rows, 0, BODY));
    if (!r->header_only && ap_rwrite(body, (int)psp_rows_length(rows, 0, BODY), r) < 0) {
        ap_log_rerror(APLOG_MARK, APLOG_DEBUG, APR_ECONNABORTED, r, "client is gone");
    }
    return OK;
}

static psp_result_t refusal(int http, const char *type, const char *detail)
{
    return (psp_result_t){.rv = APR_EGENERAL, .http = http, .type = type, .detail = detail};
}

/* The function says how the table's name is really spelled. Rules of httpd may be written for that
 * URL only, so they are asked again before it is served under another one. */
static psp_result_t ask_canonical(psp_call_t *c, const char *call, int n, const char **params,
                                  const char *name, const psp_rows_t **rows)
{
    apr_pool_t *p = c->r->pool;
    const char **raw;
    psp_result_t result;

    if (c->nsegments <= TABLE_SEGMENT || n <= TABLE_PARAM) {
        return refusal(HTTP_NOT_FOUND, "no-such-table",
                       apr_pstrcat(p, "Write the name as ", name, ".", NULL));
    }
    raw = apr_pmemdup(p, c->raw_segments, (apr_size_t)c->nsegments * sizeof(*raw));
    raw[TABLE_SEGMENT] = psp_percent_encode(p, name);
    c->raw_segments = raw;
    if (!psp_web_may(c->r, c->r->method, psp_raw_path(c, c->prefix, c->nsegments))) {
        return refusal(HTTP_FORBIDDEN, "forbidden",
                       apr_pstrcat(p, "You may not do this with ", name, ".", NULL));
    }
    params[TABLE_PARAM] = name;
    result = psp_web_call(c, call, n, params, rows);
    if (result.rv == APR_SUCCESS) {
        apr_table_setn(c->r->headers_out, "Content-Location",
                       psp_raw_path(c, c->base, c->nsegments));
    }
    return result;
}

psp_result_t psp_web_ask(psp_call_t *c, const char *call, int n, const char **params,
                         const psp_rows_t **rows)
{
    psp_result_t result = psp_web_call(c, call, n, params, rows);

    return result.http == HTTP_PERMANENT_REDIRECT
               ? ask_canonical(c, call, n, params, result.detail, rows)
               : result;
}

int psp_web_answer(psp_call_t *c, const char *call, int n, const char *const *params)
{
    const char **copy = apr_pmemdup(c->r->pool, params, (apr_size_t)n * sizeof(*copy));
    const psp_rows_t *rows;
    psp_result_t result = psp_web_ask(c, call, n, copy, &rows);

    return result.rv == APR_SUCCESS ? psp_web_send(c, rows) : psp_web_fail(c->r, &result);
}
