/* SPDX-License-Identifier: Apache-2.0 */
/* walk.c: one request's way through the log: from a cursor to the next, alone or with others who wait. */
#include "pull/private.h"

#include <stdlib.h>

#include <apr_strings.h>

#define CALL "SELECT * FROM pubsubpull.changes_get($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"

enum { BASE, NAME, KEY, NAMES, SINCE, LIMIT, ON, REQUEST, WAIT, FORM, TARGET, PARAMS };

struct psp_walk_t {
    psp_call_t *c;
    const char *params[PARAMS];
    int started, waits;
    int tail; /* the last poll ended a batch that had begun before it: newer changes are not in it */
    psp_waiter_t *waiter; /* NULL: alone */
    psp_shared_t *first;  /* the first answer, when it waits */
    psp_shared_t *shared; /* the answer, when not alone */
    apr_pool_t *turns[2]; /* the answer, and the one before it, when alone */
    int turn;
    const psp_rows_t *rows;
};

static void release(psp_shared_t **shared)
{
    if (*shared) {
        psp_share_release(*shared);
        *shared = NULL;
    }
}

static apr_status_t release_all(void *baton)
{
    psp_walk_t *f = baton;

    release(&f->first);
    release(&f->shared);
    return APR_SUCCESS;
}

psp_walk_t *psp_walk_make(psp_call_t *c, const char *names, const char *since, const char *wait,
                          const char *form, int waits)
{
    psp_walk_t *f = apr_pcalloc(c->r->pool, sizeof(*f));

    f->c = c;
    f->waits = waits;
    f->params[BASE] = c->base;
    f->params[NAME] = c->nsegments > 2 ? c->segments[1] : NULL;
    f->params[KEY] = c->nsegments > 4 ? c->raw_segments[3] : NULL;
    f->params[NAMES] = names;
    f->params[SINCE] = since;
    f->params[LIMIT] = psp_web_query(c, "limit");
    f->params[ON] = psp_web_query(c, "on");
    f->params[REQUEST] = psp_web_query(c, "request");
    f->params[WAIT] = wait;
    f->params[FORM] = form;
    apr_pool_create(&f->turns[0], c->r->pool);
    apr_pool_create(&f->turns[1], c->r->pool);
    apr_pool_cleanup_register(c->r->pool, f, release_all, apr_pool_cleanup_null);
    return f;
}

/* The parameter since is in the answer that is released here, so that comes last. */
static psp_result_t poll_shared(psp_walk_t *f)
{
    apr_uint32_t tick = psp_watch_arm(f->waiter, &f->params[TARGET]);
    psp_shared_t *shared = psp_share_call(f->c, tick, CALL, PARAMS, f->params);

    release(&f->shared);
    f->shared = shared;
    f->rows = shared->rows;
    return shared->result;
}

static psp_result_t poll_alone(psp_walk_t *f)
{
    apr_pool_t *p = f->turns[f->turn = !f->turn];

    apr_pool_clear(p);
    return psp_web_call_in(f->c, p, CALL, PARAMS, f->params, &f->rows);
}

/* It finds out how the table is spelled. */
static psp_result_t poll_first(psp_walk_t *f)
{
    if (f->waits && (f->first = psp_share_first(f->c, CALL, PARAMS, f->params))) {
        f->rows = f->first->rows;
        if (f->first->result.http != HTTP_PERMANENT_REDIRECT) {
            return f->first->result;
        }
    }
    return psp_web_ask(f->c, CALL, PARAMS, f->params, &f->rows);
}

psp_result_t psp_walk_poll(psp_walk_t *f)
{
    int was_more = f->rows && psp_walk_more(f);
    psp_result_t result;

    if (f->waiter) {
        result = poll_shared(f);
    }
    else if (f->started) {
        result = poll_alone(f);
    }
    else {
        result = poll_first(f);
    }
    f->started = 1;
    if (result.rv == APR_SUCCESS) {
        f->params[SINCE] = psp_walk_get(f, PSP_WALK_CURSOR);
        f->tail = was_more && !psp_walk_more(f);
    }
    return result;
}

psp_result_t psp_walk_join(psp_walk_t *f)
{
    /* What is known so far stays in the request's memory; the answers come from elsewhere now. */
    f->params[SINCE] = apr_pstrdup(f->c->r->pool, f->params[SINCE]);
    return psp_watch_join(f->c->r, psp_walk_get(f, PSP_WALK_TABLES), &f->waiter);
}

psp_result_t psp_walk_seek(psp_walk_t *f)
{
    psp_result_t result;

    do {
        result = psp_walk_poll(f);
    } while (result.rv == APR_SUCCESS && !psp_walk_found(f) && psp_walk_goes_on(f));
    return result;
}

int psp_walk_stay(psp_walk_t *f, apr_time_t deadline, psp_turn_fn *turn, void *baton)
{
    return psp_watch_stay(f->waiter, deadline, turn, baton);
}

const psp_rows_t *psp_walk_rows(const psp_walk_t *f)
{
    return f->rows;
}

const char *psp_walk_get(const psp_walk_t *f, int column)
{
    return psp_rows_get(f->rows, 0, column);
}

apr_size_t psp_walk_length(const psp_walk_t *f, int column)
{
    return psp_rows_length(f->rows, 0, column);
}

int psp_walk_found(const psp_walk_t *f)
{
    return atoi(psp_walk_get(f, PSP_WALK_N)) > 0;
}

int psp_walk_more(const psp_walk_t *f)
{
    return *psp_walk_get(f, PSP_WALK_MORE) == 't';
}

int psp_walk_goes_on(const psp_walk_t *f)
{
    return f->tail || psp_walk_more(f);
}
