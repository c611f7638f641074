/* SPDX-License-Identifier: Apache-2.0 */
/* respond.c: the client is told the identity of its request, exactly once, in X-Request-Id. */
#include "record/private.h"

#include <http_config.h>
#include <http_protocol.h>
#include <http_request.h>
#include <util_filter.h>

#include "config/config.h"

static const char filter_name[] = "PUBSUBPULL_RESPONSE";

/* A service that sends the header too, as many do with what they got, must not double it; and a
 * service that made up its own must not win, for the client is to find its change by this. */
static apr_status_t respond(ap_filter_t *f, apr_bucket_brigade *bb)
{
    const psp_identity_t *identity = f->ctx;
    request_rec *r = f->r;

    apr_table_unset(r->headers_out, "X-Request-Id");
    apr_table_setn(r->err_headers_out, "X-Request-Id", identity->id);
    ap_remove_output_filter(f);
    return ap_pass_brigade(f->next, bb);
}

/* Also for responses without fixups: those of httpd's own errors, and of caches. */
static void insert(request_rec *r)
{
    psp_identity_t *identity;

    if (r->main) {
        return;
    }
    identity = psp_identity_find(r);
    if (!identity && psp_identity_wanted(r)) {
        identity = psp_identity_make(r);
    }
    if (identity) {
        ap_add_output_filter(filter_name, identity, r, r->connection);
    }
}

void psp_respond_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_insert_filter(insert, NULL, NULL, APR_HOOK_LAST);
    ap_hook_insert_error_filter(insert, NULL, NULL, APR_HOOK_LAST);
    /* After all filters that work on headers, mod_headers and caches among them, before httpd sends
     * them. */
    ap_register_output_filter(filter_name, respond, NULL, AP_FTYPE_PROTOCOL - 1);
}
