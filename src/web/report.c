/* SPDX-License-Identifier: Apache-2.0 */
/* report.c: what happens to this process's database sessions, for the log. */
#include "web/private.h"

#include <apr_atomic.h>
#include <http_log.h>

#include "config/config.h"
#include "core/counters.h"

APLOG_USE_MODULE(pubsubpull);

static volatile apr_uint32_t away; /* the database cannot be reached, and the log says so */

/* SQLSTATEs of a schema that is missing: PSP0304 says that once, at a higher level. */
static int lacks_schema(const char *cause)
{
    return !strncmp(cause, "3F000", 5) || !strncmp(cause, "42883", 5) ||
           !strncmp(cause, "42P01", 5);
}

/* An outage is told once and its end once; that each request failed meanwhile, the access log
 * tells. */
void psp_report(void *baton, psp_db_event_t event, apr_status_t rv, const char *cause)
{
    const server_rec *s = baton;

    switch (event) {
    case PSP_DB_CONNECTED:
        if (apr_atomic_xchg32(&away, 0)) {
            ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, s,
                         "PSP0310: resources: the database is back");
        }
        break;
    case PSP_DB_UNREACHABLE:
        psp_count(PSP_COUNT_POOL_UNREACHABLE, 1);
        if (!apr_atomic_xchg32(&away, 1)) {
            ap_log_error(APLOG_MARK, APLOG_ERR, rv, s,
                         "PSP0311: resources: the database cannot be reached: %s", cause);
        }
        break;
    case PSP_DB_LOST:
        psp_count(PSP_COUNT_POOL_LOST, 1);
        ap_log_error(APLOG_MARK, APLOG_INFO, rv, s,
                     "PSP0312: resources: a database session was lost: %s", cause);
        break;
    case PSP_DB_LATE:
        psp_count(PSP_COUNT_POOL_LATE, 1);
        ap_log_error(APLOG_MARK, APLOG_WARNING, rv, s,
                     "PSP0313: resources: the database did not answer in time: %s", cause);
        break;
    case PSP_DB_FAILED:
        psp_count(PSP_COUNT_POOL_REFUSED, 1);
        ap_log_error(APLOG_MARK, lacks_schema(cause) ? APLOG_INFO : APLOG_ERR, rv, s,
                     "PSP0314: resources: the database refused: %s", cause);
        break;
    }
}
