/* SPDX-License-Identifier: Apache-2.0 */
/* json.h: an append-only writer of JSON text in ASCII; the only JSON that C makes. */
#ifndef PSP_CORE_JSON_H
#define PSP_CORE_JSON_H

#include <apr_pools.h>

/** A growing text, owned by the pool it was made from. */
typedef struct psp_json_t psp_json_t;

psp_json_t *psp_json_make(apr_pool_t *p, apr_size_t hint);

/** Append text as it is: punctuation, or JSON made elsewhere. */
void psp_json_raw(psp_json_t *j, const char *text);

/** Append a string in quotes. Bytes that are not valid UTF-8 become U+FFFD; all that is not printable
 * ASCII is escaped as \uXXXX (RFC 8259, 7), so any input gives one line of ASCII. NULL gives null. */
void psp_json_string(psp_json_t *j, const char *value);

void psp_json_int(psp_json_t *j, apr_int64_t value);

/** Append `"name":`, with a comma before it unless the last character is `{`. */
void psp_json_name(psp_json_t *j, const char *name);

/** The text so far, NUL-terminated; valid until the next append. */
const char *psp_json_text(const psp_json_t *j);
apr_size_t psp_json_length(const psp_json_t *j);

/** Forget what was appended after length; used to take back an optional member. */
void psp_json_truncate(psp_json_t *j, apr_size_t length);

#endif
