/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room offer one another; types.h has what they work on.
 *
 *   supervise.c   the parent: fork, watch, restart
 *   child.c       the process: privileges, signals, event loop, leaving
 *   gate.c        is the database there, and is its schema ours?
 *   records.c     ring -> memory -> pubsubpull.record_requests
 *   renew.c       keeps the leases in the database
 *   batch.c       batches of records, and what they keep in the ring
 *   relief.c      where they go when the database does not take them
 *   spool.c       records on disk while the database does not take them
 *   keys.c        PubSubPullKey -> the database
 *   lease.c       which subscriptions this child serves; their coming and going
 *   give.c        subscriptions that other servers should have
 *   groups.c      which subscriptions are read for together
 *   feed.c        reads changes, for many subscriptions at once, and holds back when they pile up
 *   due.c         fetches parked deliveries whose time has come, probes receivers that are down
 *   event.c       events, lists of them, and the table of their keys
 *   lane.c        one subscription's queue: order per key, barriers
 *   line.c        its parked deliveries that are to be tried again now
 *   place.c       how far a subscription is: positions, pages, what is done beyond the position
 *   send.c        picks what to send next, judges what came back
 *   target.c      the URL of one event
 *   deliver.c     PUT; the only file that knows curl; wire.h names what it is made of
 *   save.c        writes what was achieved to the database
 *   count.c       what the metrics are told of all this
 *   share.c       gives way to others where processors are scarce
 *   keep.c        has the log kept as long as configured, and no longer
 */
#ifndef PSP_NOTIFY_PRIVATE_H
#define PSP_NOTIFY_PRIVATE_H

#include "notify/types.h"

/* --- child.c --- */

/** Be the notifier; does not return. */
void psp_child_run(const psp_start_t *start, apr_pool_t *p) __attribute__((noreturn));

/** Monotonic microseconds. */
apr_int64_t psp_mono(void);

/** Turn the loop again at that time at the latest. */
void psp_child_want(psp_child_t *c, apr_int64_t when);

/** Turn the loop again at once: an answer of the database came, which others may act on. */
void psp_child_again(psp_child_t *c);

apr_uint32_t psp_child_random(psp_child_t *c);

/** realloc; when there is no memory the process ends, to be restarted: nothing is lost by that. */
void *psp_child_alloc(void *old, apr_size_t size);

/* --- gate.c --- */

psp_gate_t *psp_gate_make(psp_child_t *c);
void psp_gate_step(psp_child_t *c);
/** The database is there and speaks our version. */
int psp_gate_open(const psp_child_t *c);
/** It is away, and the log says so. */
int psp_gate_away(const psp_child_t *c);
/** A call failed that should not: look at the schema again before the next. */
void psp_gate_doubt(psp_child_t *c);
/** The latest trouble in the database's words, for the log only. */
const char *psp_gate_cause(const psp_child_t *c);

/* --- records.c --- */

psp_records_t *psp_records_make(psp_child_t *c);
void psp_records_step(psp_child_t *c);
/** The pipe by which workers wake the child was readable. */
void psp_records_woken(psp_child_t *c);
/** Everything that was taken from the ring is in the database. */
int psp_records_clean(const psp_child_t *c);
/** There is something in the ring. */
int psp_records_waiting(const psp_child_t *c);
/** Leave what could not be written to the next child, or say how much is lost if there will be none. */
void psp_records_leave(psp_child_t *c, int ending);
/** What is not in the database can be put on the disk. */
int psp_records_spooling(const psp_child_t *c);

/* --- spool.c --- */

