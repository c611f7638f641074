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
    const char *key;
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

static const char *make_key(apr_pool_t *p, const char *call, int n, const char *const *params)
{
    apr_array_header_t *parts = apr_array_make(p, n + 1, sizeof(const char *));
    int i;

    APR_ARRAY_PUSH(parts, const char *) = call;
    for (i = 0; i < n; i++) {
        APR_ARRAY_PUSH(parts, const char *) =
            params[i] ? apr_pstrcat(p, "=", params[i], NULL) : "-";
    }
    return apr_array_pstrcat(p, parts, '\1');
}

/* With an allocator of its own: the thread that makes it is not the one that ends it. */
static psp_answer_t *make(const char *call, int n, const char *const *params, apr_uint32_t tick)
{
    apr_allocator_t *allocator;
    psp_answer_t *a;
    apr_pool_t *p;

    if (apr_allocator_create(&allocator) != APR_SUCCESS) {
        return NULL;
    }
    if (apr_pool_create_ex(&p, NULL, NULL, allocator) != APR_SUCCESS) {
        apr_allocator_destroy(allocator);
        return NULL;
    }
    apr_allocator_owner_set(allocator, p);
    apr_pool_tag(p, "psp_answer");
    a = apr_pcalloc(p, sizeof(*a));
    a->p = p;
    a->tick = tick;
    a->users = 1;
    a->key = make_key(p, call, n, params);
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
static psp_answer_t *find(const char *key, apr_uint32_t tick)
{
    psp_answer_t *a;

    for (a = answers; a; a = a->next) {
        if (a->tick == tick && (!a->done || a->shared.result.rv == APR_SUCCESS) &&
            !strcmp(a->key, key)) {
            return a;
        }
    }
    return NULL;
}

psp_shared_t *psp_share_call(psp_call_t *c, apr_uint32_t tick, const char *call, int n,
                             const char *const *params)
{
    psp_answer_t *made = make(call, n, params, tick);
    psp_answer_t *known;

    ap_assert(made); /* as httpd does when memory is out */
    apr_thread_mutex_lock(mutex);
    sweep(tick);
    known = find(made->key, tick);
    if (known) {
        known->users++;
        while (!known->done) {
            apr_thread_cond_wait(answered, mutex); /* whoever asks has a deadline */
        }
        apr_thread_mutex_unlock(mutex);
        apr_pool_destroy(made->p);
        return &known->shared;
    }
    made->next = answers;
    answers = made;
    apr_thread_mutex_unlock(mutex);
    made->shared.result = psp_web_call_in(c, made->p, call, n, params, &made->shared.rows);
    apr_thread_mutex_lock(mutex);
    made->done = 1;
    apr_thread_cond_broadcast(answered);
    apr_thread_mutex_unlock(mutex);
    return &made->shared;
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
