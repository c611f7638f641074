/* SPDX-License-Identifier: Apache-2.0 */
/* test_openmetrics.c: families, samples and escapes in both formats. */
#include "core/openmetrics.h"

#include <apr_strings.h>

#include "tap.h"

static const psp_family_t counter = {"a_b", PSP_METRIC_COUNTER, NULL, "Some."};
static const psp_family_t gauge = {"a_seconds", PSP_METRIC_GAUGE, "seconds", "Others."};
static const psp_family_t info = {"a_build", PSP_METRIC_INFO, NULL, "About."};

static const char *write_all(apr_pool_t *p, apr_bucket_alloc_t *buckets, int openmetrics)
{
    psp_metrics_t m = {.to = apr_brigade_create(p, buckets), .openmetrics = openmetrics};
    char *text;
    apr_size_t length;

    psp_metrics_family(&m, &counter);
    psp_metrics_int(&m, "k", "\"\\\n\\\\x", 1);
    psp_metrics_int(&m, "k", "", APR_INT64_MAX);
    psp_metrics_family(&m, &gauge);
    psp_metrics_text(&m, NULL, NULL, "0.5");
    psp_metrics_family(&m, &info);
    psp_metrics_text(&m, "version", "1", "1");
    psp_metrics_end(&m);
    if (apr_brigade_pflatten(m.to, &text, &length, p) != APR_SUCCESS) {
        return NULL;
    }
    return apr_pstrmemdup(p, text, length);
}

int main(void)
{
    apr_pool_t *p = tap_begin();
    apr_bucket_alloc_t *buckets = apr_bucket_alloc_create(p);

    is_str(write_all(p, buckets, 1),
           "# TYPE a_b counter\n# HELP a_b Some.\n"
           "a_b_total{k=\"\\\"\\\\\\n\\\\\\\\x\"} 1\na_b_total{k=\"\"} 9223372036854775807\n"
           "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\n# HELP a_seconds Others.\n"
           "a_seconds 0.5\n"
           "# TYPE a_build info\n# HELP a_build About.\na_build_info{version=\"1\"} 1\n# EOF\n",
           "OpenMetrics");
    is_str(write_all(p, buckets, 0),
           "# TYPE a_b_total counter\n# HELP a_b_total Some.\n"
           "a_b_total{k=\"\\\"\\\\\\n\\\\\\\\x\"} 1\na_b_total{k=\"\"} 9223372036854775807\n"
           "# TYPE a_seconds gauge\n# HELP a_seconds Others.\na_seconds 0.5\n"
           "# TYPE a_build_info gauge\n# HELP a_build_info About.\na_build_info{version=\"1\"} 1\n",
           "the older format");
    return done(p);
}
