/* SPDX-License-Identifier: Apache-2.0 */
/* cause.c: which request a request was caused by: it changed something, a subscriber was sent that, and writes back.
 *
 * A delivery says by which request it was caused, in PubSubPull-Cause and as the trace that it belongs to. Who sends
 * either back is tied to that request, to know chains that do not end; nothing else comes of it. With PubSubPullKey
 * the one is signed and the other is the id enciphered, so that nobody can claim a cause whom we did not send it to.
 */
#include "record/private.h"

#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#define HEX_LENGTH 32                         /* of a trace id, or of an id without its dashes */
#define AGE_MAX apr_time_from_sec(30 * 86400) /* of a cause */
#define AHEAD_MAX apr_time_from_sec(60)       /* of our clock, by another server's */

static const char note[] = "pubsubpull-cause";
static const char signature[] = "; signature=";

static void pack(const char *id, unsigned char raw[PSP_CAUSE_BYTES])
{
    int n = 0, value;

    memset(raw, 0, PSP_CAUSE_BYTES);
    for (; *id && n < HEX_LENGTH; id++) {
        if (apr_isxdigit(*id)) {
            value = apr_isdigit(*id) ? *id - '0' : apr_tolower(*id) - 'a' + 10;
            raw[n / 2] |= (unsigned char)(n % 2 ? value : value << 4);
            n++;
        }
    }
}

static void unpack(const unsigned char raw[PSP_CAUSE_BYTES], char *out, int dashes)
{
    static const char digits[] = "0123456789abcdef";
    int i;

    for (i = 0; i < PSP_CAUSE_BYTES; i++) {
        if (dashes && (i == 4 || i == 6 || i == 8 || i == 10)) {
            *out++ = '-';
        }
        *out++ = digits[raw[i] >> 4];
        *out++ = digits[raw[i] & 15];
    }
    *out = '\0';
}

/* An id that was made here lately. The trace ids of others are not: they are random, or hold another time. */
static int is_ours(const unsigned char raw[PSP_CAUSE_BYTES])
{
    apr_time_t made = 0, now = apr_time_now();
    int i;

    for (i = 0; i < 6; i++) {
        made = made << 8 | raw[i];
    }
    made *= 1000;
    return raw[6] >> 4 == 7 && raw[8] >> 6 == 2 && made < now + AHEAD_MAX && made > now - AGE_MAX;
}

void psp_record_trace(char out[PSP_TRACE_LENGTH + 1], const char *id)
{
    unsigned char raw[PSP_CAUSE_BYTES];

    pack(id, raw);
    psp_seal_encipher(raw);
    unpack(raw, out, 0);
}

void psp_record_cause(char out[PSP_CAUSE_LENGTH + 1], const char *id)
{
    char *end = apr_cpystrn(out, id, PSP_UUID_LENGTH + 1);

    if (psp_seal_length()) {
        memcpy(end, signature, sizeof signature);
        psp_seal_sign(end + sizeof signature - 1, out, (apr_size_t)(end - out));
    }
}

/* PubSubPull-Cause as we sent it. */
static const char *from_header(request_rec *r, const char *value)
{
    char id[PSP_UUID_LENGTH + 1];
    unsigned char raw[PSP_CAUSE_BYTES];

    apr_cpystrn(id, value, sizeof id);
    value += strlen(id);
    if (!psp_uuid_valid(id)) {
        return NULL;
    }
    pack(id, raw);
    if (!is_ours(raw)) {
        return NULL;
    }
    if (psp_seal_length()) {
        if (strncmp(value, signature, sizeof signature - 1) != 0 ||
            !psp_seal_verify(value + sizeof signature - 1, id, PSP_UUID_LENGTH)) {
            return NULL;
        }
    }
    return apr_pstrdup(r->pool, id);
}

/* Version, trace, span and flags (W3C Trace Context): the trace stays the same from service to service. */
static const char *from_trace(request_rec *r, const char *value)
{
    char id[PSP_UUID_LENGTH + 1];
    unsigned char raw[PSP_CAUSE_BYTES];
    int key;

    if (strlen(value) < 55 || strspn(value + 3, "0123456789abcdef") != HEX_LENGTH ||
        value[2] != '-' || value[3 + HEX_LENGTH] != '-') {
        return NULL;
    }
    for (key = 0; key < psp_seal_keys(); key++) {
        pack(value + 3, raw);
        if (psp_seal_decipher(raw, key) && is_ours(raw)) {
            unpack(raw, id, 1);
            return apr_pstrdup(r->pool, id);
        }
    }
    return NULL;
}

void psp_cause_read(request_rec *r)
{
    const char *value = apr_table_get(r->headers_in, "PubSubPull-Cause");
    const char *id = value ? from_header(r, value) : NULL;

    if (!id && (value = apr_table_get(r->headers_in, "traceparent"))) {
        id = from_trace(r, value);
    }
    if (id) {
        apr_table_setn(r->notes, note, id);
    }
}

const char *psp_cause_find(const request_rec *root)
{
    return apr_table_get(root->notes, note);
}
