/* SPDX-License-Identifier: Apache-2.0 */
/* test_ring.c: the ring with one process, with many writers, when full, and its wake flag. */
#include "core/ring.h"

#include <poll.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <apr_strings.h>

#include "ring_records.h"
#include "tap.h"

#define WRITERS 8
#define RECORDS 20000

static record_t record;

static void arguments(apr_pool_t *p)
{
    psp_ring_t *ring;
    apr_size_t length;

    ok(psp_ring_make(&ring, 0, p) == APR_EINVAL && !ring, "no slots");
    ok(psp_ring_make(&ring, 16, p) == APR_EINVAL, "too few for the largest record");
    ok(psp_ring_make(&ring, 48, p) == APR_EINVAL, "not a power of two");
    ok(psp_ring_make(&ring, 32, p) == APR_SUCCESS && ring, "smallest ring");
    ok(psp_ring_get(ring, &record, &length) == APR_EAGAIN, "empty");
    ok(psp_ring_put(ring, &record, 0) == APR_EINVAL, "no record of 0 bytes");
    ok(psp_ring_put(ring, &record, PSP_RING_RECORD_MAX + 1) == APR_EINVAL, "none too large");
    ok(psp_ring_put(ring, &record, (apr_size_t)-1) == APR_EINVAL, "nor of a size that overflows");
    is_int((long long)psp_ring_dropped(ring), 0, "nothing was dropped");
}

/* Every size once, through a ring so small that records wrap at every place. */
static void sizes(apr_pool_t *p)
{
    psp_ring_t *ring;
    apr_size_t length;
    unsigned size;
    unsigned good = 0;

    if (psp_ring_make(&ring, 32, p) != APR_SUCCESS) {
        ok(0, "ring made");
        return;
    }
    for (size = 8; size <= PSP_RING_RECORD_MAX; size++) {
        record_make(&record, 1, size, size);
        good += psp_ring_put(ring, &record, size) == APR_SUCCESS;
        memset(&record, 0, sizeof record);
        good += psp_ring_get(ring, &record, &length) == APR_SUCCESS && record.number == size &&
                length == size && record_good(&record, length, size);
    }
    is_int(good, 2LL * (PSP_RING_RECORD_MAX - 7), "records of every size");
    ok(psp_ring_put(ring, "x", 1) == APR_SUCCESS &&
           psp_ring_get(ring, &record, &length) == APR_SUCCESS && length == 1 &&
           *(char *)&record == 'x',
       "a record of one byte");
}

static void full(apr_pool_t *p)
{
    psp_ring_t *ring;
    apr_size_t length;
    unsigned put = 0;
    unsigned got = 0;
    unsigned k;

    if (psp_ring_make(&ring, 64, p) != APR_SUCCESS) {
        ok(0, "ring made");
        return;
    }
    while (record_make(&record, 1, put, 600) && psp_ring_put(ring, &record, 600) == APR_SUCCESS) {
        put++;
    }
    is_int(put, 32, "takes as many as there are slots for");
    is_int((long long)psp_ring_waiting(ring), 32, "and knows how many wait");
    is_int((long long)psp_ring_dropped(ring), 1, "the refused one is counted");
    for (k = 0; k < 9; k++) {
        ok(psp_ring_put(ring, &record, PSP_RING_RECORD_MAX) == APR_EAGAIN, "still full");
    }
    is_int((long long)psp_ring_dropped(ring), 10, "all refused ones are counted");
    ok(psp_ring_get(ring, &record, &length) == APR_SUCCESS && record.number == 0, "one is taken");
    ok(psp_ring_put(ring, &record, PSP_RING_RECORD_MAX) == APR_EAGAIN,
       "not room enough for a large one");
    record_make(&record, 1, put, 600);
    ok(psp_ring_put(ring, &record, 600) == APR_SUCCESS, "but for a small one");
    is_int((long long)psp_ring_waiting(ring), 32, "over the end of the lap, too");
    while (psp_ring_get(ring, &record, &length) == APR_SUCCESS) {
        got += record.number == got + 1 && record_good(&record, length, 600);
    }
    is_int(got, 32, "all that was accepted comes out, in order");
    is_int((long long)psp_ring_waiting(ring), 0, "none waits");
    is_int((long long)psp_ring_dropped(ring), 11, "and the count of dropped ones stays");
}

/* Writer process: puts its records, trying again when the ring is full; reports how often it was
 * refused. */
static void write_all(psp_ring_t *ring, unsigned writer, int report)
{
    apr_uint64_t refused = 0;
    unsigned k;

    for (k = 0; k < RECORDS; k++) {
        apr_size_t length = record_make(&record, writer, k, 0);

        while (psp_ring_put(ring, &record, length) != APR_SUCCESS) {
            refused++;
            sched_yield();
        }
    }
    _exit(write(report, &refused, sizeof refused) != sizeof refused);
}

