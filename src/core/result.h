/* SPDX-License-Identifier: Apache-2.0 */
/* result.h: what every fallible call of ours returns: a cause for the log and an answer for people. */
#ifndef PSP_CORE_RESULT_H
#define PSP_CORE_RESULT_H

#include <apr_errno.h>

/**
 * Outcome of an operation.
 *
 * rv is APR_SUCCESS exactly when the operation succeeded; the other members then mean nothing.
 * Strings live as long as the pool that the failing call was given.
 */
typedef struct psp_result_t {
    apr_status_t rv;    /* cause, for the log */
    int http;           /* status to answer a client with, e.g. 503; never 0 on failure */
    const char *type;   /* stable slug of the problem type, e.g. "database-unavailable" */
    const char *detail; /* one sentence for people that says what to do; holds no secret */
    int retry_after;    /* seconds for Retry-After, 0: none */
} psp_result_t;

#endif
