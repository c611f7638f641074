/* SPDX-License-Identifier: Apache-2.0 */
/* readable.c: which tables' changes httpd lets a user GET, for resources that show those of several. */
#include "web/web.h"

#include <apr_strings.h>

#include "core/uri_template.h"

/* One element of an array in PostgreSQL's text form. */
static char *quote(apr_pool_t *p, const char *name)
{
    char *quoted = apr_palloc(p, 2 * strlen(name) + 3);
    char *end = quoted;

    *end++ = '"';
    for (; *name; name++) {
        if (*name == '"' || *name == '\\') {
            *end++ = '\\';
        }
        *end++ = *name;
    }
    *end++ = '"';
    *end = '\0';
    return quoted;
}

psp_result_t psp_web_readable(psp_call_t *c, const char **names)
{
    apr_pool_t *p = c->r->pool;
    const psp_rows_t *rows;
    psp_result_t result =
        psp_web_call(c, "SELECT name FROM pubsubpull.logged_names()", 0, NULL, &rows);
    apr_array_header_t *kept;
    int i;

    *names = NULL;
    if (result.rv != APR_SUCCESS) {
        return result;
    }
    kept = apr_array_make(p, psp_rows_count(rows) + 1, sizeof(char *));
    for (i = 0; i < psp_rows_count(rows); i++) {
        const char *name = psp_rows_get(rows, i, 0);

        if (name &&
            psp_web_may_get(c->r, apr_pstrcat(p, c->prefix, "/tables/", psp_percent_encode(p, name),
                                              "/changes/", NULL))) {
            APR_ARRAY_PUSH(kept, char *) = quote(p, name);
        }
    }
    if (kept->nelts < psp_rows_count(rows)) {
        *names = apr_pstrcat(p, "{", apr_array_pstrcat(p, kept, ','), "}", NULL);
    }
    return result;
}
