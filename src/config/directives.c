/* SPDX-License-Identifier: Apache-2.0 */
/* directives.c: every directive, declared once in the table at the end, and how its arguments are
 * read; of those for a place, place.c does. */
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
#define RETENTION_MIN 60
#define RETENTION_MAX APR_INT32_MAX /* 68 years */
#define SPOOL_MIN (1024 * 1024)

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

static const char *set_key(cmd_parms *cmd, void *dir, const char *arg)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);
    const char *path = ap_server_root_relative(cmd->temp_pool, arg);

    (void)dir;
    if (error) {
        return error;
    }
    error = c->keys ? "is set twice: a second key belongs into the same file, on the next line"
            : !path ? "wants the path of a file"
                    : psp_config_read_keys(&c->keys, path, cmd->pool, cmd->temp_pool, cmd->server);
    return error ? apr_pstrcat(cmd->pool, cmd->cmd->name, " ", error, NULL) : NULL;
}

static const char *set_spool(cmd_parms *cmd, void *dir, const char *path, const char *size)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);
    char *end;

    (void)dir;
    if (error) {
        return error;
    }
    if (!(c->spool = ap_server_root_relative(cmd->pool, path))) {
        return apr_pstrcat(cmd->pool, cmd->cmd->name, " wants a directory, not '", path, "'", NULL);
    }
    c->spool_size = apr_strtoi64(size, &end, 10);
    if (!apr_isdigit(*size) || c->spool_size > APR_INT64_MAX >> 30) {
        c->spool_size = 0;
    }
    if (*end && !end[1]) {
        int shift = (apr_tolower(*end) == 'k')   ? 10
                    : (apr_tolower(*end) == 'm') ? 20
                    : (apr_tolower(*end) == 'g') ? 30
                                                 : 0;

        c->spool_size <<= shift;
        end += shift > 0;
    }
    return *end || c->spool_size < SPOOL_MIN
               ? apr_psprintf(cmd->pool,
                              "%s wants a directory and how many bytes it may hold, 1M at least, "
                              "such as 512M or 4G, not '%s'",
                              cmd->cmd->name, size)
               : NULL;
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

/* A number with a unit, or off. Below a minute the parts of the log would come and go with every call of the notifier. */
static const char *set_retention(cmd_parms *cmd, void *dir, const char *arg)
{
    static const char units[] = "smhdw";
    static const apr_int64_t seconds[] = {1, 60, 3600, 86400, 604800};
    const char *error, *unit;
    psp_server_config_t *c = main_server(cmd, &error);
    apr_int64_t value;
    char *end;

    (void)dir;
    if (error) {
        return error;
    }
    if (!ap_cstr_casecmp(arg, "off")) {
        c->retention = 0;
        return NULL;
    }
    value = apr_strtoi64(arg, &end, 10);
    unit = *end ? strchr(units, apr_tolower(*end)) : NULL;
    if (!apr_isdigit(*arg) || !unit || end[1] || value > RETENTION_MAX ||
        value * seconds[unit - units] < RETENTION_MIN ||
        value * seconds[unit - units] > RETENTION_MAX) {
        return apr_pstrcat(cmd->pool, cmd->cmd->name, ": '", arg,
                           "' is neither off nor a time of at least a minute and at most 68 "
                           "years, a number with a unit: 30d, 12h (units are s, m, h, d, w)",
                           NULL);
    }
    c->retention = (int)(value * seconds[unit - units]);
    return NULL;
}

/* A whole number between two, for what it says where it belongs. */
typedef struct range_t {
    apr_size_t member; /* offset of an int in psp_server_config_t */
    int min, max;
    const char *what;
} range_t;

static const range_t key_ttl = {APR_OFFSETOF(psp_server_config_t, key_ttl), 1, 366 * 86400,
                                "a number of seconds"};
static const range_t stream_timeout = {APR_OFFSETOF(psp_server_config_t, stream_timeout), 1, 3600,
                                       "a number of seconds"};
static const range_t waiters = {APR_OFFSETOF(psp_server_config_t, waiters), 0, 1000000, "a number"};
static const range_t max_hops = {APR_OFFSETOF(psp_server_config_t, max_hops), 0, 1000, "a number"};

static const char *set_number(cmd_parms *cmd, void *dir, const char *arg)
{
    const range_t *range = cmd->info;
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);
    int value;

    (void)dir;
    if (error) {
        return error;
    }
    if (!parse_count(arg, range->max, &value) || value < range->min) {
        return apr_psprintf(cmd->pool, "%s must be %s from %d to %d, not '%s'", cmd->cmd->name,
                            range->what, range->min, range->max, arg);
    }
    *(int *)((char *)c + range->member) = value;
    return NULL;
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

