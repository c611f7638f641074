/* SPDX-License-Identifier: Apache-2.0 */
/* changes.c: the log: of all tables, of one table, of one row. */
#include "pull/pull.h"

#include <apr_strings.h>

#include "core/uri_template.h"

static int get_table_changes(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], psp_web_query(c, "since"),
                            psp_web_query(c, "limit")};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.table_changes_get($1, $2, $3, $4)", 4,
                          params);
}

static int get_row_changes(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->raw_segments[3], psp_web_query(c, "since"),
                            psp_web_query(c, "limit")};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.row_changes_get($1, $2, $3, $4, $5)", 5,
                          params);
}

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

/* Of the tables in the log those whose changes httpd lets this user GET, as an array; NULL: all of
 * them. */
static const char *readable(psp_call_t *c, const psp_rows_t *names)
{
    apr_pool_t *p = c->r->pool;
    apr_array_header_t *kept = apr_array_make(p, psp_rows_count(names) + 1, sizeof(char *));
    int i;

    for (i = 0; i < psp_rows_count(names); i++) {
        const char *name = psp_rows_get(names, i, 0);

        if (name &&
            psp_web_may_get(c->r, apr_pstrcat(p, c->prefix, "/tables/", psp_percent_encode(p, name),
                                              "/changes/", NULL))) {
            APR_ARRAY_PUSH(kept, char *) = quote(p, name);
        }
    }
    return kept->nelts == psp_rows_count(names)
               ? NULL
               : apr_pstrcat(p, "{", apr_array_pstrcat(p, kept, ','), "}", NULL);
}

static int get_changes(psp_call_t *c)
{
    const char *params[] = {c->base, psp_web_query(c, "since"), psp_web_query(c, "limit"), NULL};
    const psp_rows_t *names;
    psp_result_t result =
        psp_web_call(c, "SELECT name FROM pubsubpull.logged_names()", 0, NULL, &names);

    if (result.rv != APR_SUCCESS) {
        return psp_web_fail(c->r, &result);
    }
    params[3] = readable(c, names);
    return psp_web_answer(c, "SELECT * FROM pubsubpull.changes_get($1, $2, $3, $4)", 4, params);
}

static const char *const changes_query[] = {"since", "limit", NULL};

const psp_route_t psp_pull_change_routes[] = {
    {.pattern = "changes/", .get = get_changes, .query = changes_query},
    {.pattern = "tables/*/changes/", .get = get_table_changes, .query = changes_query},
    {.pattern = "tables/*/rows/*/changes/", .get = get_row_changes, .query = changes_query},
    {.pattern = NULL},
};
