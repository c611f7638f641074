/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_record.c: whatever lies in the ring, the notifier makes arrays of it that end where they should, in the order of the ring,
 * and gives the ring its room back. Stands for the parts of the notifier around it. */
#include "notify/batch.h"

#include "fuzz.h"

static psp_ring_t *ring;
static psp_records_t *records; /* it sees no end of the process */
static int written;

psp_ring_t *psp_record_ring(void)
{
    return ring;
}

int psp_record_wake_fd(void)
{
    return -1;
}

void psp_record_say(int can_keep)
{
    PROMISE(can_keep);
}

void psp_feed_wake(psp_child_t *c)
{
    c->next = 0;
}

void psp_renew_ask(psp_child_t *c)
{
    c->next = 0;
}

void psp_child_again(psp_child_t *c)
{
    c->next = 0;
}

void psp_child_want(psp_child_t *c, apr_int64_t when)
{
    c->next = when;
}

void *psp_child_alloc(void *old, apr_size_t size)
{
    void *made = realloc(old, size);

    PROMISE(made);
    return made;
}

int psp_gate_open(const psp_child_t *c)
{
    return c != NULL;
}

int psp_gate_away(const psp_child_t *c)
{
    return c == NULL;
}

void psp_gate_doubt(psp_child_t *c)
{
    c->next = 0;
}

const char *psp_gate_cause(const psp_child_t *c)
{
    return c ? "refused" : "";
}

int psp_session_ready(const psp_session_t *s)
{
    (void)s;
    return 1;
}

/* The database refuses every other batch, which is then taken apart. */
void psp_session_send(psp_session_t *s, const char *call, int n, const char *const *params,
                      apr_interval_time_t timeout, psp_session_done_fn *done, void *baton)
{
    psp_result_t result = {.rv = APR_SUCCESS};
    apr_size_t length;

    (void)s;
    (void)timeout;
    if (n == 0) {
        PROMISE(strstr(call, "awaits_reads"));
        done(baton, &result, NULL);
        return;
    }
    length = strlen(params[0]); /* a NUL cuts it short, and the database refuses it */
    PROMISE(length >= 2 && strncmp(params[0], "[{", 2) == 0);
    written++;
    if (written % 2) {
        result.rv = APR_EGENERAL;
        result.http = 500;
    }
    done(baton, &result, NULL);
}

int psp_rows_count(const psp_rows_t *rows)
{
    return rows ? 1 : 0;
}

const char *psp_rows_get(const psp_rows_t *rows, int row, int column)
{
    (void)row;
    (void)column;
    return rows ? "t" : NULL;
}

psp_spool_t *psp_spool_make(psp_child_t *c)
{
    (void)c;
    return NULL;
}

int psp_spool_empty(const psp_spool_t *s)
{
    return !s;
}

int psp_spool_room(const psp_spool_t *s, apr_size_t length)
{
    return s && length;
}

int psp_spool_append(psp_spool_t *s, const char *lines, apr_size_t length)
{
    return s && lines && length;
}

apr_size_t psp_spool_read(psp_spool_t *s, char *buffer, apr_size_t room, int most)
{
    return s && buffer && room && most;
}

void psp_spool_done(psp_spool_t *s)
{
    (void)s;
}

void psp_spool_sync(psp_spool_t *s)
{
    (void)s;
}

void psp_spool_step(psp_child_t *c, psp_spool_t *s)
{
    (void)c;
    (void)s;
}

void ap_log_error_(const char *file, int line, int module, int level, apr_status_t status,
                   const server_rec *s, const char *format, ...)
{
    (void)file, (void)line, (void)module, (void)level, (void)status, (void)s;
    PROMISE(format);
}

module AP_MODULE_DECLARE_DATA pubsubpull_module;

/* A line of the input is a record: what stands for the header, then the envelope. */
static void put(const uint8_t *data, size_t length)
{
    unsigned char *record = malloc(length);

    PROMISE(record);
    memcpy(record, data, length);
    (void)psp_ring_put(ring, record, length);
    free(record);
}

static void begin(psp_child_t *c)
{
    static apr_pool_t *pool;
    static server_rec server;

    if (!pool) {
        PROMISE(apr_pool_create(&pool, NULL) == APR_SUCCESS);
        PROMISE(psp_ring_make(&ring, 64, pool) == APR_SUCCESS);
    }
    server.log.level = -1;
    c->server = &server;
    c->now = 1000000;
    c->records = records = psp_records_make(c);
}

static void try_input(apr_pool_t *p, const uint8_t *data, size_t size)
{
    psp_child_t c = {.p = p};
    int turn;

    begin(&c);
    while (size) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t length = end ? (size_t)(end - data) : size;

        put(data, length);
        length += end != NULL;
        data += length;
        size -= length;
    }
    /* Each turn writes one batch, or one record of one that was refused. */
    for (turn = 0; turn < 200; turn++) {
        c.now += 100000;
        psp_records_step(&c);
    }
    PROMISE(psp_records_clean(&c) && psp_ring_waiting(ring) == 0 && psp_ring_fill(ring) == 0);
}
