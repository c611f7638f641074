/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room share: waiting for changes, and the forms in which they go out. */
#ifndef PSP_PULL_PRIVATE_H
#define PSP_PULL_PRIVATE_H

#include <apr_thread_cond.h>
#include <apr_thread_mutex.h>

#include "pull/pull.h"

/* --- rows_stream.c --- */

/** GET /tables/{t}/rows/ as NDJSON. */
int psp_pull_rows_stream(psp_call_t *c);

/* --- seats.c: how many requests of the whole server may wait at a time --- */

void psp_seats_register_hooks(apr_pool_t *p);
/** False: all are taken. holds: it keeps a thread of the server while it waits. */
int psp_seat_take(const server_rec *s, int holds);
void psp_seat_give(int holds);

/* --- watch.c: one thread of each child process asks for all that wait in it --- */

typedef enum {
    PSP_WAKE_NEWS, /* there may be something new */
    PSP_WAKE_TIME, /* the time is over */
    PSP_WAKE_GONE, /* the client is gone */
    PSP_WAKE_STOP  /* httpd stops */
} psp_wake_t;

/** What a request does when there may be something new, and when it waits no more. True: it waits on,
 * until *deadline. Otherwise it has answered. */
typedef int psp_turn_fn(void *baton, psp_wake_t why, apr_time_t *deadline);

typedef struct psp_waiter_t psp_waiter_t;

void psp_watch_register_hooks(apr_pool_t *p);
/** Begins to watch these tables (an array as PostgreSQL writes it) until r ends; 503 when too many
 * wait. Whoever joined polls before it waits. */
psp_result_t psp_watch_join(request_rec *r, const char *tables, psp_waiter_t **waiter);
/** Before each poll: what is news from now on. *target is the position up to which to read, or NULL;
 * it is valid until the next call. Returns the number of the tick that made it. */
apr_uint32_t psp_watch_arm(psp_waiter_t *w, const char **target);
/** Turns, the first one now, until one has answered. Returns what the handler has to. */
int psp_watch_stay(psp_waiter_t *w, apr_time_t deadline, psp_turn_fn *turn, void *baton);
/** Waits no more; otherwise that is so when the request ends. */
void psp_watch_leave(psp_waiter_t *w);

/* --- away.c: where the MPM lets connections go, who waits holds no thread --- */

typedef enum {
    PSP_PLACE_HERE, /* in the handler, or a turn */
    PSP_PLACE_AWAY, /* nobody works on it */
    PSP_PLACE_READY /* somebody is about to */
} psp_place_t;

struct psp_waiter_t {
    request_rec *r;
    apr_pool_t *p; /* the target; cleared for each poll */
    int *tables, ntables;
    int asked; /* the tick under way covers it */
    int woken;
    apr_thread_cond_t *cond;         /* NULL: it holds no thread */
    struct psp_waiter_t *next, **at; /* what points to it */

    /* Of those that hold no thread */
    int fd;
    psp_place_t place;
    psp_wake_t why; /* when ready */
    apr_time_t deadline;
    apr_time_t stuck; /* since when the client takes nothing, 0: it does */
    apr_time_t again; /* when to see whether it does */
    psp_turn_fn *turn;
    void *baton;
    struct psp_waiter_t *next_ready; /* or the next that is answered */
};

void psp_away_register_hooks(apr_pool_t *p);
/** The mutex guards all that is here and in watch.c. */
void psp_away_init(apr_thread_mutex_t *mutex);
/** Whether this request can be left by its thread. */
int psp_away_can(request_rec *r);

/* With the mutex held: */

/** From when the MPM has let go of it, w has turns. */
void psp_away_let(psp_waiter_t *w);
/** It is woken: it has a turn after psp_turns_call(). */
void psp_away_wake(psp_waiter_t *w);
/** After a turn: it waits on. */
void psp_away_rest(psp_waiter_t *w);
/** It is over. */
void psp_away_forget(psp_waiter_t *w);
/** Now and then: whose time is over, who is gone, what can be closed. p is for this call. */
void psp_away_look(apr_pool_t *p, psp_waiter_t *waiters, int stopping);
/** Connections that the MPM does not care for. */
int psp_away_count(void);

