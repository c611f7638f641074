/* SPDX-License-Identifier: Apache-2.0 */
/* test_pace.c: who waits for processors, how much is left to him, and for how long. */
#include "core/pace.h"

#include "tap.h"

#define SECOND APR_USEC_PER_SEC
#define WINDOW (SECOND / 5)

/* Two processors; what happens in a second, in microseconds and changes. */
typedef struct world_t {
    apr_int64_t used, waited, idle, made;
} world_t;

static psp_pace_t pace;
static psp_pace_seen_t seen;

static void begin(void)
{
    memset(&pace, 0, sizeof pace);
    memset(&seen, 0, sizeof seen);
    seen.now = 5000 * SECOND;
    seen.processors = 2;
}

/* The limit after that long of it. */
static apr_int64_t after(apr_interval_time_t time, const world_t *world)
{
    while ((time -= WINDOW) >= 0) {
        seen.now += WINDOW;
        seen.used += world->used / 5;
        seen.waited = world->waited < 0 ? -1 : seen.waited + world->waited / 5;
        seen.idle = world->idle < 0 ? -1 : seen.idle + world->idle / 5;
        seen.made += world->made / 5;
        seen.made_at = seen.now;
        psp_pace_look(&pace, &seen);
    }
    return pace.limit;
}

static const world_t busy = {300000, 600000, 0, 6000};
static const world_t alone = {900000, 600000, 0, 100};

static void when(void)
{
    static const world_t unhindered = {900000, 10000, 0, 6000},
                         roomy = {300000, 600000, 400000, 6000}, little = {15000, 600000, 0, 6000},
                         blind = {300000, 600000, -1, 6000}, unwaited = {300000, -1, 0, 6000};

    begin();
    is_int(after(10 * SECOND, &alone), 0, "a backlog that keeps all busy: no limit");
    begin();
    is_int(after(10 * SECOND, &unhindered), 0, "nobody else wants the processors");
    begin();
    is_int(after(10 * SECOND, &roomy), 0, "there is idle time");
    begin();
    is_int(after(10 * SECOND, &little), 0, "it takes little as it is");
    begin();
    is_int(after(10 * SECOND, &blind), 0, "idle time is not known here");
    begin();
    is_int(after(2 * SECOND, &unwaited), 20000, "waiting is not known here, idle time is enough");
    begin();
    ok(after(SECOND, &busy) > 0,
       "others write, and processors are scarce: a limit within a second");
    is_int(after(SECOND, &busy), 20000, "soon that is a hundredth of the processors");
}

static void until(void)
{
    static const world_t roomy = {20000, 0, 800000, 6000}, between = {20000, 0, 200000, 6000},
                         less = {20000, 0, 0, 900};
    apr_int64_t limit;

    begin();
    (void)after(2 * SECOND, &busy);
    is_int(after(10 * SECOND, &between), 20000, "with a little idle time it stays");
    limit = after(WINDOW, &roomy);
    ok(limit > 20000, "with more it grows");
    ok(after(WINDOW, &busy) < limit, "and gets smaller again");
    is_int(after(3 * SECOND, &roomy), 0, "with idle time for long it ends");

    begin();
    (void)after(2 * SECOND, &busy);
    is_int(after(WINDOW, &less), 0, "when others change less it ends at once");

    begin();
    is_int(after(55 * SECOND, &busy), 20000, "it is there for most of a minute");
    is_int(after(10 * SECOND, &busy), 0, "and not longer");
    is_int(after(3600 * SECOND, &busy), 0, "however long it goes on");
    (void)after(WINDOW, &less);
    is_int(after(10 * SECOND, &busy), 0, "a fifth of a second of less is no pause");
    (void)after(2 * SECOND, &less);
    is_int(after(5 * SECOND, &busy), 20000, "two seconds are");
}

/* Do something that takes so long whenever it may be done; what was used of the time, in thousandths. */
static int share(apr_interval_time_t each, apr_interval_time_t other, apr_interval_time_t *longest)
{
    apr_int64_t now = seen.now, used = seen.used, began = now, begun = used;

    *longest = 0;
    while (now < began + 20 * SECOND) {
        apr_interval_time_t rest = psp_pace_rest(&pace, now, used);

        if (rest) {
            *longest = rest > *longest ? rest : *longest;
            rest = rest < 50 ? rest : 50; /* it is asked all the time */
            now += rest;
            used += rest * other / SECOND;
            continue;
        }
        psp_pace_went(&pace, now);
        now += 2 * each;
        used += each;
    }
    seen.now = now;
    seen.used = used;
    return (int)((used - begun) * 1000 / (now - began));
}

static void rests(void)
{
    apr_interval_time_t longest;
    int is;

    begin();
    is_int(psp_pace_rest(&pace, seen.now, 12345), 0, "no limit, no rest");
    (void)after(2 * SECOND, &busy);
    is = share(10000, 0, &longest);
    ok(is >= 19 && is <= 21, "the limit is kept");
    ok(longest <= SECOND, "no rest is longer than a second");
    is = share(10000, 200000, &longest);
    ok(is >= 205 && is <= 211, "who needs more than that for others' sake goes on once a second");
    is = share(100000, 0, &longest);
    ok(is >= 80 && longest <= SECOND, "and who needs much at a time");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();

    when();
    until();
    rests();
    return done(pool);
}
