/* SPDX-License-Identifier: Apache-2.0 */
/* supervise.c: httpd's parent starts the notifier, and starts it again when it dies.
 *
 * The child belongs to pconf: clearing that at a restart or at the end tells it to leave, waits, and kills it
 * after three seconds. Nothing here may wait: callbacks run in the parent's main loop. When children
 * die soon, the next is forked at once but waits before it does anything, ever longer; when one does not
 * even live to the end of that, the next is not forked before the time has come.
 */
#include "notify/notify.h"

#include <signal.h>
#include <unistd.h>

#include <ap_mpm.h>
#include <apr_strings.h>
#include <apr_thread_proc.h>
#include <http_config.h>
#include <http_core.h>
#include <http_log.h>
#include <http_main.h>
#include <mpm_common.h>

#include "config/config.h"
#include "core/uuid.h"
#include "notify/private.h"
#include "record/record.h"

APLOG_USE_MODULE(pubsubpull);

#define SOON apr_time_from_sec(2) /* lived shorter: failed at its start; we see it up to 1 s late */
#define FIRST apr_time_from_sec(1)
#define DELAY_MAX apr_time_from_sec(30)

/* What a restart of httpd must not forget. Plain data: the module's code is unloaded in between. */
#define MEMORY_KEY "mod_pubsubpull notifier 1"

typedef struct memory_t {
    char id[PSP_UUID_LENGTH + 1]; /* of the latest child, "": none */
} memory_t;

/* The one child of this generation; in pconf. */
typedef struct keeper_t {
    apr_pool_t *pconf;
    pid_t parent;
    apr_proc_t proc; /* one for all children in turn: pconf's note of it then holds for each */
    int noted;
    int alive;
    int failures; /* children in a row that died soon */
    apr_int64_t started;
    apr_interval_time_t delay; /* given to the child */
    apr_int64_t start_at;      /* when none is alive: not before */
    memory_t *memory;
    server_rec *server;
} keeper_t;

static keeper_t *keeper;

static void on_child(int reason, void *data, int status);

static void watch(keeper_t *k)
{
    if (!k->noted) {
        apr_pool_note_subprocess(k->pconf, &k->proc, APR_KILL_AFTER_TIMEOUT);
        k->noted = 1;
    }
    apr_proc_other_child_register(&k->proc, on_child, k, NULL, k->pconf);
}

