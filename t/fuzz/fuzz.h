/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz.h: what the fuzz targets share: the pool of an input, its lines, and how a broken promise is told. */
#ifndef PSP_T_FUZZ_FUZZ_H
#define PSP_T_FUZZ_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <apr_general.h>
#include <apr_pools.h>
#include <apr_strings.h>

/** What each target defines: one input, and a pool that goes with it. */
static void try_input(apr_pool_t *p, const uint8_t *data, size_t size);

/** What has to hold whatever comes in. */
#define PROMISE(what)                                                                              \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #what);             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/** libFuzzer calls it with one input after the other. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static apr_pool_t *root;
    apr_pool_t *p;

    if (!root) {
        PROMISE(apr_initialize() == APR_SUCCESS && apr_pool_create(&root, NULL) == APR_SUCCESS);
    }
    PROMISE(apr_pool_create(&p, root) == APR_SUCCESS);
    try_input(p, data, size);
    apr_pool_destroy(p);
    return 0;
}

static inline apr_status_t fuzz_free(void *line)
{
    free(line);
    return APR_SUCCESS;
}

/** The next line of the input, in memory of its own so that AddressSanitizer sees its end; NULL when there is none, and for
 * a line that is "-". */
static inline char *fuzz_line(apr_pool_t *p, const uint8_t **data, size_t *size)
{
    const uint8_t *end = *size ? memchr(*data, '\n', *size) : NULL;
    size_t length = end ? (size_t)(end - *data) : *size, used = end ? length + 1 : length;
    char *line;

    if (!*size) {
        return NULL;
    }
    line = malloc(length + 1);
    PROMISE(line);
    memcpy(line, *data, length);
    line[length] = '\0';
    apr_pool_cleanup_register(p, line, fuzz_free, apr_pool_cleanup_null);
    *data += used;
    *size -= used;
    return strcmp(line, "-") == 0 ? NULL : line;
}

static inline int fuzz_printable(const char *text)
{
    for (; *text; text++) {
        if (*text < ' ' || *text > '~') {
            return 0;
        }
    }
    return 1;
}

#endif
