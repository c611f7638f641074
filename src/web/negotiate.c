/* SPDX-License-Identifier: Apache-2.0 */
/* negotiate.c: what the client can take, and what it sends. */
#include "web/private.h"

#include <apr_lib.h>
#include <apr_strings.h>

/* How exactly a media range names JSON; 0: not at all. */
static int exactness(const char *range)
{
    return !strcmp(range, "application/json") ? 3
           : !strcmp(range, "application/*")  ? 2
           : !strcmp(range, "*/*")            ? 1
                                              : 0;
}

/* "q=0" is the only weight that matters: there is one type to choose from. */
static int is_refused(const char *parameters)
{
    const char *q = parameters ? strstr(parameters, "q=") : NULL;

    return q && strspn(q + 2, "0.") == strcspn(q + 2, ";,");
}

int psp_negotiate(psp_call_t *c, int *answer)
{
    request_rec *r = c->r;
    const char *accept = apr_table_get(r->headers_in, "Accept");
    int best = 0, taken = 1;
    char *range;

    apr_table_mergen(r->headers_out, "Vary", "Accept");
    if (!accept || !accept[strspn(accept, " \t,")]) {
        return 1;
    }
    while ((range = ap_get_list_item(r->pool, &accept))) {
        char *parameters = strchr(range, ';');
        int exact;

        if (parameters) {
            *parameters++ = '\0';
        }
        exact = exactness(range);
        if (exact > best) {
            best = exact;
            taken = !is_refused(parameters);
        }
    }
    if (best && taken) {
        return 1;
    }
    *answer = psp_web_problem(r, HTTP_NOT_ACCEPTABLE, "not-acceptable",
                              "This resource is application/json, and the request's Accept header "
                              "excludes that.",
                              0);
    return 0;
}
