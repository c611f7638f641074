/* SPDX-License-Identifier: Apache-2.0 */
/* seats.c: how many requests of the whole server wait: counted in memory that its children share. */
#include "pull/private.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <apr_atomic.h>
#include <apr_shm.h>
#include <ap_mpm.h>
#include <http_log.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

/* One for each child. That of a child which died is found by its process id, and taken again. */
typedef struct psp_bench_t {
    volatile apr_uint32_t pid;
    volatile apr_uint32_t taken[2]; /* by those who hold no thread, and by those who do */
} psp_bench_t;

static psp_bench_t *benches; /* made before the fork, NULL: none */
static int nbenches;
static psp_bench_t *mine; /* this child's */

static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    apr_shm_t *shm;
    apr_status_t rv;

    (void)plog;
    (void)ptemp;
    benches = NULL;
    if (!psp_config_server(s)->conninfo) {
        return OK;
    }
    if (ap_mpm_query(AP_MPMQ_HARD_LIMIT_DAEMONS, &nbenches) != APR_SUCCESS || nbenches < 1) {
        nbenches = 1;
    }
    nbenches *= 2; /* those of before a graceful restart may leave late */
    rv = apr_shm_create(&shm, (apr_size_t)nbenches * sizeof(*benches), NULL, pconf);
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, s,
                     "PSP0332: no shared memory to count those who wait for changes: nobody may");
        return OK;
    }
    benches = apr_shm_baseaddr_get(shm);
    memset((void *)benches, 0, (apr_size_t)nbenches * sizeof(*benches));
    return OK;
}

static int is_dead(apr_uint32_t pid)
{
    return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

static apr_status_t leave(void *baton)
{
    psp_bench_t *bench = baton;

    apr_atomic_set32(&bench->taken[0], 0);
    apr_atomic_set32(&bench->taken[1], 0);
    apr_atomic_set32(&bench->pid, 0);
    return APR_SUCCESS;
}

static void child_init(apr_pool_t *p, server_rec *s)
{
    apr_uint32_t pid = (apr_uint32_t)getpid();
    int i;

    (void)s;
    mine = NULL;
    for (i = 0; benches && i < nbenches && !mine; i++) {
        apr_uint32_t owner = apr_atomic_read32(&benches[i].pid);

        if ((!owner || is_dead(owner)) && apr_atomic_cas32(&benches[i].pid, pid, owner) == owner) {
            mine = &benches[i];
            apr_atomic_set32(&mine->taken[0], 0);
            apr_atomic_set32(&mine->taken[1], 0);
            apr_pool_cleanup_register(p, mine, leave, apr_pool_cleanup_null);
        }
    }
}

static apr_uint32_t workers(void)
{
    int daemons = 1, threads = 1;

    (void)ap_mpm_query(AP_MPMQ_MAX_DAEMONS, &daemons);
    (void)ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    return (apr_uint32_t)(daemons * (threads > 1 ? threads : 1));
}

static void count(apr_uint32_t sum[2])
{
    int i, holds;

    for (i = 0; i < nbenches; i++) {
        apr_uint32_t pid = apr_atomic_read32(&benches[i].pid);

        for (holds = 0; pid && holds < 2; holds++) {
            apr_uint32_t taken = apr_atomic_read32(&benches[i].taken[holds]);

            sum[holds] += taken && !is_dead(pid) ? taken : 0;
        }
    }
}

/* Unless the administrator says something else, as many as there are workers, and half of the
 * workers at most. */
static int are_too_many(const server_rec *s, int holds)
{
    int set = psp_config_server(s)->waiters;
    apr_uint32_t taken[2] = {0, 0};

    count(taken);
    if (set != PSP_UNSET) {
        return taken[0] + taken[1] > (apr_uint32_t)set;
    }
    return taken[0] + taken[1] > workers() || (holds && taken[1] > workers() / 2);
}

int psp_seat_take(const server_rec *s, int holds)
{
    if (!mine) {
        return 0;
    }
    apr_atomic_inc32(&mine->taken[!!holds]);
    if (are_too_many(s, holds)) {
        psp_seat_give(holds);
        return 0;
    }
    return 1;
}

void psp_seat_give(int holds)
{
    apr_atomic_dec32(&mine->taken[!!holds]);
}

void psp_seats_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
}
