/* SPDX-License-Identifier: Apache-2.0 */
/* records.c: takes finished requests out of the ring and writes them to the database in batches.
 *
 * What is in memory stays in the ring, too, until it is in the database, so that the next child finds it
 * should this one be killed. When the database does not keep up or is away the ring gets its room back all the
 * same: what is in memory goes to the disk, where there is a spool. Without, memory is the buffer, and when that
 * has its bound, too, the ring fills up and its writers count what they drop. Batches are written one after
  * the other; one that is refused is taken apart. What is on disk takes turns with what is new.
 *
 * Most requests only read, and of those only what changed something all the same is kept where not all are recorded: the
 * database is asked whether it waits for any such, and when it does not they need not be sent.
 */
#include "notify/batch.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <apr_strings.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define BATCH_AGE apr_time_from_msec(20)
#define MEMORY_MAX (64 * 1024 * 1024)
#define READS_MAX (16 * PSP_RECORDS_BYTES)
#define SOME 100                     /* records that are not worth waiting for more */
#define DRAIN_MAX 4000               /* records in one turn of the loop */
#define LOOK apr_time_from_msec(100) /* into the ring when nobody woke us: a writer may have died */
#define SOONEST apr_time_from_msec(10) /* the same while many come */
#define QUICK apr_time_from_msec(1) /* between looks after a request that may have changed data */
#define SLOW apr_time_from_msec(5)  /* after others */
#define RETRY apr_time_from_msec(200)
#define REPORT apr_time_from_sec(60) /* between log lines about dropped records */

psp_records_t *psp_records_make(psp_child_t *c)
{
    psp_records_t *r = apr_pcalloc(c->p, sizeof *r);

    r->ring = psp_record_ring();
    r->at = psp_ring_tail(r->ring);
    r->spool = psp_spool_make(c);
    r->wake_fd = psp_record_wake_fd();
    psp_count(PSP_COUNT_RECORDS_LOST,
              psp_counted(PSP_GAUGE_RECORDS_HELD)); /* with a child that was killed */
    psp_gauge(PSP_GAUGE_RECORDS_HELD, 0);
    r->dropped = psp_ring_dropped(r->ring);
    r->woken = 1; /* the child before us may have left it so */
    return r;
}

void psp_records_woken(psp_child_t *c)
{
    char bytes[64];
    ssize_t n;

    do {
        n = read(c->records->wake_fd, bytes, sizeof bytes);
    } while (n > 0);
    c->records->woken = 1;
}

/* --- From the ring --- */

static psp_batch_t *open_reads(psp_child_t *c, apr_size_t length, apr_uint64_t from)
{
    psp_records_t *r = c->records;
    psp_batch_t *b = r->reads;

    if (r->reads_bytes > READS_MAX) {
        psp_records_push_all(r, &r->reads); /* nobody answers */
        r->reads_bytes = 0;
    }
    if (!b || b->count == PSP_RECORDS_COUNT || b->length + length > PSP_RECORDS_BYTES ||
        b != r->reads) {
        b = psp_batch_make(c->now);
        b->from = from;
        b->since = r->reads ? r->reads->since : c->now;
        b->next = r->reads;
        r->reads = b;
    }
    r->reads_bytes += length;
    return b;
}

static psp_batch_t *open_batch(psp_child_t *c, int reads, apr_size_t length, apr_uint64_t from)
{
    psp_records_t *r = c->records;
    psp_batch_t *b = r->open[reads];

    if (!b || b->count == PSP_RECORDS_COUNT || b->length + length > PSP_RECORDS_BYTES ||
        b->keeper != PSP_IN_RING) {
        b = psp_batch_make(c->now);
        b->from = from;
        b->reads = reads;
        r->open[reads] = b;
        psp_records_push(r, b);
    }
    return b;
}

/* A hint only: these methods hardly change anything, and the feed is polled anyway. */
static int may_change(const char *envelope)
{
    const char *method = strstr(envelope, "\"method\":\"");

    method = method ? method + 10 : "";
    return strncmp(method, "GET\"", 4) != 0 && strncmp(method, "HEAD\"", 5) != 0 &&
           strncmp(method, "OPTIONS\"", 8) != 0;
}

/* The envelope is an object: our members go in before its last brace. */
static void append(psp_child_t *c, const psp_record_header_t *h, const char *envelope,
                   apr_size_t length, apr_uint64_t from)
{
    char members[160];
    int n = apr_snprintf(members, sizeof members,
                         ",\"status\":%d,\"bytes\":%" APR_INT64_T_FMT
                         ",\"duration\":%" APR_INT64_T_FMT ",\"mode\":%d}",
                         h->status, h->bytes, h->duration, h->mode);
    apr_size_t total = length + (apr_size_t)n;
    int reads = !may_change(envelope);
    int perhaps = reads && h->mode != PSP_RECORD_ALL;
    psp_batch_t *b = perhaps ? open_reads(c, total, from) : open_batch(c, reads, total, from);
    apr_size_t before = b->length;

    psp_batch_add(b, envelope, length - 1, members, (apr_size_t)n);
    c->records->bytes += perhaps ? 0 : b->length - before;
}

