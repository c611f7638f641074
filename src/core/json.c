/* SPDX-License-Identifier: Apache-2.0 */
/* json.c: the writer of JSON text. */
#include "core/json.h"

#include <string.h>

#include <apr_strings.h>

struct psp_json_t {
    apr_pool_t *pool;
    char *text; /* always NUL-terminated */
    apr_size_t length;
    apr_size_t room; /* bytes of text, the NUL included */
};

psp_json_t *psp_json_make(apr_pool_t *p, apr_size_t hint)
{
    psp_json_t *j = apr_palloc(p, sizeof *j);

    j->pool = p;
    j->length = 0;
    j->room = hint < 31 ? 32 : hint + 1;
    j->text = apr_palloc(p, j->room);
    j->text[0] = '\0';
    return j;
}

/* Make room for more bytes; outgrown buffers stay with the pool. */
static char *reserve(psp_json_t *j, apr_size_t more)
{
    if (more >= j->room - j->length) {
        apr_size_t room = 2 * (j->length + more + 1);
        char *text = apr_palloc(j->pool, room);

        memcpy(text, j->text, j->length + 1);
        j->text = text;
        j->room = room;
    }
    return j->text + j->length;
}

static void append(psp_json_t *j, const char *text, apr_size_t length)
{
    char *to = reserve(j, length);

    memcpy(to, text, length);
    to[length] = '\0';
    j->length += length;
}

void psp_json_raw(psp_json_t *j, const char *text)
{
    append(j, text, strlen(text));
}

static void append_unit(psp_json_t *j, unsigned unit)
{
    static const char digits[] = "0123456789abcdef";
    char escape[6] = {'\\', 'u'};

    escape[2] = digits[unit >> 12 & 15];
    escape[3] = digits[unit >> 8 & 15];
    escape[4] = digits[unit >> 4 & 15];
    escape[5] = digits[unit & 15];
    append(j, escape, sizeof escape);
}

static void append_code_point(psp_json_t *j, unsigned code)
{
    if (code >= 0x10000) {
        append_unit(j, 0xd800 + ((code - 0x10000) >> 10));
        append_unit(j, 0xdc00 + ((code - 0x10000) & 0x3ff));
        return;
    }
    append_unit(j, code);
}

/* Length of the UTF-8 sequence that this byte begins, 0: none. */
static int sequence_length(unsigned char first)
{
    if (first < 0x80) {
        return 1;
    }
    if (first < 0xc0 || first >= 0xf8) {
        return 0;
    }
    return first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/* Decode one character of UTF-8 and return its length; a byte that begins none counts as one
 * U+FFFD. Overlong forms, surrogates and what is beyond U+10FFFF are no characters (RFC 3629, 4). A
 * NUL is no continuation byte, so the look-ahead stays inside the string. */
static int decode(const unsigned char *s, unsigned *code)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    int length = sequence_length(s[0]);
    unsigned value = length == 1 ? s[0] : s[0] & (0x7fu >> length);
    int i;

    *code = 0xfffd;
    if (length == 0) {
        return 1;
    }
    for (i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 1;
        }
        value = value << 6 | (s[i] & 0x3f);
    }
    if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) {
        return 1;
    }
    *code = value;
    return length;
}

void psp_json_string(psp_json_t *j, const char *value)
{
    const unsigned char *s = (const unsigned char *)value;

    if (!value) {
        append(j, "null", 4);
        return;
    }
    append(j, "\"", 1);
    while (*s) {
        const unsigned char *plain = s;
        unsigned code;

        while (*s >= 0x20 && *s < 0x7f && *s != '"' && *s != '\\') {
            s++;
        }
        append(j, (const char *)plain, (apr_size_t)(s - plain));
        if (*s == '"' || *s == '\\') {
            char escape[2] = {'\\', (char)*s++};

            append(j, escape, 2);
        }
        else if (*s) {
            s += decode(s, &code);
            append_code_point(j, code);
        }
    }
    append(j, "\"", 1);
}

void psp_json_int(psp_json_t *j, apr_int64_t value)
{
    char digits[24];

    apr_snprintf(digits, sizeof digits, "%" APR_INT64_T_FMT, value);
    psp_json_raw(j, digits);
}

void psp_json_name(psp_json_t *j, const char *name)
{
    if (j->length == 0 || j->text[j->length - 1] != '{') {
        append(j, ",", 1);
    }
    psp_json_string(j, name);
    append(j, ":", 1);
}

const char *psp_json_text(const psp_json_t *j)
{
    return j->text;
}

apr_size_t psp_json_length(const psp_json_t *j)
{
    return j->length;
}

void psp_json_truncate(psp_json_t *j, apr_size_t length)
{
    if (length < j->length) {
        j->length = length;
        j->text[length] = '\0';
    }
}
