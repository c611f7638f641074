/* SPDX-License-Identifier: Apache-2.0 */
/* test_envelope.c: the envelope under any bytes and any size, and its way through PGOPTIONS. */
#include "core/envelope.h"

#include <ctype.h>

#include <apr_strings.h>

#include "tap.h"

#define ID "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
#define HEAD "{\"id\":\"" ID "\",\"method\":\"PUT\""
#define STARTED "\"started\":\"2022-02-22T19:22:22.000123Z\""

static psp_request_t minimal(void)
{
    psp_request_t r = {.id = ID, .method = "PUT", .started = APR_INT64_C(1645557742000123)};

    return r;
}

static char *repeat(apr_pool_t *p, char unit, int count)
{
    char *s = apr_pcalloc(p, (apr_size_t)count + 1);

    memset(s, unit, (size_t)count);
    return s;
}

static void members(apr_pool_t *p)
{
    psp_request_t r = minimal();
    apr_table_t *headers = apr_table_make(p, 4);

    is_str(psp_envelope(p, &r), HEAD "," STARTED "}", "only what is known");
    r.headers = headers;
    is_str(psp_envelope(p, &r), HEAD "," STARTED "}", "no headers captured: no member");
    r.host = "shop.example";
    r.path = "/customers/7";
    r.query = "";
    r.user = "ann";
    r.remote = "192.0.2.1";
    r.agent = "curl/8";
    apr_table_addn(headers, "X-Tenant", "t\"1");
    apr_table_addn(headers, "Accept", "a");
    apr_table_addn(headers, "x-tenant", "t2");
    is_str(psp_envelope(p, &r),
           HEAD
           ",\"host\":\"shop.example\",\"path\":\"/customers/7\",\"query\":\"\",\"user\":\"ann\","
           "\"remote\":\"192.0.2.1\",\"agent\":\"curl/8\"," STARTED
           ",\"headers\":{\"x-tenant\":\"t\\\"1, t2\",\"accept\":\"a\"}}",
           "all members, header names in lower case and unique");
    is_int(apr_table_elts(headers)->nelts, 3, "the caller's table is left alone");
}

/* All bytes 1 to 255 in one string and each alone; wanted is written down independently of the
 * writer. */
static void every_byte(apr_pool_t *p)
{
    psp_request_t r = minimal();
    apr_table_t *headers = apr_table_make(p, 1);
    char all[256] = "";
    char *wanted = apr_pstrdup(p, "");
    const char *got;
    const char *c;
    int good = 1;
    int i;

    for (i = 1; i < 256; i++) {
        const char *form = i >= 0x80               ? "\\ufffd"
                           : i < 0x20 || i == 0x7f ? apr_psprintf(p, "\\u%04x", (unsigned)i)
                           : i == '"' || i == '\\' ? apr_psprintf(p, "\\%c", i)
                                                   : apr_psprintf(p, "%c", i);
        char one[3] = {(char)i, 'x', 0};

        all[i - 1] = (char)i;
        wanted = apr_pstrcat(p, wanted, form, NULL);
        r.path = one;
        got = psp_envelope(p, &r);
        good = good && strcmp(got, apr_pstrcat(p, HEAD ",\"path\":\"", form, "x\"," STARTED "}",
                                               NULL)) == 0;
    }
    ok(good, "each byte 1-255 in a path");
    r.path = r.user = all;
    apr_table_setn(headers, "X-All", all);
    r.headers = headers;
    got = psp_envelope(p, &r);
    is_str(got,
           apr_pstrcat(p, HEAD ",\"path\":\"", wanted, "\",\"user\":\"", wanted,
                       "\"," STARTED ",\"headers\":{\"x-all\":\"", wanted, "\"}}", NULL),
           "all bytes 1-255 in path, user and header");
    for (c = got; *c >= 0x20 && *c < 0x7f; c++) {
    }
    is_int(*c, 0, "printable ASCII on one line");
}

