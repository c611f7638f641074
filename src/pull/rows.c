/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c: /tables/{t}/rows/ and /tables/{t}/rows/{key}: what a table holds now. */
#include "pull/private.h"

static int get_rows(psp_call_t *c)
{
    const char *params[] = {
        c->base,
        c->segments[1],
        psp_web_query(c, "limit"),
        psp_web_query(c, "order"),
        psp_web_query(c, "after"),
        psp_web_query(c, "changes"),
        psp_web_query(c, "fields"),
        psp_web_envelope(c),
    };

    c->reads = 1;
    if (strcmp(c->type, "application/json") != 0) {
        return psp_pull_rows_stream(c);
    }
    return psp_web_answer(c, "SELECT * FROM pubsubpull.rows_get($1, $2, $3, $4, $5, $6, $7, $8)", 8,
                          params);
}

/* The key goes as it was sent: only so are the commas between values told from those inside them.
 */
static int get_row(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->raw_segments[3], psp_web_envelope(c)};

    c->reads = 1;
    return psp_web_answer(c, "SELECT * FROM pubsubpull.row_get($1, $2, $3, $4)", 4, params);
}

/* "changes" travels from page to page: the place in the log from which the first page is followed.
 */
static const char *const rows_query[] = {"limit", "order", "after", "changes", "fields", NULL};

static const char *const lines[] = {"application/x-ndjson", "application/jsonl", NULL};

const psp_route_t psp_pull_row_routes[] = {
    {.pattern = "tables/*/rows/", .get = get_rows, .query = rows_query, .types = lines},
    {.pattern = "tables/*/rows/*", .get = get_row},
    {.pattern = NULL},
};
