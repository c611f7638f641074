/* SPDX-License-Identifier: Apache-2.0 */
/* status.c: the section in mod_status's server-status: from shared memory alone, it never waits. */
#include "metrics/private.h"

#include <http_config.h>
#include <http_protocol.h>
#include <mod_status.h>

#include "core/counters.h"
#include "record/record.h"

static void line(request_rec *r, int flags, const char *key, const char *words, apr_int64_t value)
{
    if (flags & AP_STATUS_SHORT) {
        ap_rprintf(r, "PubSubPull%s: %" APR_INT64_T_FMT "\n", key, value);
    }
    else {
        ap_rprintf(r, "<dt>%s: %" APR_INT64_T_FMT "</dt>\n", words, value);
    }
}

static int status(request_rec *r, int flags)
{
    if (!psp_record_ring()) {
        return DECLINED;
    }
    if (!(flags & AP_STATUS_SHORT)) {
        ap_rputs("<hr />\n<h2>PubSubPull</h2>\n<dl>\n", r);
    }
    line(r, flags, "NotifierUp", "Notifier up", psp_metrics_notifier_up());
    line(r, flags, "NotifierPid", "Notifier's process", psp_counted(PSP_GAUGE_PID));
    line(r, flags, "DatabaseUp", "Notifier's database up", psp_counted(PSP_GAUGE_DATABASE));
    line(r, flags, "InFlight", "Deliveries in flight", psp_counted(PSP_GAUGE_FLYING));
    line(r, flags, "Sent", "Deliveries sent", psp_counted(PSP_COUNT_SENT));
    line(r, flags, "Failed", "Deliveries failed", psp_metrics_failed());
    line(r, flags, "Retried", "Deliveries tried again", psp_counted(PSP_COUNT_RETRIED));
    line(r, flags, "RecordsWritten", "Records of requests written",
         psp_counted(PSP_COUNT_RECORDS_WRITTEN));
    line(r, flags, "RecordsDropped", "Records of requests dropped", psp_metrics_records_dropped());
    line(r, flags, "RecordsWaiting", "Records of requests waiting",
         (apr_int64_t)psp_ring_waiting(psp_record_ring()) + psp_counted(PSP_GAUGE_RECORDS_HELD));
    if (!(flags & AP_STATUS_SHORT)) {
        ap_rputs("</dl>\n", r);
    }
    return OK;
}

void psp_status_register_hooks(apr_pool_t *p)
{
    (void)p;
    APR_OPTIONAL_HOOK(ap, status_hook, status, NULL, NULL, APR_HOOK_MIDDLE);
}
