/* SPDX-License-Identifier: Apache-2.0 */
/* watch.c: waiting for changes: one thread of each child process asks for all who wait in it. */
/*
 * A request that waits holds no session with the database, and no thread where the MPM can do without
 * (away.c). The thread that asks is started by the first that waits. Every few milliseconds it finds
 * out which tables have changes, and wakes those who wait for one. Its position moves on with each
 * tick, so no change is found twice and none is missed: who joined during a tick is woken by it in any
 * case.
 */
#include "pull/private.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include <ap_mpm.h>
#include <apr_portable.h>
#include <apr_strings.h>
#include <apr_thread_cond.h>
#include <apr_thread_mutex.h>
#include <http_core.h>
#include <http_log.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

#define TICK apr_time_from_msec(10)
#define TICK_BUSY apr_time_from_msec(4)    /* for a second after there was something */
#define TICK_ALONE apr_time_from_msec(100) /* a process per request: each asks for itself */
#define TICK_BROKEN apr_time_from_msec(500)
#define LOOK apr_time_from_sec(1) /* how often to see whether the client is there */
#define CALL_TIMEOUT apr_time_from_sec(2)

static struct {
    apr_pool_t *p; /* with an allocator of its own; used with the mutex held, or by the thread */
    psp_db_pool_t *db;
    apr_thread_mutex_t *mutex; /* guards what follows */
    apr_thread_cond_t *wanted;
    apr_thread_t *thread;
    psp_waiter_t *waiters;
    char *tables; /* malloced: what all of them wait for; NULL: others wait than did */
    char *target; /* malloced: it lives for a tick */
    apr_uint32_t tick;
    atomic_int stopping; /* set without the mutex, too */
} watch;

static int is_stopping(void)
{
    int state;

    return watch.stopping ||
           (ap_mpm_query(AP_MPMQ_MPM_STATE, &state) == APR_SUCCESS && state == AP_MPMQ_STOPPING);
}

/* --- The thread --- */

static int compare(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return (x > y) - (x < y);
}

static int *parse_ints(apr_pool_t *p, const char *array, int *n)
{
    int *list = apr_palloc(p, (strlen(array) / 2 + 1) * sizeof(*list));
    char *end;

    for (*n = 0; *array; array = end) {
        array += strcspn(array, "0123456789");
        end = (char *)array;
        if (*array) {
            list[(*n)++] = (int)strtol(array, &end, 10);
        }
    }
    qsort(list, (size_t)*n, sizeof(*list), compare);
    return list;
}

/* The tables that anybody waits for, as PostgreSQL writes an array. Call with the mutex held. */
static const char *wanted_tables(apr_pool_t *p)
{
    apr_array_header_t *all, *texts;
    psp_waiter_t *w;
    int i;

    if (watch.tables) {
        return apr_pstrdup(p, watch.tables);
    }
    all = apr_array_make(p, 64, sizeof(int));
    for (w = watch.waiters; w; w = w->next) {
        w->asked = 1;
        for (i = 0; i < w->ntables; i++) {
            APR_ARRAY_PUSH(all, int) = w->tables[i];
        }
    }
    qsort(all->elts, (size_t)all->nelts, sizeof(int), compare);
    texts = apr_array_make(p, 16, sizeof(char *));
    for (i = 0; i < all->nelts; i++) {
        int id = APR_ARRAY_IDX(all, i, int);

        if (!i || id != APR_ARRAY_IDX(all, i - 1, int)) {
            APR_ARRAY_PUSH(texts, char *) = apr_itoa(p, id);
        }
    }
    watch.tables = strdup(apr_pstrcat(p, "{", apr_array_pstrcat(p, texts, ','), "}", NULL));
    return apr_pstrdup(p, watch.tables);
}

/* Call with the mutex held. */
static void forget_tables(void)
{
    free(watch.tables);
    watch.tables = NULL;
}

static int has_news(const psp_waiter_t *w, const int *changed, int n)
{
    int i;

    for (i = 0; i < n; i++) {
        if (bsearch(&changed[i], w->tables, (size_t)w->ntables, sizeof(int), compare)) {
            return 1;
        }
    }
    return 0;
}

/* changed NULL: nobody knows what is new. Call with the mutex held. */
static void wake(const int *changed, int n)
{
    psp_waiter_t *w;

    for (w = watch.waiters; w; w = w->next) {
        if (!changed || !w->asked || has_news(w, changed, n)) {
            w->woken = 1;
            if (w->cond) {
                apr_thread_cond_signal(w->cond);
            }
            else {
                psp_away_wake(w);
            }
        }
    }
    psp_turns_call();
}

static void set_target(const char *target)
{
    free(watch.target);
    watch.target = target ? strdup(target) : NULL;
    watch.tick++;
}

/* Returns how long to pause. The waiters are woken also when nothing could be asked: their own calls
 * tell their clients why. */
