/* SPDX-License-Identifier: Apache-2.0 */
/* test_ring_death.c: writers of the ring that are killed, or stopped for too long, in the middle of
 * a record. */
#include "core/ring.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <apr_strings.h>

#include "ring_records.h"
#include "tap.h"

static record_t record;
static long page;
static unsigned char
    *trap; /* two pages, the second unreadable: copying from them stops in the middle */

static void stop_here(int signal_number)
{
    (void)signal_number;
    kill(getpid(), SIGSTOP);
    mprotect(trap + page, (size_t)page, PROT_READ | PROT_WRITE);
}

/* Fork a writer whose record, of 600 readable bytes and 2400 others, kills or stops it half-way. */
static pid_t stuck_writer(psp_ring_t *ring, int stops)
{
    pid_t pid = fork();
    struct sigaction action = {.sa_handler = stops ? stop_here : SIG_DFL};
    int status = 0;

    if (pid == 0) {
        if (sigaction(SIGSEGV, &action, NULL) != 0 ||
            mprotect(trap + page, (size_t)page, PROT_NONE) != 0) {
            _exit(1);
        }
        _exit(psp_ring_put(ring, trap + page - 600, 3000) == APR_EAGAIN ? 42 : 1);
    }
    waitpid(pid, &status, WUNTRACED);
    ok(stops ? WIFSTOPPED(status) : WIFSIGNALED(status),
       stops ? "writer stopped half-way" : "writer killed half-way");
    return pid;
}

/* Read until there is a record; returns how long that took, at most limit seconds. */
static double wait_for_record(psp_ring_t *ring, apr_size_t *length, double limit)
{
    double start = seconds();

    while (psp_ring_get(ring, &record, length) != APR_SUCCESS) {
        if (seconds() - start > limit) {
            *length = 0;
            break;
        }
        usleep(1000);
    }
    return seconds() - start;
}

static void put_numbered(psp_ring_t *ring, unsigned from, unsigned to, apr_size_t length)
{
    unsigned refused = 0;

    for (; from < to; from++) {
        record_make(&record, 1, from, length);
        refused += psp_ring_put(ring, &record, length) != APR_SUCCESS;
    }
    is_int(refused, 0, "others write on");
}

static void killed(apr_pool_t *p)
{
    psp_ring_t *ring;
    apr_size_t length;
    double took;
    unsigned k;

    if (psp_ring_make(&ring, 64, p) != APR_SUCCESS) {
        ok(0, "ring made");
        return;
    }
    put_numbered(ring, 0, 1, 100);
    stuck_writer(ring, 0);
    put_numbered(ring, 1, 2, 100);
    stuck_writer(ring, 0);
    stuck_writer(ring, 0);
    put_numbered(ring, 2, 4, 700);
    ok(wait_for_record(ring, &length, 3) < 0.5 && record.number == 0,
       "what was written before comes at once");
    took = wait_for_record(ring, &length, 3);
    ok(took > 0.95 && took < 1.5 && record.number == 1 && record_good(&record, length, 100),
       "the dead record is given up after a second");
    is_int((long long)psp_ring_dropped(ring), 1, "and counted");
    for (k = 2; k < 4; k++) {
        ok(wait_for_record(ring, &length, 3) < 0.5 && record.number == k &&
               record_good(&record, length, 700),
           "others that died at the time cost no second of their own");
    }
    is_int((long long)psp_ring_dropped(ring), 3, "but are counted");
    ok(psp_ring_get(ring, &record, &length) == APR_EAGAIN, "empty");

    stuck_writer(ring, 0);
    took = wait_for_record(ring, &length, 0.5);
    put_numbered(ring, 5, 6, 100);
    took += wait_for_record(ring, &length, 3);
    ok(took > 0.95 && took < 1.5 && record.number == 5, "a later death is waited for anew");
}

