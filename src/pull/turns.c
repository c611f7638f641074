/* SPDX-License-Identifier: Apache-2.0 */
/* turns.c: a few threads of ours answer for those who wait and hold none. */
/*
 * So neither do those who wait keep workers from other requests, nor the other way round. Hundreds are
 * mostly woken at once, for the same answer: two threads give it to them, sooner than more that would
 * wait for each other. While one of these waits for the database, another takes its place.
 */
#include "pull/private.h"

#include <poll.h>

#include <ap_mpm.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

#define AGAIN apr_time_from_msec(100) /* when to see whether a client takes something again */
#define RUNNERS_MAX 32
#define ACTIVE_MAX 2

typedef struct psp_line_t {
    psp_waiter_t *first, *last;
} psp_line_t;

static struct {
    apr_pool_t *p;
    apr_thread_mutex_t *mutex; /* of watch.c; guards all of this */
    apr_thread_cond_t *called_one;
    psp_line_t ready;
    psp_line_t answered; /* whose requests are still to be ended */
    apr_thread_t *runners[RUNNERS_MAX];
    int nrunners;
    int active, paused; /* of them; the others are idle */
    int called;         /* of the active ones those that did not notice yet */
    int behind;         /* at the last look somebody was ready and no runner idle */
    int over;
} turns;

static _Thread_local int is_runner;

/* Call with the mutex held, as what follows up to psp_turns_call(). */
static void put(psp_line_t *line, psp_waiter_t *w)
{
    w->next_ready = NULL;
    if (line->first) {
        line->last->next_ready = w;
    }
    else {
        line->first = w;
    }
    line->last = w;
}

static psp_waiter_t *take(psp_line_t *line)
{
    psp_waiter_t *w = line->first;

    if (w) {
        line->first = w->next_ready;
    }
    return w;
}

void psp_turns_put(psp_waiter_t *w, psp_wake_t why)
{
    w->place = PSP_PLACE_READY;
    w->why = why;
    put(&turns.ready, w);
}

static int idle(void)
{
    return turns.nrunners - turns.active - turns.paused;
}

static void call_one(void)
{
    if ((turns.ready.first || turns.answered.first) && idle() > 0) {
        turns.called++;
        turns.active++;
        apr_thread_cond_signal(turns.called_one);
    }
}

void psp_turns_call(void)
{
    if (turns.active < ACTIVE_MAX) {
        call_one();
    }
}

/* The answer goes out. Who else is ready gets theirs before this request is ended. */
static void answer(psp_waiter_t *w)
{
    conn_rec *c = w->r->connection;

    psp_watch_leave(w); /* its client may come again at once */
    ap_finalize_request_protocol(w->r);
    apr_socket_timeout_set(ap_get_conn_socket(c), psp_config_stream_timeout(w->r->server));
    ap_flush_conn(c);
    apr_thread_mutex_lock(turns.mutex);
    put(&turns.answered, w);
    apr_thread_mutex_unlock(turns.mutex);
}

/* What httpd does for a request that was not left, its MPM included, is done here. */
static void finish(psp_waiter_t *w)
{
    request_rec *r = w->r;
    conn_rec *c = r->connection;

    ap_process_request_after_handler(r); /* r and w are gone */
    if (ap_start_lingering_close(c)) {
        c->aborted = 1;
    }
    psp_away_close(c);
}

/* A client that takes nothing must not hold a thread of those who answer others. */
static int is_stuck(psp_waiter_t *w)
{
    struct pollfd look = {.fd = w->fd, .events = POLLOUT};
    apr_time_t now = apr_time_now();

    if (poll(&look, 1, 0) != 0) {
        w->stuck = 0;
        return 0;
    }
    if (!w->stuck) {
        w->stuck = now;
    }
    if (now - w->stuck < psp_config_stream_timeout(w->r->server)) {
        w->again = now + AGAIN;
        return 1;
    }
    ap_log_rerror(APLOG_MARK, APLOG_INFO, 0, w->r,
                  "PSP0125: a stream ends, for its client takes nothing");
    w->r->connection->aborted = 1;
    w->why = PSP_WAKE_GONE;
    return 0;
}

