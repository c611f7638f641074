/* SPDX-License-Identifier: Apache-2.0 */
/* changes.c: the log: of all tables, of one table, of one row. */
#include "pull/private.h"

#include <apr_strings.h>
#include <http_protocol.h>

#include <apr_lib.h>

#define WAIT_MAX 60 /* seconds; longer than that, something between client and server gives up */

static const char events[] = "text/event-stream";

/* Seconds, as the client asks for them: wait=… in the query, or in the header Prefer (RFC 7240). */
static const char *wanted_wait(psp_call_t *c, int *preferred)
{
    const char *wait = psp_web_query(c, "wait");
    const char *prefer = apr_table_get(c->r->headers_in, "Prefer");
    const char *item;

    *preferred = 0;
    while (!wait && prefer && (item = ap_get_list_item(c->r->pool, &prefer))) {
        if (!ap_cstr_casecmpn(item, "wait=", 5) && apr_isdigit(item[5])) {
            *preferred = 1;
            return apr_pstrmemdup(c->r->pool, item + 5, strspn(item + 5, "0123456789"));
        }
    }
    return wait;
}

static int parse_wait(psp_call_t *c, apr_interval_time_t *wait, int *answer)
{
    int preferred;
    const char *text = wanted_wait(c, &preferred);
    apr_int64_t seconds = text ? apr_atoi64(text) : 0;

    if (text && (!*text || text[strspn(text, "0123456789")])) {
        *answer = psp_web_problem(c->r, HTTP_BAD_REQUEST, "bad-wait",
                                  "wait is the number of seconds to wait for changes.", 0);
        return 0;
    }
    if (seconds > WAIT_MAX || seconds < 0) {
        seconds = WAIT_MAX;
    }
    *wait = apr_time_from_sec(seconds);
    if (preferred) {
        apr_table_setn(c->r->headers_out, "Preference-Applied",
                       apr_psprintf(c->r->pool, "wait=%d", (int)seconds));
    }
    return 1;
}

typedef struct page_t {
    psp_call_t *c;
    psp_walk_t *f;
    const psp_rows_t *first; /* found before the wait */
} page_t;

/* A page without changes is the one that was found before the wait: its validator is that of the
 * URL, and its link is as good as a newer one. */
static int page_turn(void *baton, psp_wake_t why, apr_time_t *deadline)
{
    page_t *page = baton;
    psp_result_t result = {.rv = APR_SUCCESS};

    (void)deadline;
    if (why == PSP_WAKE_NEWS) {
        result = psp_walk_seek(page->f);
        if (result.rv == APR_SUCCESS && !psp_walk_found(page->f)) {
            return 1;
        }
    }
    if (result.rv != APR_SUCCESS) {
        (void)psp_pull_fail(page->c, &result);
    }
    else {
        (void)psp_web_send(page->c, why == PSP_WAKE_NEWS ? psp_walk_rows(page->f) : page->first);
    }
    return 0;
}

static int send_page(psp_call_t *c, psp_walk_t *f, apr_interval_time_t wait)
{
    apr_time_t deadline = apr_time_now() + wait;
    psp_result_t result = psp_walk_poll(f);
    page_t *page;

    if (result.rv != APR_SUCCESS) {
        return psp_pull_fail(c, &result);
    }
    if (!wait || psp_walk_found(f) || psp_walk_more(f)) {
        return psp_web_send(c, psp_walk_rows(f));
    }
    page = apr_palloc(c->r->pool, sizeof(*page));
    *page = (page_t){.c = c, .f = f, .first = psp_walk_rows(f)};
    result = psp_walk_join(f);
    return result.rv == APR_SUCCESS ? psp_walk_stay(f, deadline, page_turn, page)
                                    : psp_pull_fail(c, &result);
}

static int get_changes(psp_call_t *c)
{
    const char *names = NULL;
    apr_interval_time_t wait;
    psp_result_t result;
    int answer;

    c->reads = 1;
    if (!parse_wait(c, &wait, &answer)) {
        return answer;
    }
    if (c->nsegments <= 2) {
        result = psp_web_readable(c, &names);
        if (result.rv != APR_SUCCESS) {
            return psp_web_fail(c->r, &result);
        }
    }
    if (!strcmp(c->type, events)) {
        const char *last = apr_table_get(c->r->headers_in, "Last-Event-ID");

        return psp_pull_events(c, psp_walk_make(c, names,
                                                last && *last ? last : psp_web_query(c, "since"),
                                                NULL, "events", 1));
    }
    if (strcmp(c->type, "application/json") != 0) {
        return psp_pull_lines(c,
                              psp_walk_make(c, names, psp_web_query(c, "since"),
                                            psp_web_query(c, "wait"), "lines", wait > 0),
                              wait);
    }
    return send_page(c,
                     psp_walk_make(c, names, psp_web_query(c, "since"), psp_web_query(c, "wait"),
                                   "page", wait > 0),
                     wait);
}

static const char *const changes_query[] = {"since", "limit", "on", "request", "wait", NULL};
static const char *const changes_types[] = {"application/x-ndjson", "application/jsonl", events,
                                            NULL};

const psp_route_t psp_pull_change_routes[] = {
    {.pattern = "changes/", .get = get_changes, .query = changes_query, .types = changes_types},
    {.pattern = "tables/*/changes/",
     .get = get_changes,
     .query = changes_query,
     .types = changes_types},
    {.pattern = "tables/*/rows/*/changes/",
     .get = get_changes,
     .query = changes_query,
     .types = changes_types},
    {.pattern = NULL},
};

void psp_pull_register_hooks(apr_pool_t *p)
{
    psp_seats_register_hooks(p);
    psp_share_register_hooks(p);
    psp_watch_register_hooks(p);
    psp_away_register_hooks(p);
}
