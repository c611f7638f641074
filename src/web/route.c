/* SPDX-License-Identifier: Apache-2.0 */
/* route.c: which resource answers, and in which order a request is examined before it does. */
#include "web/private.h"

#include <apr_strings.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>

#include "config/config.h"

#define TABLES_MAX 16

static const psp_route_t *tables[TABLES_MAX];
static int ntables;

/* httpd may keep the module loaded over a restart and register it again. */
void psp_web_add_routes(const psp_route_t *routes)
{
    int i;

    for (i = 0; i < ntables; i++) {
        if (tables[i] == routes) {
            return;
        }
    }
    ap_assert(ntables < TABLES_MAX);
    tables[ntables++] = routes;
}

static int matches(const char *pattern, const char *const *segments, int nsegments)
{
    int i;

    for (i = 0; i < nsegments; i++) {
        apr_size_t length = strcspn(pattern, "/");
        const char *segment = segments[i];

        if (length == 1 && *pattern == '*') {
            if (!*segment) {
                return 0;
            }
        }
        else if (strncmp(pattern, segment, length) != 0 || segment[length]) {
            return 0;
        }
        pattern += length;
        if (!*pattern) {
            return i == nsegments - 1;
        }
        pattern++;
    }
    return 0;
}

static const psp_route_t *find(const char *const *segments, int nsegments)
{
    const psp_route_t *route;
    int i;

    for (i = 0; i < ntables; i++) {
        for (route = tables[i]; route->pattern; route++) {
            if (matches(route->pattern, segments, nsegments)) {
                return route;
            }
        }
    }
    return NULL;
}

/* The raw path of the resource that differs by the slash at its end, or NULL. */
static const char *find_twin(psp_call_t *c)
{
    int n = c->nsegments;
    const char **segments;

    if (n && !*c->segments[n - 1]) {
        return n > 1 && find(c->segments, n - 1) ? psp_raw_path(c, c->base, n - 1) : NULL;
    }
    segments = apr_pcalloc(c->r->pool, ((apr_size_t)n + 1) * sizeof(*segments));
    memcpy(segments, c->segments, (apr_size_t)n * sizeof(*segments));
    segments[n] = "";
    return find(segments, n + 1) ? apr_pstrcat(c->r->pool, psp_raw_path(c, c->base, n), "/", NULL)
                                 : NULL;
}

static int not_found(psp_call_t *c)
{
    request_rec *r = c->r;
    const char *twin = find_twin(c);

    if (twin && r->method_number == M_GET) {
        apr_table_setn(r->headers_out, "Location",
                       r->args ? apr_pstrcat(r->pool, twin, "?", r->args, NULL) : twin);
        return psp_web_problem(r, HTTP_PERMANENT_REDIRECT, "slash",
                               apr_pstrcat(r->pool, "This resource is ", twin, NULL), 0);
    }
    return psp_web_problem(
        r, HTTP_NOT_FOUND, "no-such-resource",
        twin ? apr_pstrcat(r->pool, "There is no such resource; perhaps you mean ", twin, NULL)
             : apr_pstrcat(r->pool, "There is no such resource. ", c->base,
                           "/ links to all that there are.", NULL),
        0);
}

static psp_handler_fn *choose(const request_rec *r, const psp_route_t *route)
{
    switch (r->method_number) {
    case M_GET:
        return route->get;
    case M_PUT:
        return route->put;
    case M_DELETE:
        return route->del;
    default:
        return NULL;
    }
}

static int other_method(psp_call_t *c, const psp_route_t *route)
{
    request_rec *r = c->r;
    const char *allow =
        apr_pstrcat(r->pool, route->get ? "GET, HEAD, " : "", route->put ? "PUT, " : "",
                    route->del ? "DELETE, " : "", "OPTIONS", NULL);

    apr_table_setn(r->headers_out, "Allow", allow);
    if (r->method_number == M_OPTIONS) {
        r->status = HTTP_NO_CONTENT;
        psp_settle_body(r);
        return OK;
    }
    return psp_web_problem(r, HTTP_METHOD_NOT_ALLOWED, "method-not-allowed",
                           apr_pstrcat(r->pool, "This resource knows ", allow, " only.", NULL), 0);
}

