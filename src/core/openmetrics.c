/* SPDX-License-Identifier: Apache-2.0 */
/* openmetrics.c: metrics as text. The two formats differ in what a family of counters is called, and in what they have no
 * word for. */
#include "core/openmetrics.h"

#include <string.h>

#include <apr_strings.h>

const char *psp_metrics_type(const psp_metrics_t *m)
{
    return m->openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                          : "text/plain; version=0.0.4; charset=utf-8";
}

static void put(psp_metrics_t *m, const char *text)
{
    (void)apr_brigade_puts(m->to, NULL, NULL,
                           text); /* fails only where memory ends, which ends us */
}

static const char *suffix(const psp_metrics_t *m)
{
    return m->family.type == PSP_METRIC_COUNTER ? "_total"
           : m->family.type == PSP_METRIC_INFO  ? "_info"
                                                : "";
}

static const char *type_name(const psp_metrics_t *m)
{
    return m->family.type == PSP_METRIC_COUNTER                  ? "counter"
           : m->family.type == PSP_METRIC_INFO && m->openmetrics ? "info"
                                                                 : "gauge";
}

static void about(psp_metrics_t *m, const char *what, const char *text)
{
    put(m, "# ");
    put(m, what);
    put(m, " ");
    put(m, m->family.name);
    if (!m->openmetrics) {
        put(m, suffix(m));
    }
    put(m, " ");
    put(m, text);
    put(m, "\n");
}

void psp_metrics_family(psp_metrics_t *m, const psp_family_t *family)
{
    m->family = *family;
    about(m, "TYPE", type_name(m));
    if (family->unit && m->openmetrics) {
        about(m, "UNIT", family->unit);
    }
    about(m, "HELP", family->help);
}

static void put_escaped(psp_metrics_t *m, const char *value)
{
    while (*value) {
        apr_size_t plain = strcspn(value, "\"\\\n");

        (void)apr_brigade_write(m->to, NULL, NULL, value, plain);
        value += plain;
        if (*value) {
            put(m, *value == '"' ? "\\\"" : *value == '\n' ? "\\n" : "\\\\");
            value++;
        }
    }
}

void psp_metrics_text(psp_metrics_t *m, const char *label, const char *value, const char *number)
{
    put(m, m->family.name);
    put(m, suffix(m));
    if (label && value) {
        put(m, "{");
        put(m, label);
        put(m, "=\"");
        put_escaped(m, value);
        put(m, "\"}");
    }
    put(m, " ");
    put(m, number);
    put(m, "\n");
}

void psp_metrics_int(psp_metrics_t *m, const char *label, const char *value, apr_int64_t number)
{
    char text[24];

    (void)apr_snprintf(text, sizeof text, "%" APR_INT64_T_FMT, number);
    psp_metrics_text(m, label, value, text);
}

void psp_metrics_end(psp_metrics_t *m)
{
    if (m->openmetrics) {
        put(m, "# EOF\n");
    }
}
