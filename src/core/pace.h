/* SPDX-License-Identifier: Apache-2.0 */
/* pace.h: how much processor time somebody takes who can wait, while those whose work he follows need it. */
#ifndef PSP_CORE_PACE_H
#define PSP_CORE_PACE_H

#include <apr_time.h>

/** What there is to be seen, all in microseconds but made and processors. */
typedef struct psp_pace_seen_t {
    apr_int64_t now;     /* monotonic */
    apr_int64_t used;    /* processor time of this process */
    apr_int64_t waited;  /* how long it could run and had no processor; -1: not known */
    apr_int64_t idle;    /* how long processors had nothing to do, added up; -1: not known */
    apr_int64_t made;    /* changes that others made, so far */
    apr_int64_t made_at; /* when that was known */
    int processors;
} psp_pace_seen_t;

/** Zeros to begin with. */
typedef struct psp_pace_t {
    psp_pace_seen_t last;
    apr_int64_t made, made_at; /* as judged last */
    int much;                  /* others change much */
    apr_int64_t since;         /* when they began to, 0: they do not */
    apr_int64_t less_since;    /* when there began to be less, 0: there is not */
    apr_int64_t limit;         /* microseconds of processor time in a second, 0: none */
    apr_int64_t credit; /* 0, or below it what was used too early; in millionths of a microsecond */
    apr_int64_t paid_at, paid_used;
    apr_int64_t went_at;
} psp_pace_t;

/** Some times a second: set the limit. Scarce is what others wait for: no processor is idle, and we had to wait as well. */
void psp_pace_look(psp_pace_t *p, const psp_pace_seen_t *seen);

/** How long what can wait has to; 0: not at all. */
apr_interval_time_t psp_pace_rest(psp_pace_t *p, apr_int64_t now, apr_int64_t used);

/** It was done. */
void psp_pace_went(psp_pace_t *p, apr_int64_t now);

#endif
