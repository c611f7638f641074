/* SPDX-License-Identifier: Apache-2.0 */
/* key.c: PubSubPullKey: the keys that sign envelopes, read from a file while httpd is still root. */
#include "config/private.h"

#include <string.h>

#include <apr_file_io.h>
#include <apr_lib.h>
#include <apr_strings.h>
#include <http_log.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

#define FILE_MAX 4096
#define KEY_MIN 16 /* characters: less is a password */
#define KEY_MAX 256

/* The whole file, NUL-terminated. */
static apr_status_t read_file(apr_pool_t *p, const char *path, char **text, apr_finfo_t *info)
{
    char *buffer = apr_palloc(p, FILE_MAX + 1);
    apr_size_t length = 0;
    apr_file_t *file;
    apr_status_t rv;

    if ((rv = apr_file_open(&file, path, APR_FOPEN_READ, APR_OS_DEFAULT, p)) != APR_SUCCESS) {
        return rv;
    }
    rv = apr_file_info_get(info, APR_FINFO_TYPE | APR_FINFO_PROT, file);
    if (rv == APR_SUCCESS || rv == APR_INCOMPLETE) {
        rv = apr_file_read_full(file, buffer, FILE_MAX, &length);
    }
    (void)apr_file_close(file);
    if (rv != APR_SUCCESS && rv != APR_EOF) {
        return rv;
    }
    buffer[length] = '\0';
    *text = buffer;
    return length == FILE_MAX             ? APR_ENOSPC
           : memchr(buffer, '\0', length) ? APR_EINVAL
                                          : APR_SUCCESS;
}

/* Blanks around a key are not part of it: editors leave them. */
static char *trim(char *line)
{
    apr_size_t length;

    while (apr_isspace(*line)) {
        line++;
    }
    length = strlen(line);
    while (length && apr_isspace(line[length - 1])) {
        length--;
    }
    line[length] = '\0';
    return line;
}

const char *psp_config_read_keys(apr_array_header_t **keys, const char *path, apr_pool_t *p,
                                 apr_pool_t *temp, server_rec *s)
{
    apr_finfo_t info = {0};
    char *text, *line, *state;
    apr_status_t rv = read_file(temp, path, &text, &info);

    if (rv != APR_SUCCESS) {
        return apr_psprintf(p, "cannot read '%s': %pm", path, &rv);
    }
    if (info.protection & APR_FPROT_WREAD) {
        ap_log_error(APLOG_MARK, APLOG_STARTUP | APLOG_WARNING, 0, s,
                     "PSP0020: everybody may read %s, which holds the keys of PubSubPullKey: "
                     "chmod 0600",
                     path);
    }
    *keys = apr_array_make(p, 2, sizeof(const char *));
    for (line = apr_strtok(text, "\n", &state); line; line = apr_strtok(NULL, "\n", &state)) {
        line = trim(line);
        if (!*line || *line == '#') {
            continue;
        }
        if (strlen(line) < KEY_MIN || strlen(line) > KEY_MAX) {
            return apr_psprintf(p, "a key in '%s' has less than %d or more than %d characters",
                                path, KEY_MIN, KEY_MAX);
        }
        if ((*keys)->nelts == PSP_KEYS_MAX) {
            return apr_psprintf(p, "'%s' holds more than %d keys, one a line", path, PSP_KEYS_MAX);
        }
        APR_ARRAY_PUSH(*keys, const char *) = apr_pstrdup(p, line);
    }
    return (*keys)->nelts ? NULL : apr_psprintf(p, "'%s' holds no key", path);
}
