/* SPDX-License-Identifier: Apache-2.0 */
/* types.h: what the notifier has in memory: itself, subscriptions, events, and the limits of that. */
#ifndef PSP_NOTIFY_TYPES_H
#define PSP_NOTIFY_TYPES_H

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

#endif
