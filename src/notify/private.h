/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room share: the child, its subscriptions, events and pages.
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

#include <httpd.h>

#include "config/config.h"
#include "core/counters.h"
#include "core/uuid.h"
#include "db/db.h"

/* Bounds. A subscription that is above one of them reads no further until it is well below. */
#define PSP_PAGE_EVENTS 500               /* most changes of one read, per group */
#define PSP_LANE_EVENTS 512               /* waiting or in flight, per subscription */
#define PSP_LANE_BYTES (8 * 1024 * 1024)  /* of bodies, per subscription */
#define PSP_BATCH_BYTES (4 * 1024 * 1024) /* of bodies in one PUT, but one event at least */
#define PSP_LANE_DONE 20000               /* finished beyond the saved position, per subscription */
#define PSP_TOTAL_BYTES (48 * 1024 * 1024) /* of bodies, all together */

/* One time-out for all calls of a session: a change of it costs a round trip. */
#define PSP_DB_TIMEOUT apr_time_from_sec(30)
#define PSP_RECORDS_TIMEOUT apr_time_from_sec(5)

typedef struct psp_child_t psp_child_t;
typedef struct psp_sub_t psp_sub_t;
typedef struct psp_event_t psp_event_t;
typedef struct psp_page_t psp_page_t;
typedef struct psp_gate_t psp_gate_t;
typedef struct psp_records_t psp_records_t;
typedef struct psp_spool_t psp_spool_t;
typedef struct psp_keys_t psp_keys_t;
typedef struct psp_leases_t psp_leases_t;
typedef struct psp_renew_t psp_renew_t;
typedef struct psp_give_t psp_give_t;
typedef struct psp_feed_t psp_feed_t;
typedef struct psp_due_t psp_due_t;
typedef struct psp_lanes_t psp_lanes_t;
typedef struct psp_sender_t psp_sender_t;
typedef struct psp_saver_t psp_saver_t;
typedef struct psp_sockets_t psp_sockets_t;
typedef struct psp_deliver_t psp_deliver_t;
typedef struct psp_keep_t psp_keep_t;
typedef struct psp_share_t psp_share_t;

/** What the parent tells a child that it starts. */
typedef struct psp_start_t {
    server_rec *server;
    pid_t parent;
    apr_interval_time_t delay;          /* wait so long before anything else */
    char id[PSP_UUID_LENGTH + 1];       /* of this child, holder of leases */
    char previous[PSP_UUID_LENGTH + 1]; /* of the child before it, or "" */
} psp_start_t;

/** The child process: one thread, one loop. Owned by itself, never torn down: the process ends. */
struct psp_child_t {
    apr_pool_t *p;
    server_rec *server;
    const psp_server_config_t *config;
    const char *id;
    int stopping;        /* SIGTERM came: finish what can be finished at once */
    apr_int64_t now;     /* monotonic microseconds, taken once per turn of the loop */
    apr_int64_t next;    /* when the loop has to turn at the latest */
    apr_uint32_t random; /* state of psp_child_random() */

    apr_size_t bytes; /* bodies in memory */
    int flying;       /* requests on the wire */

    psp_session_t *db;         /* feed and results */
    psp_session_t *records_db; /* request records and leases: short calls only */
    psp_gate_t *gate;
    psp_records_t *records;
    psp_renew_t *renew;
    psp_keys_t *keys;
    psp_leases_t *leases;
    psp_give_t *give;
    psp_feed_t *feed;
    psp_due_t *due;
    psp_lanes_t *lanes;
    psp_sender_t *sender;
    psp_saver_t *saver;
    psp_sockets_t *sockets;
    psp_deliver_t *deliver;

    apr_uint32_t reconnects; /* count.c: as far as counted */
    psp_keep_t *keep;
    psp_share_t *share;
};

