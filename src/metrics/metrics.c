/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.c: /metrics: what shared memory knows, always; what the database knows, when it answers in time. */
#include "metrics/metrics.h"

#include <stdlib.h>

#include <apr_strings.h>
#include <http_log.h>
#include <http_protocol.h>
#include <util_filter.h>

#include "config/config.h"
#include "core/counters.h"
#include "core/openmetrics.h"
#include "metrics/private.h"
#include "record/record.h"

APLOG_USE_MODULE(pubsubpull);

/* Monitoring asks every few seconds and gives up after some: it shall hear of an outage, not run into it. */
#define TIMEOUT apr_time_from_sec(4)

/* One sample of a number in shared memory; those of one family follow each other. */
typedef struct sample_t {
    psp_family_t family;
    psp_counter_t counter;
    const char *label, *value;
} sample_t;

#define GAUGE(name, help)                                                                          \
    {                                                                                              \
        "pubsubpull_" name, PSP_METRIC_GAUGE, NULL, help                                           \
    }
#define SECONDS(name, help)                                                                        \
    {                                                                                              \
        "pubsubpull_" name "_seconds", PSP_METRIC_GAUGE, "seconds", help                           \
    }
#define COUNTER(name, help)                                                                        \
    {                                                                                              \
        "pubsubpull_" name, PSP_METRIC_COUNTER, NULL, help                                         \
    }
#define FAILED COUNTER("deliveries_failed", "Deliveries that failed, each try, by reason.")
#define POOL_ERRORS COUNTER("pool_errors", "Troubles of the resources' database sessions.")

static const sample_t samples[] = {
    {COUNTER("events_read",
             "Notifications read from the log; some are read again after a restart."),
     PSP_COUNT_EVENTS_READ, NULL, NULL},
    {COUNTER("events_sent", "Notifications in deliveries that were answered with 2xx."),
     PSP_COUNT_EVENTS_SENT, NULL, NULL},
    {COUNTER("deliveries_sent", "Deliveries that were answered with 2xx; a batch is one."),
     PSP_COUNT_SENT, NULL, NULL},
    {FAILED, PSP_COUNT_FAILED_4XX, "reason", "4xx"},
    {FAILED, PSP_COUNT_FAILED_5XX, "reason", "5xx"},
    {FAILED, PSP_COUNT_FAILED_STATUS, "reason", "status"},
    {FAILED, PSP_COUNT_FAILED_CONNECT, "reason", "connect"},
    {FAILED, PSP_COUNT_FAILED_TIMEOUT, "reason", "timeout"},
    {FAILED, PSP_COUNT_FAILED_TLS, "reason", "tls"},
    {FAILED, PSP_COUNT_FAILED_DNS, "reason", "dns"},
    {FAILED, PSP_COUNT_FAILED_DENIED, "reason", "denied"},
    {FAILED, PSP_COUNT_FAILED_URL, "reason", "url"},
    {FAILED, PSP_COUNT_FAILED_LOCAL, "reason", "local"},
    {FAILED, PSP_COUNT_FAILED_LOST, "reason", "lost"},
    {FAILED, PSP_COUNT_FAILED_HOPS, "reason", "hops"},
    {FAILED, PSP_COUNT_FAILED_OTHER, "reason", "other"},
    {COUNTER("deliveries_retried", "Tries of deliveries that had failed before."),
     PSP_COUNT_RETRIED, NULL, NULL},
    {GAUGE("deliveries_in_flight", "Deliveries on the wire."), PSP_GAUGE_FLYING, NULL, NULL},
    {GAUGE("deliveries_held_back", "Whether deliveries wait for processors that writers need."),
     PSP_GAUGE_HOLDS_BACK, NULL, NULL},
    {COUNTER("notifier_restarts", "Notifiers that were started because one had died."),
     PSP_COUNT_RESTARTS, NULL, NULL},
    {COUNTER("notifier_database_reconnects", "Database sessions that the notifier opened again."),
     PSP_COUNT_RECONNECTS, NULL, NULL},
    {GAUGE("notifier_database_connected", "Whether the notifier is connected to the database."),
     PSP_GAUGE_DATABASE, NULL, NULL},
    {COUNTER("records_written", "Records of ended requests that the database took."),
     PSP_COUNT_RECORDS_WRITTEN, NULL, NULL},
    {COUNTER("records_refused", "Records of ended requests that the database refused."),
     PSP_COUNT_RECORDS_REFUSED, NULL, NULL},
    {COUNTER("pool_waits", "Requests for resources that waited for a database session."),
     PSP_COUNT_POOL_WAITS, NULL, NULL},
    {POOL_ERRORS, PSP_COUNT_POOL_UNREACHABLE, "reason", "unreachable"},
    {POOL_ERRORS, PSP_COUNT_POOL_LOST, "reason", "lost"},
    {POOL_ERRORS, PSP_COUNT_POOL_LATE, "reason", "late"},
    {POOL_ERRORS, PSP_COUNT_POOL_REFUSED, "reason", "refused"},
};

