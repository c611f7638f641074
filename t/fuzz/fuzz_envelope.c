/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_envelope.c: whatever a request holds, its envelope is one line of ASCII, a whole object, and not too long. */
#include "core/envelope.h"

#include "fuzz.h"

#define ID "018f0000-0000-7000-8000-000000000001"
#define BEGIN "{\"id\":\"" ID "\""

/* Enough of JSON to tell that no string ends early: braces outside strings, and only escapes that exist. */
static int whole_object(const char *text)
{
    int depth = 0, quoted = 0;

    for (; *text; text++) {
        if (quoted && *text == '\\') {
            if (*++text == 'u') {
                if (strspn(text + 1, "0123456789abcdefABCDEF") < 4) {
                    return 0;
                }
                text += 4;
            }
            else if (!*text || !strchr("\"\\/bfnrt", *text)) {
                return 0;
            }
        }
        else if (*text == '"') {
            quoted = !quoted;
        }
        else if (!quoted && *text == '{') {
            depth++;
        }
        else if (!quoted && *text == '}' && --depth == 0) {
            return text[1] == '\0';
        }
    }
    return 0;
}

/* As PostgreSQL takes it apart again (pg_split_opts): one option, the same as before. */
static int comes_back(const char *escaped, const char *text)
{
    for (; *escaped && !strchr(" \t\n\v\f\r", *escaped); escaped++, text++) {
        escaped += *escaped == '\\';
        if (*escaped != *text) {
            return 0;
        }
    }
    return *escaped == '\0' && *text == '\0';
}

static void try_input(apr_pool_t *p, const uint8_t *data, size_t size)
{
    psp_request_t r = {.id = ID, .started = (apr_time_t)size * 7919};
    apr_table_t *headers = apr_table_make(p, 4);
    const char **members[] = {&r.method, &r.host, &r.path, &r.query, &r.user, &r.remote, &r.agent};
    const char *envelope, *name, *value;
    size_t i;

    if (size > sizeof r.started) {
        memcpy(&r.started, data, sizeof r.started);
        r.reserved = r.started & 1 ? 79 : 0;
    }
    for (i = 0; i < sizeof members / sizeof *members; i++) {
        *members[i] = fuzz_line(p, &data, &size);
    }
    while ((name = fuzz_line(p, &data, &size)) && (value = fuzz_line(p, &data, &size))) {
        apr_table_addn(headers, name, value);
    }
    r.headers = apr_is_empty_table(headers) ? NULL : headers;
    envelope = psp_envelope(p, &r);
    PROMISE(strncmp(envelope, BEGIN, sizeof BEGIN - 1) == 0);
    PROMISE(strlen(envelope) + r.reserved <= PSP_ENVELOPE_MAX);
    PROMISE(fuzz_printable(envelope));
    PROMISE(whole_object(envelope));
    PROMISE(strstr(envelope, "\"started\":\"") != NULL);
    PROMISE(comes_back(psp_pgoptions_escape(p, envelope), envelope));
}
