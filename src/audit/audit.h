/* SPDX-License-Identifier: Apache-2.0 */
/* audit.h: the resources that tell who changed what, and by which request. */
#ifndef PSP_AUDIT_AUDIT_H
#define PSP_AUDIT_AUDIT_H

#include "web/web.h"

extern const psp_route_t psp_audit_routes[];

#endif
