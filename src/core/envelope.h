/* SPDX-License-Identifier: Apache-2.0 */
/* envelope.h: one request's metadata as the line of JSON that travels to the database session. */
#ifndef PSP_CORE_ENVELOPE_H
#define PSP_CORE_ENVELOPE_H

#include <apr_pools.h>
#include <apr_tables.h>
#include <apr_time.h>

#define PSP_ENVELOPE_MAX 4096

/** What is known about a request. All strings may hold any byte; NULL members are left out. */
typedef struct psp_request_t {
    const char *id; /* required */
    const char *method;
    const char *host;
    const char *path;
    const char *query;
    const char *user;
    const char *remote;
    const char *agent;
    const char *cause; /* id of the request that caused it */
    apr_time_t started;
    apr_size_t reserved; /* bytes of PSP_ENVELOPE_MAX to leave for what will be added */
    const apr_table_t *
        headers; /* captured headers: written as "headers":{"name":"value"} with lower-case names, or NULL */
} psp_request_t;

/**
 * Write the envelope: a JSON object of printable ASCII on one line that begins with {"id":"<uuid>".
 * "started" is RFC 3339 in UTC with microseconds. When the whole would exceed PSP_ENVELOPE_MAX bytes, whole
 * optional members are left out, the largest first, never one cut short; id, method, cause and started always stay.
 */
const char *psp_envelope(apr_pool_t *p, const psp_request_t *request);

/** Escape a value for use in PGOPTIONS: a backslash before white space and backslashes
 * (PostgreSQL, pg_split_opts). */
const char *psp_pgoptions_escape(apr_pool_t *p, const char *value);

#endif