static void many_writers(apr_pool_t *p)
{
    psp_ring_t *ring;
    unsigned next[WRITERS] = {0};
    apr_uint64_t refused = 0;
    apr_uint64_t part;
    unsigned got = 0;
    unsigned bad = 0;
    double end = seconds() + 120;
    int ends[2];
    unsigned k;
    int status;

    if (psp_ring_make(&ring, 256, p) != APR_SUCCESS || pipe(ends) != 0) {
        ok(0, "ring made");
        return;
    }
    for (k = 0; k < WRITERS; k++) {
        if (fork() == 0) {
            write_all(ring, k, ends[1]);
        }
    }
    close(ends[1]);
    while (got < WRITERS * RECORDS && seconds() < end) {
        apr_size_t length;

        if (psp_ring_get(ring, &record, &length) != APR_SUCCESS) {
            sched_yield();
            continue;
        }
        got++;
        bad += record.writer >= WRITERS || !record_good(&record, length, 0) ||
               record.number != next[record.writer]++;
    }
    is_int(got, (long long)WRITERS * RECORDS, "all records of 8 writers arrive");
    is_int(bad, 0, "each whole, and in its writer's order");
    for (k = 0; wait(&status) > 0; k += status == 0) {
    }
    is_int(k, WRITERS, "writers end well");
    while (read(ends[0], &part, sizeof part) == sizeof part) {
        refused += part;
    }
    close(ends[0]);
    is_int((long long)psp_ring_dropped(ring), (long long)refused,
           "every refusal is counted, nothing else");
}

/* Writers signal through a pipe only when the flag says so; the reader sleeps and must never
 * oversleep. */
/* What was read stays until it is given free: the reader after one that died finds it again. */
static void reread(apr_pool_t *p)
{
    psp_ring_t *ring;
    apr_uint64_t at;
    apr_size_t length;
    unsigned k, put = 0, got = 0;

    if (psp_ring_make(&ring, 64, p) != APR_SUCCESS) {
        ok(0, "ring made");
        return;
    }
    while (psp_ring_put(ring, &put, sizeof put) == APR_SUCCESS) {
        put++;
    }
    is_int(psp_ring_fill(ring), 100, "a full ring");
    for (k = 0; k < 2; k++) {
        at = psp_ring_tail(ring);
        for (got = 0; psp_ring_peek(ring, &at, &record, &length) == APR_SUCCESS; got++) {
            if (record.writer != got || psp_ring_put(ring, &put, sizeof put) == APR_SUCCESS) {
                break;
            }
        }
        is_int(got, put, "all are read in order, and keep their room");
    }
    at = psp_ring_tail(ring);
    (void)psp_ring_peek(ring, &at, &record, &length);
    psp_ring_free(ring, at);
    psp_ring_free(ring, at - 1);
    is_int((long long)psp_ring_tail(ring), (long long)at, "one is given free, nothing goes back");
    ok(psp_ring_put(ring, &put, sizeof put) == APR_SUCCESS, "there is room for one");
    ok(psp_ring_put(ring, &put, sizeof put) == APR_EAGAIN, "and no more");
    ok(psp_ring_get(ring, &record, &length) == APR_SUCCESS && record.writer == 1, "the next");
}

static void wake(apr_pool_t *p)
{
    psp_ring_t *ring;
    unsigned got = 0;
    unsigned signals = 0;
    int overslept = 0;
    int ends[2];
    unsigned k;

    if (psp_ring_make(&ring, 4096, p) != APR_SUCCESS || pipe(ends) != 0) {
        ok(0, "ring made");
        return;
    }
    ok(psp_ring_wake_claim(ring) && !psp_ring_wake_claim(ring), "one of two has to signal");
    psp_ring_wake_clear(ring);
    ok(psp_ring_wake_claim(ring) && !psp_ring_wake_claim(ring),
       "and again after the reader cleared");
    psp_ring_wake_clear(ring);
    for (k = 0; k < 4; k++) {
        unsigned number;

        if (fork() != 0) {
            continue;
        }
        for (number = 0; number < RECORDS; number++) {
            while (psp_ring_put(ring, &number, sizeof number) != APR_SUCCESS) {
                sched_yield();
            }
            if (psp_ring_wake_claim(ring) && write(ends[1], "", 1) != 1) {
                _exit(1);
            }
        }
        _exit(0);
    }
    while (got < 4 * RECORDS && !overslept) {
        struct pollfd bell = {.fd = ends[0], .events = POLLIN};
        apr_size_t length;
        char byte;

        overslept = poll(&bell, 1, 5000) != 1 || read(ends[0], &byte, 1) != 1;
        psp_ring_wake_clear(ring);
        for (signals++; psp_ring_get(ring, &record, &length) == APR_SUCCESS; got++) {
        }
    }
    is_int(got, 4LL * RECORDS, "the reader sleeps until signalled and gets all");
    printf("# %u signals for %u records\n", signals, got);
    while (wait(NULL) > 0) {
    }
    close(ends[0]);
    close(ends[1]);
}

/* The parent's pool going away must not take the ring from a child. */
static void life_time(apr_pool_t *p)
{
    apr_pool_t *mine;
    psp_ring_t *ring;
    int go[2];
    int status;
    char byte;

    if (apr_pool_create(&mine, p) != APR_SUCCESS ||
        psp_ring_make(&ring, 1024, mine) != APR_SUCCESS || pipe(go) != 0) {
        ok(0, "ring made");
        return;
    }
    if (fork() == 0) {
        close(go[1]);
        if (read(go[0], &byte, 1) != 0) {
            _exit(1);
        }
        _exit(psp_ring_put(ring, "x", 1) != APR_SUCCESS);
    }
    apr_pool_destroy(mine);
    close(go[0]);
    close(go[1]);
    ok(wait(&status) > 0 && status == 0, "a child keeps its ring");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();

    arguments(pool);
    sizes(pool);
    full(pool);
    many_writers(pool);
    reread(pool);
    wake(pool);
    life_time(pool);
    return done(pool);
}
