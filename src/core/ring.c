/* SPDX-License-Identifier: Apache-2.0 */
/* ring.c: the queue of records in shared memory.
 *
 * Positions count slots and never wrap in practice (57 bits); a position's slot is position & mask.
 * A record occupies consecutive slots, and the word of its first slot says all about it: position,
 * number of slots, state. So the one compare-and-swap that writes BUSY into that word is the whole
 * reservation, and from then on everybody knows how far it reaches, even when its writer is killed
 * at once:
 *
 *   (older position) --writer--> BUSY --writer--> DONE
 *                                   \--reader--> LOST   when it stayed BUSY for a second
 *
 * Words of slots inside a record keep what they held. A word's position only grows, hence no ABA.
 * Head (the next position to reserve) may lag behind the words; whoever sees that moves it on. Tail
 * is moved by the reader only; tail <= head always, and slots before tail are free again.
 *
 * A writer that was merely stopped may wake up after its record was given up and its slots were
 * reused. It looks at its word before each slot that it copies, so at most one slot may be
 * scribbled on; the reader notices by the checksum, which covers the position, and drops that
 * record. What psp_ring_peek() returns is always what somebody put.
 */
#include "core/ring.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define SLOT_SIZE 512
#define SLOT_DATA (SLOT_SIZE - 24)
#define GIVE_UP_NS 1000000000LL

typedef _Atomic apr_uint64_t atomic_u64;
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "locks do not work across killed processes");

enum { BUSY, DONE, LOST };

typedef struct slot_t {
    atomic_u64 word;
    /* of the record that begins here */
    apr_uint64_t checksum;
    apr_uint64_t length;
    unsigned char data[SLOT_DATA];
} slot_t;
_Static_assert(sizeof(slot_t) == SLOT_SIZE, "slots have to fill pages exactly");

/* What all processes share; members written by different parties are kept on cache lines of their
 * own. */
typedef struct area_t {
    _Alignas(64) atomic_u64 head;
    _Alignas(64) atomic_u64 tail;
    _Alignas(64) atomic_u64 dropped;
    _Alignas(64) atomic_int woken;
    _Alignas(SLOT_SIZE) slot_t slots[];
} area_t;

/* One per process: a forked child has its own copy of this, and the same area. */
struct psp_ring_t {
    area_t *area;
    apr_size_t mapped;
    apr_uint64_t slots;
    /* reader: when it looked at an unfinished record, and what had been reserved by then */
    apr_int64_t watched_since;
    apr_uint64_t watched_until;
};

static apr_uint64_t make_word(apr_uint64_t position, apr_uint64_t count, unsigned state)
{
    return position << 7 | count << 2 | state;
}

static apr_uint64_t word_position(apr_uint64_t word)
{
    return word >> 7;
}

static apr_uint64_t word_count(apr_uint64_t word)
{
    return word >> 2 & 31;
}

static unsigned word_state(apr_uint64_t word)
{
    return word & 3;
}

static apr_uint64_t slots_for(apr_uint64_t length)
{
    return (length + SLOT_DATA - 1) / SLOT_DATA;
}

static slot_t *slot_at(const psp_ring_t *ring, apr_uint64_t position)
{
    return &ring->area->slots[position & (ring->slots - 1)];
}

static void move_head(psp_ring_t *ring, apr_uint64_t from, apr_uint64_t count)
{
    atomic_compare_exchange_strong(&ring->area->head, &from, from + count);
}

/* Quick rather than strong: it has to tell a scribbled record, not a forged one. */
static apr_uint64_t mix(apr_uint64_t sum, const unsigned char *data, apr_size_t length)
{
    while (length > 0) {
        apr_size_t part = length < 8 ? length : 8;
        apr_uint64_t bytes = 0;

        memcpy(&bytes, data, part);
        sum = (sum ^ bytes) * 0x9e3779b97f4a7c15ULL;
        sum ^= sum >> 29;
        data += part;
        length -= part;
    }
    return sum;
}

static apr_uint64_t first_sum(apr_uint64_t position, apr_size_t length)
{
    return position * 0xff51afd7ed558ccdULL + length;
}