/* A writer that comes back when others have records in the slots that once were its. */
static void late(apr_pool_t *p)
{
    psp_ring_t *ring;
    apr_size_t length;
    unsigned bad = 0;
    unsigned got = 0;
    unsigned last = 0;
    int status = 0;
    pid_t pid;

    if (psp_ring_make(&ring, 32, p) != APR_SUCCESS) {
        ok(0, "ring made");
        return;
    }
    pid = stuck_writer(ring, 1);
    wait_for_record(ring, &length, 1.2);
    is_int((long long)psp_ring_dropped(ring), 1, "given up");
    put_numbered(ring, 1, 33, 480);
    ok(psp_ring_put(ring, &record, 480) == APR_EAGAIN, "ring full: all slots are in use again");
    kill(pid, SIGCONT);
    waitpid(pid, &status, 0);
    is_int(WEXITSTATUS(status), 42, "the late writer is told that its record was given up");
    while (psp_ring_get(ring, &record, &length) == APR_SUCCESS) {
        got++;
        bad += !record_good(&record, length, 480) || record.number <= last;
        last = record.number;
    }
    is_int(bad, 0, "every record that is read is whole and in order");
    ok(got >= 31, "no more than one was lost");
    is_int((long long)psp_ring_dropped(ring), 2 + 32 - got, "and that one is counted");

    pid = stuck_writer(ring, 1);
    kill(pid, SIGCONT);
    waitpid(pid, &status, 0);
    ok(wait_for_record(ring, &length, 0.5) < 0.5 && length == 3000,
       "one that comes back in time loses nothing");
}

/* Fork a writer that puts records until it is killed. */
static pid_t endless_writer(psp_ring_t *ring, unsigned writer)
{
    pid_t pid = fork();
    unsigned k;

    if (pid != 0) {
        return pid;
    }
    for (k = 0;; k++) {
        apr_size_t length = record_make(&record, writer, k, 0);

        while (psp_ring_put(ring, &record, length) != APR_SUCCESS) {
            sched_yield();
        }
    }
}

static void end_writer(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* Every 2 ms one of four writers is killed, wherever it is, and a new one takes its place. */
static void random_deaths(apr_pool_t *p)
{
    enum { WRITERS = 4, MOST = 4000 };
    pid_t pids[WRITERS];
    unsigned next[MOST] = {0};
    unsigned born;
    unsigned got = 0;
    unsigned bad = 0;
    double start = seconds();
    double now;
    double last = start;
    double stall = 0;
    double kill_at = start;
    psp_ring_t *ring;

    if (psp_ring_make(&ring, 1024, p) != APR_SUCCESS) {
        ok(0, "ring made");
        return;
    }
    for (born = 0; born < WRITERS; born++) {
        pids[born] = endless_writer(ring, born);
    }
    while ((now = seconds()) < start + 4) {
        apr_size_t length;

        if (now > kill_at && born < MOST) {
            pid_t *victim = &pids[rand() % WRITERS];

            kill_at = now + 0.002;
            end_writer(*victim);
            *victim = endless_writer(ring, born++);
        }
        stall = now - last > stall ? now - last : stall;
        if (psp_ring_get(ring, &record, &length) != APR_SUCCESS) {
            continue;
        }
        last = now;
        got++;
        if (!record_good(&record, length, 0) || record.writer >= born ||
            record.number < next[record.writer]) {
            bad++;
            continue;
        }
        next[record.writer] = record.number + 1;
    }
    printf("# %u writers, %u records read, longest pause %.3f s\n", born, got, stall);
    for (born = 0; born < WRITERS; born++) {
        end_writer(pids[born]);
    }
    is_int(bad, 0, "every record is whole and in its writer's order");
    ok(got > 1000 && stall < 1.5, "the reader goes on within 1.5 s");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();

    page = sysconf(_SC_PAGESIZE);
    trap = mmap(NULL, 2 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (trap == MAP_FAILED) {
        ok(0, "two pages");
        return done(pool);
    }
    memset(trap, 'x', 2 * (size_t)page);
    killed(pool);
    late(pool);
    random_deaths(pool);
    return done(pool);
}
