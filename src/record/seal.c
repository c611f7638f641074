/* SPDX-License-Identifier: Apache-2.0 */
/* seal.c: signs envelopes with PubSubPullKey: HMAC-SHA256 (RFC 2104), hashed as far as the key alone goes. */
#include "record/private.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

#define BLOCK 64  /* bytes that SHA-256 takes at a time */
#define DIGEST 32 /* bytes it gives */

static const char member[] = ",\"signature\":\"";

/* A key: what has been hashed before the message comes. */
typedef struct seal_t {
    EVP_MD_CTX *inner, *outer;
} seal_t;

/* Made in httpd's parent and inherited by all its children. */
static struct {
    int count;
    seal_t seals[PSP_KEYS_MAX]; /* newest first */
    atomic_int *known;          /* shared: the database knows the newest */
} keys;

static apr_status_t forget(void *unused)
{
    int i;

    (void)unused;
    for (i = 0; i < keys.count; i++) {
        EVP_MD_CTX_free(keys.seals[i].inner);
        EVP_MD_CTX_free(keys.seals[i].outer);
    }
    keys.count = 0;
    return munmap(keys.known, sizeof *keys.known) == 0 ? APR_SUCCESS : APR_FROM_OS_ERROR(errno);
}

static EVP_MD_CTX *begin(const unsigned char block[BLOCK], int pad)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    unsigned char padded[BLOCK];
    int good, i;

    for (i = 0; i < BLOCK; i++) {
        padded[i] = block[i] ^ (unsigned char)pad;
    }
    good = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) && EVP_DigestUpdate(c, padded, BLOCK);
    OPENSSL_cleanse(padded, sizeof padded);
    if (!good) {
        EVP_MD_CTX_free(c);
        return NULL;
    }
    return c;
}

static int make_seal(seal_t *seal, const char *key)
{
    unsigned char block[BLOCK] = {0};
    apr_size_t length = strlen(key), i;

    if (length <= BLOCK) {
        for (i = 0; i < length; i++) {
            block[i] = (unsigned char)key[i];
        }
    }
    else if (!EVP_Digest(key, length, block, NULL, EVP_sha256(), NULL)) {
        return 0;
    }
    seal->inner = begin(block, 0x36);
    seal->outer = begin(block, 0x5c);
    OPENSSL_cleanse(block, sizeof block);
    return seal->inner && seal->outer;
}

static int post_config(apr_pool_t *pconf, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    const apr_array_header_t *given = psp_config_server(s)->keys;
    int i;

    (void)plog;
    (void)ptemp;
    if (!given || ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) {
        return OK;
    }
    keys.known =
        mmap(NULL, sizeof *keys.known, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (keys.known == MAP_FAILED) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, errno, s, "PSP0103: no memory for PubSubPullKey");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    apr_pool_cleanup_register(pconf, NULL, forget, apr_pool_cleanup_null);
    for (i = 0; i < given->nelts; i++) {
        keys.count++;
        if (!make_seal(&keys.seals[i], APR_ARRAY_IDX(given, i, const char *))) {
            ap_log_error(APLOG_MARK, APLOG_EMERG, APR_EGENERAL, s,
                         "PSP0104: libcrypto cannot sign for PubSubPullKey");
            return HTTP_INTERNAL_SERVER_ERROR;
        }
    }
    return OK;
}

void psp_record_keys_known(void)
{
    if (keys.count) {
        atomic_store(keys.known, 1);
    }
}

apr_size_t psp_seal_length(void)
{
    return keys.count ? sizeof member - 1 + 2 * DIGEST + 1 : 0;
}

/* One hash of the two, going on from the copy of a beginning. */
static int finish(EVP_MD_CTX *c, const EVP_MD_CTX *from, const void *data, apr_size_t length,
                  unsigned char *digest)
{
    return EVP_MD_CTX_copy_ex(c, from) && EVP_DigestUpdate(c, data, length) &&
           EVP_DigestFinal_ex(c, digest, NULL);
}

static int sign(const seal_t *seal, const char *text, apr_size_t length, unsigned char *digest)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    int good = c && finish(c, seal->inner, text, length, digest) &&
               finish(c, seal->outer, digest, DIGEST, digest);

    EVP_MD_CTX_free(c);
    return good;
}

const char *psp_seal(apr_pool_t *p, const char *envelope)
{
    static const char digits[] = "0123456789abcdef";
    apr_size_t length = strlen(envelope) - 1; /* without the last brace */
    unsigned char digest[DIGEST];
    char *sealed, *to;
    int i;

    if (!keys.count ||
        !sign(&keys.seals[keys.count > 1 && !atomic_load(keys.known)], envelope, length, digest)) {
        return envelope; /* the database will say that it is unsigned */
    }
    sealed = apr_palloc(p, length + psp_seal_length() + 2);
    to = apr_cpystrn(sealed, envelope, length + 1);
    memcpy(to, member, sizeof member - 1);
    to += sizeof member - 1;
    for (i = 0; i < DIGEST; i++) {
        *to++ = digits[digest[i] >> 4];
        *to++ = digits[digest[i] & 15];
    }
    memcpy(to, "\"}", 3);
    return sealed;
}

void psp_seal_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_FIRST + 1);
}