static apr_status_t unmap(void *data)
{
    psp_ring_t *ring = data;

    return munmap(ring->area, ring->mapped) == 0 ? APR_SUCCESS : APR_FROM_OS_ERROR(errno);
}

apr_status_t psp_ring_make(psp_ring_t **ring, apr_uint32_t slots, apr_pool_t *p)
{
    psp_ring_t *made = apr_pcalloc(p, sizeof *made);

    *ring = NULL;
    if (slots < slots_for(PSP_RING_RECORD_MAX) || (slots & (slots - 1)) != 0) {
        return APR_EINVAL;
    }
    made->slots = slots;
    made->mapped = sizeof(area_t) + (apr_size_t)slots * sizeof(slot_t);
    made->area =
        mmap(NULL, made->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (made->area == MAP_FAILED) {
        return APR_FROM_OS_ERROR(errno);
    }
    apr_pool_cleanup_register(p, made, unmap, apr_pool_cleanup_null);
    /* one lap on, so that the zeros in untouched words are older than any position */
    atomic_store(&made->area->head, slots);
    atomic_store(&made->area->tail, slots);
    *ring = made;
    return APR_SUCCESS;
}

/* Reserve slots. Lock-free: a round is repeated only when another process got on. */
static int reserve(psp_ring_t *ring, apr_uint64_t count, apr_uint64_t *position)
{
    for (;;) {
        /* head before tail: with an old tail the ring could look full */
        apr_uint64_t head = atomic_load(&ring->area->head);
        apr_uint64_t tail = atomic_load(&ring->area->tail);
        slot_t *slot = slot_at(ring, head);
        apr_uint64_t word;

        if (head < tail) {
            continue; /* head is out of date already */
        }
        if (head + count - tail > ring->slots) {
            return 0;
        }
        word = atomic_load(&slot->word);
        if (word_position(word) < head &&
            atomic_compare_exchange_strong(&slot->word, &word, make_word(head, count, BUSY))) {
            move_head(ring, head, count);
            *position = head;
            return 1;
        }
        if (word_position(word) == head) {
            move_head(ring, head, word_count(word)); /* for a writer that did not come to it */
        }
    }
}

/* Copy the record into its slots, unless it was given up; then 0. */
static int fill(psp_ring_t *ring, apr_uint64_t position, apr_uint64_t busy,
                const unsigned char *record, apr_size_t length)
{
    slot_t *first = slot_at(ring, position);
    apr_uint64_t sum = first_sum(position, length);
    apr_uint64_t at = position;
    apr_size_t left = length;

    while (left > 0) {
        apr_size_t part = left < SLOT_DATA ? left : SLOT_DATA;

        if (atomic_load(&first->word) != busy) {
            return 0;
        }
        memcpy(slot_at(ring, at++)->data, record, part);
        sum = mix(sum, record, part);
        record += part;
        left -= part;
    }
    if (atomic_load(&first->word) != busy) {
        return 0;
    }
    first->checksum = sum;
    first->length = length;
    return 1;
}

apr_status_t psp_ring_put(psp_ring_t *ring, const void *record, apr_size_t length)
{
    apr_uint64_t count = slots_for(length);
    apr_uint64_t position;
    apr_uint64_t busy;

    if (length < 1 || length > PSP_RING_RECORD_MAX) {
        return APR_EINVAL;
    }
    if (!reserve(ring, count, &position)) {
        atomic_fetch_add(&ring->area->dropped, 1);
        return APR_EAGAIN;
    }
    busy = make_word(position, count, BUSY);
    if (!fill(ring, position, busy, record, length) ||
        !atomic_compare_exchange_strong(&slot_at(ring, position)->word, &busy,
                                        make_word(position, count, DONE))) {
        return APR_EAGAIN; /* given up meanwhile, and counted by the reader */
    }
    return APR_SUCCESS;
}

/* Copy a finished record out; 0 when a late writer scribbled on it. */
static int copy_out(psp_ring_t *ring, apr_uint64_t position, apr_uint64_t count,
                    unsigned char *buffer, apr_size_t *length)
{
    const slot_t *first = slot_at(ring, position);
    apr_uint64_t sum = first->checksum;
    apr_size_t size = first->length;
    apr_size_t done = 0;

    if (size < 1 || size > PSP_RING_RECORD_MAX || slots_for(size) != count) {
        return 0;
    }
    while (done < size) {
        apr_size_t part = size - done < SLOT_DATA ? size - done : SLOT_DATA;

        memcpy(buffer + done, slot_at(ring, position++)->data, part);
        done += part;
    }
    *length = size;
    return mix(first_sum(position - count, size), buffer, size) == sum;
}

/* True when the oldest record has been unfinished for long enough. Those reserved behind it before
 * the watch began have been so as long: many writers killed at once cost one second in all. */
static int overdue(psp_ring_t *ring, apr_uint64_t position)
{
    struct timespec t;
    apr_int64_t now;

    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) {
        return 0;
    }
    now = t.tv_sec * 1000000000LL + t.tv_nsec;
    if (position >= ring->watched_until) {
        ring->watched_since = now;
        ring->watched_until = atomic_load(&ring->area->head);
    }
    return now - ring->watched_since >= GIVE_UP_NS;
}

