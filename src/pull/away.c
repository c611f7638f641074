/* SPDX-License-Identifier: Apache-2.0 */
/* away.c: who waits gives its thread back where the MPM lets connections go, and answers from a few threads of ours. */
/*
 * The event MPM forgets a connection whose handler returns SUSPENDED: it counts it, and neither looks
 * at it nor takes it back. So it is closed here after the answer, and its client comes again with a
 * new one. Threads of ours take the turns, so that neither do those who wait keep workers from other
 * requests, nor the other way round.
 */
#include "pull/private.h"

#include <poll.h>
#include <sys/socket.h>

#include <ap_mpm.h>
#include <apr_portable.h>
#include <http_config.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>
#include <mpm_common.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

#define LOOK apr_time_from_sec(1)     /* how often to see whether clients are there */
#define AGAIN apr_time_from_msec(100) /* when to see whether a client takes something again */
#define LINGER apr_time_from_sec(2)   /* for the client to close after us, as httpd does */
#define SETTLE apr_time_from_sec(1)   /* see close_some() */
#define RUNNERS_MAX 32

/* One for each connection, in its pool. */
typedef struct psp_left_t {
    conn_rec *c;
    psp_waiter_t *w; /* NULL: none, or no more */
    int fd;
    apr_time_t since; /* the MPM has let go of it */
    apr_time_t until; /* it is closed then */
    struct psp_left_t *next;
} psp_left_t;

static struct {
    apr_pool_t *p;
    apr_thread_mutex_t *mutex; /* of watch.c; guards all of this */
    apr_thread_cond_t *ready;
    psp_waiter_t *first, *last; /* who is ready */
    psp_left_t *closing;
    int count; /* connections left, or about to be */
    apr_thread_t *runners[RUNNERS_MAX];
    int nrunners, idle;
    int behind; /* at the last look somebody was ready and all runners busy */
    int over;
    apr_time_t looked;
} away;

/* --- Turns --- */

/* Call with the mutex held, as the next three. */
static void make_ready(psp_waiter_t *w, psp_wake_t why)
{
    w->place = PSP_PLACE_READY;
    w->why = why;
    w->next_ready = NULL;
    if (away.first) {
        away.last->next_ready = w;
    }
    else {
        away.first = w;
    }
    away.last = w;
    apr_thread_cond_signal(away.ready);
}

static psp_waiter_t *pop(void)
{
    psp_waiter_t *w = away.first;

    if (w) {
        away.first = w->next_ready;
        w->place = PSP_PLACE_HERE;
    }
    return w;
}

static void rest(psp_waiter_t *w)
{
    w->place = PSP_PLACE_AWAY;
    psp_away_wake(w);
}

void psp_away_wake(psp_waiter_t *w)
{
    if (w->woken && w->place == PSP_PLACE_AWAY && !w->stuck) {
        make_ready(w, PSP_WAKE_NEWS);
    }
}

/* The answer is made. What httpd does for a request that was not left, its MPM included, is done here. */
static void finish(psp_waiter_t *w)
{
    request_rec *r = w->r;
    conn_rec *c = r->connection;
    psp_left_t *left = ap_get_module_config(c->conn_config, &pubsubpull_module);
    apr_interval_time_t timeout = psp_config_stream_timeout(r->server);

    ap_finalize_request_protocol(r);
    ap_process_request_after_handler(r); /* r and w are gone */
    apr_socket_timeout_set(ap_get_conn_socket(c), timeout);
    if (ap_start_lingering_close(c)) {
        c->aborted = 1;
    }
    apr_thread_mutex_lock(away.mutex);
    left->until = apr_time_now() + LINGER;
    left->next = away.closing;
    away.closing = left;
    apr_thread_mutex_unlock(away.mutex);
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
        finish(w);
        return;
    }
    apr_thread_mutex_lock(away.mutex);
    rest(w);
    apr_thread_mutex_unlock(away.mutex);
}

static void *APR_THREAD_FUNC run(apr_thread_t *thread, void *baton)
{
    psp_waiter_t *w;

    (void)thread;
    (void)baton;
    apr_thread_mutex_lock(away.mutex);
    while (!away.over) {
        if ((w = pop())) {
            apr_thread_mutex_unlock(away.mutex);
            take_turn(w);
            apr_thread_mutex_lock(away.mutex);
            continue;
        }
        away.idle++;
        apr_thread_cond_wait(away.ready, away.mutex);
        away.idle--;
    }
    apr_thread_mutex_unlock(away.mutex);
    return NULL;
}

static apr_status_t add_runner(void)
{
    apr_status_t rv = apr_thread_create(&away.runners[away.nrunners], NULL, run, NULL, away.p);

    away.nrunners += rv == APR_SUCCESS;
    return rv;
}

apr_status_t psp_away_start(void)
{
    return away.nrunners ? APR_SUCCESS : add_runner();
}

/* One thread answers hundreds; more are needed when clients or the database are slow. */
static void grow(void)
{
    int behind = away.first && !away.idle;
    int threads = 0;

    (void)ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    if (behind && away.behind && away.nrunners < RUNNERS_MAX && away.nrunners < 2 + threads / 2) {
        (void)add_runner(); /* without it, it takes longer */
    }
    away.behind = behind;
}

/* --- Connections that the MPM let go of --- */

int psp_away_can(request_rec *r)
{
    const conn_rec *c = r->connection;
    int is_async = 0;

    (void)ap_mpm_query(AP_MPMQ_IS_ASYNC, &is_async);
    return is_async && !r->main && !r->prev && !c->master && c->cs &&
           c->cs->state == CONN_STATE_HANDLER && !c->clogging_input_filters;
}

