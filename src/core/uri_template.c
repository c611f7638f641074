/* SPDX-License-Identifier: Apache-2.0 */
/* uri_template.c: expansion of URI templates, and percent-encoding. */
#include "core/uri_template.h"

#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

/* RFC 6570, appendix A: how each operator joins its variables. */
typedef struct operator_t {
    const char *first;    /* before the first defined variable */
    const char *if_empty; /* after the name of a variable with no text */
    char sign;            /* 0: none */
    char separator;       /* before the others */
    char named;           /* writes name=value */
    char reserved;        /* reserved characters and %XX are kept */
} operator_t;

static const operator_t operators[] = {
    {"", "", '+', ',', 0, 1},   {"#", "", '#', ',', 0, 1}, {".", "", '.', '.', 0, 0},
    {"/", "", '/', '/', 0, 0},  {";", "", ';', ';', 1, 0}, {"?", "=", '?', '&', 1, 0},
    {"&", "=", '&', '&', 1, 0}, {"", "", 0, ',', 0, 0},
};

typedef struct expansion_t {
    apr_pool_t *pool;
    const char *start; /* of the template, for positions in errors */
    const apr_table_t *vars;
    apr_array_header_t *out; /* of char */
    const char **error;
} expansion_t;

static int is_unreserved(char c)
{
    return (apr_isascii(c) && apr_isalnum(c)) || (c != '\0' && strchr("-._~", c) != NULL);
}

static int is_reserved(char c)
{
    return c != '\0' && strchr(":/?#[]@!$&'()*+,;=", c) != NULL;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int is_escape(const char *text)
{
    return text[0] == '%' && hex_value(text[1]) >= 0 && hex_value(text[2]) >= 0;
}

/* Append text up to end; what is not allowed there is percent-encoded. */
static void append(apr_array_header_t *out, const char *text, const char *end, int reserved)
{
    static const char digits[] = "0123456789ABCDEF";

    for (; text < end; text++) {
        unsigned char c = (unsigned char)*text;

        if (is_unreserved(*text) || (reserved && (is_reserved(*text) || is_escape(text)))) {
            APR_ARRAY_PUSH(out, char) = *text;
            continue;
        }
        APR_ARRAY_PUSH(out, char) = '%';
        APR_ARRAY_PUSH(out, char) = digits[c >> 4];
        APR_ARRAY_PUSH(out, char) = digits[c & 15];
    }
}

static void append_plain(apr_array_header_t *out, const char *text)
{
    while (*text) {
        APR_ARRAY_PUSH(out, char) = *text++;
    }
}

static apr_status_t fail(expansion_t *x, const char *at, const char *what)
{
    *x->error =
        apr_psprintf(x->pool, "URI template, character %d: %s", (int)(at - x->start) + 1, what);
    return APR_EINVAL;
}

/* apr_table_get() ignores case, and names of variables do not. */
static const char *look_up(const apr_table_t *vars, const char *name, apr_size_t length)
{
    const apr_array_header_t *entries = apr_table_elts(vars);
    int i;

    for (i = 0; i < entries->nelts; i++) {
        const apr_table_entry_t *entry = &APR_ARRAY_IDX(entries, i, apr_table_entry_t);

        if (entry->key && strlen(entry->key) == length && memcmp(entry->key, name, length) == 0) {
            return entry->val;
        }
    }
    return NULL;
}

/* Length of the variable name at text: letters, digits, _ and %XX, with single dots between (RFC
 * 6570, 2.3). */
static apr_size_t name_length(const char *text)
{
    const char *at = text;

    for (;;) {
        if (is_escape(at)) {
            at += 3;
        }
        else if ((apr_isascii(*at) && apr_isalnum(*at)) || *at == '_' ||
                 (*at == '.' && at > text && at[-1] != '.')) {
            at++;
        }
        else {
            break;
        }
    }
    if (at > text && at[-1] == '.') {
        at--; /* so that the caller trips over it */
    }
    return (apr_size_t)(at - text);
}

static void expand_variable(expansion_t *x, const operator_t *op, const char *name,
                            apr_size_t length, int *any)
{
    const char *value = look_up(x->vars, name, length);

    if (!value) {
        return;
    }
    if (*any) {
        APR_ARRAY_PUSH(x->out, char) = op->separator;
    }
    else {
        append_plain(x->out, op->first);
        *any = 1;
    }
    if (op->named) {
        append(x->out, name, name + length, 1);
        append_plain(x->out, *value ? "=" : op->if_empty);
    }
    append(x->out, value, value + strlen(value), op->reserved);
}

/* *at is behind the brace; left behind the closing one. */
static apr_status_t expand_expression(expansion_t *x, const char **at)
{
    const operator_t *op = operators;
    int any = 0;

    while (op->sign && op->sign != **at) {
        op++;
    }
    if (op->sign) {
        ++*at;
    }
    for (;;) {
        apr_size_t length = name_length(*at);

        if (length > 0) {
            expand_variable(x, op, *at, length, &any);
            *at += length;
        }
        if (**at == '*' || **at == ':') {
            return fail(x, *at, "the modifiers '*' and ':' are not supported");
        }
        if (**at == '\0') {
            return fail(x, *at, "'}' is missing");
        }
        if (length == 0 || (**at != ',' && **at != '}')) {
            return fail(x, *at, "a name of a variable, ',' or '}' is expected");
        }
        if (*(*at)++ == '}') {
            return APR_SUCCESS;
        }
    }
}

apr_status_t psp_uri_template_expand(const char **out, const char *template_text,
                                     const apr_table_t *vars, apr_pool_t *p, const char **error)
{
    expansion_t x = {p, template_text, vars, apr_array_make(p, 128, 1), error};
    const char *at = template_text;

    *out = NULL;
    *error = NULL;
    while (*at) {
        const char *end = at + strcspn(at, "{}");
        apr_status_t rv;

        append(x.out, at, end, 1);
        at = end;
        if (*at == '}') {
            return fail(&x, at, "'}' without '{'");
        }
        if (*at == '{') {
            at++;
            rv = expand_expression(&x, &at);
            if (rv != APR_SUCCESS) {
                return rv;
            }
        }
    }
    APR_ARRAY_PUSH(x.out, char) = '\0';
    *out = x.out->elts;
    return APR_SUCCESS;
}

const char *psp_percent_decode(apr_pool_t *p, const char *text)
{
    char *out = apr_palloc(p, strlen(text) + 1);
    char *to = out;

    for (; *text; text++) {
        if (*text != '%') {
            *to++ = *text;
            continue;
        }
        if (!is_escape(text) || (text[1] == '0' && text[2] == '0')) {
            return NULL;
        }
        *to++ = (char)(hex_value(text[1]) << 4 | hex_value(text[2]));
        text += 2;
    }
    *to = '\0';
    return out;
}

const char *psp_percent_encode(apr_pool_t *p, const char *text)
{
    apr_array_header_t *out = apr_array_make(p, (int)strlen(text) + 16, 1);

    append(out, text, text + strlen(text), 0);
    APR_ARRAY_PUSH(out, char) = '\0';
    return out->elts;
}
