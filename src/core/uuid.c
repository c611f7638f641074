/* SPDX-License-Identifier: Apache-2.0 */
/* uuid.c: UUID version 7 from buffered random bytes. */
#include "core/uuid.h"

#include <string.h>
#include <unistd.h>

#include <apr_general.h>

#define RANDOM_BYTES 10 /* of one UUID */

/* Each thread's stock of random bytes: one read of the system's source serves 64 requests. The pid
 * tells a forked child that the stock is its parent's, which both would hand out. */
static _Thread_local unsigned char stock[64 * RANDOM_BYTES];
static _Thread_local apr_size_t stock_left;
static _Thread_local pid_t stock_owner;

static apr_status_t take_random(unsigned char out[RANDOM_BYTES])
{
    pid_t self = getpid();

    if (stock_owner != self || stock_left < RANDOM_BYTES) {
        apr_status_t rv;

        stock_left = 0;
        rv = apr_generate_random_bytes(stock, sizeof stock);
        if (rv != APR_SUCCESS) {
            return rv;
        }
        stock_owner = self;
        stock_left = sizeof stock;
    }
    stock_left -= RANDOM_BYTES;
    memcpy(out, stock + stock_left, RANDOM_BYTES);
    return APR_SUCCESS;
}

static int is_dash(int position)
{
    return position == 8 || position == 13 || position == 18 || position == 23;
}

apr_status_t psp_uuid7(char out[PSP_UUID_LENGTH + 1], apr_time_t now)
{
    static const char digits[] = "0123456789abcdef";
    apr_uint64_t ms = now > 0 ? (apr_uint64_t)now / 1000 : 0;
    unsigned char raw[16];
    apr_status_t rv;
    int i;
    int nibble = 0;

    rv = take_random(raw + 6);
    if (rv != APR_SUCCESS) {
        return rv;
    }
    for (i = 0; i < 6; i++) {
        raw[i] = (unsigned char)(ms >> (40 - 8 * i));
    }
    raw[6] = (unsigned char)(0x70 | (raw[6] & 0x0f)); /* version */
    raw[8] = (unsigned char)(0x80 | (raw[8] & 0x3f)); /* variant */

    for (i = 0; i < PSP_UUID_LENGTH; i++) {
        if (is_dash(i)) {
            out[i] = '-';
            continue;
        }
        out[i] = digits[nibble % 2 ? raw[nibble / 2] & 0x0f : raw[nibble / 2] >> 4];
        nibble++;
    }
    out[PSP_UUID_LENGTH] = '\0';
    return APR_SUCCESS;
}

int psp_uuid_valid(const char *text)
{
    int i;

    if (!text) {
        return 0;
    }
    for (i = 0; i < PSP_UUID_LENGTH; i++) {
        char c = text[i];

        if (is_dash(i) ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
            return 0; /* an early NUL ends here too */
        }
    }
    return text[PSP_UUID_LENGTH] == '\0';
}
