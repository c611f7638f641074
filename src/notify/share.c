/* SPDX-License-Identifier: Apache-2.0 */
/* share.c: how the notifier shares processors: while it has much to send it gives way to all others, for a time.
 *
 * What is little costs little and should go at once; what is much can be sent a little later, and where processors are
 * scarce those who write go first. But a follower must not fall behind for ever: after a minute of much it takes
 * its turns like everybody else, until there was less for a moment.
 *
 * Giving way is being nice, but its session's and the receivers' processor time is not the notifier's to be nice with. So
 * while others change much and processors are scarce (core/pace.h) it takes little of its own, which keeps theirs little too: the
 * subscriptions that get much rest between pages. Those that get little are read as always, and so is one that is BEHIND.
 */
#include "notify/private.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/pace.h"

#define NICE 10
#define WINDOW apr_time_from_msec(200)
#define MUCH 200 /* events read in a window */
#define YIELD_MAX apr_time_from_sec(60)
#define NICE_LIMIT 20 /* of RLIMIT_NICE: one may go back to 0 */
#define BEHIND apr_time_from_sec(30)

static int autogroup =
    -1; /* where sessions share first, and the processes of each only then; as root opened it */
static int yields; /* the level may be changed to and fro */

struct psp_share_t {
    apr_int64_t ends;   /* the window */
    apr_int64_t events; /* counted when it began */
    apr_int64_t since;  /* when there began to be much, 0: there is not */
    int level;
    psp_pace_t pace;
    int resting;
    apr_int64_t behind;
    apr_int64_t made, made_at; /* the latest id in the log, and when it was that */
    int stat, schedstat;       /* files of /proc, -1: not here */
    int processors;
    apr_int64_t tick; /* microseconds in one of /proc/stat */
};

void psp_share_begin(void)
{
    struct rlimit limit = {NICE_LIMIT, NICE_LIMIT};

    yields = setrlimit(RLIMIT_NICE, &limit) == 0;
    autogroup = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC); /* not everywhere */
}

psp_share_t *psp_share_make(psp_child_t *c)
{
    psp_share_t *s = apr_pcalloc(c->p, sizeof *s);
    long processors = sysconf(_SC_NPROCESSORS_ONLN), ticks = sysconf(_SC_CLK_TCK);
    apr_int64_t kept = c->config->retention > 0 ? apr_time_from_sec(c->config->retention) : 0;

    s->stat = open("/proc/stat", O_RDONLY | O_CLOEXEC);
    s->schedstat = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
    s->processors = processors > 0 ? (int)processors : 1;
    s->tick = APR_USEC_PER_SEC / (ticks > 0 ? ticks : 100);
    s->behind =
        kept && kept / 10 < BEHIND ? kept / 10 : BEHIND; /* none shall lose its place by it */
    return s;
}

void psp_share_made(psp_child_t *c, apr_int64_t id)
{
    c->share->made = id;
    c->share->made_at = c->now;
}

int psp_share_holds(const psp_child_t *c)
{
    return c->share->pace.limit > 0;
}

int psp_share_rests(const psp_child_t *c, const psp_sub_t *sub)
{
    return sub->much && c->share->resting && sub->seen_at &&
           c->now - sub->seen_at < c->share->behind;
}

void psp_share_read(psp_child_t *c)
{
    psp_pace_went(&c->share->pace, c->now);
}

/* --- What there is to be seen --- */

/* The numbers after a word at the beginning of a file; how many there were. */
static int read_numbers(int file, apr_int64_t *numbers, int most)
{
    char text[256], *at = text, *end;
    ssize_t length = file < 0 ? -1 : pread(file, text, sizeof text - 1, 0);
    int n;

    if (length <= 0) {
        return 0;
    }
    text[length] = '\0';
    while (*at && (*at < '0' || *at > '9')) {
        at++;
    }
    for (n = 0; n < most; n++) {
        numbers[n] = (apr_int64_t)strtoll(at, &end, 10);
        if (end == at) {
            break;
        }
        at = end;
    }
    return n;
}

static apr_int64_t used(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* cannot fail */
    return (apr_int64_t)t.tv_sec * APR_USEC_PER_SEC + t.tv_nsec / 1000;
}

/* Where others wait for a disk a processor is idle as well. */
static void look(psp_child_t *c, int closely)
{
    enum { IDLE = 3, IOWAIT };
    psp_share_t *s = c->share;
    apr_int64_t of[IOWAIT + 1];
    psp_pace_seen_t seen = {
        c->now, used(), -1, -1, s->made, s->made_at, s->processors,
    };

    if (closely && read_numbers(s->stat, of, IOWAIT + 1) > IOWAIT) {
        seen.idle = (of[IDLE] + of[IOWAIT]) * s->tick;
    }
    if (closely && read_numbers(s->schedstat, of, 2) == 2) {
        seen.waited = of[1] / 1000; /* it is in nanoseconds */
    }
    psp_pace_look(&s->pace, &seen);
}

/* --- Giving way --- */

/* False when it was refused, as it is when many ask. */
static int set_level(int level)
{
    char text[8];
    int n = snprintf(text, sizeof text, "%d", level);

    if (autogroup >= 0 && write(autogroup, text, (size_t)n) != n) {
        return 0;
    }
    return !yields || setpriority(PRIO_PROCESS, 0, level) == 0;
}

static void rest(psp_child_t *c)
{
    psp_share_t *s = c->share;
    apr_interval_time_t time = s->pace.limit ? psp_pace_rest(&s->pace, c->now, used()) : 0;

    if (time) {
        psp_child_want(c, c->now + time);
    }
    else if (s->resting) {
        psp_feed_wake(c);
    }
    s->resting = time > 0;
}

/* The window is over. */
static void judge(psp_child_t *c)
{
    psp_share_t *s = c->share;
    apr_int64_t events = psp_counted(PSP_COUNT_EVENTS_READ);
    int much = events - s->events >= MUCH;
    int level;

    look(c, much || s->pace.since);
    if (!much && !s->pace.limit) {
        s->since = 0;
    }
    else if (!s->since) {
        s->since = c->now;
    }
    s->events = events;
    s->ends = c->now + WINDOW;
    level = s->since && c->now < s->since + YIELD_MAX ? NICE : 0;
    if (level != s->level && set_level(level)) {
        s->level = level;
    }
    psp_gauge(PSP_GAUGE_HOLDS_BACK, s->pace.limit > 0);
}

void psp_share_step(psp_child_t *c)
{
    psp_share_t *s = c->share;

    if (c->now >= s->ends) {
        judge(c);
    }
    rest(c);
    if (s->level || s->pace.since) {
        psp_child_want(c, s->ends);
    }
}
