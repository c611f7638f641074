/* SPDX-License-Identifier: Apache-2.0 */
/* dbd.c: connections that handlers inside httpd get from mod_dbd hold the identity while they have
 * them. */
#include "record/private.h"

#include <string.h>

#include <apr_dbd.h>
#include <apr_optional.h>
#include <apr_strings.h>
#include <http_config.h>
#include <http_log.h>
#include <mod_dbd.h>

#include "config/config.h"
#include "db/db.h"

APLOG_USE_MODULE(pubsubpull);

#define TIMEOUT apr_time_from_sec(5)

/* Before all other handlers, which are run by ours. */
#define BEFORE_ALL (APR_HOOK_REALLY_FIRST - 10)

/* More at a time in one handler are told all the same, and forget when they are taken next. */
#define BORROWED_MAX 8

/* What the connection's session was told; lives as long as the connection, in its pool. */
typedef struct told_t {
    char id[PSP_UUID_LENGTH + 1];
} told_t;

static const char told_key[] = "pubsubpull_told";

/* A handler that runs. mod_lua asks mod_dbd without saying for which request, so that it is the
 * thread which knows. */
typedef struct frame_t {
    request_rec *r;
    const psp_identity_t *identity; /* NULL: the request has none where it is served */
    ap_dbd_t *borrowed[BORROWED_MAX];
    int n;
    struct frame_t *outer; /* of the request that this one is part of */
} frame_t;

static _Thread_local frame_t *running;

/* mod_dbd's own functions; NULL: it is not there. */
static APR_OPTIONAL_FN_TYPE(ap_dbd_open) * real_open;
static APR_OPTIONAL_FN_TYPE(ap_dbd_close) * real_close;
static APR_OPTIONAL_FN_TYPE(ap_dbd_acquire) * real_acquire;

static told_t *told(const ap_dbd_t *rec)
{
    void *found = NULL;

    if (apr_pool_userdata_get(&found, told_key, rec->pool) != APR_SUCCESS || !found) {
        found = apr_pcalloc(rec->pool, sizeof(told_t));
        apr_pool_userdata_setn(found, told_key, NULL, rec->pool);
    }
    return found;
}

static void *native(const ap_dbd_t *rec)
{
    return strcmp(apr_dbd_name(rec->driver), "pgsql")
               ? NULL
               : apr_dbd_native_handle((apr_dbd_driver_t *)rec->driver, rec->handle);
}

/* A connection that cannot be told fails for the handler, too: nothing is written under a wrong
 * name. */
static void tell(const ap_dbd_t *rec, const psp_identity_t *identity, const server_rec *s)
{
    void *connection = native(rec);
    const char *id = identity ? identity->id : "";
    told_t *known;

    if (!connection || !strcmp((known = told(rec))->id, id)) {
        return;
    }
    if (!psp_db_tell(connection, identity ? identity->envelope : "", TIMEOUT)) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s,
                     "PSP0110: a connection of mod_dbd could not be told its request, and is "
                     "closed");
        id = ""; /* the next one in its place knows nothing */
    }
    apr_cpystrn(known->id, id, sizeof(known->id));
}

static ap_dbd_t *borrow(ap_dbd_t *rec, const server_rec *s)
{
    if (!rec) {
        return NULL;
    }
    tell(rec, running ? running->identity : NULL, s);
    if (running && running->identity && running->n < BORROWED_MAX) {
        running->borrowed[running->n++] = rec;
    }
    return rec;
}

static ap_dbd_t *open_connection(apr_pool_t *p, server_rec *s)
{
    return borrow(real_open(p, s), s);
}

static ap_dbd_t *acquire_connection(request_rec *r)
{
    return borrow(real_acquire(r), r->server);
}

static void close_connection(server_rec *s, ap_dbd_t *rec)
{
    frame_t *frame;
    int i;

    for (frame = running; frame; frame = frame->outer) {
        for (i = 0; i < frame->n; i++) {
            if (frame->borrowed[i] == rec) {
                frame->borrowed[i] = frame->borrowed[--frame->n];
                i--;
            }
        }
    }
    tell(rec, NULL, s);
    real_close(s, rec);
}

/* What the handler keeps, for the request's end or for good, does not keep the identity. A
 * transaction may still be open that is ended with the request; then it forgets when it is taken
 * next. */
static void forget(const frame_t *frame)
{
    int i;

    for (i = 0; i < frame->n; i++) {
        if (native(frame->borrowed[i]) && !psp_db_in_transaction(native(frame->borrowed[i]))) {
            tell(frame->borrowed[i], NULL, frame->r->server);
        }
    }
}

static int handler(request_rec *r)
{
    const psp_identity_t *identity;
    frame_t frame = {.r = r, .outer = running};
    int status;

    if (!real_open || (running && running->r == r)) {
        return DECLINED; /* no mod_dbd, or the run from below */
    }
    identity = psp_identity_find(r);
    frame.identity = identity && identity->carried && psp_identity_wanted(r) ? identity : NULL;
    if (!frame.identity && !running) {
        return DECLINED;
    }
    running = &frame;
    status = ap_run_handler(r);
    forget(&frame);
    running = frame.outer;
    return status;
}

/* All modules have registered what they offer, and none has asked yet. */
static void take_places(void)
{
    real_open = APR_RETRIEVE_OPTIONAL_FN(ap_dbd_open);
    real_close = APR_RETRIEVE_OPTIONAL_FN(ap_dbd_close);
    real_acquire = APR_RETRIEVE_OPTIONAL_FN(ap_dbd_acquire);
    if (real_open && real_close && real_acquire) {
        apr_dynamic_fn_register("ap_dbd_open", (apr_opt_fn_t *)open_connection);
        apr_dynamic_fn_register("ap_dbd_close", (apr_opt_fn_t *)close_connection);
        apr_dynamic_fn_register("ap_dbd_acquire", (apr_opt_fn_t *)acquire_connection);
    }
    else {
        real_open = NULL;
    }
}

void psp_dbd_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_optional_fn_retrieve(take_places, NULL, NULL, BEFORE_ALL);
    ap_hook_handler(handler, NULL, NULL, BEFORE_ALL);
}
