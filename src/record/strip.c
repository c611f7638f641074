/* SPDX-License-Identifier: Apache-2.0 */
/* strip.c: what a client says under our names never reaches a service. */
#include "record/private.h"

#include <apr_lib.h>
#include <apr_strings.h>

/* All names that begin with this are ours, and these. */
static const char prefix[] = "pubsubpull-";
static const char *const names[] = {"x-request-id", "traceparent", "tracestate"};

/* Gateways turn more than '-' into the underscore of HTTP_X_REQUEST_ID, so all that is neither
 * letter nor digit counts as the same character here. */
static int fold(char c)
{
    return apr_isalnum(c) ? apr_tolower(c) : '-';
}

/* Length of what name and pattern have in common. */
static apr_size_t common(const char *name, apr_size_t length, const char *pattern)
{
    apr_size_t n = 0;

    while (n < length && pattern[n] && fold(name[n]) == pattern[n]) {
        n++;
    }
    return n;
}

static int begins_as_ours(const char *name, apr_size_t length)
{
    return common(name, length, prefix) == sizeof(prefix) - 1;
}

static int is_ours(const char *name, apr_size_t length)
{
    apr_size_t i;

    if (begins_as_ours(name, length)) {
        return 1;
    }
    for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
        apr_size_t n = common(name, length, names[i]);

        if (n == length && !names[i][n]) {
            return 1;
        }
    }
    return 0;
}

static int is_token_char(char c)
{
    return apr_isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

/*
 * mod_proxy takes out every header that the client lists in Connection, ours too. When one is
 * listed, the list is written anew without it, from nothing but its tokens, so that no other way to
 * read the old one matters.
 */
static void scrub_connection(apr_pool_t *p, apr_table_t *headers)
{
    const char *value = apr_table_getm(p, headers, "Connection");
    char *kept, *end;
    int found = 0;

    if (!value) {
        return;
    }
    end = kept = apr_palloc(p, 2 * strlen(value) + 1);
    while (*value) {
        apr_size_t length = 0;

        while (is_token_char(value[length])) {
            length++;
        }
        if (!length) {
            value++;
            continue;
        }
        if (is_ours(value, length)) {
            found = 1;
        }
        else {
            if (end != kept) {
                *end++ = ',';
                *end++ = ' ';
            }
            memcpy(end, value, length);
            end += length;
        }
        value += length;
    }
    *end = '\0';
    if (found && end == kept) {
        apr_table_unset(headers, "Connection");
    }
    else if (found) {
        apr_table_setn(headers, "Connection", kept);
    }
}

typedef int test_fn(const char *name, apr_size_t length);

/* Takes out the entries whose names pass the test after the given prefix. */
static void strip_names(apr_table_t *table, const char *before, test_fn *test)
{
    const apr_array_header_t *entries = apr_table_elts(table);
    apr_size_t skip = strlen(before);
    int i = 0;

    while (i < entries->nelts) {
        const char *name = APR_ARRAY_IDX(entries, i, apr_table_entry_t).key;

        if (name && !strncmp(name, before, skip) && test(name + skip, strlen(name + skip))) {
            apr_table_unset(table, name); /* all of this spelling; the next one is at i now */
        }
        else {
            i++;
        }
    }
}

void psp_strip(apr_pool_t *p, apr_table_t *headers)
{
    strip_names(headers, "", is_ours);
    scrub_connection(p, headers);
}

void psp_strip_prefixed(apr_table_t *headers)
{
    strip_names(headers, "", begins_as_ours);
}

void psp_strip_environment(apr_table_t *environment)
{
    strip_names(environment, "HTTP_", is_ours);
}