/** A position in the feed as the database wrote it; shared by all who are there. Counted, malloc'ed. */
typedef struct psp_pos_t {
    int refs;
    int group;          /* scratch of feed.c: index in the read that is being made */
    apr_uint32_t stamp; /* scratch of feed.c: the read that group belongs to */
    char text[];
} psp_pos_t;

/** One read's share for one subscription. Owned by the subscription; freed when it is the oldest and all is done. */
struct psp_page_t {
    psp_page_t *next;
    psp_pos_t *before; /* reading from here gives all of this page again */
    int unfinished;
    int ndone, room;
    apr_int64_t *done; /* ids delivered or parked */
};

typedef enum {
    PSP_EVENT_WAITING, /* behind a barrier, in sub->waiting */
    PSP_EVENT_CHAINED, /* behind an earlier event of its key */
    PSP_EVENT_READY,   /* may be sent: in sub->ready, sub->due or sub->line */
    PSP_EVENT_FLYING,  /* on the wire */
    PSP_EVENT_FAILED,  /* its failure is not saved yet; takes in what comes behind it */
    PSP_EVENT_SENT     /* a parked delivery that succeeded, not saved yet */
} psp_event_state_t;

/** One notification as the database returned it. */
typedef struct psp_news_t {
    apr_int64_t id; /* of the change */
    const char *key;
    int barrier;
    const char *body; /* NULL: nothing is to be sent */
    apr_size_t length;
    int deletes;         /* to be made with DELETE, without a body */
    const char *request; /* id of the request that caused it, or NULL */
    apr_int64_t batch;   /* a parked one: which it failed with in one PUT; 0: none */
    int hops;            /* requests that caused one another before that request */
    int follows;         /* a parked one: has its turn when what was returned before it arrived */
} psp_news_t;

/** Which column of an answer holds what. */
typedef struct psp_news_columns_t {
    int id, key, barrier, body, deletes, request, hops;
    int batch, follows; /* -1: none does */
} psp_news_columns_t;

/** One notification. malloc'ed in one piece with key and body; owned by whatever list it is in. */
struct psp_event_t {
    psp_event_t *next;       /* in that list */
    psp_event_t *key_next;   /* the following event of the same key */
    psp_event_t *hash_next;  /* lanes' table of keys holds the last event of each */
    psp_event_t *batch_next; /* the following event of the same PUT, in the order they were taken */
    psp_sub_t *sub;
    psp_page_t *page; /* NULL: a parked delivery */
    apr_int64_t id;   /* of the change */
    unsigned hash;
    int hashed;
    psp_event_state_t state;
    int deletes;       /* made with DELETE */
    int behind_other;  /* taken into a batch right behind the one before it, of the same key */
    apr_int64_t batch; /* parked, or to be parked: the first of its batch; 0: alone */
    char *joined;      /* first of a batch: the body of the PUT, malloc'ed */
    apr_size_t joined_length;
    char request[PSP_UUID_LENGTH + 1]; /* what caused it, or "" */
    int hops;                          /* requests that caused one another before that */
    int attempts;                      /* failed so far */
    int lost;                          /* once its connection broke under others' requests */
    int here, lined;                   /* line.c: a parked one; of the line */
    psp_event_t *here_next, *here_previous;
    int barrier; /* everything before it has to be finished, and nothing after it starts */
    char *key;   /* NULL: none, and then it is a barrier */
    char *body;
    apr_size_t length;
    /* of a failure; error and behind are malloc'ed and belong to the event */
    int status; /* HTTP, 0: none came */
    int gone;
    apr_interval_time_t delay;
    apr_int64_t
        expires; /* a parked one: not to be started later, the database would return it again */
    char *error;
    apr_int64_t *behind;
    int nbehind, behind_room;
};

/** A first-in first-out list of events. */
typedef struct psp_queue_t {
    psp_event_t *first;
    psp_event_t *last;
    int count;
} psp_queue_t;

