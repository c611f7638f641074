/* SPDX-License-Identifier: Apache-2.0 */
/* batch.c: batches of records: their text, their lists, and what they keep in the ring. */
#include "notify/batch.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

psp_batch_t *psp_batch_make(apr_int64_t now)
{
    psp_batch_t *b = psp_child_alloc(NULL, sizeof *b);

    memset(b, 0, sizeof *b);
    b->single = -1;
    b->since = now;
    return b;
}

void psp_batch_add(psp_batch_t *b, const char *record, apr_size_t length, const char *members,
                   apr_size_t more)
{
    if (b->length + length + more + 2 > b->room) {
        b->room = 2 * (b->length + length + more + 2);
        b->text = psp_child_alloc(b->text, b->room);
    }
    b->text[b->length++] = b->count ? ',' : '[';
    b->starts[b->count++] = b->length;
    memcpy(b->text + b->length, record, length);
    memcpy(b->text + b->length + length, members, more);
    b->length += length + more;
}

void psp_batch_free(psp_batch_t *b)
{
    free(b->text);
    free(b);
}

static void oldest(const psp_batch_t *b, apr_uint64_t *from)
{
    if (b && b->keeper == PSP_IN_RING && b->from < *from) {
        *from = b->from;
    }
}

void psp_records_free_ring(psp_records_t *r)
{
    apr_uint64_t upto = r->at;
    const psp_batch_t *b;

    for (b = r->first; b; b = b->next) {
        oldest(b, &upto);
    }
    for (b = r->reads; b; b = b->next) {
        oldest(b, &upto);
    }
    for (b = r->asked; b; b = b->next) {
        oldest(b, &upto);
    }
    psp_ring_free(r->ring, upto);
}

void psp_records_push(psp_records_t *r, psp_batch_t *b)
{
    if (r->last) {
        r->last->next = b;
    }
    else {
        r->first = b;
    }
    r->last = b;
    r->bytes += b->length;
}

void psp_records_close(psp_records_t *r, const psp_batch_t *b)
{
    if (b == r->open[b->reads]) {
        r->open[b->reads] = NULL;
    }
}

void psp_batch_forget(psp_records_t *r, psp_batch_t *b)
{
    if (b->keeper == PSP_IN_MEMORY) {
        psp_count(PSP_GAUGE_RECORDS_HELD, -b->count);
    }
    psp_records_close(r, b);
    psp_batch_free(b);
    psp_records_free_ring(r);
}

void psp_records_push_all(psp_records_t *r, psp_batch_t **list)
{
    while (*list) {
        psp_batch_t *b = *list;

        *list = b->next;
        b->next = NULL;
        psp_records_push(r, b);
    }
}

const char *psp_batch_text(psp_batch_t *b, apr_pool_t *p)
{
    apr_size_t start, end;

    if (b->single < 0) {
        b->text[b->length] = ']';
        return apr_pstrmemdup(p, b->text, b->length + 1);
    }
    start = b->starts[b->single];
    end = b->single + 1 < b->count ? b->starts[b->single + 1] - 1 : b->length;
    return apr_pstrcat(p, "[", apr_pstrmemdup(p, b->text + start, end - start), "]", NULL);
}
