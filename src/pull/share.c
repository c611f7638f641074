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
    int done;
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

        if (a->users || a->tick == tick) {
            at = &a->next;
            continue;
        }
        *at = a->next;
        apr_pool_destroy(a->p);
    }
}

/* A failure is shared by those who waited for it, and by nobody who comes later. */
static psp_answer_t *find(const char *call, int n, const char *const *params, apr_uint32_t tick)
{
    psp_answer_t *a;

    for (a = answers; a; a = a->next) {
        if (a->tick == tick && (!a->done || a->shared.result.rv == APR_SUCCESS) &&
            is_for(a, call, n, params)) {
            return a;
        }
    }
    return NULL;
}

psp_shared_t *psp_share_call(psp_call_t *c, apr_uint32_t tick, const char *call, int n,
                             const char *const *params)
{
    psp_answer_t *a;

    apr_thread_mutex_lock(mutex);
    sweep(tick);
    a = find(call, n, params, tick);
    if (a) {
        a->users++;
        while (!a->done) {
            apr_thread_cond_wait(answered, mutex); /* whoever asks has a deadline */
        }
        apr_thread_mutex_unlock(mutex);
        return &a->shared;
    }
    a = make(call, n, params, tick);
    a->next = answers;
    answers = a;
    apr_thread_mutex_unlock(mutex);
    psp_turns_pause();
    a->shared.result = psp_web_call_in(c, a->p, call, n, params, &a->shared.rows);
    psp_turns_resume();
    apr_thread_mutex_lock(mutex);
    a->done = 1;
    apr_thread_cond_broadcast(answered);
    apr_thread_mutex_unlock(mutex);
    return &a->shared;
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
