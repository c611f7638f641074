/* SPDX-License-Identifier: Apache-2.0 */
/* counters.h: what httpd's processes and the notifier count together, in shared memory. */
#ifndef PSP_CORE_COUNTERS_H
#define PSP_CORE_COUNTERS_H

#include <apr_errno.h>

/**
 * After a graceful restart another version of the module finds the counters of the one before: new ones go to the end, and a
 * number is never used for something else. Whoever kills a process loses nothing of what it counted.
 */
typedef enum psp_counter_t {
    /* only grow */
    PSP_COUNT_EVENTS_READ,
    PSP_COUNT_EVENTS_SENT,
    PSP_COUNT_SENT, /* PUTs: a batch is one */
    PSP_COUNT_RETRIED,
    PSP_COUNT_FAILED_4XX,
    PSP_COUNT_FAILED_5XX,
    PSP_COUNT_FAILED_STATUS, /* any other answer */
    PSP_COUNT_FAILED_CONNECT,
    PSP_COUNT_FAILED_TIMEOUT,
    PSP_COUNT_FAILED_TLS,
    PSP_COUNT_FAILED_DNS,
    PSP_COUNT_FAILED_DENIED, /* the address */
    PSP_COUNT_FAILED_URL,    /* the key made none of the callback */
    PSP_COUNT_FAILED_LOCAL,  /* no sockets; not the receiver's failure */
    PSP_COUNT_FAILED_LOST,   /* a shared connection broke, perhaps by others' fault */
    PSP_COUNT_FAILED_OTHER,
    PSP_COUNT_RESTARTS,   /* of a notifier that died */
    PSP_COUNT_RECONNECTS, /* of its database sessions */
    PSP_COUNT_RECORDS_WRITTEN,
    PSP_COUNT_RECORDS_REFUSED,
    PSP_COUNT_RECORDS_LOST, /* in the memory of a notifier that was killed, and nowhere else */
    PSP_COUNT_POOL_WAITS,
    PSP_COUNT_POOL_UNREACHABLE,
    PSP_COUNT_POOL_LOST,
    PSP_COUNT_POOL_LATE,
    PSP_COUNT_POOL_REFUSED,
    /* are set */
    PSP_GAUGE_PID,     /* of the notifier, 0: none */
    PSP_GAUGE_STARTED, /* apr_time_t */
    PSP_GAUGE_SEEN,    /* monotonic microseconds: when it last turned its loop */
    PSP_GAUGE_DATABASE,
    PSP_GAUGE_FLYING,
    PSP_GAUGE_RECORDS_HELD, /* records of requests in the notifier's memory and nowhere else */
    /* only grow; added later */
    PSP_COUNT_FAILED_HOPS, /* given up: too long a chain of causes */
    PSP_GAUGE_HOLDS_BACK,  /* this one is set: deliveries wait for processors */
    PSP_COUNTERS
} psp_counter_t;

/** Maps memory for the counters, to be shared with processes that are forked later. It is never unmapped. */
apr_status_t psp_counters_make(void **shared);

/** From now on this process and those that it forks count there; before, each counts for itself. */
void psp_counters_use(void *shared);

void psp_count(psp_counter_t which, apr_int64_t n);
void psp_gauge(psp_counter_t which, apr_int64_t value);
apr_int64_t psp_counted(psp_counter_t which);

#endif
