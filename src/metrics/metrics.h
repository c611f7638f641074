/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.h: how everything is doing, for monitoring: /metrics, and a section of server-status. */
#ifndef PSP_METRICS_METRICS_H
#define PSP_METRICS_METRICS_H

#include "web/web.h"

extern const psp_route_t psp_metrics_routes[];

/** Registers the making of the counters' shared memory (post_config FIRST + 1) and the section of server-status. */
void psp_metrics_register_hooks(apr_pool_t *p);

#endif
