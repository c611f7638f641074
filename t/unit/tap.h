/* SPDX-License-Identifier: Apache-2.0 */
/* tap.h: enough of the Test Anything Protocol for unit tests. */
#ifndef PSP_T_UNIT_TAP_H
#define PSP_T_UNIT_TAP_H

#include <stdio.h>
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>

static int tap_count;
static int tap_failed;

/* Begin a test program: lines leave at once, so that forked children inherit an empty buffer. */
static inline apr_pool_t *tap_begin(void)
{
    apr_pool_t *pool = NULL;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (apr_initialize() != APR_SUCCESS || apr_pool_create(&pool, NULL) != APR_SUCCESS) {
        printf("Bail out! APR does not start\n");
    }
    return pool;
}

static inline int ok(int good, const char *name)
{
    printf("%sok %d - %s\n", good ? "" : "not ", ++tap_count, name);
    tap_failed += !good;
    return good;
}

static inline int is_str(const char *got, const char *wanted, const char *name)
{
    int same = got && wanted ? strcmp(got, wanted) == 0 : got == wanted;

    if (!ok(same, name)) {
        printf("#      got: %s\n#   wanted: %s\n", got ? got : "(null)",
               wanted ? wanted : "(null)");
    }
    return same;
}

static inline int is_int(long long got, long long wanted, const char *name)
{
    if (!ok(got == wanted, name)) {
        printf("#      got: %lld\n#   wanted: %lld\n", got, wanted);
    }
    return got == wanted;
}

/* End it: print the plan; the result is the program's exit status. */
static inline int done(apr_pool_t *pool)
{
    apr_pool_destroy(pool);
    apr_terminate();
    printf("1..%d\n", tap_count);
    return tap_failed != 0;
}

#endif
