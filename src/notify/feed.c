/* SPDX-License-Identifier: Apache-2.0 */
/* feed.c: reads changes for all subscriptions at once, and for none that has enough in memory.
 *
 * One read is under way at a time, for groups of them (groups.c); what it returns is queued before the next is
 * made. When all are at one place and nobody woke us, a probe comes before the read: mostly there is nothing, and
 * it costs little to find that out.
 */
#include "notify/groups.h"

#include <apr_strings.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define POLL apr_time_from_msec(48)    /* without being woken */
#define GAP_MIN apr_time_from_msec(1)  /* between reads when woken and there was something */
#define GAP_MAX apr_time_from_msec(10) /* when there was nothing */
#define MOST_FIRST 50                  /* changes of one group to ask for; adapts to what comes */
#define MOST_MIN 5
#define READ_EVENTS 4000             /* a read that brings more is too large */
#define READ_BYTES (8 * 1024 * 1024) /* of bodies, as well */
#define GROUP_EVENTS 50000           /* at worst: each change is for each member of a group */
#define RETRY apr_time_from_msec(200)
#define STALE apr_time_from_msec(5) /* until the leases are known anew */
#define SUSPECT_RETRY apr_time_from_sec(5)
#define COMMITS apr_time_from_sec(1) /* a change may be seen so long after its generation */
#define MANY 100                     /* events of one read */

/* Columns of notify_read. */
enum {
    GROUP,
    SUBSCRIPTION,
    CHANGE,
    KEY,
    BODY,
    POSITION,
    MORE,
    GENERATION,
    BARRIER,
    DELETES,
    REQUEST,
    HOPS,
    LAST_ID
};

/* Columns of notify_probe. */
enum { P_QUIET, P_GENERATION, P_LAST_ID };

static const psp_news_columns_t columns = {.id = CHANGE,
                                           .key = KEY,
                                           .barrier = BARRIER,
                                           .body = BODY,
                                           .deletes = DELETES,
                                           .request = REQUEST,
                                           .hops = HOPS,
                                           .batch = -1,
                                           .follows = -1};

struct psp_feed_t {
    psp_groups_t groups; /* of the read under way */
    int calling;
    int woken;
    int probing;
    int probed; /* there is something: read */
    apr_int64_t sent_at, due_at, not_before;
    apr_interval_time_t gap;
    int most;         /* changes to ask for */
    int events;       /* in the last read */
    apr_size_t bytes; /* of their bodies */
    char *generation;
    apr_int64_t moved_at; /* when the generation was seen to move */
};

psp_feed_t *psp_feed_make(psp_child_t *c)
{
    psp_feed_t *f = apr_pcalloc(c->p, sizeof *f);

    psp_groups_make(&f->groups, c->p);
    f->gap = GAP_MIN;
    f->most = MOST_FIRST;
    return f;
}

void psp_feed_wake(psp_child_t *c)
{
    c->feed->woken = 1;
}

void psp_feed_unhold(psp_child_t *c, psp_sub_t *sub)
{
    if (sub->more) {
        c->feed->due_at = c->now;
    }
}

int psp_feed_reading(const psp_child_t *c)
{
    return c->feed->calling;
}

/* --- What was read --- */

/* The subscription if it still wants this group's rows: it may have left since the read was made. */
static psp_sub_t *reader(const psp_child_t *c, int id, int group)
{
    psp_sub_t *sub = psp_leases_find(c, id);

    return sub && sub->reading == group + 1 && sub->state == PSP_SUB_ACTIVE ? sub : NULL;
}

static void take_event(psp_child_t *c, const psp_rows_t *rows, int row, int group)
{
    psp_feed_t *f = c->feed;
    psp_sub_t *sub = reader(c, atoi(psp_rows_get(rows, row, SUBSCRIPTION)), group);
    psp_news_t news = psp_news_read(rows, row, &columns);
    psp_page_t *page;

    f->events++;
    f->bytes += news.length;
    if (!sub) {
        return;
    }
    sub->came++;
    page = psp_place_page(sub);
    if (psp_place_skip(sub, page, news.id)) {
        return;
    }
    if (news.body) {
        psp_lane_push(c, sub, page, &news);
    }
    else {
        if (news.hops > psp_config_max_hops(c->config)) {
            psp_count_stopped(c, sub, news.request, news.hops);
        }
        psp_place_settled(sub, page, news.id);
        psp_saver_dirty(c, sub);
    }
}

static void arrive(psp_child_t *c, psp_sub_t *sub, psp_pos_t *pos, int more)
{
    int moved = pos != sub->pos;

    psp_place_move(sub, pos, more);
    sub->seen_at = more ? sub->seen_at : sub->from_at;
    sub->suspect = 0;
    sub->held =
        sub->queued >= sub->room || sub->bytes >= PSP_LANE_BYTES || sub->ndone >= PSP_LANE_DONE;
    if (moved && !sub->pages) {
        psp_saver_moved(c, sub);
    }
    if (more && psp_groups_wants(c, sub)) {
        c->feed->due_at = c->now;
    }
}