/** In the parent: make the directory, if need be, for the user that the child will be. */
apr_status_t psp_spool_prepare(const char *path);
/** Never NULL; without PubSubPullSpool, or when that cannot be used, it is empty and has no room. */
psp_spool_t *psp_spool_make(psp_child_t *c);
int psp_spool_empty(const psp_spool_t *s);
int psp_spool_room(const psp_spool_t *s, apr_size_t length);
/** Append whole lines; 0 when there is no room or the disk fails. */
int psp_spool_append(psp_spool_t *s, const char *lines, apr_size_t length);
/** Whole lines, the oldest that are not confirmed, at most so many; 0: none. */
apr_size_t psp_spool_read(psp_spool_t *s, char *buffer, apr_size_t room, int most);
/** What was read last is in the database. */
void psp_spool_done(psp_spool_t *s);
/** Force what was appended to the disk: now, or when it is time. */
void psp_spool_sync(psp_spool_t *s);
void psp_spool_step(psp_child_t *c, psp_spool_t *s);

/* --- renew.c --- */

psp_renew_t *psp_renew_make(psp_child_t *c, const char *previous);
void psp_renew_step(psp_child_t *c);
/** Ask at once, not at the next second. */
void psp_renew_ask(psp_child_t *c);
/** Ask for nothing for a moment. */
void psp_renew_pause(psp_child_t *c);
/** The leases are fresh enough to send something. */
int psp_renew_valid(const psp_child_t *c);
/** This child is leaving. */
void psp_renew_leave(psp_child_t *c);

/* --- keys.c --- */

psp_keys_t *psp_keys_make(psp_child_t *c, const char *previous);
void psp_keys_step(psp_child_t *c);

/* --- lease.c --- */

psp_leases_t *psp_leases_make(psp_child_t *c);
psp_sub_t *psp_leases_first(const psp_child_t *c);
psp_sub_t *psp_leases_find(const psp_child_t *c, int id);
/** How many of them follow API calls. */
int psp_leases_calls(const psp_child_t *c);
/** What pubsubpull.notify_lease returned. */
void psp_leases_take(psp_child_t *c, const psp_rows_t *rows);
/** Stop serving it; what is on the wire may end and, unless lost, is saved. */
void psp_leases_stop(psp_child_t *c, psp_sub_t *sub, int lost);
/** Forget those that were stopped and have nothing left to finish. */
void psp_leases_sweep(psp_child_t *c);
/** Something went wrong beyond repair: forget all subscriptions and start over from the database. */
void psp_leases_restart(psp_child_t *c);

/* --- give.c --- */

psp_give_t *psp_give_make(psp_child_t *c);
/** Leave that many for others, or a part of them. */
void psp_give_some(psp_child_t *c, apr_int64_t count);
/** A subscription is about to be freed; perhaps it was left for others. */
void psp_give_left(psp_child_t *c, const psp_sub_t *sub);
/** Tell the database of those that are left. */
void psp_give_send(psp_child_t *c);

/* --- feed.c --- */

psp_feed_t *psp_feed_make(psp_child_t *c);
void psp_feed_step(psp_child_t *c);
/** There may be something new. */
void psp_feed_wake(psp_child_t *c);
/** A subscription can read again that could not. */
void psp_feed_unhold(psp_child_t *c, psp_sub_t *sub);
int psp_feed_reading(const psp_child_t *c);

/* --- due.c --- */

psp_due_t *psp_due_make(psp_child_t *c);
void psp_due_step(psp_child_t *c);
/** A parked delivery got its turn. */
void psp_due_wake(psp_child_t *c);

/* --- event.c --- */

psp_lanes_t *psp_lanes_make(psp_child_t *c);
/** What a row says; its texts live as long as the rows do. */
psp_news_t psp_news_read(const psp_rows_t *rows, int row, const psp_news_columns_t *at);
psp_event_t *psp_event_make(psp_child_t *c, psp_sub_t *sub, const psp_news_t *news);
void psp_event_free(psp_child_t *c, psp_event_t *e);
/** Make the body of a batch, of which this is the first; it is kept there. */
void psp_event_join(psp_child_t *c, psp_event_t *first);
/** Free that body. */
void psp_event_unjoin(psp_child_t *c, psp_event_t *e);
void psp_queue_push(psp_queue_t *q, psp_event_t *e);
void psp_queue_push_front(psp_queue_t *q, psp_event_t *e);
psp_event_t *psp_queue_pop(psp_queue_t *q);
/** The last event of a key, or NULL. */
psp_event_t *psp_keys_find(const psp_child_t *c, const psp_sub_t *sub, const char *key);
void psp_keys_insert(psp_child_t *c, psp_event_t *e);
/** No harm when it is not in the table. */
void psp_keys_remove(psp_child_t *c, psp_event_t *e);

