/* SPDX-License-Identifier: Apache-2.0 */
/* require.c: PubSubPullRequired: who writes has to be recorded, or does not write. */
#include "record/private.h"

#include <http_config.h>
#include <http_protocol.h>

#include "config/config.h"
#include "web/web.h"

#define RETRY_AFTER 5 /* seconds */

static int is_safe(const request_rec *r)
{
    switch (r->method_number) {
    case M_GET: /* and HEAD */
    case M_OPTIONS:
    case M_TRACE:
        return 1;
    default:
        return 0;
    }
}

/* Before any other handler; an internal redirect or a sub-request is a part of what was let pass. */
static int handler(request_rec *r)
{
    const psp_dir_config_t *d = psp_config_dir(r);

    if (d->required != 1 || d->enabled != 1 || r->main || r->prev || is_safe(r) ||
        psp_record_possible()) {
        return DECLINED;
    }
    return psp_web_problem(r, HTTP_SERVICE_UNAVAILABLE, "not-recorded",
                           "Requests that change something are not taken here while they cannot be "
                           "recorded. Nothing was done; try again later.",
                           RETRY_AFTER);
}

void psp_require_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_REALLY_FIRST);
}
