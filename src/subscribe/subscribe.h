/* SPDX-License-Identifier: Apache-2.0 */
/* subscribe.h: the resources by which a service subscribes. */
#ifndef PSP_SUBSCRIBE_SUBSCRIBE_H
#define PSP_SUBSCRIBE_SUBSCRIBE_H

#include "web/web.h"

extern const psp_route_t psp_subscribe_routes[];
extern const psp_route_t psp_failure_routes[];

#endif
