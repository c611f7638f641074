/* SPDX-License-Identifier: Apache-2.0 */
/* complete.c: when a request has ended its record goes into the queue: never waiting, never the
 * database. */
#include "record/private.h"

#include <apr_atomic.h>
#include <http_config.h>
#include <http_log.h>
#include <http_protocol.h>

#include "config/config.h"
#include "core/envelope.h"

APLOG_USE_MODULE(pubsubpull);

/* One warning a minute and process says as much as one for each. */
#define WARN_INTERVAL 60

static void warn_full(const request_rec *r, apr_status_t rv)
{
    static volatile apr_uint32_t warned;
    apr_uint32_t now = (apr_uint32_t)apr_time_sec(apr_time_now());
    apr_uint32_t last = apr_atomic_read32(&warned);

    if (now - last < WARN_INTERVAL || apr_atomic_cas32(&warned, now, last) != last) {
        return;
    }
    ap_log_error(APLOG_MARK, APLOG_WARNING, rv, r->server,
                 "PSP0102: the queue for finished requests is full, %" APR_UINT64_T_FMT
                 " were lost so far; is the database away?",
                 psp_ring_dropped(psp_record_ring()));
}

static void put(const request_rec *root, const psp_identity_t *identity)
{
    const request_rec *r = root;
    char record[sizeof(psp_record_header_t) + PSP_ENVELOPE_MAX];
    psp_record_header_t header = {.mode = identity->mode};
    apr_size_t length = strlen(identity->envelope);
    apr_status_t rv;

    header.bytes = r->bytes_sent;
    while (r->next) {
        r = r->next;
        header.bytes += r->bytes_sent;
    }
    header.status = r->status; /* of the last one, as the access log has it */
    if (root->request_time) {
        header.duration = apr_time_now() - root->request_time;
    }
    memcpy(record, &header, sizeof(header));
    memcpy(record + sizeof(header), identity->envelope, length);
    if ((rv = psp_ring_put(psp_record_ring(), record, sizeof(header) + length)) != APR_SUCCESS) {
        warn_full(root, rv);
    }
}

/* Waking the child for each GET would cost every one of them two switches of context; it looks
 * often enough. */
static int may_have_written(const request_rec *r)
{
    switch (r->method_number) {
    case M_GET: /* and HEAD */
    case M_OPTIONS:
    case M_TRACE:
    case M_PROPFIND:
        return 0;
    default:
        return 1;
    }
}

/* A request that asked for HTTP/2 is served, and ends here once more, as the first stream of it. */
static int went_on(const request_rec *r)
{
    return r->status == HTTP_SWITCHING_PROTOCOLS && !r->connection->master &&
           !strcmp(ap_get_protocol(r->connection), "h2c");
}

/*
 * Runs when the last byte was handed to the network and httpd is about to forget the request, also
 * for requests that failed while they were read. Those that no service saw (400, 401, 403 ...) are
 * recorded where all are wanted.
 */
static int log_transaction(request_rec *r)
{
    psp_identity_t *identity;

    if (!psp_record_ring() || went_on(r)) {
        return DECLINED;
    }
    identity = psp_identity_find(r);
    if (!identity && psp_identity_wanted(r) && r->the_request && *r->the_request &&
        psp_config_record(psp_config_dir(r)) == PSP_RECORD_ALL) {
        identity = psp_identity_make(r);
    }
    if (!identity || (!identity->carried && identity->mode != PSP_RECORD_ALL)) {
        return DECLINED;
    }
    put(r, identity);
    if (identity->carried && may_have_written(r)) {
        psp_record_wake();
    }
    return DECLINED;
}

void psp_complete_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_log_transaction(log_transaction, NULL, NULL, APR_HOOK_MIDDLE);
}

void psp_record_register_hooks(apr_pool_t *p)
{
    psp_seal_register_hooks(p);
    psp_queue_register_hooks(p);
    psp_carry_register_hooks(p);
    psp_require_register_hooks(p);
    psp_respond_register_hooks(p);
    psp_dbd_register_hooks(p);
    psp_complete_register_hooks(p);
}
