/* SPDX-License-Identifier: Apache-2.0 */
/* seal.c: signs envelopes with PubSubPullKey: HMAC-SHA256 (RFC 2104), hashed as far as the key alone goes; and what
 * deliveries say of their cause. */
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
static const char trace_key[] = "pubsubpull trace";

/* A key: what has been hashed before the message comes. */
typedef struct seal_t {
    EVP_MD_CTX *inner, *outer;
    EVP_CIPHER_CTX *encipher, *decipher;
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
        EVP_CIPHER_CTX_free(keys.seals[i].encipher);
        EVP_CIPHER_CTX_free(keys.seals[i].decipher);
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

static EVP_CIPHER_CTX *begin_cipher(const unsigned char *key, int encipher)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();

    if (!c || !EVP_CipherInit_ex(c, EVP_aes_128_ecb(), NULL, key, NULL, encipher) ||
        !EVP_CIPHER_CTX_set_padding(c, 0)) {
        EVP_CIPHER_CTX_free(c);
        return NULL;
    }
    return c;
}

/* A key of its own, made of the other. One block is all that is ever enciphered. */
static int make_ciphers(seal_t *seal)
{
    unsigned char digest[DIGEST];

    if (!sign(seal, trace_key, sizeof trace_key - 1, digest)) {
        return 0;
    }
    seal->encipher = begin_cipher(digest, 1);
    seal->decipher = begin_cipher(digest, 0);
    OPENSSL_cleanse(digest, sizeof digest);
    return seal->encipher && seal->decipher;
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
    return seal->inner && seal->outer && make_ciphers(seal);
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

/* The key that signs now. */
static const seal_t *current(void)
{
    return &keys.seals[keys.count > 1 && !atomic_load(keys.known)];
}

static void write_hex(char *to, const unsigned char digest[DIGEST])
{
    static const char digits[] = "0123456789abcdef";
    int i;

    for (i = 0; i < DIGEST; i++) {
        *to++ = digits[digest[i] >> 4];
        *to++ = digits[digest[i] & 15];
    }
    *to = '\0';
}

const char *psp_seal(apr_pool_t *p, const char *envelope)
{
    apr_size_t length = strlen(envelope) - 1; /* without the last brace */
    unsigned char digest[DIGEST];
    char *sealed, *to;

    if (!keys.count || !sign(current(), envelope, length, digest)) {
        return envelope; /* the database will say that it is unsigned */
    }
    sealed = apr_palloc(p, length + psp_seal_length() + 2);
    to = apr_cpystrn(sealed, envelope, length + 1);
    memcpy(to, member, sizeof member - 1);
    to += sizeof member - 1;
    write_hex(to, digest);
    memcpy(to + 2 * DIGEST, "\"}", 3);
    return sealed;
}

/* --- Causes --- */

int psp_seal_keys(void)
{
    return keys.count ? keys.count : 1;
}

/* From a copy, for threads share what was begun. */
static int crypt_block(const EVP_CIPHER_CTX *from, unsigned char block[PSP_CAUSE_BYTES])
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    unsigned char out[2 * PSP_CAUSE_BYTES];
    int length = 0;
    int good = c && EVP_CIPHER_CTX_copy(c, from) &&
               EVP_CipherUpdate(c, out, &length, block, PSP_CAUSE_BYTES) &&
               length == PSP_CAUSE_BYTES;

    EVP_CIPHER_CTX_free(c);
    if (good) {
        memcpy(block, out, PSP_CAUSE_BYTES);
    }
    return good;
}

void psp_seal_encipher(unsigned char block[PSP_CAUSE_BYTES])
{
    if (keys.count && !crypt_block(current()->encipher, block)) {
        memset(block, 0xff, PSP_CAUSE_BYTES); /* a trace of nobody */
    }
}

int psp_seal_decipher(unsigned char block[PSP_CAUSE_BYTES], int key)
{
    return !keys.count || crypt_block(keys.seals[key].decipher, block);
}

void psp_seal_sign(char *out, const char *text, apr_size_t length)
{
    unsigned char digest[DIGEST];

    *out = '\0';
    if (keys.count && sign(current(), text, length, digest)) {
        write_hex(out, digest);
    }
}

int psp_seal_verify(const char *signature, const char *text, apr_size_t length)
{
    unsigned char digest[DIGEST];
    char hex[2 * DIGEST + 1];
    int i, good = 0;

    for (i = 0; i < keys.count; i++) {
        if (strlen(signature) == 2 * DIGEST && sign(&keys.seals[i], text, length, digest)) {
            write_hex(hex, digest);
            good |= CRYPTO_memcmp(hex, signature, 2 * DIGEST) == 0;
        }
    }
    return good;
}

void psp_seal_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_FIRST + 1);
}
