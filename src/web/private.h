/* SPDX-License-Identifier: Apache-2.0 */
/* private.h: what the files of this room share: the steps from a request to a call of a resource.
 */
#ifndef PSP_WEB_PRIVATE_H
#define PSP_WEB_PRIVATE_H

#include "web/web.h"

/*
 * Each step returns true when all is well. Otherwise it has answered the request, and *answer is
 * what the handler returns to httpd.
 */

/** Fills in base, prefix and the segments. */
int psp_locate(psp_call_t *c, int *answer);

/** Reads the query and refuses what this resource does not know. */
int psp_query_read(psp_call_t *c, const psp_route_t *route, int *answer);

/** Chooses c->type among what this resource has and the client can take. */
int psp_negotiate(psp_call_t *c, const psp_route_t *route, int *answer);

/** Reads the body of a PUT: JSON of at most PSP_WEB_BODY_MAX bytes, within httpd's Timeout. */
int psp_body_read(psp_call_t *c, int *answer);

/** Is this request below a Location with SetHandler pubsubpull? Used before httpd has looked at
 * handlers. */
int psp_is_ours(request_rec *r);

int psp_utf8_valid(const char *text, apr_size_t length);

/** Make the connection ready for the next request, whatever of this one's body is unread. */
void psp_settle_body(request_rec *r);

/** A path below the Location from raw segments, e.g. /pubsubpull/tables/. */
const char *psp_raw_path(const psp_call_t *c, const char *start, int nsegments);

/** Logs what happens to database sessions; the baton is the server. */
void psp_report(void *baton, psp_db_event_t event, apr_status_t rv, const char *cause);

/** Makes the pool of database sessions in each child process. */
void psp_call_register_hooks(apr_pool_t *p);

#endif
