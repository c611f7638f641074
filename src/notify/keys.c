/* SPDX-License-Identifier: Apache-2.0 */
/* keys.c: tells the database which keys this server signs envelopes with (PubSubPullKey).
 *
 * Said when the database was found and every minute from then on, since what a server does not repeat is
 * forgotten. Without keys it is said, too: it takes back those of the child before. */
#include "notify/private.h"

#include <stdlib.h>
#include <string.h>

#include <apr_escape.h>
#include <apr_strings.h>
#include <http_log.h>

#include "record/record.h"

APLOG_USE_MODULE(pubsubpull);

#define INTERVAL apr_time_from_sec(60)
#define RETRY apr_time_from_sec(1)

struct psp_keys_t {
    const char *previous; /* id of the child before this one, or NULL */
    const char *list;     /* as an array of SQL */
    const char *ttl;
    int given;
    int calling;
    int warned;
    apr_uint32_t connects; /* of the session when they were said last */
    apr_int64_t say_at;
};

psp_keys_t *psp_keys_make(psp_child_t *c, const char *previous)
{
    psp_keys_t *k = apr_pcalloc(c->p, sizeof *k);
    const apr_array_header_t *keys = c->config->keys;
    const char *list = "";
    int i;

    k->given = keys ? keys->nelts : 0;
    for (i = 0; i < k->given; i++) {
        const char *key = APR_ARRAY_IDX(keys, i, const char *);

        list =
            apr_pstrcat(c->p, list, i ? "," : "", apr_pescape_hex(c->p, key, strlen(key), 0), NULL);
    }
    k->list = apr_pstrcat(c->p, "{", list, "}", NULL);
    k->ttl = apr_itoa(c->p, psp_config_key_ttl(c->config));
    k->previous = *previous ? previous : NULL;
    return k;
}

static void said(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_keys_t *k = c->keys;
    const char *known;

    k->calling = 0;
    if (result->rv != APR_SUCCESS) {
        k->say_at = c->now + RETRY;
        return;
    }
    psp_record_keys_known();
    known = psp_rows_count(rows) == 1 ? psp_rows_get(rows, 0, 0) : NULL;
    if (!k->given && known && atoi(known) > 0 && !k->warned) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, c->server,
                     "PSP0422: the database believes only what is signed with PubSubPullKey, and "
                     "this server has no key: changes through it are unattributed. Give it the "
                     "key, or SELECT pubsubpull.forget_keys()");
        k->warned = 1;
    }
}

void psp_keys_step(psp_child_t *c)
{
    psp_keys_t *k = c->keys;
    const char *params[] = {c->id, k->previous, k->list, k->ttl};

    if (k->calling || c->stopping || !psp_gate_open(c) || !psp_session_ready(c->records_db)) {
        return;
    }
    if (k->connects != psp_session_connects(c->records_db)) {
        k->connects = psp_session_connects(c->records_db);
        k->say_at = c->now;
    }
    if (c->now < k->say_at) {
        psp_child_want(c, k->say_at);
        return;
    }
    k->say_at = c->now + INTERVAL;
    k->calling = 1;
    psp_session_send(c->records_db, "SELECT pubsubpull.set_keys($1, $2, $3, $4)", 4, params,
                     PSP_RECORDS_TIMEOUT, said, c);
}
