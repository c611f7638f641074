/* SPDX-License-Identifier: Apache-2.0 */
/* web.h: what all resources share: routes, answers, problems, conditional requests. */
#ifndef PSP_WEB_WEB_H
#define PSP_WEB_WEB_H

#include <httpd.h>

#include "core/result.h"
#include "db/db.h"

#define PSP_WEB_BODY_MAX 65536 /* most bytes of a PUT body */
#define PSP_WEB_TIMEOUT apr_time_from_sec(15)

/** What a handler knows about its request. Strings live in r->pool. */
typedef struct psp_call_t {
    request_rec *r;
    const char *base;   /* absolute URL of the Location, no slash at the end */
    const char *prefix; /* its path, e.g. /pubsubpull */
    int nsegments;
    const char *const *segments; /* path below the Location, split at slashes, percent-decoded; ""
                                    for a final slash */
    const char *const *raw_segments; /* the same, as sent */
    const char *user;                /* NULL: nobody */
    int admin;
    const char *type; /* media type to answer a GET with */
    const char *body; /* of a PUT, or NULL */
    int reads;        /* set by its handler: it may be answered from PubSubPullReadDatabase */
    const apr_table_t *query; /* decoded parameters, each at most once */
} psp_call_t;

typedef int psp_handler_fn(psp_call_t *c);

/** One resource: a path pattern below the Location and what answers its methods. */
typedef struct psp_route_t {
    const char
        *pattern; /* e.g. "tables/ * /rows/" without blanks: '*' is any one non-empty segment */
    psp_handler_fn *get; /* also HEAD */
    psp_handler_fn *put;
    psp_handler_fn *del;
    const char *const
        *query; /* names of query parameters that are understood, NULL-terminated, or NULL: none */
    const char *const *types; /* what GET has beside JSON, the same way */
} psp_route_t;

/** Registers the content handler "pubsubpull" and the per-child database pool. */
void psp_web_register_hooks(apr_pool_t *p);

/** Adds a room's resources. The table ends with a pattern of NULL and lives as long as the module.
 */
void psp_web_add_routes(const psp_route_t *routes);

/** The pool of this child process for this call; NULL: the module is inert. */
psp_db_pool_t *psp_web_db(const psp_call_t *c);

/** A call of the database as psp_db_call does it, after making sure once that the schema is the one
 * we speak. */
psp_result_t psp_web_call(psp_call_t *c, const char *call, int n, const char *const *params,
                          const psp_rows_t **rows);

/** The same with rows in p. */
psp_result_t psp_web_call_in(psp_call_t *c, apr_pool_t *p, const char *call, int n,
                             const char *const *params, const psp_rows_t **rows);

/** Another pool of sessions for this child process, whose troubles are logged as those of the first;
 * NULL: cannot be made. */
psp_db_pool_t *psp_web_pool_make(server_rec *s, const char *conninfo, int min, int max,
                                 apr_pool_t *p);

/** Whether the user is an administrator, as a parameter of SQL. */
const char *psp_web_admin(const psp_call_t *c);

/** The request's envelope as the setting pubsubpull.request holds it: policies of row-level security
 * may ask who it is that pulls. */
const char *psp_web_envelope(psp_call_t *c);

/** A query parameter's decoded value or NULL. */
const char *psp_web_query(psp_call_t *c, const char *name);

/**
 * Call an SQL function that answers an HTTP request and send what it says. All such functions
 * return one row (status int, body text, etag text, next text, location text): body is JSON or
 * NULL; etag without quotes or NULL, weak when it begins with W/; next becomes `Link: <…>; rel="next"`; location becomes
 * Content-Location on 200 and Location on 201. Problems raised by the function are sent as
 * problem+json.
 * @return what a handler returns to httpd
 */
int psp_web_answer(psp_call_t *c, const char *call, int n, const char *const *params);

/** The two halves of it. When the function knows the table, the second segment of the URL, by
 * another name and the user may have that, params[1] is it afterwards. */
psp_result_t psp_web_ask(psp_call_t *c, const char *call, int n, const char **params,
                         const psp_rows_t **rows);
int psp_web_send(psp_call_t *c, const psp_rows_t *rows);

/** Send application/problem+json (RFC 9457). type is a slug. */
int psp_web_problem(request_rec *r, int status, const char *type, const char *detail,
                    int retry_after);
int psp_web_fail(request_rec *r, const psp_result_t *result);

/* --- Responses that are sent as they come --- */

#define PSP_WEB_PIECE 32768 /* bytes that are gathered before they go out */

typedef struct psp_out_t psp_out_t;

/** Begins a response of type c->type. Other headers can be set until something is sent. A client
 * that takes nothing for PubSubPullStreamTimeout is given up. */
psp_out_t *psp_out_open(psp_call_t *c);
/** Whether anything went to the client yet. */
int psp_out_sent(const psp_out_t *out);
/** All these: APR_SUCCESS, or that the client is gone, which was logged. */
apr_status_t psp_out_write(psp_out_t *out, const char *bytes, apr_size_t length);
apr_status_t psp_out_flush(psp_out_t *out);
apr_status_t psp_out_end(psp_out_t *out);
/** Ends it so that the client sees that something is missing. rv: what failed */
void psp_out_break(psp_out_t *out, apr_status_t rv);

/** Would httpd let the same user GET this path (percent-encoded, from the root)? Its own rules
 * decide, by a subrequest that stops before the handler. */
int psp_web_may_get(request_rec *r, const char *path);
/** The same for any method. */
int psp_web_may(request_rec *r, const char *method, const char *path);

/**
 * Of the tables in the log those whose changes httpd lets this user GET.
 * @param names an array in PostgreSQL's text form; NULL: all of them
 */
psp_result_t psp_web_readable(psp_call_t *c, const char **names);

#endif
