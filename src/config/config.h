/* SPDX-License-Identifier: Apache-2.0 */
/* config.h: what the administrator configured, merged and checked. */
#ifndef PSP_CONFIG_CONFIG_H
#define PSP_CONFIG_CONFIG_H

#include <httpd.h>
#include <http_config.h>
#include <ap_expr.h>

extern module AP_MODULE_DECLARE_DATA pubsubpull_module;

/** Members below this value are "not set": merging takes the outer one, psp_config_* give the
 * default. */
#define PSP_UNSET (-1)

typedef enum { PSP_RECORD_OFF = 0, PSP_RECORD_CHANGES = 1, PSP_RECORD_ALL = 2 } psp_record_t;

/** Per server. Set in the main server only, except base_url, which a virtual host may override. */
typedef struct psp_server_config_t {
    const char *database; /* conninfo as written, or exec:/path; NULL: the module is inert */
    const char *
        read_database; /* where rows and changes are read, written in the same way, or NULL: there */
    const char *base_url;               /* PubSubPullBaseURL without a slash at its end, or NULL */
    int notifier;                       /* PubSubPullNotifier, default On */
    int pool_min, pool_max;             /* PubSubPullPool, default 0 8 */
    int stream_timeout;                 /* PubSubPullStreamTimeout, seconds, default 60 */
    int waiters;                        /* PubSubPullWaiters, default half of the workers */
    apr_array_header_t *callback_allow; /* of apr_ipsubnet_t *, NULL: none */
    apr_array_header_t *callback_deny;
    const char *conninfo; /* found at start-up: what libpq gets: database, or what exec: printed */
    const char *read_conninfo; /* the same of read_database */
} psp_server_config_t;

/** Per directory. */
typedef struct psp_dir_config_t {
    int enabled;   /* PubSubPull, default Off */
    int record;    /* PubSubPullRecord, default PSP_RECORD_CHANGES */
    int anonymous; /* PubSubPullAnonymous, default Off */
    apr_array_header_t
        *capture;         /* PubSubPullCapture: of const char *, lower-case header names, or NULL */
    ap_expr_info_t *user; /* PubSubPullUser, NULL: r->user */
    ap_expr_info_t *admin; /* PubSubPullAdmin, NULL: nobody */
} psp_dir_config_t;

extern const command_rec psp_config_directives[];

void *psp_config_create_server(apr_pool_t *p, server_rec *s);
void *psp_config_merge_server(apr_pool_t *p, void *base, void *add);
void *psp_config_create_dir(apr_pool_t *p, char *path);
void *psp_config_merge_dir(apr_pool_t *p, void *base, void *add);

/** Registers the start-up checks and what they find (conninfo). */
void psp_config_register_hooks(apr_pool_t *p);

const psp_server_config_t *psp_config_server(const server_rec *s);
const psp_dir_config_t *psp_config_dir(const request_rec *r);

/** Values with defaults applied. */
psp_record_t psp_config_record(const psp_dir_config_t *d);
apr_interval_time_t psp_config_stream_timeout(const server_rec *s);

/** Who makes this request: PubSubPullUser if set, else r->user; NULL: nobody. */
const char *psp_config_user(request_rec *r);
/** True when PubSubPullAdmin holds for this request. */
int psp_config_is_admin(request_rec *r);

#endif
