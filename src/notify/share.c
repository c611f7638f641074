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
#include <sched.h>
#include <stdio.h>
#include <string.h>
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
#define STAT_MAX 65536 /* of /proc/stat: where the processors are */

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
    char *text;                /* of the former */
    cpu_set_t cpus;            /* that we may use */
    int processors;            /* how many that are */
    apr_int64_t tick;          /* microseconds in one of /proc/stat */
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
    long ticks = sysconf(_SC_CLK_TCK);
    apr_int64_t kept = c->config->retention > 0 ? apr_time_from_sec(c->config->retention) : 0;

    s->stat = open("/proc/stat", O_RDONLY | O_CLOEXEC);
    s->schedstat = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
    s->text = apr_palloc(c->p, STAT_MAX);
    s->processors = sched_getaffinity(0, sizeof s->cpus, &s->cpus) == 0 ? CPU_COUNT(&s->cpus) : 0;
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

/* The beginning of a file as text; false: it cannot be read. */
static int read_text(int file, char *text, apr_size_t room)
{
    ssize_t length = file < 0 ? -1 : pread(file, text, room - 1, 0);

    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* Where others wait for a disk a processor is idle as well. -1: it is not known of all that we may use. */
static apr_int64_t idle(const psp_share_t *s)
{
    apr_int64_t ticks = 0;
    const char *line = s->text;
    int known = 0;

    if (s->processors == 0 || !read_text(s->stat, s->text, STAT_MAX)) {
        return -1;
    }
    for (; strncmp(line, "cpu", 3) == 0 && strchr(line, '\n'); line = strchr(line, '\n') + 1) {
        long long of[5]; /* user, nice, system, idle, iowait */
        int cpu;

        if (line[3] != ' ' && /* the sum */
            sscanf(line, "cpu%d %lld %lld %lld %lld %lld", &cpu, &of[0], &of[1], &of[2], &of[3],
                   &of[4]) == 6 &&
            cpu < CPU_SETSIZE && CPU_ISSET((apr_size_t)cpu, &s->cpus)) {
            ticks += of[3] + of[4];
            known++;
        }
    }
    return known == s->processors ? ticks * s->tick : -1;
}

/* Microseconds. -1: not known. */
static apr_int64_t waited(const psp_share_t *s)
{
    char text[128];
    long long ran, waited_ns;

    if (!read_text(s->schedstat, text, sizeof text) ||
        sscanf(text, "%lld %lld", &ran, &waited_ns) != 2) {
        return -1;
    }
    return waited_ns / 1000;
}

static apr_int64_t used(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* cannot fail */
    return (apr_int64_t)t.tv_sec * APR_USEC_PER_SEC + t.tv_nsec / 1000;
}

static void look(psp_child_t *c, int closely)
{
    psp_share_t *s = c->share;
    psp_pace_seen_t seen = {
        .now = c->now,
        .used = used(),
        .waited = closely ? waited(s) : -1,
        .idle = closely ? idle(s) : -1,
        .made = s->made,
        .made_at = s->made_at,
        .processors = s->processors,
    };

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
