/* SPDX-License-Identifier: Apache-2.0 */
/* pull.h: the resources from which rows and changes are pulled. */
#ifndef PSP_PULL_PULL_H
#define PSP_PULL_PULL_H

#include "web/web.h"

extern const psp_route_t psp_pull_row_routes[];
extern const psp_route_t psp_pull_change_routes[];

#endif
