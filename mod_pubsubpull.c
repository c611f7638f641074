/* SPDX-License-Identifier: Apache-2.0 */
/* mod_pubsubpull.c: the module record: which rooms there are, which hooks they take, and in which order. */
#include <httpd.h>
#include <http_config.h>

#include "audit/audit.h"
#include "config/config.h"
#include "metrics/metrics.h"
#include "notify/notify.h"
#include "publish/publish.h"
#include "pull/pull.h"
#include "record/record.h"
#include "subscribe/subscribe.h"
#include "web/web.h"

/*
 * At start-up and restart, in this order (post_config, by the places that the rooms give
 * themselves):
 *
 *   config   FIRST        finds the connection string; all that follows needs it
 *   record   FIRST + 1    makes the queue, or finds the one of before the restart; before anybody forks
 *   metrics  FIRST + 1    makes the memory for counters, or finds it, likewise
 *   notify   REALLY_LAST  forks the child, which inherits the queue and the string
 *   web      child_init   in each worker, after the fork: no session with the database may be shared
 *
 * For each request:
 *
 *   translate_name, map_to_storage   LAST: our resources are no files; who claims the URL before keeps it
 *   fixups                REALLY_LAST: the user is known, mod_rewrite and mod_headers have had their say,
 *                         and nobody after us can bring back what a client sent under our names
 *   insert_filter,        LAST: the X-Request-Id of the response, also for httpd's own errors
 *   insert_error_filter
 *   handler               before all (record): where there is mod_dbd it runs the others, whose connections it tells
 *                         REALLY_FIRST: PubSubPullRequired refuses, before anybody serves
 *                         MIDDLE (web): it serves what SetHandler gives it and nothing else
 *   log_transaction       MIDDLE: the order does not matter, as it only reads and never waits
 *
 * And of mod_status, where it is loaded: status_hook, a section from shared memory.
 *
 * Rooms with resources hand their routes to web, which knows none of them. Hooks of their own have
 * metrics, and pull for those who wait: memory to count them is made before the fork (post_config
 * MIDDLE), the session that asks for them all in each worker (child_init MIDDLE), and the MPM says
 * when it has let go of a connection (suspend_connection MIDDLE).
 */
static void register_hooks(apr_pool_t *p)
{
    psp_config_register_hooks(p);
    psp_record_register_hooks(p);
    psp_metrics_register_hooks(p);
    psp_notify_register_hooks(p);
    psp_web_register_hooks(p);
    psp_pull_register_hooks(p);
    psp_web_add_routes(psp_publish_routes);
    psp_web_add_routes(psp_subscribe_routes);
    psp_web_add_routes(psp_failure_routes);
    psp_web_add_routes(psp_pull_row_routes);
    psp_web_add_routes(psp_pull_change_routes);
    psp_web_add_routes(psp_audit_routes);
    psp_web_add_routes(psp_metrics_routes);
}

AP_DECLARE_MODULE(pubsubpull) = {
    STANDARD20_MODULE_STUFF, psp_config_create_dir, psp_config_merge_dir, psp_config_create_server,
    psp_config_merge_server, psp_config_directives, register_hooks,
#if defined(AP_MODULE_FLAG_NONE)
    AP_MODULE_FLAG_NONE,
#endif
};
