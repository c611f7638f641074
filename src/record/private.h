/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room share: the identity of a request. */
#ifndef PSP_RECORD_PRIVATE_H
#define PSP_RECORD_PRIVATE_H

#include "core/uuid.h"
#include "record/record.h"

/** One request as the services and the log know it. Made once for a request with all its
 * sub-requests and internal redirects, kept by the first of them, allocated in its pool. */
typedef struct psp_identity_t {
    char id[PSP_UUID_LENGTH + 1];
    int mode;             /* psp_record_t of the place it went to */
    int carried;          /* it went to a service, which may have changed something under it */
    const char *envelope; /* JSON, printable ASCII */
    const char *traceparent;
    const char *tracestate;
    const char *pgoption; /* the envelope as an option of the backend, escaped */
} psp_identity_t;

/** The request that came from the network and all others come from. */
request_rec *psp_identity_root(request_rec *r);

/** The identity that was made for r or the request that r is a part of, or NULL. */
psp_identity_t *psp_identity_find(request_rec *r);

/** Would this request get an identity where it is served? */
int psp_identity_wanted(const request_rec *r);

/** Make one and keep it. NULL: no random numbers, which is logged. */
psp_identity_t *psp_identity_make(request_rec *r);

/** The query with REDACTED for the values of these parameters; names NULL: as it is. */
const char *psp_redact(apr_pool_t *p, const apr_array_header_t *names, const char *query);

/** Bytes that psp_seal adds to an envelope; 0: there is no key. */
apr_size_t psp_seal_length(void);

/** The envelope with its signature as last member, or as it is when there is no key. */
const char *psp_seal(apr_pool_t *p, const char *envelope);

/** How many keys there are, 1 when there is none: then nothing is enciphered. */
int psp_seal_keys(void);

/** 16 bytes with the key that signs, and back with that one (0: the newest) of them. @return 0: it failed */
#define PSP_CAUSE_BYTES 16
void psp_seal_encipher(unsigned char block[PSP_CAUSE_BYTES]);
int psp_seal_decipher(unsigned char block[PSP_CAUSE_BYTES], int key);

/** The signature of a cause, 64 digits and a NUL; whether it is one that any of the keys makes. */
void psp_seal_sign(char *out, const char *text, apr_size_t length);
int psp_seal_verify(const char *signature, const char *text, apr_size_t length);

/** Remember what the client says that it was caused by, if that is true; before it is taken out. */
void psp_cause_read(request_rec *r);

/** The id of the request that caused this one, or NULL. */
const char *psp_cause_find(const request_rec *root);

/** Take out of headers all that only we may say, in every spelling that a service might take for
 * ours. */
void psp_strip(apr_pool_t *p, apr_table_t *headers);

/** The same for headers that were made variables before: a sub-request inherits those of its page.
 */
void psp_strip_environment(apr_table_t *environment);

/** Take out the names that begin with PubSubPull- only: nobody else's, whatever is served. */
void psp_strip_prefixed(apr_table_t *headers);

void psp_seal_register_hooks(apr_pool_t *p);
void psp_queue_register_hooks(apr_pool_t *p);
void psp_carry_register_hooks(apr_pool_t *p);
void psp_respond_register_hooks(apr_pool_t *p);
void psp_require_register_hooks(apr_pool_t *p);
void psp_dbd_register_hooks(apr_pool_t *p);
void psp_complete_register_hooks(apr_pool_t *p);

#endif
