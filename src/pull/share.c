/* SPDX-License-Identifier: Apache-2.0 */
/* share.c: a hundred clients that wait for the same change ask the same question: it is put once. */
#include "pull/private.h"

#include <apr_strings.h>
#include <apr_thread_cond.h>
#include <apr_thread_mutex.h>

#include "config/config.h"

typedef struct psp_answer_t {
    psp_shared_t shared; /* first: what callers see */
    apr_pool_t *p;       /* all of it, with an allocator of its own */
    const char *call;
    const char **params;
    int n;
    apr_uint32_t tick;
    int is_first; /* of no tick: for those who came before it began */
    int begun, done;
    int users; /* it goes with the last one, once its tick is over */
    struct psp_answer_t *next;
} psp_answer_t;

static apr_thread_mutex_t *mutex; /* guards the list and what is in it until done */
static apr_thread_cond_t *answered;
static psp_answer_t *answers;

static void child_init(apr_pool_t *p, server_rec *s)
{
    answers = NULL;
    mutex = NULL;
    if (!psp_config_server(s)->conninfo || apr_thread_cond_create(&answered, p) != APR_SUCCESS ||
        apr_thread_mutex_create(&mutex, APR_THREAD_MUTEX_DEFAULT, p) != APR_SUCCESS) {
        mutex = NULL;
    }
}

static int is_same(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static int is_for(const psp_answer_t *a, const char *call, int n, const char *const *params)
{
    int i;

    for (i = 0; i < n && a->n == n && is_same(a->params[i], params[i]); i++) {
    }
    return i == n && !strcmp(a->call, call);
}

/* With an allocator of its own: the thread that makes it is not the one that ends it. */
static psp_answer_t *make(const char *call, int n, const char *const *params, apr_uint32_t tick)
{
    apr_allocator_t *allocator;
    psp_answer_t *a;
    apr_pool_t *p;
    int i;

    /* as httpd does when memory is out */
    ap_assert(apr_allocator_create(&allocator) == APR_SUCCESS &&
              apr_pool_create_ex(&p, NULL, NULL, allocator) == APR_SUCCESS);
    apr_allocator_owner_set(allocator, p);
    apr_pool_tag(p, "psp_answer");
    a = apr_pcalloc(p, sizeof(*a));
    a->p = p;
    a->tick = tick;
    a->users = 1;
    a->call = apr_pstrdup(p, call);
    a->n = n;
    a->params = apr_palloc(p, (apr_size_t)n * sizeof(*a->params));
    for (i = 0; i < n; i++) {
        a->params[i] = apr_pstrdup(p, params[i]); /* NULL stays NULL */
    }
    return a;
}

/* Takes those out whose tick is over and that nobody uses. Call with the mutex held. */
static void sweep(apr_uint32_t tick)
{
    psp_answer_t **at = &answers;

    while (*at) {
        psp_answer_t *a = *at;

        if (a->users || (!a->is_first && a->tick == tick)) {
            at = &a->next;
            continue;
        }
        *at = a->next;
        apr_pool_destroy(a->p);
    }
}

/* A failure is shared by those who waited for it, and by nobody who comes later. */
static int is_open(const psp_answer_t *a, apr_uint32_t tick)
{
    return !a->is_first && a->tick == tick && (!a->done || a->shared.result.rv == APR_SUCCESS);
}

/* Somebody else's, which is done when this returns. Call with the mutex held. */
static psp_shared_t *use(psp_answer_t *a)
{
    a->users++;
    while (!a->done) {
        apr_thread_cond_wait(answered, mutex); /* whoever asks has a deadline */
    }
    apr_thread_mutex_unlock(mutex);
    return &a->shared;
}

/* Call with the mutex held, which this gives back. */
static psp_shared_t *ask(psp_call_t *c, psp_answer_t *a)
{
    psp_result_t *result = &a->shared.result;

    a->begun = 1;
    apr_thread_mutex_unlock(mutex);
    psp_turns_pause();
    *result = psp_web_call_in(c, a->p, a->call, a->n, a->params, &a->shared.rows);
    psp_turns_resume();
    if (result->rv != APR_SUCCESS) { /* what it says may be in the memory of this request */
        result->type = apr_pstrdup(a->p, result->type);
        result->detail = apr_pstrdup(a->p, result->detail);
    }
    apr_thread_mutex_lock(mutex);
    a->done = 1;
    apr_thread_cond_broadcast(answered);
    apr_thread_mutex_unlock(mutex);
    return &a->shared;
}

static psp_answer_t *add(psp_answer_t *a)
{
    a->next = answers;
    answers = a;
    return a;
}

psp_shared_t *psp_share_call(psp_call_t *c, apr_uint32_t tick, const char *call, int n,
                             const char *const *params)
{
    psp_answer_t *a;

    apr_thread_mutex_lock(mutex);
    sweep(tick);
    for (a = answers; a; a = a->next) {
        if (is_open(a, tick) && is_for(a, call, n, params)) {
            return use(a);
        }
    }
    return ask(c, add(make(call, n, params, tick)));
}

/* One call is under way at a time. Who comes meanwhile has the next one in common, for the database is
 * not to be seen as it was before they came. */
psp_shared_t *psp_share_first(psp_call_t *c, const char *call, int n, const char *const *params)
{
    psp_answer_t *before = NULL;
    psp_answer_t *a;

    if (!mutex) {
        return NULL;
    }
    apr_thread_mutex_lock(mutex);
    for (a = answers; a; a = a->next) {
        if (!a->is_first || a->done || !is_for(a, call, n, params)) {
            continue;
        }
        if (!a->begun) {
            return use(a);
        }
        before = a;
    }
    a = add(make(call, n, params, 0));
    a->is_first = 1;
    if (before) {
        before->users++;
        while (!before->done) {
            apr_thread_cond_wait(answered, mutex);
        }
        before->users--; /* it goes with one that is released */
    }
    return ask(c, a);
}

void psp_share_release(psp_shared_t *shared)
{
    psp_answer_t *a = (psp_answer_t *)shared;

    apr_thread_mutex_lock(mutex);
    a->users--;
    sweep(a->tick);
    apr_thread_mutex_unlock(mutex);
}

void psp_share_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
}
