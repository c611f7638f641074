/* SPDX-License-Identifier: Apache-2.0 */
/* sign.c: signatures of notifications (Standard Webhooks 1.0); the only file that knows libcrypto. */
#include "notify/wire.h"

#include <stdlib.h>
#include <string.h>

#include <apr_base64.h>
#include <apr_strings.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#define PREFIX "whsec_"
#define DIGEST 32 /* bytes of SHA-256 */
#define KEY_MAX 96

/* A secret is whsec_ and base64; returns the length of the key, 0 when it is none. */
static int decode_secret(unsigned char key[KEY_MAX], const char *secret, apr_size_t length)
{
    char text[KEY_MAX * 4 / 3 + 8];

    if (length <= strlen(PREFIX) || memcmp(secret, PREFIX, strlen(PREFIX)) != 0) {
        return 0;
    }
    secret += strlen(PREFIX);
    length -= strlen(PREFIX);
    if (length >= sizeof text) {
        return 0;
    }
    memcpy(text, secret, length);
    text[length] = '\0';
    if (apr_base64_decode_len(text) > KEY_MAX) {
        return 0;
    }
    return apr_base64_decode_binary(key, text);
}

/* The signed content is id.timestamp.body in one piece. */
static char *content(const char *id, const char *timestamp, const char *body, apr_size_t length,
                     apr_size_t *size)
{
    apr_size_t room = strlen(id) + strlen(timestamp) + length + 3, head;
    char *text = psp_child_alloc(NULL, room);

    head = apr_snprintf(text, room, "%s.%s.", id, timestamp);
    if (length > 0) {
        memcpy(text + head, body, length);
    }
    *size = head + length;
    return text;
}

void psp_sign(char *out, apr_size_t room, const char *secrets, const char *id,
              const char *timestamp, const char *body, apr_size_t length)
{
    apr_size_t size, used = 0;
    char *text = content(id, timestamp, body, length, &size);
    const char *secret = secrets;

    *out = '\0';
    while (*secret) {
        unsigned char key[KEY_MAX], digest[DIGEST];
        unsigned digest_size = 0;
        apr_size_t secret_size = strcspn(secret, ",");
        int key_size = decode_secret(key, secret, secret_size);

        if (key_size > 0 && room - used > 64 &&
            HMAC(EVP_sha256(), key, key_size, (unsigned char *)text, size, digest, &digest_size)) {
            used += apr_snprintf(out + used, room - used, "%sv1,", used ? " " : "");
            used += apr_base64_encode_binary(out + used, digest, (int)digest_size) - 1;
        }
        OPENSSL_cleanse(key, sizeof key);
        secret += secret_size + (secret[secret_size] == ',');
    }
    free(text);
}
