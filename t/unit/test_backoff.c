/* SPDX-License-Identifier: Apache-2.0 */
/* test_backoff.c: bounds and spread of waiting times. */
#include "core/backoff.h"

#include "tap.h"

#define SECOND APR_USEC_PER_SEC

static void bounds(void)
{
    static const apr_uint32_t randoms[] = {0,           1,           0x7fffffffu,
                                           0x80000000u, 0xfffffffeu, 0xffffffffu};
    apr_interval_time_t bound = SECOND;
    int good = 1;
    int attempts;

    for (attempts = 1; attempts <= 200; attempts++) {
        unsigned i;

        for (i = 0; i < sizeof randoms / sizeof *randoms; i++) {
            apr_interval_time_t t = psp_backoff(attempts, SECOND, 3600 * SECOND, randoms[i]);

            good = good && t >= bound / 10 && t <= bound;
        }
        bound = bound * 2 > 3600 * SECOND ? 3600 * SECOND : bound * 2;
    }
    ok(good, "always between a tenth of the bound and the bound, for 200 attempts");
}

static void spread(void)
{
    apr_interval_time_t last = -1;
    double sum = 0;
    int rising = 1;
    int i;

    for (i = 0; i < 4096; i++) {
        apr_interval_time_t t = psp_backoff(3, SECOND, 3600 * SECOND, (apr_uint32_t)i << 20);

        rising = rising && t > last;
        last = t;
        sum += (double)t;
    }
    ok(rising, "different random bits give different waits");
    sum /= 4096 * (double)(4 * SECOND);
    ok(sum > 0.53 && sum < 0.57, "the mean is the middle of the range");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();

    is_int(psp_backoff(1, SECOND, 3600 * SECOND, 0), SECOND / 10,
           "least wait after the first failure");
    is_int(psp_backoff(1, SECOND, 3600 * SECOND, 0xffffffffu), SECOND, "longest after the first");
    is_int(psp_backoff(2, SECOND, 3600 * SECOND, 0xffffffffu), 2 * SECOND, "doubles");
    is_int(psp_backoff(12, SECOND, 3600 * SECOND, 0xffffffffu), 2048 * SECOND, "doubles below max");
    is_int(psp_backoff(13, SECOND, 3600 * SECOND, 0xffffffffu), 3600 * SECOND, "stops at max");
    ok(psp_backoff(2147483647, 1, APR_INT64_MAX, 0xffffffffu) > APR_INT64_MAX / 10 * 9,
       "does not overflow");
    is_int(psp_backoff(5, 10 * SECOND, SECOND, 0xffffffffu), SECOND, "max below first");
    is_int(psp_backoff(0, SECOND, 9 * SECOND, 0xffffffffu), SECOND,
           "no attempt counts as the first");
    is_int(psp_backoff(3, 0, 9 * SECOND, 7), 0, "first 0: no wait");
    is_int(psp_backoff(3, SECOND, 0, 7), 0, "max 0: no wait");
    is_int(psp_backoff(1, 1, 1, 0), 1, "a single microsecond is not rounded away");
    bounds();
    spread();
    return done(pool);
}
