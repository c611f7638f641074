/* SPDX-License-Identifier: Apache-2.0 */
/* test_ring_steps.c: a writer of the ring is stopped after its 1st, 2nd, 3rd… machine instruction, each time with a
 * ring of its own, and is killed there, or comes back in time, or too late. */
#include "core/ring.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <apr_strings.h>

#include "ring_records.h"
#include "tap.h"

#define MOST 200          /* places */
#define STEPS_LIMIT 75000 /* in all, for one test; a step takes some 40 us */
#define SLOTS 32
#define SIZE 40
#define WRITER 7

enum { WRITTEN = 40, REFUSED };

/* One place to stop at: the ring, and the writer that stands there. */
typedef struct place_t {
    psp_ring_t *ring;
    pid_t pid;
} place_t;

static place_t places[MOST];
static record_t record;
static volatile int *put_done; /* shared: the traced writer is through */

/* Fork a writer of one record that waits, traced, just before it; -1: tracing is not permitted here. */
static pid_t traced_writer(psp_ring_t *ring)
{
    pid_t pid = fork();
    int status = 0;
    int result;

    if (pid == 0) {
        record_make(&record, WRITER, 0, SIZE);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0 || kill(getpid(), SIGSTOP) != 0) {
            _exit(1);
        }
        result = psp_ring_put(ring, &record, SIZE) == APR_SUCCESS ? WRITTEN : REFUSED;
        *put_done = 1;
        _exit(result);
    }
    return waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) ? pid : -1;
}

/* Let it do so many instructions; returns how many it did before it ended. */
static int step(pid_t pid, int steps)
{
    int done_steps = 0;
    int status;

    while (done_steps < steps && ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0 &&
           waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
        done_steps++;
    }
    return done_steps;
}

