/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_uri_template.c: a template gives a text of URI characters or says where it is wrong; percent-encoding comes back. */
#include "core/uri_template.h"

#include "fuzz.h"

static int only_uri_characters(const char *text)
{
    for (; *text; text++) {
        if (*text <= ' ' || *text > '~' || strchr("\"<>\\^`{|}", *text)) {
            return 0;
        }
    }
    return 1;
}

static void try_input(apr_pool_t *p, const uint8_t *data, size_t size)
{
    const char *text = fuzz_line(p, &data, &size), *out = NULL, *error = NULL, *name, *value;
    apr_table_t *vars = apr_table_make(p, 4);

    if (!text) {
        return;
    }
    while ((name = fuzz_line(p, &data, &size)) && (value = fuzz_line(p, &data, &size))) {
        apr_table_addn(vars, name, value);
    }
    if (psp_uri_template_expand(&out, text, vars, p, &error) == APR_SUCCESS) {
        PROMISE(out && !error && only_uri_characters(out));
    }
    else {
        PROMISE(!out && error && strlen(error) < 200);
    }
    out = psp_percent_decode(p, psp_percent_encode(p, text));
    PROMISE(out && strcmp(out, text) == 0);
    out = psp_percent_decode(p, text);
    PROMISE(!out || strlen(out) <= strlen(text));
}