/* A group's last row. Groups that came to the end of the feed are at the same place now. */
static void take_position(psp_child_t *c, const psp_rows_t *rows, int row, int g, psp_pos_t **end)
{
    psp_feed_t *f = c->feed;
    psp_group_t *group = &f->groups.at[g];
    const char *text = psp_rows_get(rows, row, POSITION);
    const char *value = psp_rows_get(rows, row, MORE);
    int more = value && *value == 't';
    psp_pos_t *pos;
    int i;

    if (!value) { /* not read: one of them is not any more what we know */
        psp_renew_ask(c);
        f->not_before = c->now + STALE;
        f->woken = 1;
        return;
    }
    if (!text || strcmp(text, group->before->text) == 0) {
        pos = psp_pos_share(group->before);
    }
    else if (*end && strcmp((*end)->text, text) == 0) {
        pos = psp_pos_share(*end);
    }
    else {
        pos = psp_pos_make(text);
    }
    if (!more && !*end) {
        *end = psp_pos_share(pos);
    }
    for (i = 0; i < group->ids->nelts; i++) {
        psp_sub_t *sub = reader(c, APR_ARRAY_IDX(group->ids, i, int), g);

        if (sub) {
            arrive(c, sub, *end && strcmp((*end)->text, pos->text) == 0 ? *end : pos, more);
        }
    }
    psp_pos_drop(pos);
}

/* What a read or a probe says beside its rows. The generation moves when a subscription is being changed, and the
 * change can be seen some time later. */
static void take_signs(psp_child_t *c, const char *generation, const char *last_id)
{
    psp_feed_t *f = c->feed;

    if (last_id) {
        psp_share_made(c, apr_atoi64(last_id));
    }
    if (generation && (!f->generation || strcmp(f->generation, generation) != 0)) {
        f->generation = psp_child_alloc(f->generation, strlen(generation) + 1);
        memcpy(f->generation, generation, strlen(generation) + 1);
        f->moved_at = c->now;
    }
    if (f->moved_at && c->now < f->moved_at + COMMITS) {
        psp_renew_ask(c);
    }
}

static void take_rows(psp_child_t *c, const psp_rows_t *rows)
{
    psp_feed_t *f = c->feed;
    psp_pos_t *end = NULL;
    int row;

    for (row = 0; row < psp_rows_count(rows); row++) {
        const char *value = psp_rows_get(rows, row, GROUP);
        int g = value ? atoi(value) : -1;

        if (g >= 0 && g < f->groups.n && psp_rows_get(rows, row, SUBSCRIPTION)) {
            take_event(c, rows, row, g);
            continue;
        }
        if (g >= 0 && g < f->groups.n) {
            take_position(c, rows, row, g, &end);
        }
        take_signs(c, psp_rows_get(rows, row, GENERATION), psp_rows_get(rows, row, LAST_ID));
    }
    psp_pos_drop(end);
}

/* A read failed that will fail again: find out for whom, and let the others go on. */
static void suspect(psp_child_t *c, const psp_result_t *result)
{
    psp_feed_t *f = c->feed;
    int alone = f->groups.n == 1 && f->groups.at[0].ids->nelts == 1;
    int g, i;

    f->not_before = c->now + RETRY;
    for (g = 0; g < f->groups.n; g++) {
        for (i = 0; i < f->groups.at[g].ids->nelts; i++) {
            psp_sub_t *sub = psp_leases_find(c, APR_ARRAY_IDX(f->groups.at[g].ids, i, int));

            if (!sub) {
                continue;
            }
            sub->suspect = 1;
            sub->read_at = alone ? c->now + SUSPECT_RETRY : 0;
            if (alone) {
                ap_log_error(APLOG_MARK, APLOG_ERR, result->rv, c->server,
                             "PSP0431: cannot read changes for subscription %s: %s", sub->name,
                             psp_gate_cause(c));
            }
        }
    }
}

/* One change may be an event for nobody or for a thousand, and a body small or large. */
static void adapt(psp_feed_t *f)
{
    if (f->events > READ_EVENTS || f->bytes > READ_BYTES) {
        f->most = f->most / 2 < MOST_MIN ? MOST_MIN : f->most / 2;
    }
    else if (f->events < READ_EVENTS / 2 && f->bytes < READ_BYTES / 2) {
        f->most = f->most * 2 > PSP_PAGE_EVENTS ? PSP_PAGE_EVENTS : f->most * 2;
    }
}

/* How many had something in this read; a read that nobody would call large is not looked at. */
static int count_members(const psp_child_t *c)
{
    const psp_feed_t *f = c->feed;
    int members = 0, g, i;

    for (g = 0; g < f->groups.n && f->events >= MANY; g++) {
        for (i = 0; i < f->groups.at[g].ids->nelts; i++) {
            const psp_sub_t *sub = psp_leases_find(c, APR_ARRAY_IDX(f->groups.at[g].ids, i, int));

            members += sub && sub->reading == g + 1 && sub->came;
        }
    }
    return members;
}

