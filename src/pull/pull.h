/* SPDX-License-Identifier: Apache-2.0 */
/* pull.h: the resources from which rows and changes are pulled. */
#ifndef PSP_PULL_PULL_H
#define PSP_PULL_PULL_H

#include "web/web.h"

/** Registers what waiting for changes needs: post_config MIDDLE, child_init MIDDLE. */
void psp_pull_register_hooks(apr_pool_t *p);

extern const psp_route_t psp_pull_row_routes[];
extern const psp_route_t psp_pull_change_routes[];

#endif