apr_status_t psp_ring_peek(psp_ring_t *ring, apr_uint64_t *at, void *buffer, apr_size_t *length)
{
    for (;;) {
        apr_uint64_t position = *at;
        slot_t *slot = slot_at(ring, position);
        apr_uint64_t word = atomic_load(&slot->word);
        apr_uint64_t count = word_count(word);

        if (word_position(word) != position) {
            return APR_EAGAIN;
        }
        move_head(ring, position, count); /* it must be beyond the record for what follows */
        if (word_state(word) == BUSY) {
            if (!overdue(ring, position)) {
                return APR_EAGAIN;
            }
            if (atomic_compare_exchange_strong(&slot->word, &word,
                                               make_word(position, count, LOST))) {
                atomic_fetch_add(&ring->area->dropped, 1);
                word = make_word(position, count, LOST);
            }
        }
        *at = position + count;
        if (word_state(word) != DONE) {
            continue;
        }
        if (copy_out(ring, position, count, buffer, length)) {
            return APR_SUCCESS;
        }
        atomic_fetch_add(&ring->area->dropped, 1);
    }
}

apr_uint64_t psp_ring_tail(const psp_ring_t *ring)
{
    return atomic_load(&ring->area->tail);
}

void psp_ring_free(psp_ring_t *ring, apr_uint64_t upto)
{
    apr_uint64_t tail = atomic_load(&ring->area->tail);

    /* Again when there is another reader, though there should be none: tail is as it found it then. */
    while (tail < upto) {
        if (atomic_compare_exchange_strong(&ring->area->tail, &tail, upto)) {
            return;
        }
    }
}

apr_status_t psp_ring_get(psp_ring_t *ring, void *buffer, apr_size_t *length)
{
    apr_uint64_t at = psp_ring_tail(ring);
    apr_status_t rv = psp_ring_peek(ring, &at, buffer, length);

    psp_ring_free(ring, at);
    return rv;
}

unsigned psp_ring_fill(const psp_ring_t *ring)
{
    apr_uint64_t tail = atomic_load(&ring->area->tail); /* first: head only grows */

    return (unsigned)((atomic_load(&ring->area->head) - tail) * 100 / ring->slots);
}

apr_uint64_t psp_ring_dropped(const psp_ring_t *ring)
{
    return atomic_load(&ring->area->dropped);
}

/* Goes from record to record by their words, as far as they belong to this lap; others go on meanwhile. */
apr_uint64_t psp_ring_waiting(const psp_ring_t *ring)
{
    apr_uint64_t at = atomic_load(&ring->area->tail), n = 0;
    apr_uint64_t end = at + ring->slots;

    while (at < end) {
        apr_uint64_t word = atomic_load(&slot_at(ring, at)->word);

        if (word_position(word) != at) {
            break;
        }
        at += word_count(word);
        n++;
    }
    return n;
}

int psp_ring_wake_claim(psp_ring_t *ring)
{
    /* Either this load sees the reader's clear, or the reader, who looks into the ring after it,
     * sees the record. */
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load(&ring->area->woken) == 0 && atomic_exchange(&ring->area->woken, 1) == 0;
}

void psp_ring_wake_clear(psp_ring_t *ring)
{
    atomic_store(&ring->area->woken, 0);
    atomic_thread_fence(memory_order_seq_cst);
}
