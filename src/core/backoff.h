/* SPDX-License-Identifier: Apache-2.0 */
/* backoff.h: how long to wait before the next try. */
#ifndef PSP_CORE_BACKOFF_H
#define PSP_CORE_BACKOFF_H

#include <apr_time.h>

/**
 * Exponential back-off with full jitter: a random time from 0 to min(max, first * 2^(attempts-1)), but at least a
 * tenth of that bound, so that a retry never follows at once.
 * @param attempts tries that failed so far, from 1
 * @param first, max microseconds
 * @param random 32 random bits
 */
apr_interval_time_t psp_backoff(int attempts, apr_interval_time_t first, apr_interval_time_t max,
                                apr_uint32_t random);

#endif
