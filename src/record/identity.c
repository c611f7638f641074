/* SPDX-License-Identifier: Apache-2.0 */
/* identity.c: one identity for a request, its sub-requests and its internal redirects. */
#include "record/private.h"

#include <apr_lib.h>
#include <apr_strings.h>
#include <http_log.h>

#include "config/config.h"
#include "core/envelope.h"

APLOG_USE_MODULE(pubsubpull);

request_rec *psp_identity_root(request_rec *r)
{
    while (r->prev || r->main) {
        r = r->prev ? r->prev : r->main;
    }
    return r;
}

psp_identity_t *psp_identity_find(request_rec *r)
{
    const request_rec *root = psp_identity_root(r);

    return root->request_config ? ap_get_module_config(root->request_config, &pubsubpull_module)
                                : NULL;
}

int psp_identity_wanted(const request_rec *r)
{
    const psp_dir_config_t *d = psp_config_dir(r);

    return psp_record_ring() && d->enabled == 1 && psp_config_record(d) != PSP_RECORD_OFF;
}

/* httpd decodes r->uri in place and takes parsed_uri with it; unparsed_uri is what was sent. It may
 * be an absolute URL.
 */
static void set_target(psp_request_t *about, const request_rec *root,
                       const apr_array_header_t *redact)
{
    const char *sent = root->unparsed_uri;
    const char *authority, *query;

    if (!sent) {
        return;
    }
    if (*sent != '/' && (authority = strstr(sent, "://"))) {
        authority += 3;
        sent = authority + strcspn(authority, "/?#");
    }
    query = strchr(sent, '?');
    about->path = query ? apr_pstrmemdup(root->pool, sent, (apr_size_t)(query - sent)) : sent;
    about->query = query ? psp_redact(root->pool, redact, query + 1) : NULL;
}

/* While an ErrorDocument is fetched r->method says GET. The request line is the client's; it is not
 * looked at when it does not begin like one. */
static const char *sent_method(const request_rec *root)
{
    const char *line = root->the_request;
    apr_size_t length = 0;

    while (line && apr_isupper(line[length])) {
        length++;
    }
    return length && line[length] == ' ' ? apr_pstrmemdup(root->pool, line, length) : root->method;
}

/* Where the client came from has a query, too. */
static const char *clean(const request_rec *r, apr_pool_t *p, const char *name, const char *value)
{
    const char *query = strcmp(name, "referer") == 0 ? strchr(value, '?') : NULL;

    return query ? apr_pstrcat(p, apr_pstrmemdup(p, value, (apr_size_t)(query + 1 - value)),
                               psp_redact(p, psp_config_dir(r)->redact, query + 1), NULL)
                 : value;
}

static const apr_table_t *captured(const request_rec *r, apr_pool_t *p)
{
    const apr_array_header_t *wanted = psp_config_dir(r)->capture;
    apr_table_t *found = NULL;
    int i;

    for (i = 0; wanted && i < wanted->nelts; i++) {
        const char *name = APR_ARRAY_IDX(wanted, i, const char *);
        const char *value = apr_table_getm(p, r->headers_in, name);

        if (value) {
            value = clean(r, p, name, value);
            found = found ? found : apr_table_make(p, wanted->nelts);
            apr_table_setn(found, name, value);
        }
    }
    return found;
}

/* The trace is the request's own; the span is httpd's. */
static const char *make_traceparent(const char *id, apr_pool_t *p)
{
    static const char digits[] = "0123456789abcdef";
    char *made = apr_palloc(p, 56), *to = made + 3 + PSP_TRACE_LENGTH;
    apr_uint64_t span = 0;
    int i;

    while (!span) {
        ap_random_insecure_bytes(&span, sizeof(span));
    }
    apr_cpystrn(made, "00-", 4);
    psp_record_trace(made + 3, id);
    *to++ = '-';
    for (i = 60; i >= 0; i -= 4) {
        *to++ = digits[span >> i & 15];
    }
    memcpy(to, "-01", 4);
    return made;
}

psp_identity_t *psp_identity_make(request_rec *r)
{
    request_rec *root = psp_identity_root(r);
    apr_pool_t *p = root->pool;
    psp_identity_t *made = apr_pcalloc(p, sizeof(*made));
    psp_request_t about = {.id = made->id};
    apr_status_t rv;

    about.started = root->request_time ? root->request_time : apr_time_now();
    if ((rv = psp_uuid7(made->id, about.started)) != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, rv, r,
                      "PSP0101: no random numbers, this request goes without an identity");
        return NULL;
    }
    set_target(&about, root, psp_config_dir(r)->redact);
    about.method = sent_method(root);
    about.host = root->hostname;
    about.user = psp_config_user(r);
    about.remote = r->useragent_ip;
    about.agent = apr_table_get(r->headers_in, "User-Agent");
    about.headers = captured(r, p);
    about.cause = psp_cause_find(root);
    about.reserved = psp_seal_length();

    made->mode = psp_config_record(psp_config_dir(r));
    made->envelope = psp_seal(p, psp_envelope(p, &about));
    made->traceparent = make_traceparent(made->id, p);
    made->tracestate = apr_pstrcat(p, "psp=", made->id, NULL);
    made->pgoption =
        apr_pstrcat(p, "-c pubsubpull.request=", psp_pgoptions_escape(p, made->envelope), NULL);
    ap_set_module_config(root->request_config, &pubsubpull_module, made);
    return made;
}
