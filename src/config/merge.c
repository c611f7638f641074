/* SPDX-License-Identifier: Apache-2.0 */
/* merge.c: how sections inherit from one another, and what a value is when nobody set it. */
#include "config/config.h"

#include <http_log.h>
#include <http_protocol.h>

APLOG_USE_MODULE(pubsubpull);

#define INHERIT(member) merged->member = add->member ? add->member : base->member
#define INHERIT_INT(member) merged->member = add->member != PSP_UNSET ? add->member : base->member

void *psp_config_create_server(apr_pool_t *p, server_rec *s)
{
    psp_server_config_t *c = apr_pcalloc(p, sizeof(*c));

    (void)s;
    c->notifier = PSP_UNSET;
    c->pool_min = PSP_UNSET;
    c->pool_max = PSP_UNSET;
    c->retention = PSP_UNSET;
    c->key_ttl = PSP_UNSET;
    c->stream_timeout = PSP_UNSET;
    c->max_hops = PSP_UNSET;
    c->waiters = PSP_UNSET;
    return c;
}

/* All but base_url can be set in the main server only, so a virtual host merely inherits them. */
void *psp_config_merge_server(apr_pool_t *p, void *base_, void *add_)
{
    const psp_server_config_t *base = base_;
    const psp_server_config_t *add = add_;
    psp_server_config_t *merged = apr_pcalloc(p, sizeof(*merged));

    INHERIT(database);
    INHERIT(read_database);
    INHERIT(base_url);
    INHERIT(callback_allow);
    INHERIT(callback_deny);
    INHERIT(callback_authorities);
    INHERIT(callback_certificate.certificate);
    INHERIT(callback_certificate.key);
    INHERIT(conninfo);
    INHERIT(read_conninfo);
    INHERIT_INT(notifier);
    INHERIT_INT(pool_min);
    INHERIT_INT(pool_max);
    INHERIT_INT(retention);
    INHERIT(keys);
    INHERIT(spool);
    merged->spool_size = add->spool ? add->spool_size : base->spool_size;
    INHERIT_INT(key_ttl);
    INHERIT_INT(stream_timeout);
    INHERIT_INT(max_hops);
    INHERIT_INT(waiters);
    return merged;
}

void *psp_config_create_dir(apr_pool_t *p, char *path)
{
    psp_dir_config_t *c = apr_pcalloc(p, sizeof(*c));

    (void)path;
    c->enabled = PSP_UNSET;
    c->record = PSP_UNSET;
    c->anonymous = PSP_UNSET;
    c->required = PSP_UNSET;
    return c;
}

void *psp_config_merge_dir(apr_pool_t *p, void *base_, void *add_)
{
    const psp_dir_config_t *base = base_;
    const psp_dir_config_t *add = add_;
    psp_dir_config_t *merged = apr_pcalloc(p, sizeof(*merged));

    INHERIT_INT(enabled);
    INHERIT_INT(record);
    INHERIT_INT(anonymous);
    INHERIT_INT(required);
    INHERIT(capture);
    merged->redact = !base->redact  ? add->redact /* what is secret in a place is so in all below */
                     : !add->redact ? base->redact
                                    : apr_array_append(p, base->redact, add->redact);
    INHERIT(user);
    INHERIT(admin);
    return merged;
}

const psp_server_config_t *psp_config_server(const server_rec *s)
{
    return ap_get_module_config(s->module_config, &pubsubpull_module);
}

/* A request that failed while it was read may have no configuration of ours. */
const psp_dir_config_t *psp_config_dir(const request_rec *r)
{
    static const psp_dir_config_t nothing = {
        .enabled = PSP_UNSET, .record = PSP_UNSET, .anonymous = PSP_UNSET, .required = PSP_UNSET};
    const psp_dir_config_t *c = NULL;

    if (r->per_dir_config) {
        c = ap_get_module_config(r->per_dir_config, &pubsubpull_module);
    }
    return c ? c : &nothing;
}

int psp_config_key_ttl(const psp_server_config_t *c)
{
    return c->key_ttl == PSP_UNSET ? 3600 : c->key_ttl;
}

int psp_config_max_hops(const psp_server_config_t *c)
{
    return c->max_hops == PSP_UNSET ? 10 : c->max_hops;
}

psp_record_t psp_config_record(const psp_dir_config_t *d)
{
    return d->record == PSP_UNSET ? PSP_RECORD_CHANGES : (psp_record_t)d->record;
}

apr_interval_time_t psp_config_stream_timeout(const server_rec *s)
{
    int seconds = psp_config_server(s)->stream_timeout;

    return apr_time_from_sec(seconds == PSP_UNSET ? 60 : seconds);
}

const char *psp_config_user(request_rec *r)
{
    const psp_dir_config_t *d = psp_config_dir(r);
    const char *error = NULL;
    const char *user = r->user;

    /* A request line that could not be parsed has no URI, and expressions rely on one. */
    if (d->user && r->uri) {
        user = ap_expr_str_exec(r, d->user, &error);
        if (error) {
            ap_log_rerror(APLOG_MARK, APLOG_ERR, APR_EGENERAL, r,
                          "PSP0007: PubSubPullUser failed, the request has no user: %s", error);
            return NULL;
        }
    }
    return user && *user ? user : NULL;
}

int psp_config_is_admin(request_rec *r)
{
    const psp_dir_config_t *d = psp_config_dir(r);
    const char *error = NULL;
    int holds;

    if (!d->admin || !r->uri) {
        return 0;
    }
    holds = ap_expr_exec(r, d->admin, &error);
    if (error) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, APR_EGENERAL, r,
                      "PSP0008: PubSubPullAdmin failed, the request is not an administrator's: %s",
                      error);
        return 0;
    }
    return holds > 0;
}
