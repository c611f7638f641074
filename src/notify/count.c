/* SPDX-License-Identifier: Apache-2.0 */
/* count.c: what the metrics are told, where that takes more than a line. */
#include "notify/private.h"

#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define REPORT apr_time_from_sec(60) /* between log lines about loops */

/* A loop brings many of these at once. */
void psp_count_stopped(psp_child_t *c, const psp_sub_t *sub, const char *request, int hops)
{
    static apr_int64_t report_at, stopped;

    psp_count(PSP_COUNT_FAILED_HOPS, 1);
    stopped++;
    if (c->now < report_at) {
        return;
    }
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, c->server,
                 "PSP0480: %" APR_INT64_T_FMT " deliveries were stopped, the last one for "
                 "subscription %s: %d requests caused one another through deliveries before "
                 "request %s, and PubSubPullMaxHops is %d",
                 stopped, sub->name, hops, request ? request : "-", psp_config_max_hops(c->config));
    stopped = 0;
    report_at = c->now + REPORT;
}

void psp_count_result(const psp_event_t *e, const psp_put_result_t *result)
{
    int class = result->status / 100;

    if (result->outcome != PSP_PUT_ANSWERED) {
        psp_count(result->outcome == PSP_PUT_LOST ? PSP_COUNT_FAILED_LOST : result->failure, 1);
        return;
    }
    for (; class == 2 && e; e = e->batch_next) {
        psp_count(PSP_COUNT_EVENTS_SENT, 1);
    }
    psp_count(class == 2   ? PSP_COUNT_SENT
              : class == 4 ? PSP_COUNT_FAILED_4XX
              : class == 5 ? PSP_COUNT_FAILED_5XX
                           : PSP_COUNT_FAILED_STATUS,
              1);
}

/* How often a session was connected after the first time. */
static apr_uint32_t again(const psp_session_t *s)
{
    apr_uint32_t connects = psp_session_connects(s);

    return connects > 1 ? connects - 1 : 0;
}

void psp_count_turn(psp_child_t *c)
{
    apr_uint32_t reconnects = again(c->db) + again(c->records_db);

    psp_count(PSP_COUNT_RECONNECTS, reconnects - c->reconnects);
    c->reconnects = reconnects;
    psp_gauge(PSP_GAUGE_DATABASE, psp_session_ready(c->db));
    psp_gauge(PSP_GAUGE_FLYING, c->flying);
    psp_gauge(PSP_GAUGE_SEEN, c->now);
}

void psp_count_started(pid_t pid)
{
    psp_gauge(PSP_GAUGE_STARTED, apr_time_now());
    psp_gauge(PSP_GAUGE_PID, pid);
}

void psp_count_died(void)
{
    psp_gauge(PSP_GAUGE_PID, 0);
    psp_gauge(PSP_GAUGE_DATABASE, 0);
    psp_gauge(PSP_GAUGE_FLYING, 0);
    psp_gauge(PSP_GAUGE_HOLDS_BACK, 0);
}
