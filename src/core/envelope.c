/* SPDX-License-Identifier: Apache-2.0 */
/* envelope.c: the envelope, and the escaping that carries it through PGOPTIONS. */
#include "core/envelope.h"

#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "core/json.h"

/* One member, ready to be written: first all are escaped, then it is decided which fit. */
typedef struct member_t {
    const char *text;  /* "name":value, or NULL: left out */
    apr_size_t length; /* with the comma */
    enum { FIXED, OPTIONAL, HEADER } kind;
} member_t;

/* Room for id, started and an escaped method is certain up to this; a longer method is abuse and
 * may go as well. */
#define METHOD_KEPT 512

static const char open_headers[] = ",\"headers\":{";

static void add(apr_array_header_t *members, int kind, const char *name, const char *value)
{
    member_t *m;
    psp_json_t *j;

    if (!value) {
        return;
    }
    j = psp_json_make(members->pool, strlen(name) + strlen(value) + 5);
    psp_json_string(j, name);
    psp_json_raw(j, ":");
    psp_json_string(j, value);
    m = apr_array_push(members);
    m->kind = kind;
    m->text = psp_json_text(j);
    m->length = psp_json_length(j) + 1;
}

static const char *timestamp(apr_pool_t *p, apr_time_t when)
{
    apr_time_exp_t t;

    if (apr_time_exp_gmt(&t, when) != APR_SUCCESS) {
        return "1970-01-01T00:00:00.000000Z"; /* must be valid to SQL whatever the clock says */
    }
    return apr_psprintf(p, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", t.tm_year + 1900, t.tm_mon + 1,
                        t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, t.tm_usec);
}

/* Fields sent twice become one member, joined as HTTP joins them, for JSON names have to be unique.
 */
static void add_headers(apr_array_header_t *members, const apr_table_t *headers)
{
    apr_table_t *merged = apr_table_copy(members->pool, headers);
    const apr_array_header_t *fields;
    int i;

    apr_table_compress(merged, APR_OVERLAP_TABLES_MERGE);
    fields = apr_table_elts(merged);
    for (i = 0; i < fields->nelts; i++) {
        const apr_table_entry_t *field = &APR_ARRAY_IDX(fields, i, apr_table_entry_t);
        char *name;
        char *c;

        if (!field->key) {
            continue;
        }
        name = apr_pstrdup(members->pool, field->key);
        for (c = name; *c; c++) {
            *c = (char)apr_tolower(*c);
        }
        add(members, HEADER, name, field->val);
    }
}

static apr_array_header_t *collect(apr_pool_t *p, const psp_request_t *r)
{
    apr_array_header_t *members = apr_array_make(p, 16, sizeof(member_t));
    int long_method = r->method && strlen(r->method) > METHOD_KEPT;

    add(members, FIXED, "id", r->id);
    add(members, long_method ? OPTIONAL : FIXED, "method", r->method);
    add(members, FIXED, "cause", r->cause);
    add(members, OPTIONAL, "host", r->host);
    add(members, OPTIONAL, "path", r->path);
    add(members, OPTIONAL, "query", r->query);
    add(members, OPTIONAL, "user", r->user);
    add(members, OPTIONAL, "remote", r->remote);
    add(members, OPTIONAL, "agent", r->agent);
    add(members, FIXED, "started", timestamp(p, r->started));
    if (r->headers) {
        add_headers(members, r->headers);
    }
    return members;
}

/* Length of the whole, and the largest member that may go. */
static apr_size_t measure(const apr_array_header_t *members, member_t **largest)
{
    apr_size_t total = 1; /* two braces less the first comma */
    int headers = 0;
    int i;

    *largest = NULL;
    for (i = 0; i < members->nelts; i++) {
        member_t *m = &APR_ARRAY_IDX(members, i, member_t);

        if (!m->text) {
            continue;
        }
        total += m->length;
        headers += m->kind == HEADER;
        if (m->kind != FIXED && (!*largest || m->length > (*largest)->length)) {
            *largest = m;
        }
    }
    /* the first header has no comma, but the list has a closing brace */
    return headers ? total + sizeof open_headers - 1 : total;
}

const char *psp_envelope(apr_pool_t *p, const psp_request_t *request)
{
    apr_array_header_t *members = collect(p, request);
    apr_size_t total;
    member_t *largest;
    psp_json_t *j;
    int in_headers = 0;
    int i;

    while ((total = measure(members, &largest)) + request->reserved > PSP_ENVELOPE_MAX && largest) {
        largest->text = NULL;
    }
    j = psp_json_make(p, total);
    for (i = 0; i < members->nelts; i++) {
        const member_t *m = &APR_ARRAY_IDX(members, i, member_t);

        if (!m->text) {
            continue;
        }
        if (m->kind == HEADER && !in_headers) {
            psp_json_raw(j, open_headers);
            in_headers = 1;
        }
        else {
            psp_json_raw(j, i == 0 ? "{" : ",");
        }
        psp_json_raw(j, m->text);
    }
    psp_json_raw(j, in_headers ? "}}" : "}");
    return psp_json_text(j);
}

/* What isspace() says in any locale that PostgreSQL may run in, Latin ones included; a backslash
 * too many is dropped by the reader, one too few breaks the value. */
static int needs_backslash(unsigned char c)
{
    return c == '\\' || c == ' ' || (c >= '\t' && c <= '\r') || c == 0x85 || c == 0xa0;
}

const char *psp_pgoptions_escape(apr_pool_t *p, const char *value)
{
    char *out = apr_palloc(p, 2 * strlen(value) + 1);
    char *to = out;

    for (; *value; value++) {
        if (needs_backslash((unsigned char)*value)) {
            *to++ = '\\';
        }
        *to++ = *value;
    }
    *to = '\0';
    return out;
}
