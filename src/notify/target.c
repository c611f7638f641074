/* SPDX-License-Identifier: Apache-2.0 */
/* target.c: the URL of one event: the callback's template filled with the key, and checked once more. */
#include "notify/private.h"

#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_tables.h>

#include "core/uri_template.h"

#define URL_MAX 8192

/* http or https, a host, no credentials, nothing that could end a request line. The subscription was checked
 * when it was made; this is for what the key brought in, and for rows written by hand. */
static const char *fault(const char *url)
{
    const char *at = NULL;
    apr_size_t length = strlen(url), authority;

    if (strncasecmp(url, "http://", 7) == 0) {
        at = url + 7;
    }
    else if (strncasecmp(url, "https://", 8) == 0) {
        at = url + 8;
    }
    else {
        return "the callback is neither http: nor https:";
    }
    authority = strcspn(at, "/?#");
    if (authority == 0) {
        return "the callback names no host";
    }
    if (memchr(at, '@', authority)) {
        return "the callback holds credentials";
    }
    if (length > URL_MAX) {
        return "the callback is longer than 8192 characters";
    }
    for (at = url; *at; at++) {
        if (*at <= ' ' || *at >= 0x7f || *at == '\\') {
            return "the callback holds a blank, backslash, control or non-ASCII character";
        }
    }
    return NULL;
}

/* The length of scheme and authority must be the same before and after: no variable may reach there. */
static const char *expand(apr_pool_t *p, const psp_sub_t *sub, const char *key, const char **error)
{
    apr_table_t *vars = apr_table_make(p, sub->nkeys + 1);
    char *values = apr_pstrdup(p, key ? key : ""), *value = values;
    const char *url, *host, *brace;
    int i;

    for (i = 0; key && i < sub->nkeys && value; i++) {
        char *comma = strchr(value, ',');
        const char *decoded;

        if (comma) {
            *comma++ = '\0';
        }
        decoded = psp_percent_decode(p, value);
        if (!decoded) {
            *error = "the key holds a character that cannot be in a URL";
            return NULL;
        }
        apr_table_addn(vars, sub->keys[i], decoded);
        value = comma;
    }
    apr_table_addn(vars, "table", sub->table);
    host = strstr(sub->callback, "://");
    brace = strchr(sub->callback, '{');
    if (!host || !brace || brace <= host + 3 + strcspn(host + 3, "/?#{")) {
        *error = "the host of the callback is not literal";
        return NULL;
    }
    if (psp_uri_template_expand(&url, sub->callback, vars, p, error) != APR_SUCCESS) {
        return NULL;
    }
    return url;
}

const char *psp_target(apr_pool_t *p, const psp_sub_t *sub, const char *key, const char **error)
{
    const char *url = sub->plain ? sub->callback : expand(p, sub, key, error);

    if (!url) {
        return NULL;
    }
    *error = fault(url);
    return *error ? NULL : url;
}
