/* SPDX-License-Identifier: Apache-2.0 */
/* negotiate.c: what the client can take, and what it sends. */
#include "web/private.h"

#include <stdlib.h>

#include <apr_lib.h>
#include <apr_strings.h>

static const char json[] = "application/json";

/* How exactly a media range names this type; 0: not at all. */
static int exactness(const char *range, const char *type)
{
    apr_size_t major = strcspn(type, "/") + 1;

    return !ap_cstr_casecmp(range, type)                                          ? 3
           : !ap_cstr_casecmpn(range, type, major) && !strcmp(range + major, "*") ? 2
           : !strcmp(range, "*/*")                                                ? 1
                                                                                  : 0;
}

/* In thousandths. */
static int weight(const char *parameters)
{
    const char *q = parameters ? strstr(parameters, "q=") : NULL;
    double value = q ? strtod(q + 2, NULL) : 1;

    return value <= 0 ? 0 : value >= 1 ? 1000 : (int)(value * 1000);
}

/* What the request's Accept header says of a type: the range that names it most exactly decides. */
static int quality(request_rec *r, const char *accept, const char *type)
{
    int best = 0, q = 0;
    char *range;

    while ((range = ap_get_list_item(r->pool, &accept))) {
        char *parameters = strchr(range, ';');
        int exact;

        if (parameters) {
            *parameters++ = '\0';
        }
        exact = exactness(range, type);
        if (exact > best) {
            best = exact;
            q = weight(parameters);
        }
    }
    return q;
}

int psp_negotiate(psp_call_t *c, const psp_route_t *route, int *answer)
{
    request_rec *r = c->r;
    const char *accept = apr_table_get(r->headers_in, "Accept");
    const char *const *type = r->method_number == M_GET ? route->types : NULL;
    const char *all = json;
    int best;

    apr_table_mergen(r->headers_out, "Vary", "Accept");
    c->type = json;
    if (!accept || !accept[strspn(accept, " \t,")]) {
        return 1;
    }
    best = quality(r, accept, json);
    for (; type && *type; type++) {
        int q = quality(r, accept, *type);

        if (q > best) {
            best = q;
            c->type = *type;
        }
        all = apr_pstrcat(r->pool, all, ", ", *type, NULL);
    }
    if (best) {
        return 1;
    }
    *answer = psp_web_problem(r, HTTP_NOT_ACCEPTABLE, "not-acceptable",
                              apr_pstrcat(r->pool, "This resource is ", all,
                                          ", and the request's Accept header excludes that.", NULL),
                              0);
    return 0;
}
