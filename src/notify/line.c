/* SPDX-License-Identifier: Apache-2.0 */
/* line.c: parked deliveries in memory, which the database returned for another try.
 *
 *   due    those that have their turn, each by itself
 *   line   a barrier that has its turn, and those right behind it in the order of the database, without a gap: each
 *          goes when those before it have arrived, as far as it has to wait for them
 *
 * Of the line the database has given only the first its turn. So it is not asked again before the line is
 * through, and what it returns that is still on the wire or not saved is not taken twice. When one fails the others are
 * forgotten: the database has them.
 */
#include "notify/private.h"

#include <string.h>

/* It is here already. */
static int known(const psp_sub_t *sub, apr_int64_t id)
{
    const psp_event_t *e = sub->parked_here;

    while (e && e->id != id) {
        e = e->here_next;
    }
    return e != NULL;
}

/* What is in memory of its key came before it. Of a barrier the database knows soon. */
static int too_early(const psp_child_t *c, const psp_sub_t *sub, const psp_news_t *news)
{
    return news->batch     ? 0
           : news->barrier ? sub->failed != NULL
                           : news->key && psp_keys_find(c, sub, news->key) != NULL;
}

static psp_event_t *make(psp_child_t *c, psp_sub_t *sub, const psp_news_t *news)
{
    psp_event_t *e = psp_event_make(c, sub, news);

    e->here = 1;
    e->here_next = sub->parked_here;
    if (e->here_next) {
        e->here_next->here_previous = e;
    }
    sub->parked_here = e;
    return e;
}

void psp_line_forget(psp_event_t *e)
{
    if (!e->here) {
        return;
    }
    if (e->here_next) {
        e->here_next->here_previous = e->here_previous;
    }
    if (e->here_previous) {
        e->here_previous->here_next = e->here_next;
    }
    else {
        e->sub->parked_here = e->here_next;
    }
}

void psp_line_push(psp_child_t *c, psp_sub_t *sub, const psp_news_t *news, int attempts,
                   apr_int64_t expires)
{
    int lined = news->barrier || news->follows;
    psp_event_t *e;

    if (news->follows && sub->line_ends) {
        return; /* nor was one before it taken */
    }
    sub->line_ends = lined ? 1 : sub->line_ends;
    if (too_early(c, sub, news) || known(sub, news->id)) {
        return; /* the database returns it again */
    }
    sub->line_ends = lined ? 0 : sub->line_ends;
    e = make(c, sub, news);
    e->attempts = attempts;
    e->expires = expires;
    e->state = PSP_EVENT_READY;
    e->lined = lined;
    psp_queue_push(e->lined ? &sub->line : &sub->due, e);
    psp_sender_turn(c, sub);
}

void psp_line_drop(psp_child_t *c, psp_sub_t *sub)
{
    psp_event_t *e;

    while ((e = psp_queue_pop(&sub->line)) != NULL) {
        psp_event_free(c, e);
    }
}

void psp_line_expire(psp_child_t *c, psp_sub_t *sub)
{
    while (sub->due.first && sub->due.first->expires <= c->now) {
        psp_event_free(c, psp_queue_pop(&sub->due));
    }
    if (sub->line.first && sub->line.first->expires <= c->now) {
        psp_line_drop(c, sub);
    }
}

/* The first of the line may go. */
static int lined_up(const psp_sub_t *sub)
{
    const psp_event_t *first = sub->line.first, *e;

    if (!first || !sub->flying_line) {
        return first && (!first->barrier || !sub->admitted);
    }
    if (first->barrier) {
        return 0;
    }
    for (e = sub->parked_here; e; e = e->here_next) {
        if (e->state == PSP_EVENT_FLYING && e->lined &&
            (e->barrier || strcmp(e->key, first->key) == 0)) {
            return 0;
        }
    }
    return 1;
}

int psp_line_ready(const psp_sub_t *sub)
{
    return sub->due.first || lined_up(sub);
}

psp_event_t *psp_line_take(psp_sub_t *sub)
{
    int lined = !sub->due.first;
    psp_event_t *first = psp_queue_pop(lined ? &sub->line : &sub->due), *last = first;

    sub->flying_line += lined;
    while (first->batch && sub->due.first && sub->due.first->batch == first->batch) {
        last->batch_next = psp_queue_pop(&sub->due); /* those that go together came together */
        last = last->batch_next;
        last->state = PSP_EVENT_FLYING;
    }
    return first;
}
