/* SPDX-License-Identifier: Apache-2.0 */
/* lane.c: one subscription's queue: events of one key follow each other, barriers stand alone.
 *
 *   ready     the first event of each key; may be sent
 *   chained   later events of those keys, reached by key_next from the one before
 *   waiting   a barrier that cannot start yet, and everything read after it
 *
 * What is taken from ready may be a batch: several events in one PUT, linked by batch_next. They fly, arrive
 * and fail together, and are saved each by itself.
 *
 * The table of keys holds the last event of each key that is ready, chained, on the wire, or failed
 * and not saved yet. What follows a failed event does not wait in memory: it goes to the database
 * together with the failure.
 */
#include "notify/private.h"

/* --- Queueing --- */

static void admit(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;
    psp_event_t *last = e->barrier ? NULL : psp_keys_find(c, sub, e->key);

    sub->admitted++;
    if (e->barrier) {
        sub->alone = 1;
    }
    else {
        if (last) {
            psp_keys_remove(c, last);
        }
        psp_keys_insert(c, e);
    }
    if (last) {
        last->key_next = e;
        e->state = PSP_EVENT_CHAINED;
        return;
    }
    e->state = PSP_EVENT_READY;
    psp_queue_push(&sub->ready, e);
    psp_sender_turn(c, sub);
}

/* Move on what waited for a barrier, or for its turn as one. */
static void advance(psp_child_t *c, psp_sub_t *sub)
{
    while (sub->waiting.first && !sub->alone && (!sub->waiting.first->barrier || !sub->admitted)) {
        admit(c, psp_queue_pop(&sub->waiting));
    }
}

static void put_behind(psp_event_t *failed, apr_int64_t id)
{
    if (failed->nbehind == failed->behind_room) {
        failed->behind_room = failed->behind_room ? 2 * failed->behind_room : 8;
        failed->behind = psp_child_alloc(failed->behind,
                                         (apr_size_t)failed->behind_room * sizeof *failed->behind);
    }
    failed->behind[failed->nbehind++] = id;
}

/* The failure that a new event has to stay behind, or NULL. */
static psp_event_t *obstacle(const psp_child_t *c, psp_sub_t *sub, const psp_news_t *news)
{
    psp_event_t *last;

    if (sub->wall) {
        return sub->wall;
    }
    if (news->barrier || !news->key) {
        sub->wall = sub->failed;
        return sub->wall;
    }
    last = psp_keys_find(c, sub, news->key);
    return last && last->state == PSP_EVENT_FAILED ? last : NULL;
}

void psp_lane_push(psp_child_t *c, psp_sub_t *sub, psp_page_t *page, const psp_news_t *news)
{
    psp_event_t *failed = obstacle(c, sub, news);
    psp_event_t *e;

    page->unfinished++;
    if (failed) {
        put_behind(failed, news->id);
        psp_place_done(sub, page, news->id);
        return;
    }
    e = psp_event_make(c, sub, news);
    e->page = page;
    sub->queued++;
    e->state = PSP_EVENT_WAITING;
    psp_queue_push(&sub->waiting, e);
    advance(c, sub);
}

/* An event leaves the queue for good. */
static void leave(psp_event_t *e)
{
    e->sub->queued--;
    e->sub->admitted--;
    if (e->barrier) {
        e->sub->alone = 0;
    }
}

/* Where only the latest counts: the last event of the chain, the others are done. */
static psp_event_t *newest(psp_child_t *c, psp_event_t *e)
{
    while (e->sub->latest && e->key_next) {
        psp_event_t *later = e->key_next;

        leave(e);
        psp_place_done(e->sub, e->page, e->id);
        psp_saver_dirty(c, e->sub);
        psp_event_free(c, e);
        e = later;
    }
    return e;
}

/* Fill a batch: what follows of the same key, then the next key, while there is room. */
static void take_more(psp_child_t *c, psp_event_t *first)
{
    psp_sub_t *sub = first->sub;
    psp_event_t *last = first;
    apr_size_t bytes = first->length;
    int n;

    for (n = 1; n < sub->batch && !last->barrier; n++) {
        psp_event_t *e = last->key_next;
        int chained = e != NULL;

        if (!e && sub->ready.first) {
            e = psp_queue_pop(&sub->ready);
            e = newest(c, e);
        }
        if (!e) {
            return;
        }
        if ((bytes += e->length) > PSP_BATCH_BYTES) {
            if (!chained) {
                e->state = PSP_EVENT_READY;
                psp_queue_push_front(&sub->ready, e);
            }
            return;
        }
        last->key_next = NULL;
        e->behind_other = chained;
        e->state = PSP_EVENT_FLYING;
        last->batch_next = e;
        last = e;
    }
}

psp_event_t *psp_lane_take(psp_child_t *c, psp_sub_t *sub, int due)
{
    psp_event_t *e = due ? psp_line_take(sub) : newest(c, psp_queue_pop(&sub->ready));

    e->state = PSP_EVENT_FLYING;
    if (!due && sub->batch > 1) {
        take_more(c, e);
    }
    sub->flying++;
    sub->flying_due += due;
    c->flying++;
    return e;
}

/* --- What came of it --- */

static void landed(psp_child_t *c, psp_event_t *e)
{
    e->sub->flying--;
    e->sub->flying_due -= e->page == NULL;
    e->sub->flying_line -= e->lined;
    c->flying--;
    psp_event_unjoin(c, e);
}