/* When to look next if nobody wakes us: some at a time rather than many at once, for who is served meanwhile shares
 * the processors with the database. */
static apr_int64_t pause_after(apr_int64_t passed, int n)
{
    apr_int64_t pause = n > 0 ? passed * SOME / n : LOOK;

    return pause < SOONEST ? SOONEST : pause > LOOK ? LOOK : pause;
}

static void drain(psp_child_t *c)
{
    static char buffer[PSP_RING_RECORD_MAX + 1];
    psp_records_t *r = c->records;
    int n = 0, changes = 0;
    apr_uint64_t from = r->at;
    apr_size_t length;

    while (n < DRAIN_MAX && r->bytes < MEMORY_MAX &&
           psp_ring_peek(r->ring, &r->at, buffer, &length) == APR_SUCCESS) {
        const char *envelope = buffer + sizeof(psp_record_header_t);
        psp_record_header_t header;

        n++;
        if (length < sizeof header + 2 || envelope[0] != '{' || buffer[length - 1] != '}') {
            continue;
        }
        buffer[length] = '\0';
        memcpy(&header, buffer, sizeof header);
        changes += may_change(envelope);
        append(c, &header, envelope, length - sizeof header, from);
        from = r->at;
    }
    if (!r->first && !r->reads && !r->asked) {
        psp_records_free_ring(r); /* what was given up by its writer */
    }
    r->look_at = c->now + (n == DRAIN_MAX ? 0 : changes ? QUICK : SLOW);
    r->look_unwoken_at = c->now + pause_after(c->now - r->looked_at, n);
    r->looked_at = c->now;
    if (changes || (r->woken && n == 0)) {
        psp_feed_wake(c);
    }
    if (r->woken && n == 0) { /* who changed a subscription wakes us without a record */
        psp_renew_ask(c);
    }
}

/* While woken is set no worker writes to the pipe: under load we are woken once per look. */
static void look(psp_child_t *c)
{
    psp_records_t *r = c->records;

    if (r->woken && (c->stopping || c->now >= r->look_at)) {
        psp_ring_wake_clear(r->ring);
        drain(c);
        r->woken = 0;
    }
    else if (c->stopping || c->now >= r->look_unwoken_at) {
        drain(c);
    }
    psp_child_want(c, r->woken ? r->look_at : r->look_unwoken_at);
}

/* --- To the database --- */

static void drop(psp_child_t *c, psp_batch_t *b)
{
    psp_records_t *r = c->records;
    psp_batch_t **link = &r->first, *before = NULL;

    if (b == r->replay) {
        psp_records_replayed(r);
        return;
    }
    while (*link != b) {
        before = *link;
        link = &before->next;
    }
    *link = b->next;
    if (!b->next) {
        r->last = before;
    }
    r->bytes -= b->length;
    psp_batch_forget(r, b);
}

static void written(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_records_t *r = c->records;
    psp_batch_t *b = r->calling;

    (void)rows;
    psp_child_again(c);
    r->calling = NULL;
    if (result->rv != APR_SUCCESS && result->http == HTTP_SERVICE_UNAVAILABLE) {
        r->not_before = c->now + RETRY;
        return;
    }
    if (result->rv != APR_SUCCESS) {
        psp_gate_doubt(c);
        if (b->single < 0) {
            b->single = 0;
            return;
        }
        r->refused++;
    }
    else if (psp_leases_calls(c)) {
        psp_feed_wake(c); /* their ends are in the log */
    }
    psp_count(result->rv == APR_SUCCESS ? PSP_COUNT_RECORDS_WRITTEN : PSP_COUNT_RECORDS_REFUSED,
              b->single < 0 ? b->count : 1);
    if (b->single < 0 || ++b->single == b->count) {
        drop(c, b);
    }
}

static void write_batch(psp_child_t *c, psp_batch_t *b)
{
    psp_records_t *r = c->records;
    const char *param;
    apr_pool_t *p;

    apr_pool_create(&p, c->p);
    param = psp_batch_text(b, p);
    r->calling = b;
    psp_records_close(r, b);
    psp_session_send(c->records_db,
                     b->reads && b->single < 0 ? "SELECT pubsubpull.record_reads($1)"
                                               : "SELECT pubsubpull.record_requests($1)",
                     1, &param, PSP_RECORDS_TIMEOUT, written, c);
    apr_pool_destroy(p);
}

