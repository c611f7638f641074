/* SPDX-License-Identifier: Apache-2.0 */
/* problem.c: errors as application/problem+json (RFC 9457). */
#include "web/private.h"

#include <apr_strings.h>
#include <http_log.h>
#include <http_protocol.h>

#include "config/config.h"
#include "core/json.h"

APLOG_USE_MODULE(pubsubpull);

static const char *document(request_rec *r, int status, const char *type, const char *detail)
{
    const char *line = ap_get_status_line(status);
    psp_json_t *j = psp_json_make(r->pool, 512);

    psp_json_raw(j, "{");
    psp_json_name(j, "type");
    psp_json_string(j, apr_pstrcat(r->pool, "urn:pubsubpull:problem:", type, NULL));
    psp_json_name(j, "title");
    psp_json_string(j, strlen(line) > 4 ? line + 4 : line); /* "404 Not Found" */
    psp_json_name(j, "status");
    psp_json_int(j, status);
    psp_json_name(j, "detail");
    psp_json_string(j, detail);
    psp_json_name(j, "instance");
    psp_json_string(j, r->uri);
    psp_json_raw(j, "}\n");
    return psp_json_text(j);
}

/*
 * The document is sent from here and httpd told that all is well, for of a status that a handler
 * returns it would make a page of its own, or the ErrorDocument of some website.
 */
int psp_web_problem(request_rec *r, int status, const char *type, const char *detail,
                    int retry_after)
{
    const char *text = document(r, status, type, detail);

    r->status = status;
    psp_settle_body(r);
    apr_table_unset(r->headers_out, "ETag");
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    if (retry_after > 0) {
        apr_table_setn(r->headers_out, "Retry-After", apr_itoa(r->pool, retry_after));
    }
    ap_set_content_type(r, "application/problem+json");
    ap_set_content_length(r, (apr_off_t)strlen(text));
    if (!r->header_only && ap_rputs(text, r) < 0) {
        ap_log_rerror(APLOG_MARK, APLOG_DEBUG, APR_ECONNABORTED, r, "client is gone");
    }
    return OK;
}

int psp_web_fail(request_rec *r, const psp_result_t *result)
{
    int status =
        result->http >= 400 && result->http <= 599 ? result->http : HTTP_INTERNAL_SERVER_ERROR;

    /* Why the database is away or lacks its schema was logged when that was found out. */
    if (status == HTTP_SERVICE_UNAVAILABLE) {
        ap_log_rerror(APLOG_MARK, APLOG_INFO, result->rv, r, "PSP0301: %s: %s", result->type,
                      result->detail);
    }
    else if (status >= 500) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, result->rv, r, "PSP0302: %s: %s", result->type,
                      result->detail);
    }
    return psp_web_problem(r, status, result->type, result->detail, result->retry_after);
}
