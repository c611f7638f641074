/* SPDX-License-Identifier: Apache-2.0 */
/* away.c: who waits gives its thread back where the MPM lets connections go; turns.c answers then. */
/*
 * The event MPM forgets a connection whose handler returns SUSPENDED: it counts it, and neither looks
 * at it nor takes it back. So it is closed here after the answer, and its client comes again with a
 * new one.
 */
#include "pull/private.h"

#include <poll.h>
#include <sys/socket.h>

#include <ap_mpm.h>
#include <apr_portable.h>
#include <http_config.h>
#include <http_core.h>
#include <mpm_common.h>

#include "config/config.h"

#define LOOK apr_time_from_sec(1)   /* how often to see whether clients are there */
#define LINGER apr_time_from_sec(2) /* for the client to close after us, as httpd does */
#define SETTLE apr_time_from_sec(1) /* see close_some() */

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
    apr_thread_mutex_t *mutex; /* of watch.c; guards all of this */
    psp_left_t *closing;
    int count; /* connections left, or about to be */
    apr_time_t looked;
} away;

void psp_away_wake(psp_waiter_t *w)
{
    if (w->woken && w->place == PSP_PLACE_AWAY && !w->stuck) {
        psp_turns_put(w, PSP_WAKE_NEWS);
    }
}

void psp_away_rest(psp_waiter_t *w)
{
    w->place = PSP_PLACE_AWAY;
    psp_away_wake(w);
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
    psp_away_rest(left->w);
    psp_turns_call();
    apr_thread_mutex_unlock(away.mutex);
}

void psp_away_close(conn_rec *c)
{
    psp_left_t *left = ap_get_module_config(c->conn_config, &pubsubpull_module);

    apr_thread_mutex_lock(away.mutex);
    left->until = apr_time_now() + LINGER;
    left->next = away.closing;
    away.closing = left;
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
            psp_turns_put(w, PSP_WAKE_GONE);
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
            psp_turns_put(w, PSP_WAKE_STOP);
        }
        else if (w->stuck && now < w->again) {
            continue;
        }
        else if (w->woken) {
            psp_turns_put(w, PSP_WAKE_NEWS);
        }
        else if (now >= w->deadline) {
            psp_turns_put(w, PSP_WAKE_TIME);
        }
    }
    if (now - away.looked >= LOOK) {
        away.looked = now;
        look_for_clients(p, waiters);
    }
    psp_turns_look();
    if (away.closing) {
        close_some(now);
    }
}

int psp_away_count(void)
{
    return away.count;
}

void psp_away_init(apr_thread_mutex_t *mutex)
{
    memset(&away, 0, sizeof(away));
    away.mutex = mutex;
}

void psp_away_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_suspend_connection(suspend_connection, NULL, NULL, APR_HOOK_MIDDLE);
}
