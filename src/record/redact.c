/* SPDX-License-Identifier: Apache-2.0 */
/* redact.c: query parameters whose values are never kept (PubSubPullRedact). */
#include "record/private.h"

#include <apr_strings.h>
#include <http_core.h>

#include "core/uri_template.h"

static const char hidden[] = "REDACTED";

/* However it is spelled: percent-encoded, '+' for a blank, in any case. */
static int is_named(apr_pool_t *p, const apr_array_header_t *names, const char *name)
{
    char *copy = apr_pstrdup(p, name);
    const char *decoded;
    char *c;
    int i;

    for (c = copy; *c; c++) {
        if (*c == '+') {
            *c = ' ';
        }
    }
    decoded = psp_percent_decode(p, copy);
    for (i = 0; i < names->nelts; i++) {
        if (!ap_cstr_casecmp(APR_ARRAY_IDX(names, i, const char *), decoded ? decoded : copy)) {
            return 1;
        }
    }
    return 0;
}

/* Parameters are separated by '&', and by ';' as old forms have it. */
const char *psp_redact(apr_pool_t *p, const apr_array_header_t *names, const char *query)
{
    const char *kept = "";

    if (!names || !query) {
        return query;
    }
    while (*query) {
        apr_size_t length = strcspn(query, "&;"), name = strcspn(query, "=&;");
        int hide = name < length && is_named(p, names, apr_pstrmemdup(p, query, name));

        kept = apr_pstrcat(p, kept, apr_pstrmemdup(p, query, hide ? name + 1 : length),
                           hide ? hidden : "",
                           query[length] == '&' ? "&"
                           : query[length]      ? ";"
                                                : "",
                           NULL);
        query += length + (query[length] != '\0');
    }
    return kept;
}
