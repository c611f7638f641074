/* SPDX-License-Identifier: Apache-2.0 */
/* queue.c: the ring that carries finished requests to the child process, and the pipe that wakes
 * it. */
#include "record/private.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <apr_file_io.h>
#include <apr_portable.h>
#include <http_core.h>
#include <http_log.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

/* 8 MiB, some 16,000 requests. Memory is used only as far as the ring was ever filled in one lap.
 */
#define SLOTS 16384

/* A child that said nothing for so long is away; a new one is there within a second or two. */
#define SILENT apr_time_from_sec(5)
#define ALMOST_FULL 90 /* percent: room for the requests that are under way */

/* Names the layout of queue_t, psp_ring_t and psp_record_header_t: change it when one of them
 * changes, for a new version of the module finds the queue of the old one after a restart. */
#define QUEUE_KEY "mod_pubsubpull queue 3"

/* What the child lets workers know, in shared memory. */
typedef struct board_t {
    _Atomic apr_int64_t said_at; /* monotonic microseconds */
    atomic_int can_keep; /* records can be put where they survive: the database, or the disk */
    atomic_int ending;   /* httpd ends, and what is in the queue with it */
} board_t;

typedef struct queue_t {
    psp_ring_t *ring;
    int reader;
    int writer;
    board_t *board;
} queue_t;

/* Set in httpd's parent and inherited by all its children; NULL: the module is inert. */
static queue_t *queue;

static apr_status_t make_pipe(queue_t *q, apr_pool_t *p)
{
    apr_file_t *in, *out;
    apr_status_t rv;

    /* Not to be inherited by programs: a CGI program has no business with it. */
    if ((rv = apr_file_pipe_create_ex(&in, &out, APR_FULL_NONBLOCK, p)) != APR_SUCCESS ||
        (rv = apr_file_inherit_unset(in)) != APR_SUCCESS ||
        (rv = apr_file_inherit_unset(out)) != APR_SUCCESS ||
        (rv = apr_os_file_get(&q->reader, in)) != APR_SUCCESS) {
        return rv;
    }
    return apr_os_file_get(&q->writer, out);
}

/*
 * The queue lives as long as httpd's parent, across restarts, so that the next child reads what
 * draining workers still write. Its pool is nobody's child on purpose: destroying process->pool at
 * the end would run the cleanups of our ring when the module that holds their code has been
 * unloaded. The system takes back memory and pipe.
 */
static apr_status_t make_queue(queue_t **made, apr_pool_t *process_pool)
{
    apr_pool_t *p;
    queue_t *q;
    apr_status_t rv;

    if ((rv = apr_pool_create_unmanaged_ex(&p, NULL, NULL)) != APR_SUCCESS) {
        return rv;
    }
    apr_pool_tag(p, "pubsubpull_queue");
    q = apr_pcalloc(p, sizeof(*q));
    q->board =
        mmap(NULL, sizeof(board_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (q->board == MAP_FAILED) {
        rv = APR_FROM_OS_ERROR(errno);
        apr_pool_destroy(p);
        return rv;
    }
    if ((rv = psp_ring_make(&q->ring, SLOTS, p)) != APR_SUCCESS ||
        (rv = make_pipe(q, p)) != APR_SUCCESS ||
        (rv = apr_pool_userdata_set(q, QUEUE_KEY, NULL, process_pool)) != APR_SUCCESS) {
        apr_pool_destroy(p);
        return rv;
    }
    *made = q;
    return APR_SUCCESS;
}

static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    apr_pool_t *process_pool = s->process->pool;
    void *found = NULL;
    apr_status_t rv;

    (void)pconf;
    (void)plog;
    (void)ptemp;
    queue = NULL;
    if (!psp_config_server(s)->database ||
        ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) {
        return OK;
    }
    (void)apr_pool_userdata_get(&found, QUEUE_KEY, process_pool);
    queue = found;
    if (!queue && (rv = make_queue(&queue, process_pool)) != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, s,
                     "PSP0100: the queue for finished requests could not be made");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return OK;
}

psp_ring_t *psp_record_ring(void)
{
    return queue ? queue->ring : NULL;
}

int psp_record_wake_fd(void)
{
    return queue ? queue->reader : -1;
}

void psp_record_wake(void)
{
    ssize_t written;

    if (!queue || !psp_ring_wake_claim(queue->ring)) {
        return;
    }
    do {
        written = write(queue->writer, "", 1);
    } while (written < 0 && errno == EINTR);
    /* Any other failure means that the pipe is full, and then the child has reason enough to wake.
     */
}

static apr_int64_t monotonic(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail */
    return (apr_int64_t)t.tv_sec * APR_USEC_PER_SEC + t.tv_nsec / 1000;
}

void psp_record_say(int can_keep)
{
    if (queue) {
        atomic_store(&queue->board->can_keep, can_keep);
        atomic_store(&queue->board->said_at, monotonic());
    }
}

int psp_record_possible(void)
{
    return queue && atomic_load(&queue->board->can_keep) &&
           monotonic() - atomic_load(&queue->board->said_at) < SILENT &&
           psp_ring_fill(queue->ring) < ALMOST_FULL;
}

void psp_record_end(void)
{
    if (queue) {
        atomic_store(&queue->board->ending, 1);
    }
}

int psp_record_ending(void)
{
    return queue && atomic_load(&queue->board->ending);
}

void psp_queue_register_hooks(apr_pool_t *p)
{
    (void)p;
    /* After the configuration was completed, before the child is started, which needs the queue. */
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_FIRST + 1);
}
