/* SPDX-License-Identifier: Apache-2.0 */
/* tables.c: /tables/ and /tables/{t}: what is published. */
#include "publish/publish.h"

#include "record/record.h"

static int get_tables(psp_call_t *c)
{
    const char *params[] = {c->base};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.tables_get($1)", 1, params);
}

static int get_table(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1]};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.table_get($1, $2)", 2, params);
}

static int put_table(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1], c->body};
    int answer = psp_web_answer(c, "SELECT * FROM pubsubpull.table_put($1, $2, $3)", 3, params);

    psp_record_wake();
    return answer;
}

static int delete_table(psp_call_t *c)
{
    const char *params[] = {c->base, c->segments[1]};
    int answer = psp_web_answer(c, "SELECT * FROM pubsubpull.table_delete($1, $2)", 2, params);

    psp_record_wake();
    return answer;
}

const psp_route_t psp_publish_routes[] = {
    {.pattern = "tables/", .get = get_tables},
    {.pattern = "tables/*", .get = get_table, .put = put_table, .del = delete_table},
    {.pattern = NULL},
};
