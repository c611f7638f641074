/* SPDX-License-Identifier: Apache-2.0 */
/* openmetrics.h: a writer of metrics as text, OpenMetrics 1.0.0 or the older format of Prometheus. */
#ifndef PSP_CORE_OPENMETRICS_H
#define PSP_CORE_OPENMETRICS_H

#include <apr_buckets.h>

typedef enum {
    PSP_METRIC_GAUGE,
    PSP_METRIC_COUNTER, /* samples are called name_total */
    PSP_METRIC_INFO     /* samples are called name_info */
} psp_metric_type_t;

/** Samples of one name, which follow their family without others between. */
typedef struct psp_family_t {
    const char *name; /* without _total or _info */
    psp_metric_type_t type;
    const char *unit; /* the end of the name, or NULL */
    const char *help; /* a line without quotes and backslashes */
} psp_family_t;

typedef struct psp_metrics_t {
    apr_bucket_brigade *to;
    int openmetrics; /* 0: text/plain; version=0.0.4 */
    psp_family_t family;
} psp_metrics_t;

/** The Content-Type of what is written. */
const char *psp_metrics_type(const psp_metrics_t *m);

/** Begin a family. */
void psp_metrics_family(psp_metrics_t *m, const psp_family_t *family);

/** A sample of the family that was begun last. label and value NULL: without one; the value is escaped. number: as text. */
void psp_metrics_text(psp_metrics_t *m, const char *label, const char *value, const char *number);
void psp_metrics_int(psp_metrics_t *m, const char *label, const char *value, apr_int64_t number);

void psp_metrics_end(psp_metrics_t *m);

#endif
