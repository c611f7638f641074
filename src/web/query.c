/* SPDX-License-Identifier: Apache-2.0 */
/* query.c: the query string: each parameter known, decoded, at most once. */
#include "web/private.h"

#include <apr_strings.h>

#include "core/uri_template.h"

static int is_known(const char *name, const char *const *known)
{
    for (; known && *known; known++) {
        if (!strcmp(name, *known)) {
            return 1;
        }
    }
    return 0;
}

static const char *list_known(apr_pool_t *p, const char *const *known)
{
    const char *list = NULL;

    for (; known && *known; known++) {
        list = apr_pstrcat(p, list ? list : "It understands ", list ? ", " : "", *known, NULL);
    }
    return list ? apr_pstrcat(p, list, ".", NULL) : "It understands none.";
}

/* Forms send a blank as '+'. */
static const char *decode(apr_pool_t *p, const char *text)
{
    char *copy = apr_pstrdup(p, text);
    const char *decoded;
    char *c;

    for (c = copy; *c; c++) {
        if (*c == '+') {
            *c = ' ';
        }
    }
    decoded = psp_percent_decode(p, copy);
    return decoded && psp_utf8_valid(decoded, strlen(decoded)) ? decoded : NULL;
}

static int refuse(psp_call_t *c, int *answer, const char *detail)
{
    *answer = psp_web_problem(c->r, HTTP_BAD_REQUEST, "bad-query", detail, 0);
    return 0;
}

static int read_one(psp_call_t *c, apr_table_t *query, const char *part, const psp_route_t *route,
                    int *answer)
{
    apr_pool_t *p = c->r->pool;
    apr_size_t length = strcspn(part, "=");
    const char *name = decode(p, apr_pstrmemdup(p, part, length));
    const char *value = decode(p, part[length] ? part + length + 1 : "");

    if (!name || !value) {
        return refuse(c, answer, "The query is not percent-encoded UTF-8.");
    }
    if (!is_known(name, route->query)) {
        return refuse(c, answer,
                      apr_pstrcat(p, "This resource does not know the query parameter '", name,
                                  "'. ", list_known(p, route->query), NULL));
    }
    if (apr_table_get(query, name)) {
        return refuse(c, answer,
                      apr_pstrcat(p, "The query parameter '", name, "' is given twice.", NULL));
    }
    apr_table_setn(query, name, value);
    return 1;
}

int psp_query_read(psp_call_t *c, const psp_route_t *route, int *answer)
{
    apr_pool_t *p = c->r->pool;
    apr_table_t *query = apr_table_make(p, 4);
    char *rest = c->r->args ? apr_pstrdup(p, c->r->args) : NULL;
    char *part, *state;

    c->query = query;
    for (part = rest ? apr_strtok(rest, "&", &state) : NULL; part;
         part = apr_strtok(NULL, "&", &state)) {
        if (!read_one(c, query, part, route, answer)) {
            return 0;
        }
    }
    return 1;
}

const char *psp_web_query(psp_call_t *c, const char *name)
{
    return apr_table_get(c->query, name);
}
