/* SPDX-License-Identifier: Apache-2.0 */
/* groups.h: which subscriptions are read for together. */
#ifndef PSP_NOTIFY_GROUPS_H
#define PSP_NOTIFY_GROUPS_H

#include "notify/private.h"

#define PSP_GROUPS 8 /* most in one read; the others take turns */

/** Subscriptions at one position. */
typedef struct psp_group_t {
    apr_array_header_t *ids; /* of int */
    apr_int64_t versions;    /* added up */
    psp_pos_t *before;       /* counted */
} psp_group_t;

/** Those of one read. */
typedef struct psp_groups_t {
    apr_pool_t *p; /* cleared when they are formed */
    psp_group_t at[PSP_GROUPS];
    int n;
    int left_out; /* there were more groups than fit: read again at once */
    int from;     /* id of the first subscription that was left out */
    apr_uint32_t stamp;
} psp_groups_t;

/** Whether a subscription is to be read for now. */
int psp_groups_wants(const psp_child_t *c, const psp_sub_t *sub);
void psp_groups_make(psp_groups_t *s, apr_pool_t *p);
/** Group all that want to read; each then knows its group's number + 1 (sub->reading). Whoever is done with a group
 * drops its position. */
void psp_groups_form(psp_child_t *c, psp_groups_t *s);
/** As notify_read takes them: JSON, good until they are formed anew. */
const char *psp_groups_write(const psp_groups_t *s);
/** How many members the largest has, 1 at least. */
int psp_groups_largest(const psp_groups_t *s);
/** The place where all are that want to read, NULL when none does; false: they are at several, or one is to be read
 * for by itself. */
int psp_groups_place(const psp_child_t *c, const char **position);

#endif
