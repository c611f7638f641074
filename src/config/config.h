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

/** A client certificate, with those that lead from it to an authority, and its key: text as in the files. */
typedef struct psp_pem_t {
    const char *certificate;
    const char *key;
} psp_pem_t;
#define PSP_KEYS_MAX 2 /* of PubSubPullKey: the one that signs, and the one before it */

/** Per server. Set in the main server only, except base_url, which a virtual host may override. */
typedef struct psp_server_config_t {
    const char *database;      /* conninfo as written, or exec:/path; NULL: the module is inert */
    const char *read_database; /* where rows and changes are read, or NULL: there as well */
    const char *base_url;      /* PubSubPullBaseURL without a slash at its end, or NULL */
    int notifier;              /* PubSubPullNotifier, default On */
    int pool_min, pool_max;    /* PubSubPullPool, default 0 8 */
    int retention;             /* PubSubPullRetention in seconds, 0: off, the default */
    int stream_timeout;        /* PubSubPullStreamTimeout, seconds, default 60 */
    int max_hops;              /* PubSubPullMaxHops, default 10 */
    int waiters;               /* PubSubPullWaiters, default as many as workers, see seats.c */
    apr_array_header_t *callback_allow; /* of apr_ipsubnet_t *, NULL: none */
    apr_array_header_t *callback_deny;
    const char *callback_authorities; /* PubSubPullCallbackCAFile: PEM text, NULL: the system's */
    psp_pem_t callback_certificate;   /* PubSubPullCallbackCertificate, NULLs: none */
    apr_array_header_t *keys;         /* PubSubPullKey: of const char *, newest first, NULL: none */
    int key_ttl;                      /* PubSubPullKeyTTL, seconds, default 3600 */
    const char *spool;                /* PubSubPullSpool: a directory, or NULL */
    apr_off_t spool_size;             /* bytes at most */
    const char *conninfo; /* found at start-up: what libpq gets: database, or what exec: printed */
    const char *read_conninfo; /* the same of read_database */
} psp_server_config_t;

/** Per directory. */
typedef struct psp_dir_config_t {
    int enabled;   /* PubSubPull, default Off */
    int record;    /* PubSubPullRecord, default PSP_RECORD_CHANGES */
    int anonymous; /* PubSubPullAnonymous, default Off */
    int required;  /* PubSubPullRequired, default Off */
    apr_array_header_t
        *capture; /* PubSubPullCapture: of const char *, lower-case header names, or NULL */
    apr_array_header_t
        *redact;           /* PubSubPullRedact: of const char *, names of parameters, or NULL */
    ap_expr_info_t *user;  /* PubSubPullUser, NULL: r->user */
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
int psp_config_key_ttl(const psp_server_config_t *c);
int psp_config_max_hops(const psp_server_config_t *c);
psp_record_t psp_config_record(const psp_dir_config_t *d);
apr_interval_time_t psp_config_stream_timeout(const server_rec *s);

/** Who makes this request: PubSubPullUser if set, else r->user; NULL: nobody. */
const char *psp_config_user(request_rec *r);
/** True when PubSubPullAdmin holds for this request. */
int psp_config_is_admin(request_rec *r);

#endif
