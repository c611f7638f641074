/* SPDX-License-Identifier: Apache-2.0 */
/* pem.c: certificates and keys that notifications are sent with, read and checked while httpd reads its
 * configuration: as root, where it starts as root, for the notifier may not be able to read them. */
#include "config/private.h"

#include <apr_file_io.h>
#include <apr_strings.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#define FILE_MAX (4 * 1024 * 1024)

static apr_status_t wipe(void *text)
{
    OPENSSL_cleanse(text, strlen(text));
    return APR_SUCCESS;
}

/* The text of a file, wiped when the configuration goes. */
static const char *read_file(apr_pool_t *p, const char *name, const char **text)
{
    apr_finfo_t info;
    apr_file_t *file;
    apr_status_t rv;
    char *bytes;
    char why[120];

    rv = apr_file_open(&file, name, APR_READ | APR_BINARY | APR_BUFFERED, APR_OS_DEFAULT, p);
    if (rv != APR_SUCCESS) {
        return apr_psprintf(p, "cannot read %s: %s", name, apr_strerror(rv, why, sizeof why));
    }
    rv = apr_file_info_get(&info, APR_FINFO_SIZE | APR_FINFO_TYPE, file);
    if (rv != APR_SUCCESS || info.filetype != APR_REG || info.size > FILE_MAX) {
        (void)apr_file_close(file);
        return apr_psprintf(p, "wants a file of at most 4 MiB, which %s is not", name);
    }
    bytes = apr_pcalloc(p, (apr_size_t)info.size + 1);
    rv = apr_file_read_full(file, bytes, (apr_size_t)info.size, NULL);
    (void)apr_file_close(file);
    apr_pool_cleanup_register(p, bytes, wipe, apr_pool_cleanup_null);
    if (rv != APR_SUCCESS && rv != APR_EOF) {
        return apr_psprintf(p, "cannot read %s: %s", name, apr_strerror(rv, why, sizeof why));
    }
    *text = bytes;
    return NULL;
}

/* A key that asks for a passphrase gets none. */
static int no_passphrase(char *buffer, int size, int writing, void *unused)
{
    (void)buffer;
    (void)size;
    (void)writing;
    (void)unused;
    return 0;
}

/* The number of certificates, or -1 when one of them is broken. */
static int count_certificates(const char *text)
{
    BIO *bio = BIO_new_mem_buf(text, -1);
    X509 *certificate;
    int n = 0;

    while (bio && (certificate = PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL)) != NULL) {
        X509_free(certificate);
        n++;
    }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) { /* which is the end */
        n = -1;
    }
    ERR_clear_error();
    BIO_free(bio);
    return n;
}

static const char *read_certificates(apr_pool_t *p, const char *name, const char **text)
{
    const char *wrong = read_file(p, name, text);
    int n = wrong ? 0 : count_certificates(*text);

    if (wrong) {
        return wrong;
    }
    if (n < 0) {
        return apr_psprintf(p, "finds a broken certificate in %s", name);
    }
    return n == 0 ? apr_psprintf(p, "finds no certificate (PEM) in %s", name) : NULL;
}

const char *psp_pem_read_authorities(apr_pool_t *p, const char *file, const char **text)
{
    return read_certificates(p, file, text);
}

/* The first certificate is ours, others lead from it to an authority. */
static const char *match(apr_pool_t *p, const psp_pem_t *pem, const char *file, const char *keyfile)
{
    BIO *certificates = BIO_new_mem_buf(pem->certificate, -1);
    BIO *keys = BIO_new_mem_buf(pem->key, -1);
    X509 *certificate =
        certificates ? PEM_read_bio_X509_AUX(certificates, NULL, no_passphrase, NULL) : NULL;
    EVP_PKEY *key = keys ? PEM_read_bio_PrivateKey(keys, NULL, no_passphrase, NULL) : NULL;
    const char *wrong = NULL;

    if (!key && strstr(pem->key, "ENCRYPTED")) {
        wrong = apr_psprintf(p, "cannot use the key in %s: it wants a passphrase", keyfile);
    }
    else if (!key) {
        wrong = apr_psprintf(p, "finds no private key (PEM) in %s", keyfile);
    }
    else if (!certificate || X509_check_private_key(certificate, key) != 1) {
        wrong = apr_psprintf(p, "finds that the key in %s is not that of the certificate in %s",
                             keyfile, file);
    }
    ERR_clear_error();
    EVP_PKEY_free(key);
    X509_free(certificate);
    BIO_free(keys);
    BIO_free(certificates);
    return wrong;
}

const char *psp_pem_read_certificate(apr_pool_t *p, const char *file, const char *keyfile,
                                     psp_pem_t *pem)
{
    const char *wrong = read_certificates(p, file, &pem->certificate);

    pem->key = pem->certificate;
    if (!wrong && keyfile) {
        wrong = read_file(p, keyfile, &pem->key);
    }
    return wrong ? wrong : match(p, pem, file, keyfile ? keyfile : file);
}
