/* SPDX-License-Identifier: Apache-2.0 */
/* test_counters.c: counters of many processes, some of which are killed. */
#include "core/counters.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

#define CHILDREN 4
#define ROUNDS 200000

int main(void)
{
    apr_pool_t *pool = tap_begin();
    void *shared = NULL;
    int i, k, status;

    psp_count(PSP_COUNT_SENT, 7);
    is_int(psp_counted(PSP_COUNT_SENT), 7, "a process counts for itself");
    ok(psp_counters_make(&shared) == APR_SUCCESS && shared, "memory to share");
    psp_counters_use(shared);
    is_int(psp_counted(PSP_COUNT_SENT), 0, "which begins with zeros");
    for (i = 0; i < CHILDREN; i++) {
        if (fork() == 0) {
            for (k = 0; k < ROUNDS; k++) {
                psp_count(PSP_COUNT_SENT, 1);
            }
            psp_gauge(PSP_GAUGE_FLYING, 42);
            (void)kill(getpid(), SIGKILL);
        }
    }
    for (i = 0; i < CHILDREN; i++) {
        (void)wait(&status);
    }
    is_int(psp_counted(PSP_COUNT_SENT), (long long)CHILDREN * ROUNDS, "no count is lost");
    is_int(psp_counted(PSP_GAUGE_FLYING), 42, "a gauge is what was set last");
    psp_count(PSP_GAUGE_FLYING, -2);
    is_int(psp_counted(PSP_GAUGE_FLYING), 40, "and can go down");
    is_int(psp_counted(PSP_COUNT_EVENTS_READ), 0, "others are not touched");
    return done(pool);
}
