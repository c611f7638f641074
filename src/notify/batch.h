/* SPDX-License-Identifier: Apache-2.0 */
/* batch.h: records of requests in the notifier's memory: shared by records.c, batch.c and relief.c. */
#ifndef PSP_NOTIFY_BATCH_H
#define PSP_NOTIFY_BATCH_H

#include "notify/private.h"
#include "record/record.h"

#define PSP_RECORDS_COUNT 500
#define PSP_RECORDS_BYTES (512 * 1024)

/** Who still has a record that is in memory, should this process die. */
typedef enum { PSP_IN_RING, PSP_IN_MEMORY, PSP_IN_DISK } psp_keeper_t;

/* A JSON array being written; malloc'ed, owned by the list. */
typedef struct psp_batch_t {
    struct psp_batch_t *next;
    char *text;
    apr_size_t length, room;
    int count;
    psp_keeper_t keeper; /* who still has it, should this process die */
    apr_uint64_t from;   /* in the ring */
    int single;          /* being written one by one, this one next; -1: as a whole */
    int reads;           /* all only read, and are to be written anyway */
    apr_int64_t since;
    apr_size_t starts[PSP_RECORDS_COUNT + 1];
} psp_batch_t;

struct psp_records_t {
    psp_ring_t *ring;
    int wake_fd;
    apr_uint64_t at; /* in the ring: read up to here */
    psp_spool_t *spool;
    psp_batch_t *replay;            /* read from the spool */
    apr_uint64_t spooled, replayed; /* since it was empty */
    int turn;                       /* whose it is: the spool's */
    psp_batch_t *reads; /* newest first: needed only if the database waits for one of them */
    apr_size_t reads_bytes;
    psp_batch_t *asked; /* the database is asked about these */
    int woken;          /* the flag of the ring is set: nobody will write to the pipe */
    apr_int64_t look_at, look_unwoken_at, looked_at;
    psp_batch_t *first, *last;
    psp_batch_t *open[2]; /* those of them that are being filled: [1] with reads */
    apr_size_t bytes;
    psp_batch_t *calling; /* being written */
    apr_int64_t not_before;
    apr_uint64_t dropped; /* of the ring, as far as reported */
    apr_uint64_t refused, refused_reported;
    apr_int64_t report_at;
};

/* --- batch.c --- */

psp_batch_t *psp_batch_make(apr_int64_t now);
/** Append one record: JSON without its last brace, and the members that end it. */
void psp_batch_add(psp_batch_t *b, const char *record, apr_size_t length, const char *members,
                   apr_size_t more);
/** What is left of it to be written, as an array. */
const char *psp_batch_text(psp_batch_t *b, apr_pool_t *p);
void psp_batch_free(psp_batch_t *b);
/** Its records are done with: free it, and what only it kept in the ring. */
void psp_batch_forget(psp_records_t *r, psp_batch_t *b);
/** It is filled no more. */
void psp_records_close(psp_records_t *r, const psp_batch_t *b);
/** Give the ring its room back, up to what nobody else has. */
void psp_records_free_ring(psp_records_t *r);
/** Put it behind all others that are to be written; a whole list of them. */
void psp_records_push(psp_records_t *r, psp_batch_t *b);
void psp_records_push_all(psp_records_t *r, psp_batch_t **list);

/* --- relief.c --- */

/** Let the disk or this process's memory have what only the ring has: always, or if it is time. */
void psp_records_relieve(psp_child_t *c);
void psp_records_relieve_if(psp_child_t *c);
/** Fill r->replay from the spool. */
void psp_records_load_replay(psp_child_t *c);
/** Its batch is in the database. */
void psp_records_replayed(psp_records_t *r);
/** Put back into the ring what is nowhere else, as far as there is room. */
void psp_records_give_back(psp_records_t *r);
/** httpd ends: log what is neither in the database nor on the disk. */
void psp_records_tell_lost(psp_child_t *c);

#endif
