/* SPDX-License-Identifier: Apache-2.0 */
/* carry.c: the identity travels to the service: in headers to proxied ones, in the environment to
 * programs. */
#include "record/private.h"

#include <apr_strings.h>
#include <http_config.h>
#include <http_core.h>
#include <http_protocol.h>
#include <http_request.h>
#include <util_filter.h>

#include "config/config.h"

static const char trailer_filter[] = "PUBSUBPULL_TRAILERS";

/* psp_strip went before, so there is nothing to replace. */
static void carry_headers(apr_table_t *headers, const psp_identity_t *identity)
{
    apr_table_addn(headers, "PubSubPull-Request", identity->envelope);
    apr_table_addn(headers, "X-Request-Id", identity->id);
    apr_table_addn(headers, "traceparent", identity->traceparent);
    apr_table_addn(headers, "tracestate", identity->tracestate);
}

/* Options that the administrator gives with SetEnv stay, before ours. A sub-request inherits the
 * environment and has ours already unless SetEnv came again. */
static void carry_environment(request_rec *r, const psp_identity_t *identity)
{
    const char *options = apr_table_get(r->subprocess_env, "PGOPTIONS");

    apr_table_setn(r->subprocess_env, "PUBSUBPULL_REQUEST", identity->envelope);
    apr_table_setn(r->subprocess_env, "PUBSUBPULL_REQUEST_ID", identity->id);
    if (!options) {
        apr_table_setn(r->subprocess_env, "PGOPTIONS", identity->pgoption);
    }
    else if (!strstr(options, identity->pgoption)) {
        apr_table_setn(r->subprocess_env, "PGOPTIONS",
                       apr_pstrcat(r->pool, options, " ", identity->pgoption, NULL));
    }
}

/* What a sub-request inherited goes too, where it must not be recorded. */
static void carry_nothing(request_rec *r, const psp_identity_t *identity)
{
    const char *options = apr_table_get(r->subprocess_env, "PGOPTIONS");
    const char *ours = options && identity ? strstr(options, identity->pgoption) : NULL;

    apr_table_unset(r->subprocess_env, "PUBSUBPULL_REQUEST");
    apr_table_unset(r->subprocess_env, "PUBSUBPULL_REQUEST_ID");
    if (ours == options && ours) {
        apr_table_unset(r->subprocess_env, "PGOPTIONS");
    }
    else if (ours) {
        apr_table_setn(r->subprocess_env, "PGOPTIONS",
                       apr_pstrmemdup(r->pool, options, (apr_size_t)(ours - options - 1)));
    }
}

/* A sub-request can run before the request that it is part of came here: other modules look for
 * files by it. Such a look-up makes no identity of its own. */
static int is_look_up(request_rec *r)
{
    return r->main && psp_identity_wanted(psp_identity_root(r));
}

/* Wherever the request goes: a service may be reached by a way where PubSubPull is off as well. */
static int post_read_request(request_rec *r)
{
    if (psp_record_ring()) {
        psp_cause_read(r);
        psp_strip_prefixed(r->headers_in);
    }
    return DECLINED;
}

static int fixups(request_rec *r)
{
    psp_identity_t *identity;

    if (psp_config_dir(r)->enabled != 1 || !psp_record_ring()) {
        return DECLINED;
    }
    psp_strip(r->pool, r->headers_in);
    if (r->main) {
        psp_strip_environment(r->subprocess_env);
    }
    identity = psp_identity_find(r);
    if (!identity && psp_identity_wanted(r) && !is_look_up(r)) {
        identity = psp_identity_make(r);
    }
    if (!identity || !psp_identity_wanted(r)) {
        carry_nothing(r, identity);
        return DECLINED;
    }
    carry_headers(r->headers_in, identity);
    carry_environment(r, identity);
    identity->carried = 1;
    return DECLINED;
}

/* With MergeTrailers On what follows a chunked body becomes headers, after fixups and before a
 * gateway reads them. */
static apr_status_t watch_trailers(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode,
                                   apr_read_type_e block, apr_off_t readbytes)
{
    apr_status_t rv = ap_get_brigade(f->next, bb, mode, block, readbytes);
    psp_identity_t *identity;

    if (rv == APR_SUCCESS && !APR_BRIGADE_EMPTY(bb) && APR_BUCKET_IS_EOS(APR_BRIGADE_LAST(bb))) {
        psp_strip(f->r->pool, f->r->trailers_in);
        psp_strip(f->r->pool, f->r->headers_in);
        if ((identity = psp_identity_find(f->r)) && psp_identity_wanted(f->r)) {
            carry_headers(f->r->headers_in, identity);
        }
        ap_remove_input_filter(f);
    }
    return rv;
}

static void insert_filter(request_rec *r)
{
    const core_server_config *core = ap_get_core_module_config(r->server->module_config);

    if (!r->main && core->merge_trailers == AP_MERGE_TRAILERS_ENABLE &&
        psp_config_dir(r)->enabled == 1 && psp_record_ring()) {
        ap_add_input_filter(trailer_filter, NULL, r, r->connection);
    }
}

void psp_carry_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_post_read_request(post_read_request, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_fixups(fixups, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_insert_filter(insert_filter, NULL, NULL, APR_HOOK_LAST);
    ap_register_input_filter(trailer_filter, watch_trailers, NULL, AP_FTYPE_CONTENT_SET);
}
