/* SPDX-License-Identifier: Apache-2.0 */
/* locate.c: where the resources begin and which one is asked for. */
#include "web/private.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>

#include "config/config.h"
#include "core/uri_template.h"

APLOG_USE_MODULE(pubsubpull);

static int is_below(const char *location, apr_size_t length, const char *uri)
{
    return !strncmp(location, uri, length) &&
           (location[length - 1] == '/' || uri[length] == '/' || !uri[length]);
}

/*
 * The path of the <Location> that says SetHandler pubsubpull. What httpd hands a handler is merged
 * from all sections that match, and the last of them is often another one (with the Require of a
 * single table), so it is looked for in the sections themselves; few begin with the right path.
 * Expressions are evaluated as httpd does it.
 */
static const char *find_location(request_rec *r)
{
    const core_server_config *server = ap_get_core_module_config(r->server->module_config);
    const char *best = NULL;
    apr_size_t longest = 0;
    int i;

    for (i = 0; server->sec_url && i < server->sec_url->nelts; i++) {
        ap_conf_vector_t *section = APR_ARRAY_IDX(server->sec_url, i, ap_conf_vector_t *);
        const core_dir_config *core = ap_get_core_module_config(section);
        const char *handler, *error = NULL;
        apr_size_t length;

        if (!core->expr_handler || core->r || core->d_is_fnmatch || !core->d || *core->d != '/') {
            continue;
        }
        length = strlen(core->d);
        if (length <= longest || !is_below(core->d, length, r->uri)) {
            continue;
        }
        handler = ap_expr_str_exec(r, core->expr_handler, &error);
        if (!error && handler && !ap_cstr_casecmp(handler, "pubsubpull")) {
            best = core->d;
            longest = length;
        }
    }
    return best;
}

int psp_is_ours(request_rec *r)
{
    const core_dir_config *core = ap_get_core_module_config(r->per_dir_config);
    const char *handler, *error = NULL;

    if (!core->expr_handler || !r->uri) {
        return 0;
    }
    handler = ap_expr_str_exec(r, core->expr_handler, &error);
    return !error && handler && !ap_cstr_casecmp(handler, "pubsubpull");
}

static apr_array_header_t *split(apr_pool_t *p, const char *path)
{
    apr_array_header_t *parts = apr_array_make(p, 8, sizeof(const char *));

    for (;;) {
        apr_size_t length = strcspn(path, "/");

        APR_ARRAY_PUSH(parts, const char *) = apr_pstrmemdup(p, path, length);
        if (!path[length]) {
            return parts;
        }
        path += length + 1;
    }
}

/* The path as it was sent. httpd decodes r->uri in place and parsed_uri with it. */
static const char *sent_path(request_rec *r)
{
    const char *path = r->unparsed_uri ? r->unparsed_uri : "";
    const char *authority;

    if (*path != '/' && (authority = strstr(path, "://"))) {
        authority += 3;
        path = authority + strcspn(authority, "/?#");
    }
    while (path[0] == '/' && path[1] == '/') {
        path++;
    }
    return apr_pstrmemdup(r->pool, path, strcspn(path, "?#"));
}

static int has_encoded_slash(const char *text)
{
    return ap_strcasestr(text, "%2F") != NULL;
}

/* What httpd makes of a segment under AllowEncodedSlashes NoDecode: all is decoded but %2F. */
static const char *decode_but_slashes(apr_pool_t *p, const char *raw)
{
    const char *out = "", *slash;

    while ((slash = strstr(raw, "%2F"))) {
        const char *part = psp_percent_decode(p, apr_pstrmemdup(p, raw, (apr_size_t)(slash - raw)));

        if (!part) {
            return NULL;
        }
        out = apr_pstrcat(p, out, part, "%2F", NULL);
        raw = slash + 3;
    }
    raw = psp_percent_decode(p, raw);
    return raw ? apr_pstrcat(p, out, raw, NULL) : NULL;
}

/* Are these the segments that httpd authorized? */
static int same_segments(apr_pool_t *p, const apr_array_header_t *raw,
                         const apr_array_header_t *authorized)
{
    int i;

    if (raw->nelts != authorized->nelts) {
        return 0;
    }
    for (i = 0; i < raw->nelts; i++) {
        const char *decoded = decode_but_slashes(p, APR_ARRAY_IDX(raw, i, const char *));

        if (!decoded || strcmp(decoded, APR_ARRAY_IDX(authorized, i, const char *)) != 0) {
            return 0;
        }
    }
    return 1;
}

