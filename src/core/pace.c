/* SPDX-License-Identifier: Apache-2.0 */
/* pace.c: processor time for those who write first, and for those who follow from what is left.
 *
 * Neither is known from one figure: without idle time somebody goes short, but it may be that all the work is
 * ours, as while a backlog is sent. So there is a limit only while others change much. It is set by what it brings: as long as
 * there is no idle time it gets smaller, down to a hundredth of all processors, and with idle time it grows
 * until it is none. That ends after a minute, until there was less for a moment: what is behind has to
 * be done some time.
 */
#include "core/pace.h"

#define SECOND APR_USEC_PER_SEC
#define MUCH 1000                /* changes in a second */
#define JUDGE (SECOND / 5)       /* that is judged by so long a time at least */
#define MOMENT SECOND            /* of less */
#define YIELD_MAX (60 * SECOND)  /* of much */
#define SCARCE (SECOND / 20)     /* of idle time in a second of each processor */
#define PLENTY (3 * SECOND / 20) /* the same */
#define WAITED 4                 /* scarce: of the time that we wanted, a quarter at least */
#define LEAST(processors) ((processors) * (SECOND / 100)) /* the lowest limit */
#define REST_MAX SECOND

static void look_at_others(psp_pace_t *p, const psp_pace_seen_t *seen)
{
    apr_int64_t time = seen->made_at - p->made_at;

    if (time < JUDGE) {
        return; /* until there is more to judge by it is as it was */
    }
    p->much = p->made_at && (seen->made - p->made) * SECOND >= MUCH * time;
    p->made = seen->made;
    p->made_at = seen->made_at;
    if (p->much) {
        p->less_since = 0;
        p->since = p->since ? p->since : seen->now;
        return;
    }
    p->less_since = p->less_since ? p->less_since : seen->now;
    if (seen->now - p->less_since >= MOMENT) {
        p->since = 0;
    }
}

static void begin(psp_pace_t *p, const psp_pace_seen_t *seen, apr_int64_t limit)
{
    p->limit = limit;
    p->credit = 0;
    p->paid_at = p->went_at = seen->now;
    p->paid_used = seen->used;
}

/* Microseconds in a second: of processor time that we used, of idle time of each processor. */
static void set_limit(psp_pace_t *p, const psp_pace_seen_t *seen, apr_int64_t used,
                      apr_int64_t idle)
{
    apr_int64_t ran = seen->used - p->last.used, waited = seen->waited - p->last.waited;
    apr_int64_t least = LEAST(seen->processors);
    apr_int64_t lower;

    if (!p->limit) {
        if (idle < SCARCE && used > least && (seen->waited < 0 || waited * (WAITED - 1) >= ran)) {
            lower = used / 4;
            begin(p, seen, lower > least ? lower : least);
        }
        return;
    }
    if (idle < SCARCE) {
        lower = p->limit / 2;
        p->limit = lower > least ? lower : least;
    }
    else if (idle > PLENTY) {
        p->limit += p->limit / 2;
    }
    if (p->limit >= SECOND) {
        p->limit = 0;
    }
}

void psp_pace_look(psp_pace_t *p, const psp_pace_seen_t *seen)
{
    apr_int64_t time = seen->now - p->last.now;

    look_at_others(p, seen);
    if (!p->much || seen->idle < 0 || seen->now - p->since >= YIELD_MAX) {
        p->limit = 0;
    }
    else if (p->last.now && time > 0) {
        set_limit(p, seen, (seen->used - p->last.used) * SECOND / time,
                  (seen->idle - p->last.idle) * SECOND / (time * seen->processors));
    }
    p->last = *seen;
}

apr_interval_time_t psp_pace_rest(psp_pace_t *p, apr_int64_t now, apr_int64_t used)
{
    apr_int64_t worst = -p->limit * SECOND, rest, most;

    if (!p->limit) {
        return 0;
    }
    p->credit += (now - p->paid_at) * p->limit - (used - p->paid_used) * SECOND;
    p->credit = p->credit > 0 ? 0 : p->credit < worst ? worst : p->credit;
    p->paid_at = now;
    p->paid_used = used;
    rest = -p->credit / p->limit;
    most = p->went_at + REST_MAX - now; /* others' needs may take all of the limit */
    rest = rest < most ? rest : most;
    return rest > 0 ? rest : 0;
}

void psp_pace_went(psp_pace_t *p, apr_int64_t now)
{
    p->went_at = now;
}
