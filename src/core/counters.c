/* SPDX-License-Identifier: Apache-2.0 */
/* counters.c: numbers in shared memory. Each stands for itself, so the order in which they are seen
 * does not matter. */
#include "core/counters.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

/* More than there are: a newer version finds room in what an older one made. */
#define ROOM 512
_Static_assert(PSP_COUNTERS <= ROOM, "the memory has to be larger, and then another one");

typedef _Atomic apr_int64_t cell_t;

static cell_t unshared[ROOM];
static cell_t *cells = unshared;

apr_status_t psp_counters_make(void **shared)
{
    *shared =
        mmap(NULL, sizeof unshared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (*shared == MAP_FAILED) {
        *shared = NULL;
        return APR_FROM_OS_ERROR(errno);
    }
    return APR_SUCCESS;
}

void psp_counters_use(void *shared)
{
    cells = shared;
}

void psp_count(psp_counter_t which, apr_int64_t n)
{
    atomic_fetch_add_explicit(&cells[which], n, memory_order_relaxed);
}

void psp_gauge(psp_counter_t which, apr_int64_t value)
{
    atomic_store_explicit(&cells[which], value, memory_order_relaxed);
}

apr_int64_t psp_counted(psp_counter_t which)
{
    return atomic_load_explicit(&cells[which], memory_order_relaxed);
}