/* Files are read now, while we may read them. */
static const char *set_ca_file(cmd_parms *cmd, void *dir, const char *file)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    if (!error) {
        error = psp_pem_read_authorities(cmd->pool, ap_server_root_relative(cmd->pool, file),
                                         &c->callback_authorities);
        error = error ? apr_pstrcat(cmd->pool, cmd->cmd->name, " ", error, NULL) : NULL;
    }
    return error;
}

static const char *set_certificate(cmd_parms *cmd, void *dir, const char *file, const char *keyfile)
{
    const char *error;
    psp_server_config_t *c = main_server(cmd, &error);

    (void)dir;
    if (!error) {
        error = psp_pem_read_certificate(
            cmd->pool, ap_server_root_relative(cmd->pool, file),
            keyfile ? ap_server_root_relative(cmd->pool, keyfile) : NULL, &c->callback_certificate);
        error = error ? apr_pstrcat(cmd->pool, cmd->cmd->name, " ", error, NULL) : NULL;
    }
    return error;
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
    AP_INIT_TAKE1("PubSubPullRetention", set_retention, NULL, RSRC_CONF,
                  "how long changes and requests are kept: 30d, 12h, or off"),
    AP_INIT_TAKE1("PubSubPullKey", set_key, NULL, RSRC_CONF,
                  "a file with the key that signs envelopes, and the one before it"),
    AP_INIT_TAKE1("PubSubPullKeyTTL", set_number, (void *)&key_ttl, RSRC_CONF,
                  "for how many seconds a signature holds"),
    AP_INIT_TAKE2("PubSubPullSpool", set_spool, NULL, RSRC_CONF,
                  "a directory for records of requests while the database is away, and its size"),
    AP_INIT_TAKE1("PubSubPullMaxHops", set_number, (void *)&max_hops, RSRC_CONF,
                  "how many requests may cause one another by deliveries"),
    AP_INIT_TAKE1("PubSubPullWaiters", set_number, (void *)&waiters, RSRC_CONF,
                  "how many requests may wait for changes at a time"),
    AP_INIT_TAKE1("PubSubPullStreamTimeout", set_number, (void *)&stream_timeout, RSRC_CONF,
                  "seconds after which a stream ends whose client takes nothing"),
    AP_INIT_ITERATE("PubSubPullCallbackAllow", add_allow, NULL, RSRC_CONF,
                    "networks that callbacks may be in although they are private"),
    AP_INIT_ITERATE("PubSubPullCallbackDeny", add_deny, NULL, RSRC_CONF,
                    "networks that callbacks must not be in"),
    AP_INIT_TAKE1("PubSubPullCallbackCAFile", set_ca_file, NULL, RSRC_CONF,
                  "CA certificates that https callbacks are verified with"),
    AP_INIT_TAKE12("PubSubPullCallbackCertificate", set_certificate, NULL, RSRC_CONF,
                   "certificate that is shown to https callbacks, and its key"),
    AP_INIT_FLAG("PubSubPull", psp_set_enabled, NULL, ANYWHERE,
                 "On: requests get an identity that reaches the database session"),
    AP_INIT_TAKE1("PubSubPullRecord", psp_set_record, NULL, ANYWHERE,
                  "which requests are recorded: all, changes or off"),
    AP_INIT_ITERATE("PubSubPullCapture", psp_add_capture, NULL, ANYWHERE,
                    "request headers to record, or none"),
    AP_INIT_ITERATE("PubSubPullRedact", psp_add_redact, NULL, ANYWHERE,
                    "query parameters whose values are never kept"),
    AP_INIT_TAKE1("PubSubPullUser", psp_set_user, NULL, ANYWHERE,
                  "an expression for the user, instead of the authenticated one"),
    AP_INIT_FLAG("PubSubPullRequired", psp_set_required, NULL, ANYWHERE,
                 "On: requests that write are refused while they could not be recorded"),
    AP_INIT_FLAG("PubSubPullAnonymous", psp_set_anonymous, NULL, ANYWHERE,
                 "On: PUT and DELETE of resources need no user"),
    AP_INIT_TAKE1("PubSubPullAdmin", psp_set_admin, NULL, ANYWHERE,
                  "an expression that is true for administrators of all subscriptions"),
    {NULL}};
