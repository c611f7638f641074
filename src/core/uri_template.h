/* SPDX-License-Identifier: Apache-2.0 */
/* uri_template.h: URI templates (RFC 6570, levels 1 to 3). */
#ifndef PSP_CORE_URI_TEMPLATE_H
#define PSP_CORE_URI_TEMPLATE_H

#include <apr_errno.h>
#include <apr_pools.h>
#include <apr_tables.h>

/**
 * Expand a template: {var}, {+var}, {#var}, {.var}, {/var}, {;var}, {?var}, {&var} and lists of variables. A name that
 * vars lacks is undefined (RFC 6570, 2.3) and expands to nothing. Names are compared exactly, values are UTF-8.
 * @return APR_SUCCESS, or APR_EINVAL with *error set to what is wrong
 */
apr_status_t psp_uri_template_expand(const char **out, const char *template_text,
                                     const apr_table_t *vars, apr_pool_t *p, const char **error);

/** Percent-decode a text; NULL when it holds a broken escape or %00. */
const char *psp_percent_decode(apr_pool_t *p, const char *text);

/** Percent-encode all but the unreserved characters of RFC 3986, 2.3. */
const char *psp_percent_encode(apr_pool_t *p, const char *text);

#endif