static void take_turn(psp_waiter_t *w)
{
    int on = is_stuck(w);

    if (!on) {
        apr_thread_mutex_lock(w->r->invoke_mtx);
        on = w->turn(w->baton, w->why, &w->deadline);
        apr_thread_mutex_unlock(w->r->invoke_mtx);
    }
    if (!on) {
        answer(w);
        return;
    }
    apr_thread_mutex_lock(turns.mutex);
    psp_away_rest(w);
    apr_thread_mutex_unlock(turns.mutex);
}

/* Call with the mutex held. */
static void run_all(void)
{
    while (!turns.over && (turns.ready.first || turns.answered.first)) {
        psp_waiter_t *w = take(&turns.ready);
        psp_waiter_t *ended = w ? NULL : take(&turns.answered);

        if (w) {
            w->place = PSP_PLACE_HERE;
        }
        apr_thread_mutex_unlock(turns.mutex);
        if (w) {
            take_turn(w);
        }
        else {
            finish(ended);
        }
        apr_thread_mutex_lock(turns.mutex);
    }
}

static void *APR_THREAD_FUNC run(apr_thread_t *thread, void *baton)
{
    (void)thread;
    (void)baton;
    is_runner = 1;
    apr_thread_mutex_lock(turns.mutex);
    for (;;) {
        while (!turns.called && !turns.over) {
            apr_thread_cond_wait(turns.called_one, turns.mutex);
        }
        if (turns.over) {
            break;
        }
        turns.called--;
        run_all();
        turns.active--;
    }
    apr_thread_mutex_unlock(turns.mutex);
    return NULL;
}

void psp_turns_pause(void)
{
    if (is_runner) {
        apr_thread_mutex_lock(turns.mutex);
        turns.active--;
        turns.paused++;
        psp_turns_call();
        apr_thread_mutex_unlock(turns.mutex);
    }
}

void psp_turns_resume(void)
{
    if (is_runner) {
        apr_thread_mutex_lock(turns.mutex);
        turns.paused--;
        turns.active++;
        apr_thread_mutex_unlock(turns.mutex);
    }
}

static apr_status_t add_runner(void)
{
    apr_status_t rv = apr_thread_create(&turns.runners[turns.nrunners], NULL, run, NULL, turns.p);

    turns.nrunners += rv == APR_SUCCESS;
    return rv;
}

apr_status_t psp_turns_start(void)
{
    return turns.nrunners ? APR_SUCCESS : add_runner();
}

/* One thread answers hundreds; more are needed when clients or the database are slow. */
void psp_turns_look(void)
{
    int behind = turns.ready.first && idle() <= 0;
    int threads = 0;

    (void)ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    if (behind && turns.behind && turns.nrunners < RUNNERS_MAX &&
        turns.nrunners < 2 + threads / 2) {
        (void)add_runner(); /* without it, it takes longer */
    }
    turns.behind = behind;
    call_one(); /* an active one may wait for its client */
}

void psp_turns_stop(void)
{
    apr_status_t rv;
    int i;

    if (!turns.nrunners) {
        return;
    }
    apr_thread_mutex_lock(turns.mutex);
    turns.over = 1;
    apr_thread_cond_broadcast(turns.called_one);
    apr_thread_mutex_unlock(turns.mutex);
    for (i = 0; i < turns.nrunners; i++) {
        (void)apr_thread_join(&rv, turns.runners[i]);
    }
}

apr_status_t psp_turns_init(apr_pool_t *p, apr_thread_mutex_t *mutex)
{
    memset(&turns, 0, sizeof(turns));
    turns.p = p;
    turns.mutex = mutex;
    return apr_thread_cond_create(&turns.called_one, p);
}