static void write_shared(psp_metrics_t *m)
{
    apr_size_t i;

    for (i = 0; i < sizeof samples / sizeof *samples; i++) {
        const sample_t *s = &samples[i];

        if (i == 0 || strcmp(s->family.name, s[-1].family.name) != 0) {
            psp_metrics_family(m, &s->family);
        }
        psp_metrics_int(m, s->label, s->value, psp_counted(s->counter));
    }
}

/* --- What has to be worked out --- */

static void write_build(psp_metrics_t *m)
{
    static const psp_family_t build = {"pubsubpull_build", PSP_METRIC_INFO, NULL,
                                       "The module: the version of the schema that it speaks."};

    psp_metrics_family(m, &build);
    psp_metrics_text(m, "schema_version", APR_STRINGIFY(PSP_SCHEMA_VERSION), "1");
}

static void write_notifier(psp_metrics_t *m)
{
    static const psp_family_t up =
        GAUGE("notifier_up", "Whether this server's notifier runs and does not hang.");
    static const psp_family_t started =
        SECONDS("notifier_start_time", "When the notifier was started, in Unix time.");
    apr_time_t at = psp_counted(PSP_GAUGE_STARTED);
    char text[48];

    (void)apr_snprintf(text, sizeof text, "%" APR_TIME_T_FMT ".%03d", apr_time_sec(at),
                       (int)apr_time_msec(at));
    psp_metrics_family(m, &up);
    psp_metrics_int(m, NULL, NULL, psp_metrics_notifier_up());
    psp_metrics_family(m, &started);
    psp_metrics_text(m, NULL, NULL, text);
}

static void write_records(psp_metrics_t *m)
{
    static const psp_family_t dropped =
        COUNTER("records_dropped", "Records of ended requests that there was no room for, or that "
                                   "were lost with a notifier that was killed.");
    static const psp_family_t waiting =
        GAUGE("records_waiting", "Records of ended requests that wait to be written, by place.");

    psp_metrics_family(m, &dropped);
    psp_metrics_int(m, NULL, NULL, psp_metrics_records_dropped());
    psp_metrics_family(m, &waiting);
    psp_metrics_int(m, "place", "ring", (apr_int64_t)psp_ring_waiting(psp_record_ring()));
    psp_metrics_int(m, "place", "notifier", psp_counted(PSP_GAUGE_RECORDS_HELD));
}

/* --- What the database knows --- */

/* Columns of pubsubpull.metrics(). */
enum { NAME, STATE, LAG_CHANGES, LAG_SECONDS, OLDEST, PARKED, FAILURES, GIVEN_UP, AT_RISK };

static const struct {
    psp_family_t family;
    int column;
} columns[] = {
    {GAUGE("subscription_lag_changes",
           "Changes of its table that are not delivered; counting stops at 10000."),
     LAG_CHANGES},
    {SECONDS("subscription_lag", "Age of the oldest of these changes, 0: none."), LAG_SECONDS},
    {SECONDS("subscription_oldest_pending",
             "Age of the oldest change that is not delivered, also when it failed and is to be "
             "tried again, 0: none."),
     OLDEST},
    {GAUGE("subscription_parked_deliveries",
           "Deliveries that are tried again or wait behind such; counting stops at 10000."),
     PARKED},
    {GAUGE("subscription_failed_deliveries",
           "Deliveries that were given up and not discarded; counting stops at 10000."),
     FAILURES},
    {COUNTER("subscription_given_up", "Deliveries that were tried and given up."), GIVEN_UP},
    {GAUGE("subscription_at_risk",
           "1: it loses its place in the log before long, for the retention ends."),
     AT_RISK},
};

static void write_states(psp_metrics_t *m, const psp_rows_t *rows)
{
    static const psp_family_t subscriptions = GAUGE("subscriptions", "Subscriptions by state.");
    static const char *const states[] = {"active", "paused", "disabled"};
    apr_size_t i;
    int row, n;

    psp_metrics_family(m, &subscriptions);
    for (i = 0; i < sizeof states / sizeof *states; i++) {
        for (n = row = 0; row < psp_rows_count(rows); row++) {
            n += !strcmp(psp_rows_get(rows, row, STATE), states[i]);
        }
        psp_metrics_int(m, "state", states[i], n);
    }
}