static int let_go(pid_t pid)
{
    int status = 0;

    ptrace(PTRACE_DETACH, pid, NULL, NULL);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void end_writer(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* A writer at each place, on fresh rings; returns 0 when that cannot be had. */
static int stand_everywhere(apr_pool_t *p, int count, int stride)
{
    int i;

    for (i = 0; i < count; i++) {
        if (psp_ring_make(&places[i].ring, SLOTS, p) != APR_SUCCESS ||
            (places[i].pid = traced_writer(places[i].ring)) < 0) {
            return ok(0, "a traced writer with its ring");
        }
        step(places[i].pid, i * stride);
    }
    return 1;
}

static int put(psp_ring_t *ring, unsigned number)
{
    record_make(&record, 1, number, SIZE);
    return psp_ring_put(ring, &record, SIZE) == APR_SUCCESS;
}

/* Read all there is: returns how many records of others came, *stranger those of the traced writer, and *bad is
 * set when one is not what was put or out of order. */
static int get_all(psp_ring_t *ring, int *stranger, int *bad)
{
    apr_size_t length;
    unsigned last = 0;
    int got = 0;

    *stranger = 0;
    while (psp_ring_get(ring, &record, &length) == APR_SUCCESS) {
        *bad +=
            !record_good(&record, length, SIZE) || (record.writer == 1 && record.number <= last);
        *stranger += record.writer == WRITER;
        got += record.writer == 1;
        last = record.writer == 1 ? record.number : last;
    }
    return got;
}

static void give_up_everywhere(int count)
{
    int unused;
    int bad = 0;
    int i;

    for (i = 0; i < count; i++) {
        get_all(places[i].ring, &unused, &bad);
    }
    usleep(1050000);
}

/* Killed; then others write at once, or only after the reader gave the record up. */
static void killed(apr_pool_t *p, int count, int stride, int reader_first)
{
    int lost = 0;
    int bad = 0;
    int stranger;
    int dead = 0;
    int i;

    if (!stand_everywhere(p, count, stride)) {
        return;
    }
    for (i = 0; i < count; i++) {
        end_writer(places[i].pid);
        lost += !reader_first && !put(places[i].ring, 1);
    }
    give_up_everywhere(count);
    for (i = 0; i < count; i++) {
        psp_ring_t *ring = places[i].ring;
        int got = get_all(ring, &stranger, &bad);

        dead += (int)psp_ring_dropped(ring);
        bad += psp_ring_dropped(ring) > 1;
        /* where nothing was in its way, the record came out before the second was over */
        lost += !reader_first && got == 0 && psp_ring_dropped(ring) > 0;
        lost += !put(ring, 2) || get_all(ring, &stranger, &bad) != 1;
    }
    printf("# of %d killed, %d had reserved and not finished\n", count, dead);
    ok(dead > 0, "killed between reservation and end");
    is_int(lost, 0,
           reader_first ? "the ring goes on when the reader comes first"
                        : "and when writers come first");
    is_int(bad, 0, "no record is spoilt");
}

/* Comes back after others have written and were read, before a second is over: it must not be refused. */
static void in_time(apr_pool_t *p, int count, int stride)
{
    int lost = 0;
    int bad = 0;
    int stranger;
    unsigned k;
    int i;

    if (!stand_everywhere(p, count, stride)) {
        return;
    }
    for (i = 0; i < count; i++) {
        psp_ring_t *ring = places[i].ring;
        int got = 0;
        int strangers = 0;

        for (k = 1; k <= 5; k++) {
            lost += !put(ring, k);
        }
        got += get_all(ring, &stranger, &bad);
        strangers += stranger;
        lost += let_go(places[i].pid) != WRITTEN;
        got += get_all(ring, &stranger, &bad);
        strangers += stranger;
        lost += got != 5 || strangers != 1 || psp_ring_dropped(ring) != 0;
    }
    is_int(lost, 0, "a writer that was held up anywhere loses nothing");
    is_int(bad, 0, "no record is spoilt");
}

/* Comes back after it was given up and all slots are in use again. */
static void too_late(apr_pool_t *p, int count, int stride)
{
    int stuck = 0;
    int lost = 0;
    int bad = 0;
    int stranger;
    unsigned k;
    int i;

    if (!stand_everywhere(p, count, stride)) {
        return;
    }
    give_up_everywhere(count);
    for (i = 0; i < count; i++) {
        psp_ring_t *ring = places[i].ring;
        apr_uint64_t before;
        int missing;

        get_all(ring, &stranger, &bad);
        for (k = 1; k <= SLOTS; k++) {
            stuck += !put(ring, k);
        }
        before = psp_ring_dropped(ring);
        bad += before > 1;
        let_go(places[i].pid);
        missing = SLOTS - get_all(ring, &stranger, &bad);
        lost += missing;
        /* refused because the ring was full (only if it was not given up before), or scribbled on one record */
        bad += missing > 1 || stranger != 0 || psp_ring_dropped(ring) - before > 1;
        stuck += !put(ring, 1) || get_all(ring, &stranger, &bad) != 1;
    }
    printf("# %d late writers cost %d records of others\n", count, lost);
    is_int(stuck, 0, "the ring goes on");
    is_int(bad, 0, "late writers are noticed; no record is spoilt, none costs more than one");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();
    int stranger;
    int bad = 0;
    int total = 0;
    int count;
    int stride;

    put_done =
        mmap(NULL, sizeof *put_done, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (put_done == MAP_FAILED) {
        ok(0, "shared memory");
        return done(pool);
    }
    /* once without steps, so that the dynamic linker has done its part before */
    if (psp_ring_make(&places[0].ring, SLOTS, pool) != APR_SUCCESS || !put(places[0].ring, 1) ||
        get_all(places[0].ring, &stranger, &bad) != 1) {
        ok(0, "ring works at all");
        return done(pool);
    }
    places[0].pid = traced_writer(places[0].ring);
    if (places[0].pid < 0) {
        ok(1, "single steps # SKIP tracing is not permitted here");
        return done(pool);
    }
    while (!*put_done && step(places[0].pid, 1) == 1) {
        total++;
    }
    end_writer(places[0].pid);
    count = STEPS_LIMIT / (total + 1) < MOST ? STEPS_LIMIT / (total + 1) : MOST;
    stride = total / count + 1;
    count = total / stride;
    printf("# stopping at %d places, each %d instructions from the next\n", count, stride);
    alarm(300); /* a writer or reader that spins for ever ends the test, and that is a failure */
    killed(pool, count, stride, 1);
    killed(pool, count, stride, 0);
    in_time(pool, count, stride);
    too_late(pool, count, stride);
    return done(pool);
}
