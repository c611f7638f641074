/* SPDX-License-Identifier: Apache-2.0 */
/* backoff.c: exponential back-off with jitter. */
#include "core/backoff.h"

/* share of span that random/2^32 stands for; in two halves because the product may need 96 bits */
static apr_uint64_t scale(apr_uint64_t span, apr_uint32_t random)
{
    return (span >> 32) * random + (((span & 0xffffffffu) * random) >> 32);
}

apr_interval_time_t psp_backoff(int attempts, apr_interval_time_t first, apr_interval_time_t max,
                                apr_uint32_t random)
{
    apr_interval_time_t bound = first;
    apr_interval_time_t least;
    int i;

    for (i = 1; i < attempts && bound > 0 && bound < max; i++) {
        bound = bound > max / 2 ? max : bound * 2;
    }
    if (bound > max) {
        bound = max;
    }
    if (bound <= 0) {
        return 0;
    }
    /* spread over [least, bound] rather than clamp: clamped retries would meet at exactly `least`
     */
    least = bound / 10 + (bound % 10 != 0);
    return least + (apr_interval_time_t)scale((apr_uint64_t)(bound - least) + 1, random);
}
