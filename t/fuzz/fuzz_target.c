/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_target.c: whatever a row's key holds, a notification goes to the host of the callback, or nowhere. */
#include "notify/private.h"

#include "fuzz.h"

static char *key_names[4];

static size_t authority_end(const char *url)
{
    const char *host = strstr(url, "://");

    return host ? (size_t)(host - url) + 3 + strcspn(host + 3, "/?#") : 0;
}

static void try_input(apr_pool_t *p, const uint8_t *data, size_t size)
{
    psp_sub_t sub = {.table = "public.t", .keys = (const char *const *)key_names};
    const char *key, *url, *other, *error = NULL;
    size_t end;

    sub.callback = fuzz_line(p, &data, &size);
    key = fuzz_line(p, &data, &size);
    for (sub.nkeys = 0; sub.nkeys < 4; sub.nkeys++) {
        if (!(key_names[sub.nkeys] = fuzz_line(p, &data, &size))) {
            break;
        }
    }
    if (!sub.callback) {
        return;
    }
    sub.plain = !strchr(sub.callback, '{');
    url = psp_target(p, &sub, key, &error);
    PROMISE(!url == !!error);
    if (!url) {
        return;
    }
    PROMISE(fuzz_printable(url) && !strchr(url, ' ') && !strchr(url, '\\'));
    PROMISE(strncasecmp(url, "http://", 7) == 0 || strncasecmp(url, "https://", 8) == 0);
    end = authority_end(url);
    PROMISE(end > 7 && !memchr(url, '@', end));
    other = psp_target(p, &sub, "1,2,3,4", &error);
    PROMISE(!other || (authority_end(other) == end && strncmp(url, other, end) == 0));
}
