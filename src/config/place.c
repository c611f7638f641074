/* SPDX-License-Identifier: Apache-2.0 */
/* place.c: the arguments of directives that hold where requests go to: sections, and what is below them. */
#include "config/private.h"

#include <ap_expr.h>
#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

const char *psp_set_enabled(cmd_parms *cmd, void *dir, int on)
{
    psp_dir_config_t *c = dir;

    c->enabled = on != 0;
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

const char *psp_set_anonymous(cmd_parms *cmd, void *dir, int on)
{
    psp_dir_config_t *c = dir;

    c->anonymous = on != 0;
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

const char *psp_set_required(cmd_parms *cmd, void *dir, int on)
{
    psp_dir_config_t *c = dir;

    c->required = on != 0;
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

const char *psp_set_record(cmd_parms *cmd, void *dir, const char *arg)
{
    psp_dir_config_t *c = dir;

    if (!ap_cstr_casecmp(arg, "off")) {
        c->record = PSP_RECORD_OFF;
    }
    else if (!ap_cstr_casecmp(arg, "changes")) {
        c->record = PSP_RECORD_CHANGES;
    }
    else if (!ap_cstr_casecmp(arg, "all")) {
        c->record = PSP_RECORD_ALL;
    }
    else {
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " must be all, changes or off, not '", arg,
                           "'", NULL);
    }
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

const char *psp_add_capture(cmd_parms *cmd, void *dir, const char *arg)
{
    static const char *const secret[] = {"authorization", "cookie", "proxy-authorization", NULL};
    psp_dir_config_t *c = dir;
    char *name = apr_pstrdup(cmd->pool, arg);
    int i;

    ap_str_tolower(name);
    for (i = 0; secret[i]; i++) {
        if (!strcmp(name, secret[i])) {
            return apr_pstrcat(cmd->pool, cmd->cmd->name, ": ", arg,
                               " holds credentials and is never captured", NULL);
        }
    }
    if (!c->capture) {
        c->capture = apr_array_make(cmd->pool, 4, sizeof(const char *));
    }
    if (!strcmp(name, "none")) {
        apr_array_clear(c->capture);
        return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
    }
    if (*ap_scan_http_token(name)) {
        return apr_pstrcat(cmd->pool, cmd->cmd->name, ": '", arg, "' is not the name of a header",
                           NULL);
    }
    APR_ARRAY_PUSH(c->capture, const char *) = name;
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

const char *psp_add_redact(cmd_parms *cmd, void *dir, const char *arg)
{
    psp_dir_config_t *c = dir;

    if (!c->redact) {
        c->redact = apr_array_make(cmd->pool, 4, sizeof(const char *));
    }
    APR_ARRAY_PUSH(c->redact, const char *) = arg;
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

/* Recording a request must not change how caches see its response, hence DONT_VARY. */
static const char *parse_expression(cmd_parms *cmd, const char *arg, unsigned int flags,
                                    ap_expr_info_t **expression)
{
    const char *error = NULL;

    *expression = ap_expr_parse_cmd(cmd, arg, flags | AP_EXPR_FLAG_DONT_VARY, &error, NULL);
    if (error) {
        return apr_pstrcat(cmd->pool, cmd->cmd->name, ": '", arg, "' is not an expression: ", error,
                           NULL);
    }
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

const char *psp_set_user(cmd_parms *cmd, void *dir, const char *arg)
{
    psp_dir_config_t *c = dir;

    return parse_expression(cmd, arg, AP_EXPR_FLAG_STRING_RESULT, &c->user);
}

const char *psp_set_admin(cmd_parms *cmd, void *dir, const char *arg)
{
    psp_dir_config_t *c = dir;

    return parse_expression(cmd, arg, 0, &c->admin);
}
