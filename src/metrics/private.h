/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room share: the numbers that take more than a look at a counter. */
#ifndef PSP_METRICS_PRIVATE_H
#define PSP_METRICS_PRIVATE_H

#include <httpd.h>

/** The notifier runs, and turned its loop lately. */
int psp_metrics_notifier_up(void);

/** Deliveries that failed, for whatever reason. */
apr_int64_t psp_metrics_failed(void);

/** Records of requests that were dropped: by the ring, or with a notifier that was killed. */
apr_int64_t psp_metrics_records_dropped(void);

void psp_status_register_hooks(apr_pool_t *p);

#endif
