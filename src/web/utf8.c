/* SPDX-License-Identifier: Apache-2.0 */
/* utf8.c: PostgreSQL takes UTF-8 only, so what is not is refused at the door. */
#include "web/private.h"

/* Bytes that follow the first one, and the smallest second byte and the largest: RFC 3629, 4. */
static int follow(unsigned char first, unsigned char *low, unsigned char *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (first < 0x80) {
        return 0;
    }
    if (first >= 0xC2 && first <= 0xDF) {
        return 1;
    }
    if (first >= 0xE0 && first <= 0xEF) {
        *low = first == 0xE0 ? 0xA0 : 0x80;
        *high = first == 0xED ? 0x9F : 0xBF;
        return 2;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        *low = first == 0xF0 ? 0x90 : 0x80;
        *high = first == 0xF4 ? 0x8F : 0xBF;
        return 3;
    }
    return -1;
}

/* NUL is valid UTF-8 but no text of PostgreSQL's holds it. */
int psp_utf8_valid(const char *text, apr_size_t length)
{
    const unsigned char *c = (const unsigned char *)text;
    const unsigned char *end = c + length;

    while (c < end) {
        unsigned char low, high;
        int n = follow(*c, &low, &high);

        if (n < 0 || !*c || end - c <= n) {
            return 0;
        }
        for (c++; n > 0; n--, c++) {
            if (*c < low || *c > high) {
                return 0;
            }
            low = 0x80;
            high = 0xBF;
        }
    }
    return 1;
}
