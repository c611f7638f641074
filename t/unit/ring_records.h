/* SPDX-License-Identifier: Apache-2.0 */
/* ring_records.h: records whose content follows from who wrote them and when, for the tests of the
 * ring. */
#ifndef PSP_T_UNIT_RING_RECORDS_H
#define PSP_T_UNIT_RING_RECORDS_H

#include <string.h>
#include <time.h>

#include "core/ring.h"

typedef struct record_t {
    apr_uint32_t writer;
    apr_uint32_t number;
    unsigned char rest[PSP_RING_RECORD_MAX - 8];
} record_t;

static inline apr_uint64_t next_random(apr_uint64_t *state)
{
    apr_uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

/* Fill a record of the given length, or one that follows from the rest when 0; returns the length.
 */
static inline apr_size_t record_make(record_t *r, unsigned writer, unsigned number,
                                     apr_size_t length)
{
    apr_uint64_t state = (apr_uint64_t)writer << 32 | number;
    apr_uint64_t bits = next_random(&state);
    apr_size_t i;

    if (length == 0) { /* mostly small ones, as in life, and any size now and then */
        length = sizeof *r - sizeof r->rest + bits % (bits >> 60 ? 1200 : sizeof r->rest + 1);
    }
    r->writer = writer;
    r->number = number;
    for (i = 0; i < length - 8; i += 8) {
        bits = next_random(&state);
        memcpy(r->rest + i, &bits, length - 8 - i < 8 ? length - 8 - i : 8);
    }
    return length;
}

/* True when a record is as it was made; length 0: by its own length. */
static inline int record_good(const record_t *r, apr_size_t got, apr_size_t length)
{
    static record_t wanted;

    return got >= 8 && got == record_make(&wanted, r->writer, r->number, length) &&
           memcmp(r, &wanted, got) == 0;
}

static inline double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

#endif