/* A key's values are joined by commas; of a path that was rewritten nobody knows which commas were
 * encoded. */
static const char *encode_again(apr_pool_t *p, const char *segment)
{
    const char *out = "";

    for (;;) {
        apr_size_t length = strcspn(segment, ",");

        out = apr_pstrcat(p, out, psp_percent_encode(p, apr_pstrmemdup(p, segment, length)),
                          segment[length] ? "," : NULL, NULL);
        if (!segment[length]) {
            return out;
        }
        segment += length + 1;
    }
}

/*
 * httpd authorized r->uri, so nothing that means something else may be acted on. The path as sent
 * is taken only when it says the same, segment by segment; it is needed where a segment holds a
 * slash, or a comma inside a value.
 */
static int take_segments(psp_call_t *c, const char *location)
{
    apr_pool_t *p = c->r->pool;
    const char *sent = sent_path(c->r);
    apr_array_header_t *raw = split(p, sent);
    apr_array_header_t *authorized = split(p, c->r->uri);
    int use_raw = same_segments(p, raw, authorized);
    int skip = split(p, location)->nelts;
    const char **segments, **raws;
    int i;

    if (!use_raw && has_encoded_slash(sent)) {
        return 0;
    }
    c->nsegments = authorized->nelts > skip ? authorized->nelts - skip : 0;
    segments = apr_pcalloc(p, ((apr_size_t)c->nsegments + 1) * sizeof(*segments));
    raws = apr_pcalloc(p, ((apr_size_t)c->nsegments + 1) * sizeof(*raws));
    for (i = 0; i < c->nsegments; i++) {
        const char *name = APR_ARRAY_IDX(authorized, skip + i, const char *);

        raws[i] = use_raw ? APR_ARRAY_IDX(raw, skip + i, const char *) : encode_again(p, name);
        segments[i] = use_raw ? psp_percent_decode(p, raws[i]) : name;
        if (!segments[i] || has_encoded_slash(segments[i]) ||
            !psp_utf8_valid(segments[i], strlen(segments[i]))) {
            return 0;
        }
    }
    c->segments = segments;
    c->raw_segments = raws;
    return 1;
}

/* PubSubPullBaseURL says where clients reach the server, and when it has a path, where they reach
 * this Location. */
static const char *base_url(request_rec *r, const char *prefix)
{
    const char *url = psp_config_server(r->server)->base_url;
    const char *authority;

    if (!url) {
        return ap_construct_url(r->pool, prefix, r);
    }
    authority = strstr(url, "://");
    return authority && strchr(authority + 3, '/') ? url : apr_pstrcat(r->pool, url, prefix, NULL);
}

int psp_locate(psp_call_t *c, int *answer)
{
    request_rec *r = c->r;
    const char *found = find_location(r);
    apr_size_t length;
    const char *location;

    if (!found) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, APR_ENOENT, r,
                      "PSP0300: SetHandler pubsubpull serves <Location \"/path\"> sections only");
        *answer = psp_web_problem(r, HTTP_INTERNAL_SERVER_ERROR, "no-location",
                                  "The administrator has to write SetHandler pubsubpull into a "
                                  "<Location \"/path\"> section.",
                                  0);
        return 0;
    }
    length = strlen(found);
    while (length && found[length - 1] == '/') {
        length--;
    }
    location = apr_pstrmemdup(r->pool, found, length);
    c->prefix = ap_escape_uri(r->pool, location);
    c->base = base_url(r, c->prefix);
    if (!take_segments(c, location)) {
        *answer = psp_web_problem(r, HTTP_BAD_REQUEST, "bad-path",
                                  "The path cannot be told apart from another one, or is not "
                                  "UTF-8. A slash inside a name is written %2F, in capitals, and "
                                  "needs AllowEncodedSlashes NoDecode.",
                                  0);
        return 0;
    }
    return 1;
}

const char *psp_raw_path(const psp_call_t *c, const char *start, int nsegments)
{
    const char *path = start;
    int i;

    for (i = 0; i < nsegments; i++) {
        path = apr_pstrcat(c->r->pool, path, "/", c->raw_segments[i], NULL);
    }
    return path;
}
