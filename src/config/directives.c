/* SPDX-License-Identifier: Apache-2.0 */
/* directives.c: every directive, declared once in the table at the end, and how its arguments are
 * read. */
#include "config/config.h"

#include <apr_lib.h>
#include <apr_network_io.h>
#include <apr_strings.h>
#include <apr_uri.h>
#include <http_core.h>
#include <http_log.h>

#include "config/private.h"
#include "db/db.h"

APLOG_USE_MODULE(pubsubpull);

#define POOL_LIMIT 1000
#define STREAM_TIMEOUT_LIMIT 3600
#define WAITERS_LIMIT 1000000

/* The main server only: there is one notifier and one log for the whole of httpd. */
static psp_server_config_t *main_server(cmd_parms *cmd, const char **error)
{
    *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return ap_get_module_config(cmd->server->module_config, &pubsubpull_module);
}

static const char *take_database(cmd_parms *cmd, const char **database, const char *arg)
{
    const char *wrong = *database ? "is set twice" : NULL;

    if (!wrong) {
        wrong = psp_config_is_exec(arg) ? psp_config_check_exec(cmd->temp_pool, arg)
                                        : psp_db_check_conninfo(cmd->temp_pool, arg);
    }
    if (wrong) {
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " ", wrong, NULL);
    }
    *database = arg;
    return NULL;
}

static const char *set_database(cmd_parms *cmd, void *dir, const char *arg)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    /* server-info and -DDUMP_CONFIG print the arguments from the tree: it forgets this one. */
    cmd->directive->args = "(not shown)";
    return error ? error : take_database(cmd, cmd->info ? &c->read_database : &c->database, arg);
}

static const char *set_base_url(cmd_parms *cmd, void *dir, const char *arg)
{
    psp_server_config_t *c = ap_get_module_config(cmd->server->module_config, &pubsubpull_module);
    const char *error = ap_check_cmd_context(cmd, NOT_IN_DIR_CONTEXT);
    apr_size_t length = strlen(arg);
    apr_uri_t uri;

    (void)dir;
    if (error) {
        return error;
    }
    if (apr_uri_parse(cmd->temp_pool, arg, &uri) != APR_SUCCESS || !uri.scheme || !uri.hostname ||
        !*uri.hostname ||
        (ap_cstr_casecmp(uri.scheme, "http") && ap_cstr_casecmp(uri.scheme, "https"))) {
        return apr_pstrcat(cmd->pool, cmd->cmd->name,
                           " must be an absolute http or https URL, not '", arg, "'", NULL);
    }
    if (uri.user || uri.password || uri.query || uri.fragment) {
        return apr_pstrcat(cmd->pool, cmd->cmd->name,
                           " must have neither credentials nor a query nor a fragment", NULL);
    }
    while (length && arg[length - 1] == '/') {
        length--;
    }
    c->base_url = apr_pstrmemdup(cmd->pool, arg, length);
    return NULL;
}

static const char *set_notifier(cmd_parms *cmd, void *dir, int on)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    c->notifier = on != 0;
    return error;
}

static int parse_count(const char *text, int limit, int *count)
{
    char *end;
    apr_int64_t value = apr_strtoi64(text, &end, 10);

    if (!apr_isdigit(*text) || *end || value > limit) {
        return 0;
    }
    *count = (int)value;
    return 1;
}

static const char *set_pool(cmd_parms *cmd, void *dir, const char *min, const char *max)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    if (error) {
        return error;
    }
    if (!parse_count(min, POOL_LIMIT, &c->pool_min) ||
        !parse_count(max, POOL_LIMIT, &c->pool_max) || c->pool_max < 1 ||
        c->pool_min > c->pool_max) {
        return apr_psprintf(cmd->pool,
                            "%s wants the fewest and the most database sessions of one child "
                            "process: two numbers, 0 <= min <= max, 1 <= max <= %d",
                            cmd->cmd->name, POOL_LIMIT);
    }
    return NULL;
}

static const char *set_stream_timeout(cmd_parms *cmd, void *dir, const char *arg)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    if (!error &&
        (!parse_count(arg, STREAM_TIMEOUT_LIMIT, &c->stream_timeout) || c->stream_timeout < 1)) {
        error = apr_psprintf(cmd->pool, "%s wants seconds, from 1 to %d", cmd->cmd->name,
                             STREAM_TIMEOUT_LIMIT);
    }
    return error;
}

static const char *set_waiters(cmd_parms *cmd, void *dir, const char *arg)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    if (!error && !parse_count(arg, WAITERS_LIMIT, &c->waiters)) {
        error = apr_psprintf(cmd->pool, "%s wants a number from 0 to %d", cmd->cmd->name,
                             WAITERS_LIMIT);
    }
    return error;
}

static int push_network(apr_pool_t *p, apr_array_header_t **list, const char *address,
                        const char *mask)
{
    apr_ipsubnet_t *network;

    if (apr_ipsubnet_create(&network, address, mask, p) != APR_SUCCESS) {
        return 0;
    }
    if (!*list) {
        *list = apr_array_make(p, 4, sizeof(apr_ipsubnet_t *));
    }
    APR_ARRAY_PUSH(*list, apr_ipsubnet_t *) = network;
    return 1;
}

