/* SPDX-License-Identifier: Apache-2.0 */
/* publish.h: the resources by which tables are published. */
#ifndef PSP_PUBLISH_PUBLISH_H
#define PSP_PUBLISH_PUBLISH_H

#include "web/web.h"

extern const psp_route_t psp_publish_routes[];

#endif
