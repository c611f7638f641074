/* SPDX-License-Identifier: Apache-2.0 */
/* envelope.c: the envelope, and the escaping that carries it through PGOPTIONS. */
#include "core/envelope.h"

#include <string.h>

#include <apr_lib.h>
#include <apr_strings.h>

#include "core/json.h"

/* One member. When all do not fit the largest that may go is left out, and all are written again. */
typedef struct member_t {
    const char *name;
    const char *value; /* NULL: left out */
    apr_size_t length; /* of both as they were written */
    enum { FIXED, OPTIONAL, HEADER } kind;
} member_t;

/* Room for id, started and an escaped method is certain up to this; a longer method is abuse and
 * may go as well. */
#define METHOD_KEPT 512

#define MEMBERS 9 /* without headers */
#define USUAL 511 /* bytes that most envelopes do not exceed */

static void add(apr_array_header_t *members, int kind, const char *name, const char *value)
{
    member_t *m;

    if (!value) {
        return;
    }
    m = apr_array_push(members);
    m->kind = kind;
    m->name = name;
    m->value = value;
}

/* So many digits, the last ones of number; returns what follows them. */
static char *digits(char *to, int count, int number)
{
    int i;

    for (i = count - 1; i >= 0; i--) {
        to[i] = (char)('0' + number % 10);
        number /= 10;
    }
    return to + count;
}

/* By hand, as each request has one and printf takes longer than all the rest. */
static const char *timestamp(apr_pool_t *p, apr_time_t when)
{
    apr_time_exp_t t;
    char *text = apr_palloc(p, sizeof "1970-01-01T00:00:00.000000Z"), *to;

    if (apr_time_exp_gmt(&t, when) != APR_SUCCESS || t.tm_year < 0 || t.tm_year > 8099) {
        return "1970-01-01T00:00:00.000000Z"; /* must be valid to SQL whatever the clock says */
    }
    to = digits(text, 4, t.tm_year + 1900);
    *to++ = '-';
    to = digits(to, 2, t.tm_mon + 1);
    *to++ = '-';
    to = digits(to, 2, t.tm_mday);
    *to++ = 'T';
    to = digits(to, 2, t.tm_hour);
    *to++ = ':';
    to = digits(to, 2, t.tm_min);
    *to++ = ':';
    to = digits(to, 2, t.tm_sec);
    *to++ = '.';
    to = digits(to, 6, t.tm_usec);
    memcpy(to, "Z", 2);
    return text;
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
    apr_array_header_t *members = apr_array_make(p, MEMBERS, sizeof(member_t));
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

/* All that is not left out. Returns the largest member that may go. */
static member_t *write_members(psp_json_t *j, const apr_array_header_t *members)
{
    member_t *largest = NULL;
    int in_headers = 0;
    int i;

    for (i = 0; i < members->nelts; i++) {
        member_t *m = &APR_ARRAY_IDX(members, i, member_t);
        apr_size_t before;

        if (!m->value) {
            continue;
        }
        if (m->kind == HEADER && !in_headers) {
            psp_json_raw(j, ",\"headers\":{");
            in_headers = 1;
        }
        else {
            psp_json_raw(j, i == 0 ? "{" : ",");
        }
        before = psp_json_length(j);
        psp_json_string(j, m->name);
        psp_json_raw(j, ":");
        psp_json_string(j, m->value);
        m->length = psp_json_length(j) - before;
        if (m->kind != FIXED && (!largest || m->length > largest->length)) {
            largest = m;
        }
    }
    psp_json_raw(j, in_headers ? "}}" : "}");
    return largest;
}

const char *psp_envelope(apr_pool_t *p, const psp_request_t *request)
{
    apr_array_header_t *members = collect(p, request);
    psp_json_t *j = psp_json_make(p, USUAL);
    member_t *largest = write_members(j, members);

    while (psp_json_length(j) + request->reserved > PSP_ENVELOPE_MAX && largest) {
        largest->value = NULL;
        psp_json_truncate(j, 0);
        largest = write_members(j, members);
    }
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
