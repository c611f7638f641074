/* SPDX-License-Identifier: Apache-2.0 */
/* groups.c: which subscriptions are read for together.
 *
 * Those at the same position are one group: a thousand idle ones cost one small read. Who has too much waiting
 * leaves its group and comes back by itself from where it stopped.
 */
#include "notify/groups.h"

#include "core/json.h"

void psp_groups_make(psp_groups_t *s, apr_pool_t *p)
{
    apr_pool_create(&s->p, p);
    apr_pool_tag(s->p, "psp_groups");
}

int psp_groups_wants(const psp_child_t *c, const psp_sub_t *sub)
{
    if (sub->state != PSP_SUB_ACTIVE || sub->held || psp_share_rests(c, sub)) {
        return 0;
    }
    if (sub->down && (sub->queued || sub->unsaved)) { /* a page at a time, to probe with */
        return 0;
    }
    if (c->bytes > PSP_TOTAL_BYTES) { /* slow receivers must not keep quick ones from reading */
        return c->bytes < 2 * PSP_TOTAL_BYTES && sub->queued == 0;
    }
    return 1;
}

static void join(psp_child_t *c, psp_groups_t *s, psp_sub_t *sub)
{
    psp_pos_t *pos = sub->pos;

    if (pos->stamp != s->stamp) {
        if (s->n == PSP_GROUPS) {
            if (!s->left_out) {
                s->left_out = 1;
                s->from = sub->id;
            }
            return;
        }
        pos->stamp = s->stamp;
        pos->group = s->n;
        s->at[s->n].versions = 0;
        s->at[s->n].ids = apr_array_make(s->p, 8, sizeof(int));
        s->at[s->n++].before = psp_pos_share(pos);
    }
    APR_ARRAY_PUSH(s->at[pos->group].ids, int) = sub->id;
    s->at[pos->group].versions += sub->version;
    sub->reading = pos->group + 1;
    sub->from_at = sub->more ? sub->from_at : c->now;
    if (sub->much) {
        psp_share_read(c);
    }
}

void psp_groups_form(psp_child_t *c, psp_groups_t *s)
{
    psp_sub_t *start = s->left_out ? psp_leases_find(c, s->from) : NULL;
    psp_sub_t *sub;
    int solo = 0;

    apr_pool_clear(s->p);
    s->n = 0;
    s->left_out = 0;
    s->stamp++;
    for (sub = psp_leases_first(c); sub; sub = sub->next) {
        if (sub->suspect && !solo && sub->read_at <= c->now && psp_groups_wants(c, sub)) {
            join(c, s, sub);
            solo = 1;
        }
    }
    if (solo) {
        return;
    }
    start = start ? start : psp_leases_first(c);
    for (sub = start; sub; sub = sub->next) {
        if (!sub->suspect && psp_groups_wants(c, sub)) {
            join(c, s, sub);
        }
    }
    for (sub = psp_leases_first(c); sub != start; sub = sub->next) {
        if (!sub->suspect && psp_groups_wants(c, sub)) {
            join(c, s, sub);
        }
    }
}

const char *psp_groups_write(const psp_groups_t *s)
{
    psp_json_t *j = psp_json_make(s->p, 1024);
    int g, i;

    psp_json_raw(j, "[");
    for (g = 0; g < s->n; g++) {
        psp_json_raw(j, g ? ",{" : "{");
        psp_json_name(j, "position");
        psp_json_string(j, s->at[g].before->text);
        psp_json_name(j, "versions");
        psp_json_int(j, s->at[g].versions);
        psp_json_name(j, "subscriptions"); /* as an array of SQL, which is quicker to read */
        psp_json_raw(j, "\"{");
        for (i = 0; i < s->at[g].ids->nelts; i++) {
            psp_json_raw(j, i ? "," : "");
            psp_json_int(j, APR_ARRAY_IDX(s->at[g].ids, i, int));
        }
        psp_json_raw(j, "}\"}");
    }
    psp_json_raw(j, "]");
    return psp_json_text(j);
}

int psp_groups_place(const psp_child_t *c, const char **position)
{
    const psp_pos_t *pos = NULL;
    psp_sub_t *sub;

    for (sub = psp_leases_first(c); sub; sub = sub->next) {
        if (!psp_groups_wants(c, sub)) {
            continue;
        }
        if (sub->suspect || sub->more || (pos && sub->pos != pos)) {
            return 0;
        }
        pos = sub->pos;
    }
    *position = pos ? pos->text : NULL;
    return 1;
}

int psp_groups_largest(const psp_groups_t *s)
{
    int members = 1, g;

    for (g = 0; g < s->n; g++) {
        members = s->at[g].ids->nelts > members ? s->at[g].ids->nelts : members;
    }
    return members;
}
