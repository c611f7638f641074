/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room share and nobody else needs. */
#ifndef PSP_CONFIG_PRIVATE_H
#define PSP_CONFIG_PRIVATE_H

#include <httpd.h>
#include <http_config.h>

#include "config/config.h"

/** True when PubSubPullDatabase names a program instead of a connection string. */
int psp_config_is_exec(const char *database);

/** What is wrong with exec:/path, as the end of a sentence, or NULL. The program is not run. */
const char *psp_config_check_exec(apr_pool_t *p, const char *database);

/**
 * Run the program and read the connection string that it prints, its first line. Never waits longer
 * than ten seconds.
 * @return NULL, or what went wrong; neither it nor the log repeats what was printed
 */
const char *psp_config_run_exec(const char **conninfo, const char *database, apr_pool_t *p,
                                apr_status_t *rv);

/** Read a file of CA certificates. @return NULL, or what is wrong, to follow the name of the directive */
const char *psp_pem_read_authorities(apr_pool_t *p, const char *file, const char **text);

/** Read a certificate and its key, which must match; keyfile NULL: both are in one file. */
const char *psp_pem_read_certificate(apr_pool_t *p, const char *file, const char *keyfile,
                                     psp_pem_t *pem);
/**
 * Read the keys of PubSubPullKey, newest first, of const char *.
 * @return NULL, or what is wrong, as the end of a sentence; it never repeats a key
 */
const char *psp_config_read_keys(apr_array_header_t **keys, const char *path, apr_pool_t *p,
                                 apr_pool_t *temp, server_rec *s);

/* --- place.c: what directives of a place do with their arguments --- */

const char *psp_set_enabled(cmd_parms *cmd, void *dir, int on);
const char *psp_set_anonymous(cmd_parms *cmd, void *dir, int on);
const char *psp_set_required(cmd_parms *cmd, void *dir, int on);
const char *psp_set_record(cmd_parms *cmd, void *dir, const char *arg);
const char *psp_add_capture(cmd_parms *cmd, void *dir, const char *arg);
const char *psp_add_redact(cmd_parms *cmd, void *dir, const char *arg);
const char *psp_set_user(cmd_parms *cmd, void *dir, const char *arg);
const char *psp_set_admin(cmd_parms *cmd, void *dir, const char *arg);

#endif