/* --- lane.c --- */

/** Queue an event that was just read. */
void psp_lane_push(psp_child_t *c, psp_sub_t *sub, psp_page_t *page, const psp_news_t *news);
/** Take what goes into the next PUT: an event, or several linked by batch_next; they count as one flying from
 * now on. The queue must not be empty. */
psp_event_t *psp_lane_take(psp_child_t *c, psp_sub_t *sub, int due);
/** It could not even be tried: put it, and its batch, back where it was taken from. */
void psp_lane_return(psp_child_t *c, psp_event_t *e);
/** It arrived. The event and its batch are gone afterwards. */
void psp_lane_succeeded(psp_child_t *c, psp_event_t *e);
/** It did not; status, error, delay and gone are set, also in the others of its batch. They go to save.c. */
void psp_lane_failed(psp_child_t *c, psp_event_t *e);
/** The failure is in the database; the event is gone afterwards. */
void psp_lane_parked(psp_child_t *c, psp_event_t *e);
/** Forget all that is not on the wire and not waiting to be saved. */
void psp_lane_drop(psp_child_t *c, psp_sub_t *sub);

/* --- line.c --- */

/** Queue a parked delivery, to be started soon or not at all. */
void psp_line_push(psp_child_t *c, psp_sub_t *sub, const psp_news_t *news, int attempts,
                   apr_int64_t expires);
/** Drop parked deliveries whose time to start has passed. */
void psp_line_expire(psp_child_t *c, psp_sub_t *sub);
/** Barriers, and what is in line behind one, shall not go now. */
void psp_line_drop(psp_child_t *c, psp_sub_t *sub);
/** There is one to be sent now. */
int psp_line_ready(const psp_sub_t *sub);
/** Take it, and its batch; there must be one. */
psp_event_t *psp_line_take(psp_sub_t *sub);
/** An event is about to be freed. */
void psp_line_forget(psp_event_t *e);

/* --- place.c --- */

psp_pos_t *psp_pos_make(const char *text);
psp_pos_t *psp_pos_share(psp_pos_t *pos);
void psp_pos_drop(psp_pos_t *pos);
/** Take over what the lease said. done: comma-joined ids. */
void psp_place_begin(psp_sub_t *sub, psp_pos_t *pos, const char *done);
/** The page for what is being read from sub->pos. */
psp_page_t *psp_place_page(psp_sub_t *sub);
/** True when the change was finished by an earlier holder of the lease; it is counted as done then. */
int psp_place_skip(psp_sub_t *sub, psp_page_t *page, apr_int64_t id);
/** The database has parked it, or knows that it was finished: nothing is to be done but to remember that. */
void psp_place_settled(psp_sub_t *sub, psp_page_t *page, apr_int64_t id);
/** An event of a page is delivered, or parked as far as the position is concerned. */
void psp_place_done(psp_sub_t *sub, psp_page_t *page, apr_int64_t id);
/** All of a read was seen: the subscription is at pos now. */
void psp_place_move(psp_sub_t *sub, psp_pos_t *pos, int more);
/** Free pages that are finished. */
void psp_place_settle(psp_sub_t *sub);
void psp_place_end(psp_sub_t *sub);
struct psp_json_t;
/** Append {"subscription":…,"epoch":…,"position":…,"done":[…]}. */
void psp_place_write(const psp_sub_t *sub, struct psp_json_t *j);

/* --- send.c --- */

#define PSP_PUT_KEPT 2048 /* bytes of an answer's body that are kept */

typedef enum {
    PSP_PUT_ANSWERED, /* status is set */
    PSP_PUT_FAILED,   /* error says why */
    PSP_PUT_LOST,     /* a connection that others had made and used broke: it may be their fault */
    PSP_PUT_LOCAL     /* our own fault, e.g. no more sockets: not the receiver's failure */
} psp_put_outcome_t;