static void size_limit(apr_pool_t *p)
{
    psp_request_t r = minimal();
    apr_size_t base = strlen(HEAD "," STARTED "}");
    apr_table_t *headers = apr_table_make(p, 3);
    const char *e;
    int good = 1;
    int i;

    r.path = repeat(p, 'p', (int)(PSP_ENVELOPE_MAX - base - strlen(",\"path\":\"\"")));
    is_int((long long)strlen(psp_envelope(p, &r)), PSP_ENVELOPE_MAX, "exactly the limit is kept");
    r.path = apr_pstrcat(p, r.path, "p", NULL);
    is_str(psp_envelope(p, &r), HEAD "," STARTED "}", "one more byte and it goes whole");

    r.path = repeat(p, 'p', 2000);
    r.user = repeat(p, '\x01', 340);
    r.query = repeat(p, 'q', 1900);
    e = psp_envelope(p, &r);
    ok(!strstr(e, "\"user\"") && strstr(e, "\"path\"") && strstr(e, "\"query\""),
       "largest as escaped goes first");

    r.cause = ID;
    e = psp_envelope(p, &r);
    ok(strncmp(e, HEAD ",\"cause\":\"" ID "\"", strlen(HEAD ",\"cause\":\"" ID "\"")) == 0,
       "the cause stays");
    r.cause = NULL;

    r.user = NULL;
    r.headers = headers;
    apr_table_setn(headers, "A", repeat(p, 'a', 1000));
    apr_table_setn(headers, "B", "b");
    e = psp_envelope(p, &r);
    ok(!strstr(e, "\"path\"") && strstr(e, "\"query\"") && strstr(e, "\"headers\":{\"a\":\"aaa") &&
           strstr(e, "\"b\":\"b\"}}"),
       "a large member goes before smaller headers");
    apr_table_setn(headers, "A", repeat(p, 'a', 5000));
    e = psp_envelope(p, &r);
    ok(strstr(e, "\"path\"") && strstr(e, "\"headers\":{\"b\":\"b\"}}"),
       "each header is a member of its own");
    apr_table_setn(headers, "B", repeat(p, 'b', 5000));
    e = psp_envelope(p, &r);
    ok(strstr(e, "\"path\"") && !strstr(e, "headers"), "no empty list of headers is left");

    for (i = 0; i < 6000; i += 7) {
        r.host = repeat(p, '\xff', i % 700);
        r.agent = repeat(p, 'a', i);
        apr_table_setn(headers, "A", repeat(p, '\\', i / 3));
        e = psp_envelope(p, &r);
        good = good && strlen(e) <= PSP_ENVELOPE_MAX && strncmp(e, HEAD, strlen(HEAD)) == 0 &&
               strstr(e, STARTED) && e[strlen(e) - 1] == '}';
    }
    ok(good, "never larger than the limit; id, method and started always there");

    r = minimal();
    r.method = repeat(p, '\x02', 512);
    ok(strstr(psp_envelope(p, &r), "\"method\"") != NULL, "a long method stays");
    r.method = repeat(p, 'M', 8000);
    is_str(psp_envelope(p, &r), "{\"id\":\"" ID "\"," STARTED "}",
           "an absurd one does not break the limit");
}

/* Split like the server splits its options: the first word of text. */
static const char *first_option(apr_pool_t *p, const char *text)
{
    char *word = apr_pcalloc(p, strlen(text) + 1);
    char *to = word;

    while (isspace((unsigned char)*text)) {
        text++;
    }
    while (*text && !isspace((unsigned char)*text)) {
        if (*text == '\\' && text[1]) {
            text++;
        }
        *to++ = *text++;
    }
    return word;
}

static void pgoptions(apr_pool_t *p)
{
    char all[256] = "";
    psp_request_t r = minimal();
    const char *e;
    int i;

    is_str(psp_pgoptions_escape(p, "a b\\c\td"), "a\\ b\\\\c\\\td",
           "backslash before white space and backslashes");
    is_str(psp_pgoptions_escape(p, ""), "", "empty");
    for (i = 1; i < 256; i++) {
        all[i - 1] = (char)i;
    }
    is_str(first_option(p, psp_pgoptions_escape(p, all)), all,
           "all bytes come back from PGOPTIONS");
    r.path = r.agent = all;
    e = psp_envelope(p, &r);
    is_str(first_option(p, psp_pgoptions_escape(p, e)), e, "so does an envelope");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();

    members(pool);
    every_byte(pool);
    size_limit(pool);
    pgoptions(pool);
    return done(pool);
}
