/* SPDX-License-Identifier: Apache-2.0 */
/* place.c: how far a subscription is: positions, pages, and what is done beyond the position. */
#include "notify/private.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>

#include "core/json.h"

psp_pos_t *psp_pos_make(const char *text)
{
    apr_size_t size = strlen(text) + 1;
    psp_pos_t *pos = psp_child_alloc(NULL, sizeof *pos + size);

    memset(pos, 0, sizeof *pos);
    pos->refs = 1;
    memcpy(pos->text, text, size);
    return pos;
}

psp_pos_t *psp_pos_share(psp_pos_t *pos)
{
    pos->refs++;
    return pos;
}

void psp_pos_drop(psp_pos_t *pos)
{
    if (pos && --pos->refs == 0) {
        free(pos);
    }
}

static int compare_ids(const void *a, const void *b)
{
    apr_int64_t x = *(const apr_int64_t *)a, y = *(const apr_int64_t *)b;

    return (x > y) - (x < y);
}

void psp_place_begin(psp_sub_t *sub, psp_pos_t *pos, const char *done)
{
    const char *at;
    int n = 0;

    sub->pos = psp_pos_share(pos);
    if (!done || !*done) {
        return;
    }
    for (n = 1, at = done; *at; at++) {
        n += *at == ',';
    }
    sub->skip = psp_child_alloc(NULL, (apr_size_t)n * sizeof *sub->skip);
    sub->skipped = psp_child_alloc(NULL, (apr_size_t)n);
    memset(sub->skipped, 0, (apr_size_t)n);
    for (at = done; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        sub->skip[sub->nskip++] = apr_atoi64(at);
    }
    qsort(sub->skip, (size_t)sub->nskip, sizeof *sub->skip, compare_ids);
    sub->skip_left = sub->nskip;
}

static void drop_skip(psp_sub_t *sub)
{
    free(sub->skip);
    free(sub->skipped);
    sub->skip = NULL;
    sub->skipped = NULL;
    sub->nskip = sub->skip_left = 0;
}

psp_page_t *psp_place_page(psp_sub_t *sub)
{
    psp_page_t *page = sub->last_page;

    if (page && page->before == sub->pos) {
        return page;
    }
    page = psp_child_alloc(NULL, sizeof *page);
    memset(page, 0, sizeof *page);
    page->before = psp_pos_share(sub->pos);
    if (sub->last_page) {
        sub->last_page->next = page;
    }
    else {
        sub->pages = page;
    }
    sub->last_page = page;
    return page;
}

static void remember(psp_sub_t *sub, psp_page_t *page, apr_int64_t id)
{
    if (page->ndone == page->room) {
        page->room = page->room ? 2 * page->room : 16;
        page->done = psp_child_alloc(page->done, (apr_size_t)page->room * sizeof *page->done);
    }
    page->done[page->ndone++] = id;
    sub->ndone++;
}

int psp_place_skip(psp_sub_t *sub, psp_page_t *page, apr_int64_t id)
{
    const apr_int64_t *found;

    if (!sub->skip_left) {
        return 0;
    }
    found = bsearch(&id, sub->skip, (size_t)sub->nskip, sizeof *sub->skip, compare_ids);
    if (!found || sub->skipped[found - sub->skip]) {
        return 0;
    }
    sub->skipped[found - sub->skip] = 1;
    remember(sub, page, id);
    if (--sub->skip_left == 0) {
        drop_skip(sub);
    }
    return 1;
}

/* Who reads this again later must not take it for new, for it may have been sent and taken out of the database by then. */
void psp_place_settled(psp_sub_t *sub, psp_page_t *page, apr_int64_t id)
{
    remember(sub, page, id);
}

void psp_place_done(psp_sub_t *sub, psp_page_t *page, apr_int64_t id)
{
    remember(sub, page, id);
    page->unfinished--;
    psp_place_settle(sub);
}

void psp_place_settle(psp_sub_t *sub)
{
    psp_page_t *page;

    while ((page = sub->pages) != NULL && page->unfinished == 0 && page->before != sub->pos) {
        sub->pages = page->next;
        if (!sub->pages) {
            sub->last_page = NULL;
        }
        sub->ndone -= page->ndone;
        psp_pos_drop(page->before);
        free(page->done);
        free(page);
    }
}

void psp_place_move(psp_sub_t *sub, psp_pos_t *pos, int more)
{
    int moved = pos != sub->pos; /* else it may be a table that is locked, and no end */

    if (pos != sub->pos) {
        psp_pos_drop(sub->pos);
        sub->pos = psp_pos_share(pos);
    }
    sub->more = more;
    /* The first end may be that of a batch begun by the holder before us, who read on; the second is that of
     * one begun now: all that he read was read again, or needs no skipping. */
    if (moved && !more && sub->skip && ++sub->ends == 2) {
        drop_skip(sub);
    }
    psp_place_settle(sub);
}

void psp_place_end(psp_sub_t *sub)
{
    while (sub->pages) {
        psp_page_t *page = sub->pages;

        sub->pages = page->next;
        psp_pos_drop(page->before);
        free(page->done);
        free(page);
    }
    sub->last_page = NULL;
    sub->ndone = 0;
    drop_skip(sub);
    psp_pos_drop(sub->pos);
    sub->pos = NULL;
}

static void write_id(psp_json_t *j, int *first, apr_int64_t id)
{
    if (!*first) {
        psp_json_raw(j, ",");
    }
    *first = 0;
    psp_json_int(j, id);
}

void psp_place_write(const psp_sub_t *sub, psp_json_t *j)
{
    const psp_page_t *page;
    int first = 1, i;

    psp_json_raw(j, "{");
    psp_json_name(j, "subscription");
    psp_json_int(j, sub->id);
    psp_json_name(j, "epoch");
    psp_json_int(j, sub->epoch);
    psp_json_name(j, "position");
    psp_json_string(j, sub->pages ? sub->pages->before->text : sub->pos->text);
    psp_json_name(j, "done");
    psp_json_raw(j, "[");
    for (page = sub->pages; page; page = page->next) {
        for (i = 0; i < page->ndone; i++) {
            write_id(j, &first, page->done[i]);
        }
    }
    for (i = 0; i < sub->nskip; i++) {
        if (!sub->skipped[i]) {
            write_id(j, &first, sub->skip[i]);
        }
    }
    psp_json_raw(j, "]}");
}
