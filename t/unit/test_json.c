/* SPDX-License-Identifier: Apache-2.0 */
/* test_json.c: the JSON writer. */
#include "core/json.h"

#include <apr_strings.h>

#include "tap.h"

static const char *quoted(apr_pool_t *p, const char *value)
{
    psp_json_t *j = psp_json_make(p, 0);

    psp_json_string(j, value);
    return psp_json_text(j);
}

#define BAD "\\ufffd"

static void strings(apr_pool_t *p)
{
    is_str(quoted(p, ""), "\"\"", "empty");
    is_str(quoted(p, NULL), "null", "NULL");
    is_str(quoted(p, "plain ~ '/' <&>"), "\"plain ~ '/' <&>\"", "printable ASCII stays");
    is_str(quoted(p, "a\"b\\c"), "\"a\\\"b\\\\c\"", "quote and backslash");
    is_str(quoted(p, "\x01\t\r\n\x1f\x7f"), "\"\\u0001\\u0009\\u000d\\u000a\\u001f\\u007f\"",
           "control characters");
    is_str(quoted(p, "\xc2\x80 \xc3\xa9 \xdf\xbf"), "\"\\u0080 \\u00e9 \\u07ff\"", "two bytes");
    is_str(quoted(p, "\xe0\xa0\x80 \xe2\x82\xac \xef\xbf\xbf"), "\"\\u0800 \\u20ac \\uffff\"",
           "three bytes");
    is_str(quoted(p, "\xed\x9f\xbf \xee\x80\x80"), "\"\\ud7ff \\ue000\"", "around the surrogates");
    is_str(quoted(p, "\xf0\x90\x80\x80 \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf"),
           "\"\\ud800\\udc00 \\ud83d\\ude00 \\udbff\\udfff\"", "four bytes become pairs");
}

static void invalid_utf8(apr_pool_t *p)
{
    is_str(quoted(p, "a\x80z"), "\"a" BAD "z\"", "lone continuation");
    is_str(quoted(p, "\xc3"), "\"" BAD "\"", "cut off after one of two");
    is_str(quoted(p, "\xe2\x82"), "\"" BAD BAD "\"", "cut off after two of three");
    is_str(quoted(p, "\xf0\x9f\x98z"), "\"" BAD BAD BAD "z\"", "cut off after three of four");
    is_str(quoted(p, "\xc3\""), "\"" BAD "\\\"\"", "a quote is not swallowed");
    is_str(quoted(p, "\xe2\x82\xc3\xa9"), "\"" BAD BAD "\\u00e9\"",
           "the next character is not swallowed");
    is_str(quoted(p, "\xc0\x80\xc1\xbf"), "\"" BAD BAD BAD BAD "\"", "overlong, two bytes");
    is_str(quoted(p, "\xe0\x9f\xbf"), "\"" BAD BAD BAD "\"", "overlong, three bytes");
    is_str(quoted(p, "\xf0\x8f\xbf\xbf"), "\"" BAD BAD BAD BAD "\"", "overlong, four bytes");
    is_str(quoted(p, "\xed\xa0\x80"), "\"" BAD BAD BAD "\"", "surrogate");
    is_str(quoted(p, "\xf4\x90\x80\x80"), "\"" BAD BAD BAD BAD "\"", "beyond U+10FFFF");
    is_str(quoted(p, "\xf8\xfe\xff"), "\"" BAD BAD BAD "\"", "bytes that no UTF-8 has");
}

static void building(apr_pool_t *p)
{
    psp_json_t *j = psp_json_make(p, 0);
    apr_size_t before;
    int i;

    psp_json_raw(j, "{");
    psp_json_name(j, "a");
    psp_json_int(j, APR_INT64_MIN);
    psp_json_name(j, "b\n");
    psp_json_raw(j, "{");
    psp_json_name(j, "c");
    psp_json_string(j, "x");
    psp_json_raw(j, "}");
    before = psp_json_length(j);
    psp_json_name(j, "gone");
    psp_json_int(j, 0);
    psp_json_truncate(j, before);
    psp_json_truncate(j, before + 5);
    psp_json_raw(j, "}");
    is_str(psp_json_text(j), "{\"a\":-9223372036854775808,\"b\\u000a\":{\"c\":\"x\"}}",
           "names, commas, truncation");
    is_int((long long)psp_json_length(j), (long long)strlen(psp_json_text(j)), "length");

    psp_json_truncate(j, 0);
    for (i = 0; i < 10000; i++) {
        psp_json_raw(j, "0123456");
    }
    is_int((long long)strlen(psp_json_text(j)), 70000, "grows");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();

    strings(pool);
    invalid_utf8(pool);
    building(pool);
    return done(pool);
}
