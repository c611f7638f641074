/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_locate.c: the segments that are acted on say the same as the path that httpd authorized, whatever path was sent.
 * Stands for those parts of httpd that are asked. */
#include "web/private.h"

#include <http_core.h>

#include "config/config.h"
#include "fuzz.h"

module AP_MODULE_DECLARE_DATA pubsubpull_module;

static const char location[] = "/pubsubpull";
static core_dir_config section;
static core_server_config core_server;
static psp_server_config_t config;
static int problems;

const psp_server_config_t *psp_config_server(const server_rec *s)
{
    (void)s;
    return &config;
}

const char *ap_expr_str_exec(request_rec *r, const ap_expr_info_t *expr, const char **error)
{
    (void)r;
    (void)expr;
    *error = NULL;
    return "pubsubpull";
}

int ap_cstr_casecmp(const char *a, const char *b)
{
    return strcasecmp(a, b);
}

char *ap_strcasestr(const char *text, const char *part)
{
    for (; *text; text++) {
        if (strncasecmp(text, part, strlen(part)) == 0) {
            return (char *)text;
        }
    }
    return NULL;
}

char *ap_construct_url(apr_pool_t *p, const char *uri, request_rec *r)
{
    (void)r;
    return apr_pstrcat(p, "http://here", uri, NULL);
}

char *ap_os_escape_path(apr_pool_t *p, const char *path, int partial)
{
    (void)partial;
    return apr_pstrdup(p, path);
}

void ap_log_rerror_(const char *file, int line, int module, int level, apr_status_t status,
                    const request_rec *r, const char *format, ...)
{
    (void)file, (void)line, (void)module, (void)level, (void)status, (void)r;
    PROMISE(format);
}

int psp_web_problem(request_rec *r, int status, const char *type, const char *detail,
                    int retry_after)
{
    (void)r;
    PROMISE((status == HTTP_BAD_REQUEST && strcmp(type, "bad-path") == 0) ||
            (status == HTTP_INTERNAL_SERVER_ERROR && strcmp(type, "no-location") == 0));
    PROMISE(*detail && !retry_after);
    problems++;
    return status;
}

/* What httpd authorized has %2F for a slash inside a segment, under AllowEncodedSlashes NoDecode. */
static int same(const char *segment, const char *authorized)
{
    for (; *segment; segment++) {
        if (*segment == '/' && strncmp(authorized, "%2F", 3) == 0) {
            authorized += 3;
        }
        else if (*segment != *authorized++) {
            return 0;
        }
    }
    return *authorized == '\0';
}

static void check(const psp_call_t *c, const char *uri)
{
    const char *at = uri + sizeof location - 1;
    int i;

    for (i = 0; i < c->nsegments; i++) {
        char *end;

        PROMISE(*at == '/');
        end = apr_pstrmemdup(c->r->pool, at + 1, strcspn(at + 1, "/"));
        PROMISE(same(c->segments[i], end));
        PROMISE(psp_utf8_valid(c->segments[i], strlen(c->segments[i])));
        PROMISE(!strpbrk(c->raw_segments[i], "/?#"));
        at += strlen(end) + 1;
    }
    PROMISE(*at == '\0');
}

static void try_input(apr_pool_t *p, const uint8_t *data, size_t size)
{
    void *of_server[] = {&core_server},
         *of_section[] = {&section}; /* the core module is the first */
    server_rec server = {.module_config = (ap_conf_vector_t *)of_server};
    request_rec r = {.pool = p, .server = &server};
    psp_call_t c = {.r = &r};
    int answer = 0, found;

    core_server.sec_url = apr_array_make(p, 1, sizeof(void *));
    APR_ARRAY_PUSH(core_server.sec_url, void *) = of_section;
    section.d = (char *)location;
    section.expr_handler = (ap_expr_info_t *)&section;
    r.unparsed_uri = fuzz_line(p, &data, &size);
    r.uri = fuzz_line(p, &data, &size);
    if (!r.uri) {
        return;
    }
    problems = 0;
    found = psp_locate(&c, &answer);
    PROMISE(problems == !found);
    if (found) {
        check(&c, r.uri);
    }
}
