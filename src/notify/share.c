/* SPDX-License-Identifier: Apache-2.0 */
/* share.c: how the notifier shares processors: while it has much to send it gives way to all others, for a time.
 *
 * What is little costs little and should go at once; what is much can be sent a little later, and where processors are
 * scarce those who write go first. But a follower must not fall behind for ever: after a minute of much it takes
 * its turns like everybody else, until there was less for a moment.
 */
#include "notify/private.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#define NICE 10
#define WINDOW apr_time_from_msec(200)
#define MUCH 200 /* events read in a window */
#define YIELD_MAX apr_time_from_sec(60)
#define NICE_LIMIT 20 /* of RLIMIT_NICE: one may go back to 0 */

static int autogroup =
    -1; /* where sessions share first, and the processes of each only then; as root opened it */
static int yields; /* the level may be changed to and fro */

struct psp_share_t {
    apr_int64_t ends;   /* the window */
    apr_int64_t events; /* counted when it began */
    apr_int64_t since;  /* when there began to be much, 0: there is not */
    int level;
};

void psp_share_begin(void)
{
    struct rlimit limit = {NICE_LIMIT, NICE_LIMIT};

    yields = setrlimit(RLIMIT_NICE, &limit) == 0;
    autogroup = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC); /* not everywhere */
}

psp_share_t *psp_share_make(psp_child_t *c)
{
    return apr_pcalloc(c->p, sizeof(psp_share_t));
}

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

void psp_share_step(psp_child_t *c)
{
    psp_share_t *s = c->share;
    apr_int64_t events = psp_counted(PSP_COUNT_EVENTS_READ);
    int level;

    if (c->now < s->ends) {
        return;
    }
    if (events - s->events < MUCH) {
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
    if (s->level) {
        psp_child_want(c, s->ends);
    }
}
