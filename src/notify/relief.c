/* SPDX-License-Identifier: Apache-2.0 */
/* relief.c: where records go when the database does not take them: the disk, or this process's memory. */
#include "notify/batch.h"

#include <stdio.h>
#include <string.h>

#include <apr_strings.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define RELIEF_FILL 50                  /* percent of the ring that may wait for the database */
#define RELIEF_AGE apr_time_from_sec(1) /* while there is none */

/* A batch as lines: each separator becomes the end of a line. Its records are ASCII without line ends. */
static int spool_batch(psp_child_t *c, psp_batch_t *b)
{
    psp_records_t *r = c->records;
    int from = b->single < 0 ? 0 : b->single, i;
    char *text = b->text + b->starts[from];
    int good;

    for (i = from + 1; i < b->count; i++) {
        b->text[b->starts[i] - 1] = '\n';
    }
    b->text[b->length] = '\n'; /* there is room for the bracket */
    good = psp_spool_append(r->spool, text, b->length + 1 - b->starts[from]);
    for (i = from + 1; i < b->count; i++) {
        b->text[b->starts[i] - 1] = ',';
    }
    if (good && !r->spooled) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, c->server,
                     "PSP0427: records of requests go to PubSubPullSpool, the database does not "
                     "take them");
    }
    r->spooled += good ? (apr_uint64_t)b->count : 0;
    return good;
}

static void keep_in_memory(psp_batch_t *b)
{
    if (b && b->keeper == PSP_IN_RING) {
        psp_count(PSP_GAUGE_RECORDS_HELD, b->count);
        b->keeper = PSP_IN_MEMORY;
    }
}

/* Give the ring its room back. The batch that is being written stays until that is known, though it is on
 * disk then, too. */
void psp_records_relieve(psp_child_t *c)
{
    psp_records_t *r = c->records;
    psp_batch_t *b, **link = &r->first, *last = NULL;

    for (b = r->reads; b; b = b->next) {
        keep_in_memory(b);
    }
    for (b = r->asked; b; b = b->next) {
        keep_in_memory(b);
    }

    while ((b = *link) != NULL) {
        if (b->keeper != PSP_IN_DISK && psp_spool_room(r->spool, b->length + 1) &&
            spool_batch(c, b)) {
            psp_count(PSP_GAUGE_RECORDS_HELD, b->keeper == PSP_IN_MEMORY ? -b->count : 0);
            b->keeper = PSP_IN_DISK;
        }
        else {
            keep_in_memory(b);
        }
        if (b->keeper == PSP_IN_DISK && b != r->calling) {
            *link = b->next;
            r->bytes -= b->length;
            psp_records_close(r, b);
            psp_batch_free(b);
            continue;
        }
        last = b;
        link = &b->next;
    }
    r->last = last;
    psp_records_free_ring(r);
}

void psp_records_relieve_if(psp_child_t *c)
{
    psp_records_t *r = c->records;

    if (psp_ring_fill(r->ring) >= RELIEF_FILL) {
        psp_records_relieve(c);
    }
    else if (r->first && !psp_gate_open(c) && psp_spool_room(r->spool, r->first->length + 1)) {
        if (c->now - r->first->since >= RELIEF_AGE) {
            psp_records_relieve(c);
        }
        else {
            psp_child_want(c, r->first->since + RELIEF_AGE);
        }
    }
}

void psp_records_replayed(psp_records_t *r)
{
    r->replayed += (apr_uint64_t)r->replay->count;
    psp_spool_done(r->spool);
    psp_batch_free(r->replay);
    r->replay = NULL;
}

void psp_records_load_replay(psp_child_t *c)
{
    static char buffer[PSP_RECORDS_BYTES];
    psp_records_t *r = c->records;
    apr_size_t length = psp_spool_read(r->spool, buffer, sizeof buffer, PSP_RECORDS_COUNT);
    char *line = buffer, *end;

    if (!length) {
        if (r->replayed) {
            ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                         "PSP0426: all records of requests that were on disk are in the database, "
                         "%" APR_UINT64_T_FMT " of them",
                         r->replayed);
        }
        r->spooled = r->replayed = 0;
        return;
    }
    r->replay = psp_batch_make(c->now);
    for (; line < buffer + length; line = end + 1) {
        end = memchr(line, '\n', (apr_size_t)(buffer + length - line));
        if (end - line > 2 && *line == '{' && end[-1] == '}') {
            psp_batch_add(r->replay, line, (apr_size_t)(end - line), "", 0);
        }
    }
    if (!r->replay->count) {
        psp_records_replayed(r);
    }
}

/* Undo append(). */
static int give_back(psp_ring_t *ring, char *record, apr_size_t length)
{
    static char buffer[PSP_RING_RECORD_MAX];
    psp_record_header_t header = {0};
    char *members = NULL, *at = record;
    long long bytes, duration;

    record[length] = '\0';
    while ((at = strstr(at, ",\"status\":")) != NULL) {
        members = at++; /* the last is ours */
    }
    if (!members || sscanf(members, ",\"status\":%d,\"bytes\":%lld,\"duration\":%lld,\"mode\":%d}",
                           &header.status, &bytes, &duration, &header.mode) != 4) {
        return 0;
    }
    header.bytes = bytes;
    header.duration = duration;
    length = (apr_size_t)(members - record);
    memcpy(buffer, &header, sizeof header);
    memcpy(buffer + sizeof header, record, length);
    buffer[sizeof header + length] = '}';
    return psp_ring_put(ring, buffer, sizeof header + length + 1) == APR_SUCCESS;
}

void psp_records_give_back(psp_records_t *r)
{
    psp_batch_t *b;
    int i;

    for (b = r->first; b; b = b->next) {
        for (i = b->single < 0 ? 0 : b->single; b->keeper == PSP_IN_MEMORY && i < b->count; i++) {
            apr_size_t end = i + 1 < b->count ? b->starts[i + 1] - 1 : b->length;

            if (give_back(r->ring, b->text + b->starts[i], end - b->starts[i])) {
                psp_count(PSP_GAUGE_RECORDS_HELD, -1); /* or the next child takes it for lost */
            }
            else {
                r->refused++;
            }
        }
    }
}

void psp_records_tell_lost(psp_child_t *c)
{
    const psp_records_t *r = c->records;
    apr_uint64_t lost = psp_ring_waiting(r->ring), reads = 0;
    const psp_batch_t *b;

    for (b = r->first; b; b = b->next) {
        lost += b->keeper == PSP_IN_DISK
                    ? 0
                    : (apr_uint64_t)(b->count - (b->single < 0 ? 0 : b->single));
    }
    for (b = r->reads; b; b = b->next) {
        reads += (apr_uint64_t)b->count;
    }
    for (b = r->asked; b; b = b->next) {
        reads += (apr_uint64_t)b->count;
    }
    if (lost + reads > 0) {
        ap_log_error(APLOG_MARK, lost ? APLOG_WARNING : APLOG_INFO, APR_EGENERAL, c->server,
                     "PSP0335: %" APR_UINT64_T_FMT
                     " records of requests at most are lost, and %" APR_UINT64_T_FMT
                     " of such as only matter if a GET changed something: httpd ends before the "
                     "database has "
                     "taken them",
                     lost, reads);
    }
}