static apr_interval_time_t tick(apr_pool_t *p, const char *tables, apr_time_t *busy)
{
    const char *params[] = {watch.target, tables};
    const psp_rows_t *rows;
    const char *changed;
    int *ids = NULL, n = 0;
    psp_result_t result =
        psp_db_call(watch.db, p, "SELECT target, changed FROM pubsubpull.watch($1, $2)", 2, params,
                    CALL_TIMEOUT, &rows);

    if (result.rv == APR_SUCCESS && (changed = psp_rows_get(rows, 0, 1))) {
        ids = parse_ints(p, changed, &n);
    }
    apr_thread_mutex_lock(watch.mutex);
    set_target(result.rv == APR_SUCCESS ? psp_rows_get(rows, 0, 0) : NULL);
    wake(ids, n);
    apr_thread_mutex_unlock(watch.mutex);
    if (result.rv != APR_SUCCESS) {
        return TICK_BROKEN;
    }
    if (n) {
        *busy = apr_time_now();
    }
    return apr_time_now() - *busy < apr_time_from_sec(1) ? TICK_BUSY : TICK;
}

static void *APR_THREAD_FUNC run(apr_thread_t *thread, void *baton)
{
    apr_pool_t *p = apr_thread_pool_get(thread);
    apr_time_t busy = 0;
    int threads = 0;
    apr_pool_t *turn;

    (void)baton;
    (void)ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    apr_pool_create(&turn, p);
    apr_thread_mutex_lock(watch.mutex);
    while (!is_stopping()) {
        apr_interval_time_t pause;
        const char *tables;

        apr_pool_clear(turn);
        psp_away_look(turn, watch.waiters, 0);
        if (!watch.waiters) {
            set_target(NULL); /* too old when somebody comes */
            apr_thread_cond_timedwait(watch.wanted, watch.mutex, psp_away_count() ? TICK : LOOK);
            continue;
        }
        tables = wanted_tables(turn);
        apr_thread_mutex_unlock(watch.mutex);
        pause = tick(turn, tables, &busy);
        apr_sleep(threads > 1 || pause > TICK_ALONE ? pause : TICK_ALONE);
        apr_thread_mutex_lock(watch.mutex);
    }
    watch.stopping = 1;
    wake(NULL, 0);
    while (psp_away_count()) {
        apr_pool_clear(turn);
        psp_away_look(turn, watch.waiters, 1);
        apr_thread_cond_timedwait(watch.wanted, watch.mutex, TICK);
    }
    apr_thread_mutex_unlock(watch.mutex);
    return NULL;
}

/* Signals are for the other threads. Call with the mutex held. */
static apr_status_t start(int is_away)
{
    sigset_t all, before;
    apr_status_t rv = APR_SUCCESS;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!watch.thread) {
        rv = apr_thread_create(&watch.thread, NULL, run, NULL, watch.p);
    }
    if (rv != APR_SUCCESS) {
        watch.thread = NULL;
    }
    else if (is_away) {
        rv = psp_turns_start();
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rv;
}

/* Before the sessions go. prefork runs this in a signal handler, which must not wait for a mutex
 * that its own thread holds. */
static apr_status_t stop(void *baton)
{
    apr_status_t rv = APR_EBUSY;
    int tries;

    (void)baton;
    watch.stopping = 1;
    for (tries = 0; watch.thread && rv != APR_SUCCESS && tries < 100; tries++) {
        rv = apr_thread_mutex_trylock(watch.mutex);
        if (rv != APR_SUCCESS) {
            apr_sleep(apr_time_from_msec(10));
        }
    }
    if (rv == APR_SUCCESS) {
        apr_thread_cond_signal(watch.wanted);
        apr_thread_mutex_unlock(watch.mutex);
        (void)apr_thread_join(&rv, watch.thread);
        psp_turns_stop();
    }
    return APR_SUCCESS;
}

static void child_init(apr_pool_t *p, server_rec *s)
{
    const psp_server_config_t *config = psp_config_server(s);
    const char *conninfo = config->read_conninfo ? config->read_conninfo : config->conninfo;
    apr_allocator_t *allocator;

    memset(&watch, 0, sizeof(watch));
    if (!conninfo || !(watch.db = psp_web_pool_make(s, conninfo, 0, 1, p)) ||
        apr_thread_cond_create(&watch.wanted, p) != APR_SUCCESS ||
        apr_allocator_create(&allocator) != APR_SUCCESS ||
        apr_pool_create_ex(&watch.p, p, NULL, allocator) != APR_SUCCESS) {
        return;
    }
    apr_allocator_owner_set(allocator, watch.p);
    apr_pool_tag(watch.p, "psp_watch");
    if (apr_thread_mutex_create(&watch.mutex, APR_THREAD_MUTEX_DEFAULT, p) != APR_SUCCESS ||
        psp_turns_init(watch.p, watch.mutex) != APR_SUCCESS) {
        watch.mutex = NULL;
        return;
    }
    psp_away_init(watch.mutex);
    apr_pool_pre_cleanup_register(p, NULL, stop);
}

/* --- Those who wait --- */