static int is_write(const request_rec *r)
{
    return r->method_number == M_PUT || r->method_number == M_DELETE;
}

/* httpd has let the request in. But a server whose administrator forgot about authorization must
 * not let everybody on the network change what is published and where it is sent. */
static int authorize(psp_call_t *c, int *answer)
{
    c->user = psp_config_user(c->r);
    c->admin = psp_config_is_admin(c->r);
    if (c->user && !psp_utf8_valid(c->user, strlen(c->user))) {
        *answer =
            psp_web_problem(c->r, HTTP_FORBIDDEN, "bad-user", "The user's name is not UTF-8.", 0);
        return 0;
    }
    if (!is_write(c->r) || c->user || psp_config_dir(c->r)->anonymous == 1) {
        return 1;
    }
    *answer = psp_web_problem(c->r, HTTP_FORBIDDEN, "authorization-required",
                              "Changes need a user, and this request has none. The administrator "
                              "configures AuthType and Require for this Location, or, on a network "
                              "where everybody is trusted, PubSubPullAnonymous On.",
                              0);
    return 0;
}

static int handler(request_rec *r)
{
    psp_call_t *c;
    const psp_route_t *route;
    psp_handler_fn *function;
    int answer = OK;

    if (!r->handler || ap_cstr_casecmp(r->handler, "pubsubpull")) {
        return DECLINED;
    }
    /* mod_mime takes the end of a table's name for that of a file: public.gz, public.de. */
    r->content_encoding = NULL;
    r->content_languages = NULL;
    c = apr_pcalloc(r->pool, sizeof(*c));
    c->r = r;
    if (!psp_locate(c, &answer)) {
        return answer;
    }
    if (!psp_web_db(c)) {
        return psp_web_problem(r, HTTP_SERVICE_UNAVAILABLE, "not-configured",
                               "This server has no database: the administrator sets "
                               "PubSubPullDatabase.",
                               0);
    }
    if (!(route = find(c->segments, c->nsegments))) {
        return not_found(c);
    }
    if (!(function = choose(r, route))) {
        return other_method(c, route);
    }
    if (!psp_negotiate(c, route, &answer) || !authorize(c, &answer) ||
        !psp_query_read(c, route, &answer) ||
        (r->method_number == M_PUT && !psp_body_read(c, &answer))) {
        return answer;
    }
    return function(c);
}

/* These URLs are no files: without this httpd would look for them below DocumentRoot at every
 * request, and refuse names that are too long for a file. What mod_rewrite, mod_alias or mod_proxy
 * claim first stays theirs. */
static const char no_file[] = "pubsubpull:";

static int translate_name(request_rec *r)
{
    if (!psp_is_ours(r)) {
        return DECLINED;
    }
    r->filename = apr_pstrdup(r->pool, no_file);
    return OK;
}

static int map_to_storage(request_rec *r)
{
    return r->filename && !strcmp(r->filename, no_file) ? OK : DECLINED;
}

static int root(psp_call_t *c)
{
    const char *params[] = {c->base};

    return psp_web_answer(c, "SELECT * FROM pubsubpull.root_get($1)", 1, params);
}

static const psp_route_t root_routes[] = {{.pattern = "", .get = root}, {.pattern = NULL}};

void psp_web_register_hooks(apr_pool_t *p)
{
    psp_call_register_hooks(p);
    psp_web_add_routes(root_routes);
    ap_hook_translate_name(translate_name, NULL, NULL, APR_HOOK_LAST);
    ap_hook_map_to_storage(map_to_storage, NULL, NULL, APR_HOOK_LAST);
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_MIDDLE);
}