/* No signal may reach the child before it has handlers of its own: it would be lost. */
static apr_status_t fork_blocked(apr_proc_t *proc, apr_pool_t *p)
{
    sigset_t all, before;
    apr_status_t rv;

    if (sigfillset(&all) != 0 || sigprocmask(SIG_SETMASK, &all, &before) != 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    rv = apr_proc_fork(proc, p);
    if (rv != APR_INCHILD && sigprocmask(SIG_SETMASK, &before, NULL) != 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    return rv;
}

static void start(keeper_t *k)
{
    psp_start_t order = {.server = k->server, .parent = getpid(), .delay = k->delay};
    apr_proc_t made = {0};
    apr_status_t rv;

    apr_cpystrn(order.previous, k->memory->id, sizeof order.previous);
    rv = psp_uuid7(order.id, apr_time_now());
    if (rv == APR_SUCCESS) {
        rv = fork_blocked(&made, k->pconf);
    }
    if (rv == APR_INCHILD) {
        apr_pool_t *p;

        apr_pool_create(&p, k->pconf);
        apr_pool_tag(p, "psp_notifier");
        psp_child_run(&order, p);
    }
    if (rv != APR_INPARENT) {
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, k->server,
                     "PSP0402: the notifier cannot be started; tried again soon");
        return;
    }
    apr_cpystrn(k->memory->id, order.id, sizeof k->memory->id);
    k->proc = made;
    k->alive = 1;
    k->started = psp_mono();
    psp_count_started(made.pid);
    watch(k);
}

static int stopping(void)
{
    int state;

    return ap_mpm_query(AP_MPMQ_MPM_STATE, &state) != APR_SUCCESS || state == AP_MPMQ_STOPPING;
}

static void restart(keeper_t *k, int status)
{
    apr_int64_t now = psp_mono();
    apr_interval_time_t lived = now - k->started - k->delay;

    psp_count(PSP_COUNT_RESTARTS, 1);
    k->failures = lived < SOON ? k->failures + 1 : 0;
    k->delay = 0;
    if (k->failures > 1) { /* once is an accident */
        k->delay = k->failures > 6 ? DELAY_MAX : FIRST << (k->failures - 2);
    }
    k->start_at = lived < 0 ? now + k->delay : now;
    ap_log_error(
        APLOG_MARK, k->delay ? APLOG_ERR : APLOG_WARNING, 0, k->server,
        "PSP0403: the notifier died (signal or exit status %d); another one begins in %s%d s",
        status, lived < 0 ? "no less than " : "", (int)apr_time_sec(k->delay));
    if (lived < 0) {
        k->delay = 0; /* on_monitor waits */
        return;
    }
    start(k);
}

static void on_child(int reason, void *data, int status)
{
    keeper_t *k = data;

    switch (reason) {
    case APR_OC_REASON_DEATH:
    case APR_OC_REASON_LOST:
        k->alive = 0; /* before it is unregistered, which calls us again */
        apr_proc_other_child_unregister(k);
        psp_count_died();
        if (!stopping()) {
            restart(k, reason == APR_OC_REASON_DEATH ? status : 0);
        }
        break;
    case APR_OC_REASON_UNREGISTER: /* pconf is being cleared, all workers are gone */
        if (k->alive) {
            (void)kill(k->proc.pid, SIGTERM); /* not reaped yet, so it is still ours */
        }
        break;
    default: /* nor at APR_OC_REASON_RESTART, when that is not known yet */
        break;
    }
}

/* Every ten seconds or so, in the parent's main loop: when there was no process to be had, or none was wanted yet. */
static int on_monitor(apr_pool_t *p, server_rec *s)
{
    (void)p;
    (void)s;
    if (keeper && !keeper->alive && psp_mono() >= keeper->start_at && !stopping()) {
        start(keeper);
    }
    return DECLINED;
}

/* Before pconf is cleared, all workers are gone. When httpd ends and the notifier died a moment before, which
 * nobody may have noticed yet, another one takes what is left; it is told to leave in a moment, as any is. */
static apr_status_t at_end(void *data)
{
    keeper_t *k = data;

    if (getpid() != k->parent || ap_state_query(AP_SQ_MAIN_STATE) != AP_SQ_MS_EXITING) {
        return APR_SUCCESS;
    }
    psp_record_end();
    if (k->alive && APR_STATUS_IS_CHILD_DONE(apr_proc_wait(&k->proc, NULL, NULL, APR_NOWAIT))) {
        k->alive = 0;
        apr_proc_other_child_unregister(k);
        psp_count_died();
    }
    if (!k->alive &&
        psp_ring_waiting(psp_record_ring()) + psp_counted(PSP_GAUGE_RECORDS_HELD) > 0) {
        k->delay = 0;
        start(k);
    }
    return APR_SUCCESS;
}

static memory_t *recall(apr_pool_t *process_pool)
{
    void *found = NULL;

    (void)apr_pool_userdata_get(&found, MEMORY_KEY, process_pool);
    if (!found) {
        found = apr_pcalloc(process_pool, sizeof(memory_t));
        (void)apr_pool_userdata_set(found, MEMORY_KEY, NULL, process_pool);
    }
    return found;
}

static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    (void)plog;
    (void)ptemp;
    keeper = NULL;
    if (ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG ||
        !psp_config_server(s)->conninfo || !psp_record_ring()) {
        return OK;
    }
    if (psp_config_server(s)->spool) {
        apr_status_t rv = psp_spool_prepare(psp_config_server(s)->spool);

        if (rv != APR_SUCCESS) {
            ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s,
                         "PSP0423: the directory of PubSubPullSpool cannot be made: %s",
                         psp_config_server(s)->spool);
            return HTTP_INTERNAL_SERVER_ERROR;
        }
    }
    keeper = apr_pcalloc(pconf, sizeof *keeper);
    keeper->pconf = pconf;
    keeper->server = s;
    keeper->parent = getpid();
    keeper->memory = recall(s->process->pool);
    apr_pool_pre_cleanup_register(pconf, keeper, at_end);
    start(keeper);
    return OK;
}

void psp_notify_register_hooks(apr_pool_t *p)
{
    (void)p;
    /* After everything that may still refuse the configuration. */
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_monitor(on_monitor, NULL, NULL, APR_HOOK_MIDDLE);
}