/** Without the mutex: what is left of the connection is closed when its client did so. */
void psp_away_close(conn_rec *c);

/* --- turns.c: a few threads answer for those who hold none --- */

/** The mutex guards all that is here, too; p is used with it held. */
apr_status_t psp_turns_init(apr_pool_t *p, apr_thread_mutex_t *mutex);

/* With the mutex held: */

/** There is a thread, at least. */
apr_status_t psp_turns_start(void);
/** It has a turn after psp_turns_call(). */
void psp_turns_put(psp_waiter_t *w, psp_wake_t why);
/** As many threads as are of use take turns. */
void psp_turns_call(void);
/** Now and then: whether more are of use. */
void psp_turns_look(void);

/* Without the mutex: */

/** Around what a turn waits for: others have theirs meanwhile. */
void psp_turns_pause(void);
void psp_turns_resume(void);
/** Turns that are under way end, and there are no more. */
void psp_turns_stop(void);

/* --- share.c: who asks the same at the same tick gets the same answer, which is made once --- */

typedef struct psp_shared_t {
    psp_result_t result;
    const psp_rows_t *rows;
} psp_shared_t;

void psp_share_register_hooks(apr_pool_t *p);
/** Call SQL, or wait for somebody who does. What is returned must be released. */
psp_shared_t *psp_share_call(psp_call_t *c, apr_uint32_t tick, const char *call, int n,
                             const char *const *params);
/** The same for who does not wait yet: nothing that was committed before is missing. NULL: ask alone. */
psp_shared_t *psp_share_first(psp_call_t *c, const char *call, int n, const char *const *params);
void psp_share_release(psp_shared_t *shared);

/* --- walk.c: one request's way through the log --- */

enum {
    PSP_WALK_STATUS,
    PSP_WALK_BODY,
    PSP_WALK_ETAG,
    PSP_WALK_NEXT,
    PSP_WALK_LOCATION,
    PSP_WALK_N,
    PSP_WALK_MORE,
    PSP_WALK_CURSOR,
    PSP_WALK_TABLES
};

typedef struct psp_walk_t psp_walk_t;

/** since NULL: the beginning; form: page, lines or events; waits: probably with others */
psp_walk_t *psp_walk_make(psp_call_t *c, const char *names, const char *since, const char *wait,
                          const char *form, int waits);
/** The next changes, if any: one call. */
psp_result_t psp_walk_poll(psp_walk_t *f);
/** Polls until there are changes, or none now. */
psp_result_t psp_walk_seek(psp_walk_t *f);
/** From now on polls go with those of others who wait. 503: too many do. */
psp_result_t psp_walk_join(psp_walk_t *f);
/** Waits, having joined. Returns what the handler has to. */
int psp_walk_stay(psp_walk_t *f, apr_time_t deadline, psp_turn_fn *turn, void *baton);
/** The answer to the last poll, valid until the one after the next. */
const psp_rows_t *psp_walk_rows(const psp_walk_t *f);
const char *psp_walk_get(const psp_walk_t *f, int column);
apr_size_t psp_walk_length(const psp_walk_t *f, int column);
int psp_walk_found(const psp_walk_t *f);   /* changes in it */
int psp_walk_more(const psp_walk_t *f);    /* the batch goes on */
int psp_walk_goes_on(const psp_walk_t *f); /* what woke us may not be read yet */

/* --- follow.c: answers that go on --- */

int psp_pull_lines(psp_call_t *c, psp_walk_t *f, apr_interval_time_t wait);
int psp_pull_events(psp_call_t *c, psp_walk_t *f);
/** A feed could not be read: with the links to start again. */
int psp_pull_fail(psp_call_t *c, const psp_result_t *result);

#endif