/* The read is over. Those get much that made it large, not the one with a single event among another's hundreds. */
static void part(psp_child_t *c, int failed)
{
    psp_feed_t *f = c->feed;
    int members = failed ? 0 : count_members(c);
    int g, i;

    for (g = 0; g < f->groups.n; g++) {
        for (i = 0; i < f->groups.at[g].ids->nelts; i++) {
            psp_sub_t *sub = psp_leases_find(c, APR_ARRAY_IDX(f->groups.at[g].ids, i, int));

            if (!sub || sub->reading != g + 1) {
                continue;
            }
            if (!failed) {
                sub->much = members && 2 * sub->came * members >= f->events;
            }
            sub->came = sub->reading = 0;
        }
        psp_pos_drop(f->groups.at[g].before);
    }
    f->groups.n = 0;
}

static void read_done(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_feed_t *f = c->feed;

    psp_child_again(c);
    f->calling = 0;
    f->events = 0;
    f->bytes = 0;
    f->due_at = c->now + POLL;
    if (result->rv == APR_SUCCESS) {
        take_rows(c, rows);
        psp_count(PSP_COUNT_EVENTS_READ, f->events);
        adapt(f);
        f->gap = f->events ? GAP_MIN : 2 * f->gap < GAP_MAX ? 2 * f->gap : GAP_MAX;
    }
    else if (result->http == HTTP_SERVICE_UNAVAILABLE) {
        f->not_before = c->now + RETRY;
    }
    else {
        psp_gate_doubt(c);
        suspect(c, result);
    }
    part(c, result->rv != APR_SUCCESS);
    if (f->groups.left_out) {
        f->due_at = c->now;
    }
}

/* --- Reading --- */

static int page_size(const psp_child_t *c)
{
    const psp_feed_t *f = c->feed;
    int members = psp_groups_largest(&f->groups), most = f->most;

    most = most > GROUP_EVENTS / members ? GROUP_EVENTS / members : most;
    if (c->bytes > PSP_TOTAL_BYTES && most > MOST_FIRST) {
        most = MOST_FIRST;
    }
    return most < 1 ? 1 : most;
}

static void probe_done(void *baton, const psp_result_t *result, const psp_rows_t *rows)
{
    psp_child_t *c = baton;
    psp_feed_t *f = c->feed;
    const char *quiet;

    psp_child_again(c);
    f->probing = 0;
    f->due_at = c->now + POLL;
    if (result->rv != APR_SUCCESS || psp_rows_count(rows) != 1) {
        f->not_before = c->now + RETRY;
        if (result->http != HTTP_SERVICE_UNAVAILABLE) {
            psp_gate_doubt(c);
        }
        return;
    }
    quiet = psp_rows_get(rows, 0, P_QUIET);
    if (!quiet || *quiet != 't') {
        f->probed = 1;
        f->due_at = c->now;
    }
    take_signs(c, psp_rows_get(rows, 0, P_GENERATION), psp_rows_get(rows, 0, P_LAST_ID));
}

static void probe(psp_child_t *c, const char *position)
{
    c->feed->probing = 1;
    psp_session_send(c->db, "SELECT * FROM pubsubpull.notify_probe($1)", 1, &position,
                     PSP_DB_TIMEOUT, probe_done, c);
}

static void read_on(psp_child_t *c)
{
    psp_feed_t *f = c->feed;
    const char *params[4];
    char max[16], hops[16];

    psp_groups_form(c, &f->groups);
    f->woken = 0;
    f->probed = 0;
    f->sent_at = c->now;
    if (!f->groups.n) {
        f->gap = GAP_MAX;
        probe(c, NULL);
        return;
    }
    f->calling = 1;
    apr_snprintf(max, sizeof max, "%d", page_size(c));
    apr_snprintf(hops, sizeof hops, "%d", psp_config_max_hops(c->config));
    params[0] = c->id;
    params[1] = psp_groups_write(&f->groups);
    params[2] = max;
    params[3] = hops;
    psp_session_send(c->db, "SELECT * FROM pubsubpull.notify_read($1, $2, $3, $4)", 4, params,
                     PSP_DB_TIMEOUT, read_done, c);
}

void psp_feed_step(psp_child_t *c)
{
    psp_feed_t *f = c->feed;
    const char *position;
    apr_interval_time_t gap;
    apr_int64_t when;

    if (f->calling || f->probing || c->stopping || !psp_gate_open(c) || !psp_renew_valid(c) ||
        psp_saver_owes(c)) {
        return;
    }
    gap = psp_share_holds(c) ? POLL : f->gap;
    when = f->woken && f->sent_at + gap < f->due_at ? f->sent_at + gap : f->due_at;
    when = when < f->not_before ? f->not_before : when;
    if (c->now < when) {
        psp_child_want(c, when);
        return;
    }
    if (!f->woken && !f->probed && psp_groups_place(c, &position)) {
        probe(c, position);
        return;
    }
    read_on(c);
}