static void report(psp_child_t *c)
{
    psp_records_t *r = c->records;
    apr_uint64_t dropped = psp_ring_dropped(r->ring);

    if (c->now < r->report_at) {
        return;
    }
    if (dropped > r->dropped) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, APR_ENOSPC, c->server,
                     "PSP0420: %" APR_UINT64_T_FMT " records of requests were dropped, there was "
                     "no room for them",
                     dropped - r->dropped);
        r->report_at = c->now + REPORT;
    }
    if (r->refused > r->refused_reported) {
        ap_log_error(APLOG_MARK, APLOG_ERR, APR_EGENERAL, c->server,
                     "PSP0421: the database refused %" APR_UINT64_T_FMT " records of requests: %s",
                     r->refused - r->refused_reported, psp_gate_cause(c));
        r->report_at = c->now + REPORT;
    }
    r->dropped = dropped;
    r->refused_reported = r->refused;
}

int psp_records_clean(const psp_child_t *c)
{
    return !c->records->first && !c->records->reads && !c->records->asked;
}

int psp_records_waiting(const psp_child_t *c)
{
    return psp_ring_waiting(c->records->ring) > 0;
}

int psp_records_spooling(const psp_child_t *c)
{
    return psp_spool_room(c->records->spool, PSP_RECORDS_BYTES);
}

void psp_records_leave(psp_child_t *c, int ending)
{
    psp_records_t *r = c->records;
    apr_uint64_t before;

    do { /* httpd may be stopping, and the ring goes with it */
        before = r->at;
        if (ending || psp_records_spooling(c)) {
            drain(c);
        }
        if (!ending || psp_records_spooling(c)) {
            psp_records_push_all(r, &r->asked);
            psp_records_push_all(r, &r->reads);
        }
        if (ending || psp_records_spooling(c)) {
            psp_records_relieve(c);
        }
    } while (r->at != before);
    psp_spool_sync(r->spool);
    if (ending) {
        psp_records_tell_lost(c);
    }
    else {
        psp_records_give_back(r);
    }
    r->report_at = 0;
    report(c);
}

static void answered(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_records_t *r = c->records;
    psp_batch_t *list = r->asked;
    const char *awaited =
        result->rv == APR_SUCCESS && psp_rows_count(rows) == 1 ? psp_rows_get(rows, 0, 0) : NULL;

    psp_child_again(c);
    r->asked = NULL;
    while (awaited && *awaited == 'f' && list) {
        psp_batch_t *b = list;

        list = b->next;
        psp_batch_forget(r, b);
    }
    psp_records_push_all(r, &list);
}

/* After they ended: what they changed was committed before that, as a rule. */
static void ask(psp_child_t *c)
{
    psp_records_t *r = c->records;

    if (!r->reads || r->asked) {
        return;
    }
    if (c->now < r->reads->since + BATCH_AGE && !c->stopping) {
        psp_child_want(c, r->reads->since + BATCH_AGE);
        return;
    }
    r->asked = r->reads;
    r->reads = NULL;
    r->reads_bytes = 0;
    psp_session_send(c->records_db, "SELECT pubsubpull.awaits_reads()", 0, NULL,
                     PSP_RECORDS_TIMEOUT, answered, c);
}

/* The oldest batch whose time has come: full, or large enough, or old. */
static psp_batch_t *due_batch(psp_child_t *c)
{
    psp_records_t *r = c->records;
    psp_batch_t *b;

    for (b = r->first; b; b = b->next) {
        if (b != r->open[b->reads] || b->count >= SOME || c->stopping ||
            c->now >= b->since + BATCH_AGE) {
            return b;
        }
        psp_child_want(c, b->since + BATCH_AGE);
    }
    return NULL;
}

/* The next to write: what is new is not to wait for all that is on disk, nor the other way round. */
static psp_batch_t *next_batch(psp_child_t *c)
{
    psp_records_t *r = c->records;
    psp_batch_t *b;

    if (!r->replay && !psp_spool_empty(r->spool)) {
        psp_records_load_replay(c);
    }
    r->turn = r->replay && !r->turn;
    if (r->turn) {
        return r->replay;
    }
    b = due_batch(c);
    return b ? b : r->replay;
}

void psp_records_step(psp_child_t *c)
{
    psp_records_t *r = c->records;
    psp_batch_t *b;

    look(c);
    psp_records_relieve_if(c);
    psp_spool_step(c, r->spool);
    psp_record_say(psp_gate_open(c) || psp_records_spooling(c));
    report(c);
    if (!psp_gate_open(c) || !psp_session_ready(c->records_db)) {
        return;
    }
    ask(c);
    if (r->calling) {
        return;
    }
    if (c->now < r->not_before) {
        psp_child_want(c, r->not_before);
        return;
    }
    if ((b = next_batch(c))) {
        write_batch(c, b);
    }
}