/* Columns of pubsubpull.unattributed_counts(). */
enum { REASON, CHANGES };

static void write_unattributed(psp_metrics_t *m, const psp_rows_t *rows)
{
    static const psp_family_t unattributed =
        COUNTER("changes_unattributed",
                "Changes whose session named a request that is not believed, by reason.");
    int row;

    psp_metrics_family(m, &unattributed);
    for (row = 0; row < psp_rows_count(rows); row++) {
        psp_metrics_text(m, "reason", psp_rows_get(rows, row, REASON),
                         psp_rows_get(rows, row, CHANGES));
    }
}

/* NULL: it did not answer in time, or lacks our schema. What happened is logged and counted below. */
static const psp_rows_t *ask_database(psp_call_t *c, const char *query)
{
    const psp_rows_t *rows;
    psp_result_t result = psp_db_call(psp_web_db(c), c->r->pool, query, 0, NULL, TIMEOUT, &rows);

    return result.rv == APR_SUCCESS ? rows : NULL;
}

/* Without the database its families are missing rather than zero. */
static void write_database(psp_metrics_t *m, const psp_rows_t *rows, const psp_rows_t *counts)
{
    static const psp_family_t up =
        GAUGE("database_up", "Whether the database answered in time to tell of subscriptions.");
    apr_size_t i;
    int row;

    psp_metrics_family(m, &up);
    psp_metrics_int(m, NULL, NULL, rows != NULL);
    if (!rows) {
        return;
    }
    if (counts) {
        write_unattributed(m, counts);
    }
    write_states(m, rows);
    for (i = 0; i < sizeof columns / sizeof *columns; i++) {
        psp_metrics_family(m, &columns[i].family);
        for (row = 0; row < psp_rows_count(rows); row++) {
            psp_metrics_text(m, "subscription", psp_rows_get(rows, row, NAME),
                             psp_rows_get(rows, row, columns[i].column));
        }
    }
}

/* --- The resource --- */

/* How much a media type is wanted that is named in Accept. */
static double weight(request_rec *r, const char *type, const char *wanted_version)
{
    const char *accept = apr_table_get(r->headers_in, "Accept");
    apr_size_t length = strlen(type);
    double most = 0;
    char *range;

    while (accept && (range = ap_get_list_item(r->pool, &accept))) {
        const char *version = strstr(range, ";version=");
        const char *q = strstr(range, ";q=");
        double wanted = q ? atof(q + 3) : 1;

        if (!strncmp(range, type, length) && (!range[length] || range[length] == ';') &&
            (!version || !strncmp(version + 9, wanted_version, strlen(wanted_version))) &&
            wanted > most) {
            most = wanted;
        }
    }
    return most;
}

/* Who names neither gets the older format, as scrapers expect. */
static int wants_openmetrics(request_rec *r)
{
    double openmetrics = weight(r, "application/openmetrics-text", "1.0.0");

    return openmetrics > 0 && openmetrics >= weight(r, "text/plain", "0.0.4");
}

static int get_metrics(psp_call_t *c)
{
    request_rec *r = c->r;
    psp_metrics_t m = {.to = apr_brigade_create(r->pool, r->connection->bucket_alloc),
                       .openmetrics = wants_openmetrics(r)};
    const psp_rows_t *rows = ask_database(c, "SELECT * FROM pubsubpull.metrics()");
    const psp_rows_t *counts =
        rows ? ask_database(c, "SELECT * FROM pubsubpull.unattributed_counts()") : NULL;
    apr_off_t length;

    write_build(&m);
    write_notifier(&m);
    write_shared(&m);
    write_records(&m);
    write_database(&m, rows, counts);
    psp_metrics_end(&m);
    apr_table_setn(r->headers_out, "Cache-Control", "private, no-cache");
    ap_set_content_type(r, psp_metrics_type(&m));
    if (apr_brigade_length(m.to, 1, &length) == APR_SUCCESS) {
        ap_set_content_length(r, length);
    }
    if (!r->header_only && ap_pass_brigade(r->output_filters, m.to) != APR_SUCCESS) {
        ap_log_rerror(APLOG_MARK, APLOG_DEBUG, APR_ECONNABORTED, r, "client is gone");
    }
    return OK;
}

static const char *const types[] = {"application/openmetrics-text", "text/plain", NULL};

const psp_route_t psp_metrics_routes[] = {
    {.pattern = "metrics", .get = get_metrics, .types = types},
    {.pattern = NULL},
};