static apr_status_t leave(void *baton)
{
    psp_waiter_t *w = baton;

    apr_thread_mutex_lock(watch.mutex);
    *w->at = w->next;
    if (w->next) {
        w->next->at = w->at;
    }
    forget_tables();
    if (!w->cond) {
        psp_away_forget(w);
    }
    apr_thread_mutex_unlock(watch.mutex);
    psp_seat_give(w->cond != NULL);
    return APR_SUCCESS;
}

void psp_watch_leave(psp_waiter_t *w)
{
    (void)apr_pool_cleanup_run(w->r->pool, w, leave);
}

psp_result_t psp_watch_join(request_rec *r, const char *tables, psp_waiter_t **waiter)
{
    psp_waiter_t *w = apr_pcalloc(r->pool, sizeof(*w));
    int holds = !psp_away_can(r);
    apr_status_t rv = APR_EBUSY;

    w->r = r;
    w->tables = parse_ints(r->pool, tables, &w->ntables);
    if (!watch.mutex || (holds && apr_thread_cond_create(&w->cond, r->pool) != APR_SUCCESS) ||
        apr_pool_create(&w->p, r->pool) != APR_SUCCESS || !psp_seat_take(r->server, holds)) {
        return (psp_result_t){
            .rv = rv,
            .http = HTTP_SERVICE_UNAVAILABLE,
            .type = "too-many-wait",
            .detail =
                "As many requests wait for changes as this server lets. Poll instead, or come "
                "back later.",
            .retry_after = 5,
        };
    }
    apr_thread_mutex_lock(watch.mutex);
    rv = start(!holds);
    w->next = watch.waiters;
    w->at = &watch.waiters;
    if (w->next) {
        w->next->at = &w->next;
    }
    watch.waiters = w;
    forget_tables();
    apr_thread_cond_signal(watch.wanted);
    apr_thread_mutex_unlock(watch.mutex);
    apr_pool_cleanup_register(r->pool, w, leave, apr_pool_cleanup_null);
    *waiter = w;
    if (rv != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, rv, r,
                      "PSP0333: the thread that watches for changes could not be started");
        return (psp_result_t){.rv = rv,
                              .http = HTTP_SERVICE_UNAVAILABLE,
                              .type = "cannot-wait",
                              .detail = "This server cannot wait for changes now. Poll instead.",
                              .retry_after = 5};
    }
    return (psp_result_t){.rv = APR_SUCCESS};
}

apr_uint32_t psp_watch_arm(psp_waiter_t *w, const char **target)
{
    apr_uint32_t number;

    apr_pool_clear(w->p);
    apr_thread_mutex_lock(watch.mutex);
    w->woken = 0;
    number = watch.tick;
    *target = watch.target ? apr_pstrdup(w->p, watch.target) : NULL;
    apr_thread_mutex_unlock(watch.mutex);
    return number;
}

/* Whether the other end was closed. What it sent before, like the next request, does not matter. */
static int is_gone(const request_rec *r)
{
    apr_socket_t *socket = r->connection->master ? NULL : ap_get_conn_socket(r->connection);
    struct pollfd look = {.events = POLLRDHUP};
    apr_os_sock_t fd;

    if (r->connection->aborted) {
        return 1;
    }
    if (!socket || apr_os_sock_get(&fd, socket) != APR_SUCCESS) {
        return 0;
    }
    look.fd = fd;
    return poll(&look, 1, 0) > 0;
}

/* For who holds its thread. */
static psp_wake_t wait_here(psp_waiter_t *w, apr_time_t deadline)
{
    for (;;) {
        apr_interval_time_t left = deadline - apr_time_now();
        int woken;

        if (left <= 0) {
            return PSP_WAKE_TIME;
        }
        apr_thread_mutex_lock(watch.mutex);
        if (!w->woken && !watch.stopping) {
            (void)apr_thread_cond_timedwait(w->cond, watch.mutex, left < LOOK ? left : LOOK);
        }
        woken = w->woken;
        apr_thread_mutex_unlock(watch.mutex);
        if (is_stopping()) {
            return PSP_WAKE_STOP;
        }
        if (woken) {
            return PSP_WAKE_NEWS;
        }
        if (is_gone(w->r)) {
            return PSP_WAKE_GONE;
        }
    }
}

int psp_watch_stay(psp_waiter_t *w, apr_time_t deadline, psp_turn_fn *turn, void *baton)
{
    psp_wake_t why = PSP_WAKE_NEWS;
    int stopping;

    while (turn(baton, why, &deadline)) {
        if (w->cond) {
            why = wait_here(w, deadline);
            continue;
        }
        apr_thread_mutex_lock(watch.mutex);
        stopping = watch.stopping; /* nobody would come for it any more */
        if (!stopping) {
            w->deadline = deadline;
            w->turn = turn;
            w->baton = baton;
            psp_away_let(w);
        }
        apr_thread_mutex_unlock(watch.mutex);
        if (!stopping) {
            return SUSPENDED;
        }
        why = PSP_WAKE_STOP;
    }
    return OK;
}

void psp_watch_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
}