static apr_status_t forget_left(void *baton)
{
    psp_left_t *left = baton;

    (void)left;
    apr_thread_mutex_lock(away.mutex);
    away.count--;
    apr_thread_mutex_unlock(away.mutex);
    return APR_SUCCESS;
}

void psp_away_let(psp_waiter_t *w)
{
    conn_rec *c = w->r->connection;
    psp_left_t *left = ap_get_module_config(c->conn_config, &pubsubpull_module);
    apr_os_sock_t fd = -1;

    (void)apr_os_sock_get(&fd, ap_get_conn_socket(c));
    if (!left) {
        left = apr_pcalloc(c->pool, sizeof(*left));
        left->c = c;
        left->fd = fd;
        ap_set_module_config(c->conn_config, &pubsubpull_module, left);
        away.count++;
        apr_pool_cleanup_register(c->pool, left, forget_left, apr_pool_cleanup_null);
    }
    left->w = w;
    w->fd = fd;
    apr_table_setn(w->r->subprocess_env, "nokeepalive", "1");
}

void psp_away_forget(psp_waiter_t *w)
{
    psp_left_t *left = ap_get_module_config(w->r->connection->conn_config, &pubsubpull_module);

    if (left) {
        left->w = NULL;
    }
}

/* Of any connection, at any pause. Of those that are left the MPM's thread knows nothing afterwards. */
static void suspend_connection(conn_rec *c, request_rec *r)
{
    psp_left_t *left = ap_get_module_config(c->conn_config, &pubsubpull_module);

    (void)r;
    if (!left || !left->w || c->cs->state != CONN_STATE_SUSPENDED) {
        return;
    }
    apr_thread_mutex_lock(away.mutex);
    left->since = apr_time_now();
    rest(left->w);
    apr_thread_mutex_unlock(away.mutex);
}

static int is_closed(const psp_left_t *left, apr_time_t now)
{
    char dropped[4096];
    ssize_t n;

    if (left->c->aborted || now >= left->until) {
        return 1;
    }
    n = recv(left->fd, dropped, sizeof(dropped), MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

/*
 * The MPM's accounts are settled by the pool's cleanups, by the state that it had there. After its
 * hook suspend_connection the thread that let go of the connection still writes to two fields of it,
 * the first being sbh: hence the pause.
 */
static void close_some(apr_time_t now)
{
    psp_left_t **at = &away.closing;
    psp_left_t *closed = NULL, *left;

    while ((left = *at)) {
        if (left->c->sbh || now - left->since < SETTLE || !is_closed(left, now)) {
            at = &left->next;
            continue;
        }
        *at = left->next;
        left->next = closed;
        closed = left;
    }
    apr_thread_mutex_unlock(away.mutex);
    while ((left = closed)) {
        closed = left->next;
        left->c->cs->state = CONN_STATE_SUSPENDED;
        apr_pool_destroy(left->c->pool);
    }
    apr_thread_mutex_lock(away.mutex);
}

/* --- What the watching thread does for all --- */

static void look_for_clients(apr_pool_t *p, psp_waiter_t *waiters)
{
    struct pollfd *fds;
    psp_waiter_t *w;
    nfds_t n = 0;

    for (w = waiters; w; w = w->next) {
        n += !w->cond;
    }
    fds = apr_palloc(p, n * sizeof(*fds));
    n = 0;
    for (w = waiters; w; w = w->next) {
        if (!w->cond && w->place == PSP_PLACE_AWAY) {
            fds[n++] = (struct pollfd){.fd = w->fd, .events = POLLRDHUP};
        }
    }
    if (!n || poll(fds, n, 0) <= 0) {
        return;
    }
    n = 0;
    for (w = waiters; w; w = w->next) {
        if (!w->cond && w->place == PSP_PLACE_AWAY && fds[n++].revents) {
            make_ready(w, PSP_WAKE_GONE);
        }
    }
}

void psp_away_look(apr_pool_t *p, psp_waiter_t *waiters, int stopping)
{
    apr_time_t now = apr_time_now();
    psp_waiter_t *w;

    for (w = waiters; w; w = w->next) {
        if (w->cond || w->place != PSP_PLACE_AWAY) {
            continue;
        }
        if (stopping) {
            make_ready(w, PSP_WAKE_STOP);
        }
        else if (w->stuck && now < w->again) {
            continue;
        }
        else if (w->woken) {
            make_ready(w, PSP_WAKE_NEWS);
        }
        else if (now >= w->deadline) {
            make_ready(w, PSP_WAKE_TIME);
        }
    }
    if (now - away.looked >= LOOK) {
        away.looked = now;
        look_for_clients(p, waiters);
    }
    grow();
    if (away.closing) {
        close_some(now);
    }
}

int psp_away_count(void)
{
    return away.count;
}

void psp_away_stop(void)
{
    apr_status_t rv;
    int i;

    if (!away.nrunners) {
        return;
    }
    apr_thread_mutex_lock(away.mutex);
    away.over = 1;
    apr_thread_cond_broadcast(away.ready);
    apr_thread_mutex_unlock(away.mutex);
    for (i = 0; i < away.nrunners; i++) {
        (void)apr_thread_join(&rv, away.runners[i]);
    }
}

apr_status_t psp_away_init(apr_pool_t *p, apr_thread_mutex_t *mutex)
{
    memset(&away, 0, sizeof(away));
    away.p = p;
    away.mutex = mutex;
    return apr_thread_cond_create(&away.ready, p);
}

void psp_away_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_suspend_connection(suspend_connection, NULL, NULL, APR_HOOK_MIDDLE);
}
