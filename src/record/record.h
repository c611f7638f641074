/* SPDX-License-Identifier: Apache-2.0 */
/* record.h: identity of requests: made, carried to the service, handed to the child when the
 * request ended. */
#ifndef PSP_RECORD_RECORD_H
#define PSP_RECORD_RECORD_H

#include <httpd.h>

#include "core/ring.h"

/** Registers the request hooks (fixups REALLY_LAST, insert_filter, log_transaction) and the making
 * of the queue. */
void psp_record_register_hooks(apr_pool_t *p);

/** The queue from workers to the notifier child, or NULL when inert. It and the pipe outlive
 * restarts of httpd: they belong to process->pool, so that records of draining workers are read by
 * the next child. */
psp_ring_t *psp_record_ring(void);

/** Read end of the pipe by which workers wake the child (non-blocking), or -1. */
int psp_record_wake_fd(void);

/** The child says that it is there, and whether it can put records where they survive. Once a second
 * at least. */
void psp_record_say(int can_keep);

/** httpd's parent says that it ends, and that nobody will read the queue after this child. */
void psp_record_end(void);
int psp_record_ending(void);

/** Whether the record of a request that comes now would be kept (PubSubPullRequired). */
int psp_record_possible(void);

/** Wake the child: something may have been changed. Costs nothing when it was woken already. */
void psp_record_wake(void);

/** The database knows the newest key: from now on it signs. Until then the one before it does, if
 * there is one, so that nothing is signed with a key that the database does not know yet. */
void psp_record_keys_known(void);

/** What a delivery says of the request that caused it: its trace id (W3C Trace Context), and the value of PubSubPull-Cause. */
#define PSP_TRACE_LENGTH 32
#define PSP_CAUSE_LENGTH 127
void psp_record_trace(char out[PSP_TRACE_LENGTH + 1], const char *id);
void psp_record_cause(char out[PSP_CAUSE_LENGTH + 1], const char *id);

/**
 * One record in the queue: a header, then the envelope's text.
 * A record with length 0 of envelope is never written.
 */
typedef struct psp_record_header_t {
    apr_int64_t bytes;    /* sent to the client, body only */
    apr_int64_t duration; /* microseconds */
    apr_int32_t status;   /* final HTTP status */
    apr_int32_t mode;     /* psp_record_t of the place the request went to */
} psp_record_header_t;

#endif
