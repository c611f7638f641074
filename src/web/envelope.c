/* SPDX-License-Identifier: Apache-2.0 */
/* envelope.c: what the database may know of a request for our own resources. */
#include "web/private.h"

#include <apr_strings.h>

#include "core/envelope.h"
#include "core/uuid.h"

const char *psp_web_envelope(psp_call_t *c)
{
    request_rec *r = c->r;
    const char *sent = r->unparsed_uri ? r->unparsed_uri : r->uri;
    char id[PSP_UUID_LENGTH + 1];
    const psp_request_t about = {
        .id = id,
        .method = r->method,
        .host = r->hostname,
        .path = apr_pstrmemdup(r->pool, sent, strcspn(sent, "?")),
        .query = r->args,
        .user = c->user,
        .remote = r->useragent_ip,
        .agent = apr_table_get(r->headers_in, "User-Agent"),
        .started = r->request_time,
    };

    return psp_uuid7(id, r->request_time) == APR_SUCCESS ? psp_envelope(r->pool, &about) : NULL;
}