/* APR takes no mask of zero bits, so everything is two halves. */
static int push_everything(apr_pool_t *p, apr_array_header_t **list, const char *address)
{
    if (!strcmp(address, "0.0.0.0")) {
        return push_network(p, list, "0.0.0.0", "1") && push_network(p, list, "128.0.0.0", "1");
    }
    return !strcmp(address, "::") && push_network(p, list, "::", "1") &&
           push_network(p, list, "8000::", "1");
}

/* Written as 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1. */
static const char *add_network(cmd_parms *cmd, apr_array_header_t **list, const char *arg)
{
    char *address = apr_pstrdup(cmd->temp_pool, arg);
    char *mask = strchr(address, '/');

    if (mask) {
        *mask++ = '\0';
    }
    if (mask && !strcmp(mask, "0") ? push_everything(cmd->pool, list, address)
                                   : push_network(cmd->pool, list, address, mask)) {
        return NULL;
    }
    return apr_pstrcat(cmd->pool, cmd->cmd->name, ": '", arg,
                       "' is neither an address nor a network such as 10.1.0.0/16 or "
                       "2001:db8::/32 (names are not taken)",
                       NULL);
}

static const char *add_allow(cmd_parms *cmd, void *dir, const char *arg)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    return error ? error : add_network(cmd, &c->callback_allow, arg);
}

static const char *add_deny(cmd_parms *cmd, void *dir, const char *arg)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    return error ? error : add_network(cmd, &c->callback_deny, arg);
}

static const char *set_enabled(cmd_parms *cmd, void *dir, int on)
{
    psp_dir_config_t *c = dir;

    c->enabled = on != 0;
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

static const char *set_anonymous(cmd_parms *cmd, void *dir, int on)
{
    psp_dir_config_t *c = dir;

    c->anonymous = on != 0;
    return ap_check_cmd_context(cmd, NOT_IN_LIMIT);
}

static const char *set_record(cmd_parms *cmd, void *dir, const char *arg)
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

static const char *add_capture(cmd_parms *cmd, void *dir, const char *arg)
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

static const char *set_user(cmd_parms *cmd, void *dir, const char *arg)
{
    psp_dir_config_t *c = dir;

    return parse_expression(cmd, arg, AP_EXPR_FLAG_STRING_RESULT, &c->user);
}

static const char *set_admin(cmd_parms *cmd, void *dir, const char *arg)
{
    psp_dir_config_t *c = dir;

    return parse_expression(cmd, arg, 0, &c->admin);
}

/* Not for .htaccess: who writes a page does not decide whether requests for it are recorded. */
#define ANYWHERE (RSRC_CONF | ACCESS_CONF)

const command_rec psp_config_directives[] = {
    AP_INIT_TAKE1(
        "PubSubPullDatabase", set_database, NULL, RSRC_CONF,
        "how to connect to PostgreSQL: a libpq connection string or URI, or exec:/path of "
        "a program that prints one"),
    AP_INIT_TAKE1("PubSubPullReadDatabase", set_database, "read", RSRC_CONF,
                  "how to connect to a hot standby, from which rows and changes are read"),
    AP_INIT_TAKE1("PubSubPullBaseURL", set_base_url, NULL, RSRC_CONF,
                  "the URL by which clients reach this server, for links"),
    AP_INIT_FLAG("PubSubPullNotifier", set_notifier, NULL, RSRC_CONF,
                 "Off: this server delivers no notifications"),
    AP_INIT_TAKE2("PubSubPullPool", set_pool, NULL, RSRC_CONF,
                  "the fewest and the most database sessions of one child process"),
    AP_INIT_TAKE1("PubSubPullWaiters", set_waiters, NULL, RSRC_CONF,
                  "how many requests may wait for changes at a time"),
    AP_INIT_TAKE1("PubSubPullStreamTimeout", set_stream_timeout, NULL, RSRC_CONF,
                  "seconds after which a stream ends whose client takes nothing"),
    AP_INIT_ITERATE("PubSubPullCallbackAllow", add_allow, NULL, RSRC_CONF,
                    "networks that callbacks may be in although they are private"),
    AP_INIT_ITERATE("PubSubPullCallbackDeny", add_deny, NULL, RSRC_CONF,
                    "networks that callbacks must not be in"),
    AP_INIT_FLAG("PubSubPull", set_enabled, NULL, ANYWHERE,
                 "On: requests get an identity that reaches the database session"),
    AP_INIT_TAKE1("PubSubPullRecord", set_record, NULL, ANYWHERE,
                  "which requests are recorded: all, changes or off"),
    AP_INIT_ITERATE("PubSubPullCapture", add_capture, NULL, ANYWHERE,
                    "request headers to record, or none"),
    AP_INIT_TAKE1("PubSubPullUser", set_user, NULL, ANYWHERE,
                  "an expression for the user, instead of the authenticated one"),
    AP_INIT_FLAG("PubSubPullAnonymous", set_anonymous, NULL, ANYWHERE,
                 "On: PUT and DELETE of resources need no user"),
    AP_INIT_TAKE1("PubSubPullAdmin", set_admin, NULL, ANYWHERE,
                  "an expression that is true for administrators of all subscriptions"),
    {NULL}};
