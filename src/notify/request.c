/* SPDX-License-Identifier: Apache-2.0 */
/* request.c: what is sent for an event: method, header lines and body, as plain text. */
#include "notify/wire.h"

#include <string.h>

#include <apr_strings.h>

static char json_type[] = "Content-Type: application/json";
/* As libraries know it: some compare the whole value, and JSON is UTF-8 anyway. */
static char cloudevents_type[] = "Content-Type: application/cloudevents+json";
static char cloudevents_batch_type[] = "Content-Type: application/cloudevents-batch+json";

static char *type_line(const psp_event_t *e)
{
    if (!e->sub->cloudevents) {
        return json_type;
    }
    return e->joined ? cloudevents_batch_type : cloudevents_type;
}

/* Spreads a number's bits, so that a sum of such stands for a set (the finalizer of MurmurHash3). */
static apr_uint64_t mix(apr_uint64_t x)
{
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

/* The same on every try. A batch has the same id when it holds the same events. */
static char *id_line(psp_request_t *r, const psp_event_t *first)
{
    const psp_event_t *e;
    apr_uint64_t hash = 0;

    if (!first->joined) {
        apr_snprintf(r->id, sizeof r->id, "webhook-id: psp_%d_%" APR_INT64_T_FMT, first->sub->id,
                     first->id);
        return r->id;
    }
    for (e = first; e; e = e->batch_next) {
        hash += mix((apr_uint64_t)e->id);
    }
    apr_snprintf(r->id, sizeof r->id, "webhook-id: psp_%d_b%" APR_UINT64_T_HEX_FMT, first->sub->id,
                 hash);
    return r->id;
}

/* The name is the administrators' own, but it must not end the header. */
static char *name_line(psp_sub_t *sub)
{
    char *at;

    if (!sub->header) {
        sub->header = apr_pstrcat(sub->p, "PubSubPull-Subscription: ", sub->name, NULL);
        for (at = sub->header; *at; at++) {
            if ((unsigned char)*at < ' ' || *at == 0x7f) {
                *at = '_';
            }
        }
    }
    return sub->header;
}

/* Whose request caused it; of a batch that which is deepest in a chain of such, so that no chain gets longer unseen. */
static const psp_event_t *cause(const psp_event_t *first)
{
    const psp_event_t *e, *deepest = NULL;

    for (e = first; e; e = e->batch_next) {
        if (*e->request && (!deepest || e->hops >= deepest->hops)) {
            deepest = e;
        }
    }
    return deepest;
}

/* The trace of the request goes on in what it causes (W3C Trace Context). */
static char *trace_line(psp_child_t *c, psp_request_t *r, const psp_event_t *e)
{
    char trace[PSP_TRACE_LENGTH + 1];

    psp_record_trace(trace, e->request);
    apr_snprintf(r->trace, sizeof r->trace, "traceparent: 00-%s-%08x%08x-01", trace,
                 psp_child_random(c), psp_child_random(c) | 1);
    return r->trace;
}

/* Sent back with a request it says what that was caused by. */
static char *cause_line(psp_request_t *r, const psp_event_t *e)
{
    apr_size_t name = apr_snprintf(r->cause, sizeof r->cause, "PubSubPull-Cause: ");

    psp_record_cause(r->cause + name, e->request);
    return r->cause;
}

static char *signature_line(psp_request_t *r, const psp_event_t *e)
{
    apr_size_t name = apr_snprintf(r->signature, sizeof r->signature, "webhook-signature: ");

    psp_sign(r->signature + name, sizeof r->signature - name, e->sub->secrets,
             strchr(r->id, ' ') + 1, strchr(r->time, ' ') + 1, r->body, r->length);
    return r->signature;
}

/* The subscription's own, ended by NULL, in its pool. */
static char **own_lines(psp_sub_t *sub)
{
    apr_array_header_t *lines;
    char *line, *state = NULL;

    if (!sub->own) {
        lines = apr_array_make(sub->p, 4, sizeof(char *));
        for (line = apr_strtok(apr_pstrdup(sub->p, sub->headers), "\n", &state); line;
             line = apr_strtok(NULL, "\n", &state)) {
            APR_ARRAY_PUSH(lines, char *) = line;
        }
        APR_ARRAY_PUSH(lines, char *) = NULL;
        sub->own = (char **)lines->elts;
    }
    return sub->own;
}

void psp_request_compose(psp_child_t *c, psp_request_t *r, psp_event_t *e)
{
    const psp_event_t *by = cause(e);
    char **own;
    int n = 0;

    r->method = e->deletes ? "DELETE" : "PUT";
    r->body = e->joined ? e->joined : e->body;
    r->length = e->deletes ? 0 : e->joined ? e->joined_length : e->length;
    apr_snprintf(r->time, sizeof r->time, "webhook-timestamp: %" APR_INT64_T_FMT,
                 (apr_int64_t)apr_time_sec(apr_time_now()));
    r->lines[n++] = type_line(e);
    r->lines[n++] = id_line(r, e);
    r->lines[n++] = r->time;
    r->lines[n++] = name_line(e->sub);
    if (by) {
        r->lines[n++] = trace_line(c, r, by);
        r->lines[n++] = cause_line(r, by);
    }
    if (*e->sub->secrets) {
        r->lines[n++] = signature_line(r, e);
    }
    for (own = own_lines(e->sub); *own && n < PSP_REQUEST_LINES; own++) {
        r->lines[n++] = *own;
    }
    r->count = n;
}
