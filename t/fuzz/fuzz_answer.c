/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_answer.c: what a receiver sends, line by line and piece by piece as libcurl hands it on: never more is kept than there
 * is room for, and what does not end is cut off. */
#include "notify/wire.h"

#include "fuzz.h"

/* As libcurl has it: not ended by NUL. */
static apr_size_t hand_over(apr_size_t (*take)(char *, apr_size_t, apr_size_t, void *),
                            psp_answer_t *a, const uint8_t *data, size_t length)
{
    char *copy = malloc(length);
    apr_size_t taken;

    PROMISE(copy);
    memcpy(copy, data, length);
    taken = take(copy, 1, length, a);
    free(copy);
    return taken;
}

static void try_input(apr_pool_t *p, const uint8_t *data, size_t size)
{
    static psp_answer_t a;
    apr_size_t before = 0;

    (void)p;
    psp_answer_begin(&a);
    PROMISE(!a.answered && !psp_answer_endless(&a));
    while (size && !a.answered) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t length = end ? (size_t)(end - data) + 1 : size;

        before += length;
        if (hand_over(psp_answer_header, &a, data, length) != length) {
            PROMISE(psp_answer_endless(&a) && before > 64 * 1024);
            return;
        }
        data += length;
        size -= length;
    }
    while (size) {
        size_t length = data[0] % 97 + 1;

        length = length < size ? length : size;
        if (hand_over(psp_answer_body, &a, data, length) != length) {
            PROMISE(a.body_bytes > 64 * 1024);
            break;
        }
        data += length;
        size -= length;
    }
    PROMISE(a.kept <= PSP_PUT_KEPT && a.body[a.kept] == '\0');
}
