/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room share: waiting for changes, and the forms in which they go out. */
#ifndef PSP_PULL_PRIVATE_H
#define PSP_PULL_PRIVATE_H

#include "pull/pull.h"

/* --- rows_stream.c --- */

/** GET /tables/{t}/rows/ as NDJSON. */
int psp_pull_rows_stream(psp_call_t *c);

/* --- seats.c: how many requests of the whole server may wait at a time --- */

void psp_seats_register_hooks(apr_pool_t *p);
/** False: all are taken. */
int psp_seat_take(const server_rec *s);
void psp_seat_give(void);

/* --- watch.c: one thread of each child process asks for all that wait in it --- */

typedef struct psp_waiter_t psp_waiter_t;

typedef enum {
    PSP_WAKE_NEWS, /* there may be something new */
    PSP_WAKE_TIME, /* the time is over */
    PSP_WAKE_GONE, /* the client is gone */
    PSP_WAKE_STOP  /* httpd stops */
} psp_wake_t;

void psp_watch_register_hooks(apr_pool_t *p);
/** Begins to watch these tables (an array as PostgreSQL writes it) until r ends; 503 when too many
 * wait. Whoever joined polls before it waits. */
psp_result_t psp_watch_join(request_rec *r, const char *tables, psp_waiter_t **waiter);
/** Before each poll: what is news from now on. *target is the position up to which to read, or NULL;
 * it is valid until the next call. Returns the number of the tick that made it. */
apr_uint32_t psp_watch_arm(psp_waiter_t *w, const char **target);
psp_wake_t psp_watch_wait(psp_waiter_t *w, apr_time_t deadline);
int psp_watch_stopping(void);

/* --- share.c: who asks the same at the same tick gets the same answer, which is made once --- */

typedef struct psp_shared_t {
    psp_result_t result;
    const psp_rows_t *rows;
} psp_shared_t;

void psp_share_register_hooks(apr_pool_t *p);
/** Call SQL, or wait for somebody who does. What is returned must be released. */
psp_shared_t *psp_share_call(psp_call_t *c, apr_uint32_t tick, const char *call, int n,
                             const char *const *params);
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

/** since NULL: the beginning; form: page, lines or events */
psp_walk_t *psp_walk_make(psp_call_t *c, const char *names, const char *since, const char *wait,
                          const char *form);
/** The next changes, if any: one call. */
psp_result_t psp_walk_poll(psp_walk_t *f);
/** Polls until there are changes or there is another reason to return (*why). */
psp_result_t psp_walk_await(psp_walk_t *f, apr_time_t deadline, psp_wake_t *why);
/** From now on polls go with those of others who wait. 503: too many do. */
psp_result_t psp_walk_join(psp_walk_t *f);
/** The answer to the last poll, valid until the one after the next. */
const psp_rows_t *psp_walk_rows(const psp_walk_t *f);
const char *psp_walk_get(const psp_walk_t *f, int column);
apr_size_t psp_walk_length(const psp_walk_t *f, int column);
int psp_walk_found(const psp_walk_t *f); /* changes in it */
int psp_walk_more(const psp_walk_t *f);

/* --- follow.c: answers that go on --- */

int psp_pull_lines(psp_call_t *c, psp_walk_t *f, apr_interval_time_t wait);
int psp_pull_events(psp_call_t *c, psp_walk_t *f);
/** A feed could not be read: with the links to start again. */
int psp_pull_fail(psp_call_t *c, const psp_result_t *result);

#endif