/** Valid during the callback. */
typedef struct psp_put_result_t {
    psp_put_outcome_t outcome;
    psp_counter_t failure; /* of a failed try: counts as this */
    int status;
    int retry_after;   /* seconds the receiver asked for, 0: none */
    const char *error; /* of a failed try, or the beginning of the answer's body */
} psp_put_result_t;

psp_sender_t *psp_sender_make(psp_child_t *c);
/** A request is over, in whatever way. */
void psp_sender_done(psp_child_t *c, psp_event_t *e, const psp_put_result_t *result);
/** Send what can be sent. */
void psp_sender_step(psp_child_t *c);
/** The subscription may have something to send. */
void psp_sender_turn(psp_child_t *c, psp_sub_t *sub);
/** It is about to be freed. */
void psp_sender_forget(psp_child_t *c, psp_sub_t *sub);

/* --- target.c --- */

/** The URL of an event, checked; NULL with *error set. Valid until p is cleared. */
const char *psp_target(apr_pool_t *p, const psp_sub_t *sub, const char *key, const char **error);

/* --- deliver.c --- */

psp_deliver_t *psp_deliver_make(psp_child_t *c);
/** Start a PUT; psp_sender_done is called later, never from within. The event stays where it is until then. */
apr_status_t psp_deliver_put(psp_deliver_t *d, psp_event_t *e, const char *url);
/** Go on where sockets are ready. */
void psp_deliver_step(psp_deliver_t *d);
/** Put on the wire what was started since; returns how many requests were answered at once. */
int psp_deliver_kick(psp_deliver_t *d);

/* --- save.c --- */

psp_saver_t *psp_saver_make(psp_child_t *c);
void psp_saver_step(psp_child_t *c);
/** The subscription's position or done list changed. */
void psp_saver_dirty(psp_child_t *c, psp_sub_t *sub);
/** Only its position moved: saved when there is time. */
void psp_saver_moved(psp_child_t *c, psp_sub_t *sub);
/** A failure, or success of a parked delivery, to save; takes the event. */
void psp_saver_add(psp_child_t *c, psp_event_t *e);
/** A lost or freed subscription has nothing to save. */
void psp_saver_forget(psp_child_t *c, psp_sub_t *sub);
/** Failures are not in the database yet: nothing may be read. */
int psp_saver_owes(const psp_child_t *c);
/** Nothing is waiting to be saved, positions that moved included. */
int psp_saver_clean(const psp_child_t *c);

/* --- count.c --- */

/** An event was given up, for its cause is too deep in a chain of requests that cause one another. */
void psp_count_stopped(psp_child_t *c, const psp_sub_t *sub, const char *request, int hops);
/** A request for an event, and its batch, is over. */
void psp_count_result(const psp_event_t *e, const psp_put_result_t *result);
/** Once per turn of the loop: how the child is doing. */
void psp_count_turn(psp_child_t *c);
/** The parent: a notifier was started. */
void psp_count_started(pid_t pid);
/** The parent: it died. */
void psp_count_died(void);

/* --- share.c --- */

/** While privileges last, and in a session of its own. */
void psp_share_begin(void);
psp_share_t *psp_share_make(psp_child_t *c);
/** Before the feed's step. */
void psp_share_step(psp_child_t *c);
/** The highest id that anybody drew for a change. */
void psp_share_made(psp_child_t *c, apr_int64_t id);
/** Processors are scarce: nothing is to be done more often than need be. */
int psp_share_holds(const psp_child_t *c);
/** It gets much, and that has to wait a little. */
int psp_share_rests(const psp_child_t *c, const psp_sub_t *sub);
/** Changes are read now for some that get much. */
void psp_share_read(psp_child_t *c);

/* --- keep.c --- */

psp_keep_t *psp_keep_make(psp_child_t *c);
void psp_keep_step(psp_child_t *c);

#endif
