/* SPDX-License-Identifier: Apache-2.0 */
/* ring.h: a bounded queue of records in shared memory: many processes write, one reads, nobody waits. */
#ifndef PSP_CORE_RING_H
#define PSP_CORE_RING_H

#include <apr_errno.h>
#include <apr_pools.h>

/**
 * A queue in memory that is mapped before processes fork and so is shared by all of them. Writers reserve by
 * compare-and-swap and never block; a writer killed half-way costs its record only. Records keep the order in which
 * they were reserved. It lives until its pool is destroyed in the process that made it; other processes keep theirs.
 */
typedef struct psp_ring_t psp_ring_t;

#define PSP_RING_RECORD_MAX 8192

/** Map a ring of slots (a power of two) of 512 bytes. Anonymous shared memory; only touched pages cost. */
apr_status_t psp_ring_make(psp_ring_t **ring, apr_uint32_t slots, apr_pool_t *p);

/** Write one record of 1 to PSP_RING_RECORD_MAX bytes. APR_EAGAIN: full (counted as dropped); APR_EINVAL: size. */
apr_status_t psp_ring_put(psp_ring_t *ring, const void *record, apr_size_t length);

/**
 * Read the record at a position and leave it where it is. Only one process may read at a time.
 * @param at where to read, from psp_ring_tail() on; moved behind what was read or cannot be
 * @param buffer, length, and what is returned: as for psp_ring_get()
 */
apr_status_t psp_ring_peek(psp_ring_t *ring, apr_uint64_t *at, void *buffer, apr_size_t *length);

/** The position of the oldest record that was not given free: where the reader after one that died begins. */
apr_uint64_t psp_ring_tail(const psp_ring_t *ring);

/** Give the room of all records before a position back to writers. */
void psp_ring_free(psp_ring_t *ring, apr_uint64_t upto);

/** How full the ring is, in percent; roughly, as others go on writing. */
unsigned psp_ring_fill(const psp_ring_t *ring);

/**
 * Take the oldest record: read it and give its room back. Only one process may call this at a time.
 * @param buffer room for PSP_RING_RECORD_MAX bytes
 * @param length its length
 * @return APR_SUCCESS; APR_EAGAIN: empty, or the oldest is still being written. A record that stays unfinished for a
 *         second is given up and counted as dropped.
 */
apr_status_t psp_ring_get(psp_ring_t *ring, void *buffer, apr_size_t *length);

/** Records that were refused or given up since the ring was made. */
apr_uint64_t psp_ring_dropped(const psp_ring_t *ring);

/** About how many records wait in it. */
apr_uint64_t psp_ring_waiting(const psp_ring_t *ring);

/** A flag beside the ring by which writers wake the reader only once: returns true for the one writer that has to
 * signal; the reader clears it before it looks into the ring. */
int psp_ring_wake_claim(psp_ring_t *ring);
void psp_ring_wake_clear(psp_ring_t *ring);

#endif
