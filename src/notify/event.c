/* SPDX-License-Identifier: Apache-2.0 */
/* event.c: events in memory, lists of them, and the table that finds the last one of a key. */
#include "notify/private.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#define BUCKETS 16384

struct psp_lanes_t {
    psp_event_t *buckets[BUCKETS];
};

psp_lanes_t *psp_lanes_make(psp_child_t *c)
{
    return apr_pcalloc(c->p, sizeof(psp_lanes_t));
}

void psp_queue_push(psp_queue_t *q, psp_event_t *e)
{
    e->next = NULL;
    if (q->last) {
        q->last->next = e;
    }
    else {
        q->first = e;
    }
    q->last = e;
    q->count++;
}

void psp_queue_push_front(psp_queue_t *q, psp_event_t *e)
{
    e->next = q->first;
    q->first = e;
    if (!q->last) {
        q->last = e;
    }
    q->count++;
}

psp_event_t *psp_queue_pop(psp_queue_t *q)
{
    psp_event_t *e = q->first;

    if (e) {
        q->first = e->next;
        if (!q->first) {
            q->last = NULL;
        }
        q->count--;
        e->next = NULL;
    }
    return e;
}

/* --- The table of keys --- */

static unsigned hash_key(int id, const char *key)
{
    unsigned hash = 2166136261u ^ (unsigned)id;

    while (*key) {
        hash = (hash ^ (unsigned char)*key++) * 16777619u;
    }
    return hash ^ hash >> 15;
}

psp_event_t *psp_keys_find(const psp_child_t *c, const psp_sub_t *sub, const char *key)
{
    unsigned hash = hash_key(sub->id, key);
    psp_event_t *e = c->lanes->buckets[hash % BUCKETS];

    while (e && (e->hash != hash || e->sub != sub || strcmp(e->key, key) != 0)) {
        e = e->hash_next;
    }
    return e;
}

void psp_keys_insert(psp_child_t *c, psp_event_t *e)
{
    psp_event_t **bucket = &c->lanes->buckets[e->hash % BUCKETS];

    e->hash_next = *bucket;
    e->hashed = 1;
    *bucket = e;
}

void psp_keys_remove(psp_child_t *c, psp_event_t *e)
{
    psp_event_t **at = &c->lanes->buckets[e->hash % BUCKETS];

    if (!e->hashed) {
        return;
    }
    while (*at != e) {
        at = &(*at)->hash_next;
    }
    *at = e->hash_next;
    e->hashed = 0;
}

/* --- Events --- */

psp_news_t psp_news_read(const psp_rows_t *rows, int row, const psp_news_columns_t *at)
{
    const char *id = psp_rows_get(rows, row, at->id);
    const char *barrier = psp_rows_get(rows, row, at->barrier);
    const char *deletes = psp_rows_get(rows, row, at->deletes);
    const char *batch = psp_rows_get(rows, row, at->batch);
    const char *follows = psp_rows_get(rows, row, at->follows);
    const char *hops = psp_rows_get(rows, row, at->hops);

    return (psp_news_t){.id = id ? apr_atoi64(id) : 0,
                        .key = psp_rows_get(rows, row, at->key),
                        .barrier = barrier && *barrier == 't',
                        .body = psp_rows_get(rows, row, at->body),
                        .length = psp_rows_length(rows, row, at->body),
                        .deletes = deletes && *deletes == 't',
                        .request = psp_rows_get(rows, row, at->request),
                        .batch = batch ? apr_atoi64(batch) : 0,
                        .hops = hops ? atoi(hops) : 0,
                        .follows = follows && *follows == 't'};
}

psp_event_t *psp_event_make(psp_child_t *c, psp_sub_t *sub, const psp_news_t *news)
{
    apr_size_t key_size = news->key ? strlen(news->key) + 1 : 0;
    psp_event_t *e = psp_child_alloc(NULL, sizeof *e + key_size + news->length + 1);

    memset(e, 0, sizeof *e);
    e->sub = sub;
    e->id = news->id;
    e->barrier = news->barrier || !news->key;
    e->deletes = news->deletes;
    e->batch = news->batch;
    e->hops = news->hops;
    apr_cpystrn(e->request, news->request ? news->request : "", sizeof e->request);
    if (news->key) {
        e->key = (char *)(e + 1);
        memcpy(e->key, news->key, key_size);
        e->hash = hash_key(sub->id, news->key);
    }
    e->body = (char *)(e + 1) + key_size;
    memcpy(e->body, news->body, news->length);
    e->body[news->length] = '\0';
    e->length = news->length;
    sub->bytes += e->length;
    c->bytes += e->length;
    return e;
}

/* The body of a batch is the array of its events' bodies, in the order of the changes. */
typedef struct part_t {
    const psp_event_t *e;
} part_t;

static int compare_parts(const void *a, const void *b)
{
    apr_int64_t x = ((const part_t *)a)->e->id, y = ((const part_t *)b)->e->id;

    return (x > y) - (x < y);
}

void psp_event_join(psp_child_t *c, psp_event_t *first)
{
    apr_size_t size = 2;
    const psp_event_t *e;
    part_t *parts;
    char *at;
    int n = 0, i = 0;

    psp_event_unjoin(c, first);
    for (e = first; e; e = e->batch_next) {
        size += e->length + 1;
        n++;
    }
    parts = psp_child_alloc(NULL, (apr_size_t)n * sizeof *parts);
    for (e = first; e; e = e->batch_next) {
        parts[i++].e = e;
    }
    qsort(parts, (size_t)n, sizeof *parts, compare_parts);
    at = first->joined = psp_child_alloc(NULL, size);
    first->joined_length = size - 1;
    c->bytes += first->joined_length;
    for (i = 0; i < n; i++) {
        *at++ = i ? ',' : '[';
        memcpy(at, parts[i].e->body, parts[i].e->length);
        at += parts[i].e->length;
    }
    at[0] = ']';
    at[1] = '\0';
    free(parts);
}

void psp_event_unjoin(psp_child_t *c, psp_event_t *e)
{
    if (e->joined) {
        c->bytes -= e->joined_length;
        free(e->joined);
        e->joined = NULL;
    }
}

void psp_event_free(psp_child_t *c, psp_event_t *e)
{
    psp_keys_remove(c, e);
    psp_line_forget(e);
    e->sub->bytes -= e->length;
    c->bytes -= e->length;
    psp_event_unjoin(c, e);
    free(e->error);
    free(e->behind);
    free(e);
}