typedef enum {
    PSP_SUB_ACTIVE,
    PSP_SUB_LEAVING, /* its document changed, or it is no longer ours: finish, save, forget */
    PSP_SUB_LOST     /* somebody else has it: let what is on the wire end, save nothing, forget */
} psp_sub_state_t;

/** A subscription that this child serves. Owned by lease.c, in a pool of its own. */
struct psp_sub_t {
    apr_pool_t *p;
    psp_sub_t *next, *previous; /* all subscriptions */
    int id;
    apr_int64_t epoch, version;
    const char *name, *callback, *table;
    const char *const *keys; /* names of key columns, decoded */
    int nkeys;
    int plain;           /* the callback has no variables */
    int calls;           /* it follows API calls: what the callback may name is the request */
    char *header;        /* request.c: names it to the receiver */
    const char *headers; /* own ones, "Name: value" a line */
    char **own;          /* request.c: these, line by line */
    const char *secrets; /* comma-joined: signs with each; "": not at all */
    int cloudevents;
    int http2; /* deliver.c: the receiver spoke it the last time */
    apr_interval_time_t timeout, retry_first, retry_max;
    int concurrency;
    int batch;                /* most events in one PUT; above 1 the body is an array */
    int latest;               /* of several events of a key that wait only the newest is sent */
    apr_interval_time_t pace; /* between PUTs; 0: none */
    int room;                 /* most events waiting or in flight */
    apr_int64_t parked;       /* deliveries waiting in the database, roughly */
    psp_sub_state_t state;
    int giving; /* left for another server to take */

    /* place.c */
    psp_pos_t *pos; /* read from here next */
    psp_page_t *pages, *last_page;
    int ndone;         /* in all pages */
    apr_int64_t *skip; /* sorted ids that were done when we got the lease, not read again yet */
    char *skipped;     /* parallel: read again */
    int nskip, skip_left;
    int ends; /* how often the end of the feed was reached */

    /* feed.c */
    int reading; /* 1 + index of its group in the read under way, 0: none */
    int more;    /* the feed had more when it was last read */
    int held;    /* above a bound */
    int suspect; /* a read that served it failed: it is read by itself until that succeeds */
    apr_int64_t read_at; /* not before, when it is suspect */
    int came;            /* events of the read under way */
    int much;            /* that were many */
    apr_int64_t from_at; /* when what is read now was all there was */
    apr_int64_t seen_at; /* all that there was then was read; 0: not known */

    /* lane.c */
    psp_queue_t ready, waiting;
    psp_queue_t due, line;    /* line.c */
    psp_event_t *parked_here; /* by here_next: all parked ones in memory */
    int line_ends;            /* one was not taken: nor are those behind it */
    int flying_line;          /* of the line */
    psp_event_t *wall;   /* a failure that everything later has to stay behind, until it is saved */
    psp_event_t *failed; /* the latest failure that is not saved yet: a barrier stays behind it */
    int alone;           /* a barrier is ready or on the wire */
    int admitted;        /* fresh events ready, chained or on the wire */
    int queued;          /* fresh events in memory, waiting ones included, failed ones not */
    apr_size_t bytes;    /* of the bodies of fresh events and parked ones */
    int flying;          /* fresh and parked */
    int flying_due;

    /* send.c */
    psp_sub_t *turn_next; /* those that have something to send take turns */
    int in_turn;
    int due_turn;        /* whose turn it is: parked or fresh */
    apr_int64_t send_at; /* not before, when there is a pace */
    int failures;        /* in a row */
    int down;
    apr_int64_t failing_since;

    /* due.c */
    apr_int64_t probe_at;
    apr_interval_time_t probe_gap;
    apr_int64_t fresh_at; /* send.c: no fresh one before, while the receiver is down */

    /* save.c */
    psp_sub_t *dirty_next;
    int dirty;   /* progress to save */
    int moved;   /* only the position moved */
    int unsaved; /* events in the saver's lists */
    int in_doc;  /* part of the save under way */
};

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
