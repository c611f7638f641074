/* SPDX-License-Identifier: Apache-2.0 */
/* answer.c: what came back, read as it comes, and never more of it than is good for us. */
#include "notify/wire.h"

#include <string.h>

#define BODY_MAX (64 * 1024) /* the rest is cut off */
#define HEADERS_MAX (64 * 1024)

void psp_answer_begin(psp_answer_t *a)
{
    a->header_bytes = a->body_bytes = a->kept = 0;
    a->final = a->answered = 0;
    a->body[0] = '\0';
}

apr_size_t psp_answer_header(char *data, apr_size_t size, apr_size_t n, void *answer)
{
    psp_answer_t *a = answer;
    apr_size_t length = size * n;

    a->header_bytes += length;
    if (a->header_bytes > HEADERS_MAX) {
        return 0;
    }
    if (length > 9 && memcmp(data, "HTTP/", 5) == 0) {
        const char *blank = memchr(data, ' ', length);

        a->final = blank && blank + 1 < data + length && blank[1] != '1';
    }
    if (a->final && length <= 2 && (*data == '\r' || *data == '\n')) {
        a->answered = 1;
    }
    return length;
}

apr_size_t psp_answer_body(char *data, apr_size_t size, apr_size_t n, void *answer)
{
    psp_answer_t *a = answer;
    apr_size_t length = size * n, room = PSP_PUT_KEPT - a->kept;

    if (room > 0) {
        room = length < room ? length : room;
        memcpy(a->body + a->kept, data, room);
        a->kept += room;
        a->body[a->kept] = '\0';
    }
    a->body_bytes += length;
    return a->body_bytes <= BODY_MAX ? length : 0;
}

int psp_answer_endless(const psp_answer_t *a)
{
    return a->header_bytes > HEADERS_MAX;
}
