/* SPDX-License-Identifier: Apache-2.0 */
/* uuid.h: identities of requests: UUID version 7. */
#ifndef PSP_CORE_UUID_H
#define PSP_CORE_UUID_H

#include <apr_errno.h>
#include <apr_time.h>

#define PSP_UUID_LENGTH 36

/**
 * Write a UUIDv7 (RFC 9562, 5.7) in lower-case text form.
 * @param out room for PSP_UUID_LENGTH characters and a NUL
 * @param now time to embed, microseconds since 1970 (kept to the millisecond)
 * @return APR_SUCCESS, or what the source of random bytes said
 */
apr_status_t psp_uuid7(char out[PSP_UUID_LENGTH + 1], apr_time_t now);

/** True when text is exactly one lower-case UUID of any version. */
int psp_uuid_valid(const char *text);

#endif
