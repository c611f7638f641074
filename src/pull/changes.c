/* SPDX-License-Identifier: Apache-2.0 */
/* changes.c: the log: of all tables, of one table, of one row. */
#include "pull/pull.h"

#include <apr_strings.h>

#include "core/uri_template.h"

#define CALL "SELECT * FROM pubsubpull.changes_get($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"

enum { BASE, NAME, KEY, NAMES, SINCE, LIMIT, ON, REQUEST, WAIT, FORM, PARAMS };

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

/* Where to start again when a cursor is gone. */
static void link_restart(psp_call_t *c)
{
    apr_pool_t *p = c->r->pool;
    const char *table =
        c->nsegments > 2 ? apr_pstrcat(p, c->base, "/tables/", c->raw_segments[1], NULL) : c->base;

    if (c->nsegments > 2) {
        apr_table_addn(c->r->headers_out, "Link",
                       apr_pstrcat(p, "<", table, "/rows/>; rel=\"rows\"", NULL));
    }
    apr_table_addn(c->r->headers_out, "Link",
                   apr_pstrcat(p, "<", table, "/changes/>; rel=\"first\"", NULL));
}

/* One function in SQL answers for all tables, for one, and for one row. */
static int get_changes(psp_call_t *c)
{
    const char *params[PARAMS] = {
        [BASE] = c->base,
        [NAME] = c->nsegments > 2 ? c->segments[1] : NULL,
        [KEY] = c->nsegments > 4 ? c->raw_segments[3] : NULL,
        [SINCE] = psp_web_query(c, "since"),
        [LIMIT] = psp_web_query(c, "limit"),
        [ON] = psp_web_query(c, "on"),
        [REQUEST] = psp_web_query(c, "request"),
        [FORM] = "page",
    };
    const psp_rows_t *names, *rows;
    psp_result_t result;

    if (!params[NAME]) {
        result = psp_web_call(c, "SELECT name FROM pubsubpull.logged_names()", 0, NULL, &names);
        if (result.rv != APR_SUCCESS) {
            return psp_web_fail(c->r, &result);
        }
        params[NAMES] = readable(c, names);
    }
    result = psp_web_ask(c, CALL, PARAMS, params, &rows);
    if (result.rv == APR_SUCCESS) {
        return psp_web_send(c, rows);
    }
    if (result.http == HTTP_GONE) {
        link_restart(c);
    }
    return psp_web_fail(c->r, &result);
}

static const char *const changes_query[] = {"since", "limit", "on", "request", NULL};

const psp_route_t psp_pull_change_routes[] = {
    {.pattern = "changes/", .get = get_changes, .query = changes_query},
    {.pattern = "tables/*/changes/", .get = get_changes, .query = changes_query},
    {.pattern = "tables/*/rows/*/changes/", .get = get_changes, .query = changes_query},
    {.pattern = NULL},
};
