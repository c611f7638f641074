/* SPDX-License-Identifier: Apache-2.0 */
/* give.c: gives subscriptions to other servers that have less: leaves them, and when all is saved says so. */
#include "notify/private.h"

#include "core/json.h"

#define MOST 100 /* at one renewal */

typedef struct left_t {
    int id;
    apr_int64_t epoch;
} left_t;

struct psp_give_t {
    apr_pool_t *p; /* of left, cleared when they are on their way */
    apr_array_header_t *left;
};

psp_give_t *psp_give_make(psp_child_t *c)
{
    psp_give_t *g = apr_pcalloc(c->p, sizeof *g);

    apr_pool_create(&g->p, c->p);
    apr_pool_tag(g->p, "psp_give");
    g->left = apr_array_make(g->p, 8, sizeof(left_t));
    return g;
}

/* Those first that have nothing to finish. */
void psp_give_some(psp_child_t *c, apr_int64_t count)
{
    psp_sub_t *sub;
    int busy, n = c->give->left->nelts;

    for (sub = psp_leases_first(c); sub; sub = sub->next) {
        n += sub->giving; /* since an earlier renewal */
    }
    count = count > MOST ? MOST : count;
    for (busy = 0; busy <= 1; busy++) {
        for (sub = psp_leases_first(c); sub && n < count; sub = sub->next) {
            if (sub->state == PSP_SUB_ACTIVE && (busy || (!sub->queued && !sub->flying))) {
                sub->giving = 1;
                psp_leases_stop(c, sub, 0);
                n++;
            }
        }
    }
}

void psp_give_left(psp_child_t *c, const psp_sub_t *sub)
{
    if (sub->giving && sub->state == PSP_SUB_LEAVING) {
        APR_ARRAY_PUSH(c->give->left, left_t) = (left_t){sub->id, sub->epoch};
    }
}

/* If it failed the next renewal finds that we hold what we do not know, and so on. */
static void given(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    (void)result;
    (void)rows;
    psp_child_again(baton);
}

void psp_give_send(psp_child_t *c)
{
    psp_give_t *g = c->give;
    const char *params[3] = {c->id};
    psp_json_t *ids, *epochs;
    int i;

    if (!g->left->nelts) {
        return;
    }
    ids = psp_json_make(g->p, 256);
    epochs = psp_json_make(g->p, 256);
    for (i = 0; i < g->left->nelts; i++) {
        const left_t *left = &APR_ARRAY_IDX(g->left, i, left_t);

        psp_json_raw(ids, i ? "," : "{");
        psp_json_int(ids, left->id);
        psp_json_raw(epochs, i ? "," : "{");
        psp_json_int(epochs, left->epoch);
    }
    psp_json_raw(ids, "}");
    psp_json_raw(epochs, "}");
    params[1] = psp_json_text(ids);
    params[2] = psp_json_text(epochs);
    psp_session_send(c->records_db, "SELECT pubsubpull.notify_give($1, $2, $3)", 3, params,
                     PSP_RECORDS_TIMEOUT, given, c);
    apr_pool_clear(g->p);
    g->left = apr_array_make(g->p, 8, sizeof(left_t));
}
