/* SPDX-License-Identifier: Apache-2.0 */
/* notify.h: the child process that delivers: started and supervised by httpd's parent. */
#ifndef PSP_NOTIFY_NOTIFY_H
#define PSP_NOTIFY_NOTIFY_H

#include <httpd.h>

/** Registers post_config: start the child, note it for shutdown, restart it when it dies. */
void psp_notify_register_hooks(apr_pool_t *p);

#endif
