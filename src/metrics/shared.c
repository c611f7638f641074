/* SPDX-License-Identifier: Apache-2.0 */
/* shared.c: the memory of the counters, and what follows from them. */
#include "metrics/private.h"

#include <time.h>

#include <httpd.h>
#include <http_config.h>
#include <http_core.h>
#include <http_log.h>

#include "config/config.h"
#include "core/counters.h"
#include "metrics/metrics.h"
#include "record/record.h"

APLOG_USE_MODULE(pubsubpull);

/* Names the meaning of the numbers in psp_counter_t: change it when one of them got another. */
#define COUNTERS_KEY "mod_pubsubpull counters 1"

/* The loop turns at least once a second, unless the notifier hangs or has been stopped. */
#define SEEN_MAX apr_time_from_sec(5)

/* Kept for the life of httpd's parent: what draining workers and the next generation count goes on. */
static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    apr_pool_t *process_pool = s->process->pool;
    void *shared = NULL;
    apr_status_t rv;

    (void)pconf;
    (void)plog;
    (void)ptemp;
    if (!psp_config_server(s)->database ||
        ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) {
        return OK;
    }
    (void)apr_pool_userdata_get(&shared, COUNTERS_KEY, process_pool);
    if (!shared &&
        ((rv = psp_counters_make(&shared)) != APR_SUCCESS ||
         (rv = apr_pool_userdata_set(shared, COUNTERS_KEY, NULL, process_pool)) != APR_SUCCESS)) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s,
                     "PSP0320: the memory for counters could not be had");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    psp_counters_use(shared);
    return OK;
}

int psp_metrics_notifier_up(void)
{
    struct timespec t;

    if (psp_counted(PSP_GAUGE_PID) == 0 || clock_gettime(CLOCK_MONOTONIC, &t) != 0) {
        return 0;
    }
    return apr_time_from_sec(t.tv_sec) + t.tv_nsec / 1000 - psp_counted(PSP_GAUGE_SEEN) < SEEN_MAX;
}

apr_int64_t psp_metrics_failed(void)
{
    apr_int64_t sum = 0;
    int i;

    for (i = PSP_COUNT_FAILED_4XX; i <= PSP_COUNT_FAILED_OTHER; i++) {
        sum += psp_counted((psp_counter_t)i);
    }
    return sum;
}

apr_int64_t psp_metrics_records_dropped(void)
{
    return (apr_int64_t)psp_ring_dropped(psp_record_ring()) + psp_counted(PSP_COUNT_RECORDS_LOST);
}

void psp_metrics_register_hooks(apr_pool_t *p)
{
    psp_status_register_hooks(p);
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_FIRST + 1);
}
