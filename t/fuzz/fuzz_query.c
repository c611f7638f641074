/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_query.c: a query string is read, every parameter as UTF-8 and once, or it is refused with 400. */
#include "web/private.h"

#include "fuzz.h"

static int problems;

/* Stands for the writer of problems, which needs httpd. */
int psp_web_problem(request_rec *r, int status, const char *type, const char *detail,
                    int retry_after)
{
    (void)r;
    PROMISE(status == HTTP_BAD_REQUEST && strcmp(type, "bad-query") == 0 && *detail &&
            !retry_after);
    problems++;
    return status;
}

static void try_input(apr_pool_t *p, const uint8_t *data, size_t size)
{
    static const char *const known[] = {"since", "limit", "on", "wait", NULL};
    static const psp_route_t route = {.query = known};
    request_rec r = {.pool = p};
    psp_call_t c = {.r = &r};
    int answer = 0, i;

    r.args = fuzz_line(p, &data, &size);
    problems = 0;
    if (!psp_query_read(&c, &route, &answer)) {
        PROMISE(problems == 1 && answer == HTTP_BAD_REQUEST);
        return;
    }
    PROMISE(problems == 0);
    for (i = 0; known[i]; i++) {
        const char *value = psp_web_query(&c, known[i]);

        PROMISE(!value || (psp_utf8_valid(value, strlen(value)) && r.args));
    }
}