/* Let go of what is chained behind an event of a subscription that is not served any more. */
static void drop_chain(psp_child_t *c, psp_event_t *e)
{
    psp_event_t *later = e->key_next;

    e->key_next = NULL;
    while (later) {
        psp_event_t *next = later->key_next;

        leave(later);
        psp_event_free(c, later);
        later = next;
    }
}

static void relax(psp_child_t *c, psp_sub_t *sub)
{
    if (sub->held && sub->queued < sub->room / 4 * 3 && sub->bytes < PSP_LANE_BYTES / 2 &&
        sub->ndone < PSP_LANE_DONE / 2) {
        sub->held = 0;
        psp_feed_unhold(c, sub);
    }
}

/* From the last to the first, so that all stand as before. */
static void put_back(psp_event_t *e)
{
    psp_event_t *later = e->batch_next;

    if (later) {
        put_back(later);
        e->batch_next = NULL;
        if (later->behind_other) {
            e->key_next = later;
            later->behind_other = 0;
            later->state = PSP_EVENT_CHAINED;
        }
    }
    if (!e->behind_other) {
        e->state = PSP_EVENT_READY;
        psp_queue_push_front(e->page ? &e->sub->ready : e->lined ? &e->sub->line : &e->sub->due, e);
    }
}

void psp_lane_return(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;

    landed(c, e);
    if (sub->state == PSP_SUB_ACTIVE) {
        put_back(e);
        return;
    }
    while (e) {
        psp_event_t *later = e->batch_next;

        drop_chain(c, e);
        if (e->page) {
            leave(e);
        }
        psp_event_free(c, e);
        e = later;
    }
}

static void succeed(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;

    if (!e->page) {
        e->state = PSP_EVENT_SENT;
        psp_saver_add(c, e);
        return;
    }
    leave(e);
    psp_place_done(sub, e->page, e->id);
    psp_saver_dirty(c, sub);
    if (sub->state != PSP_SUB_ACTIVE) {
        drop_chain(c, e);
    }
    else if (e->key_next) {
        e->key_next->state = PSP_EVENT_READY;
        psp_queue_push(&sub->ready, e->key_next);
    }
    psp_event_free(c, e);
}

/* What came of a PUT comes of each event that was in it. */
static void settle(psp_child_t *c, psp_event_t *e, void (*each)(psp_child_t *, psp_event_t *))
{
    landed(c, e);
    while (e) {
        psp_event_t *later = e->batch_next;

        e->batch_next = NULL;
        each(c, e);
        e = later;
    }
}

void psp_lane_succeeded(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;
    int fresh = e->page != NULL;

    settle(c, e, succeed);
    if (fresh) {
        advance(c, sub);
        relax(c, sub);
    }
}

/* Everything that has to come later goes to the database behind the failed event. */
static void gather(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;
    psp_event_t *later;

    while ((later = e->key_next) != NULL) {
        e->key_next = later->key_next;
        leave(later);
        put_behind(e, later->id);
        psp_place_done(sub, later->page, later->id);
        psp_event_free(c, later);
    }
    if (e->barrier || sub->waiting.first) {
        sub->wall = e; /* it is a barrier, or there is one that may not overtake it */
    }
    while ((later = psp_queue_pop(&sub->waiting)) != NULL) {
        sub->queued--;
        put_behind(e, later->id);
        psp_place_done(sub, later->page, later->id);
        psp_event_free(c, later);
    }
}

static void fail(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;

    e->state = PSP_EVENT_FAILED;
    if (!e->page) {
        if (e->lined) {
            psp_line_drop(c, sub);
        }
        psp_saver_add(c, e);
        return;
    }
    leave(e);
    if (sub->state == PSP_SUB_ACTIVE) {
        gather(c, e);
        psp_line_drop(c, sub); /* nothing before them was parked: now there is something */
    }
    else {
        drop_chain(c, e);
    }
    psp_place_done(sub, e->page, e->id);
    if (!e->barrier && !e->hashed) {
        psp_keys_insert(c, e);
    }
    sub->failed = e;
    psp_saver_dirty(c, sub);
    psp_saver_add(c, e);
}

void psp_lane_failed(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;
    int fresh = e->page != NULL;

    settle(c, e, fail);
    if (fresh) {
        relax(c, sub);
    }
}

void psp_lane_parked(psp_child_t *c, psp_event_t *e)
{
    psp_sub_t *sub = e->sub;

    if (sub->wall == e) {
        sub->wall = NULL;
    }
    if (sub->failed == e) {
        sub->failed = NULL;
    }
    if (e->page) {
        sub->parked += 1 + e->nbehind;
    }
    psp_event_free(c, e);
}

void psp_lane_drop(psp_child_t *c, psp_sub_t *sub)
{
    psp_event_t *e;

    while ((e = psp_queue_pop(&sub->ready)) != NULL) {
        drop_chain(c, e);
        leave(e);
        psp_event_free(c, e);
    }
    while ((e = psp_queue_pop(&sub->waiting)) != NULL) {
        sub->queued--;
        psp_event_free(c, e);
    }
    while ((e = psp_queue_pop(&sub->due)) != NULL) {
        psp_event_free(c, e);
    }
    psp_line_drop(c, sub);
}
