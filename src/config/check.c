/* SPDX-License-Identifier: Apache-2.0 */
/* check.c: what only the whole configuration shows to be wrong, and what is found out once at
 * start-up. */
#include "config/config.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>

#include "config/private.h"

APLOG_USE_MODULE(pubsubpull);

/* What the tree is searched for. */
typedef struct found_t {
    const ap_directive_t *handler; /* first SetHandler pubsubpull */
    const ap_directive_t *enabled; /* first PubSubPull On */
    const ap_directive_t *strayed; /* first SetHandler pubsubpull that no <Location> holds */
} found_t;

static int names_us(apr_pool_t *p, const char *args)
{
    return !strcmp(ap_getword_conf(p, &args), "pubsubpull");
}

static void search(apr_pool_t *p, const ap_directive_t *tree, found_t *found)
{
    const ap_directive_t *d;

    for (d = tree; d; d = d->next) {
        if (!ap_cstr_casecmp(d->directive, "SetHandler") && names_us(p, d->args)) {
            if (!found->handler) {
                found->handler = d;
            }
            if (!found->strayed &&
                (!d->parent || ap_cstr_casecmp(d->parent->directive, "<Location"))) {
                found->strayed = d;
            }
        }
        if (!found->enabled && !ap_cstr_casecmp(d->directive, "PubSubPull") &&
            !ap_cstr_casecmp(ap_getword_conf(p, &(const char *){d->args}), "on")) {
            found->enabled = d;
        }
        if (d->first_child) {
            search(p, d->first_child, found);
        }
    }
}

static int check_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    found_t found = {NULL, NULL, NULL};
    const ap_directive_t *idle;

    (void)pconf;
    (void)plog;
    search(ptemp, ap_conftree, &found);
    if (found.strayed) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_ERR, APR_EINVAL, s,
                     "PSP0001: line %d of %s: SetHandler pubsubpull belongs directly into a "
                     "<Location \"/path\"> section, for the path is where its resources begin",
                     found.strayed->line_num, found.strayed->filename);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    idle = found.handler ? found.handler : found.enabled;
    if (idle && !psp_config_server(s)->database &&
        (ap_state_query(AP_SQ_MAIN_STATE) != AP_SQ_MS_CREATE_PRE_CONFIG ||
         ap_state_query(AP_SQ_RUN_MODE) == AP_SQ_RM_CONFIG_TEST)) {
        ap_log_error(
            APLOG_MARK, APLOG_WARNING, 0, s,
            "PSP0002: line %d of %s: %s %s does nothing, for PubSubPullDatabase is not set",
            idle->line_num, idle->filename, idle->directive, idle->args);
    }
    return OK;
}

/* What the program said last, kept over restarts: a vault that is away during one must not end httpd. */
static const char *recall(server_rec *s, const char *program)
{
    void *known = NULL;

    (void)apr_pool_userdata_get(&known, program, s->process->pool);
    return known;
}

static void remember(server_rec *s, const char *program, const char *conninfo)
{
    const char *known = recall(s, program);
    apr_pool_t *p = s->process->pool;

    if (!known || strcmp(known, conninfo) != 0) {
        (void)apr_pool_userdata_set(apr_pstrdup(p, conninfo), program, apr_pool_cleanup_null, p);
    }
}

static int find_conninfo(server_rec *s, apr_pool_t *p, const char *database, const char *directive,
                         const char **conninfo)
{
    const char *wrong;
    apr_status_t rv;

    *conninfo = database;
    if (!psp_config_is_exec(database)) {
        return 1;
    }
    if ((wrong = psp_config_run_exec(conninfo, database, p, &rv))) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv == APR_EGENERAL ? 0 : rv, s, "PSP0003: %s: %s",
                     directive, wrong);
        *conninfo = recall(s, database);
        if (!*conninfo) {
            return 0;
        }
    }
    remember(s, database, *conninfo);
    return 1;
}

/* The connection string is found before other hooks of ours want it. A program is run on every
 * start and restart, as root where httpd starts as root, and httpd does not start without an
 * answer, its last one if need be. */
static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    psp_server_config_t *c = ap_get_module_config(s->module_config, &pubsubpull_module);

    (void)plog;
    (void)ptemp;
    if (!c->database || ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) {
        return OK;
    }
    if (!find_conninfo(s, pconf, c->database, "PubSubPullDatabase", &c->conninfo) ||
        (c->read_database &&
         !find_conninfo(s, pconf, c->read_database, "PubSubPullReadDatabase", &c->read_conninfo))) {
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    for (s = s->next; s; s = s->next) {
        psp_server_config_t *host = ap_get_module_config(s->module_config, &pubsubpull_module);

        host->conninfo = c->conninfo;
        host->read_conninfo = c->read_conninfo;
    }
    return OK;
}

void psp_config_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_check_config(check_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_FIRST);
}
