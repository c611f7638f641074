/* SPDX-License-Identifier: Apache-2.0 */
/* test_uuid.c: form, time and uniqueness of request ids, across fork() too. */
#include "core/uuid.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

#define MANY 100000

typedef char uuid_text_t[PSP_UUID_LENGTH + 1];

static int compare(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int unique(uuid_text_t *ids, int count)
{
    int i;

    qsort(ids, (size_t)count, sizeof *ids, compare);
    for (i = 1; i < count; i++) {
        if (strcmp(ids[i - 1], ids[i]) == 0) {
            return 0;
        }
    }
    return 1;
}

static void form_and_uniqueness(apr_pool_t *pool)
{
    uuid_text_t *ids = apr_palloc(pool, MANY * sizeof *ids);
    int set[PSP_UUID_LENGTH][16] = {{0}};
    int good = 1;
    int poor = 0;
    int i;
    int k;

    for (i = 0; i < MANY; i++) {
        good = good && psp_uuid7(ids[i], 1000000) == APR_SUCCESS && psp_uuid_valid(ids[i]);
        good = good && ids[i][14] == '7' && strchr("89ab", ids[i][19]) != NULL;
        for (k = 15; k < PSP_UUID_LENGTH; k++) {
            char digit[2] = {ids[i][k], '\0'};

            set[k]
               [strtol(digit, NULL, 16) & 15]++; /* the one dash counts as 0 and is not looked at */
        }
    }
    ok(good, "all are valid, of version 7 and the RFC's variant");
    for (k = 15; k < PSP_UUID_LENGTH; k++) {
        for (i = 0; i < 16 && k != 18 && k != 19 && k != 23; i++) {
            poor += set[k][i] < MANY / 32;
        }
    }
    is_int(poor, 0, "every digit of the random part takes every value");
    ok(unique(ids, MANY), "100,000 of one millisecond are unique");
}

static void embedded_time(void)
{
    uuid_text_t id;
    uuid_text_t later;
    char head[15];

    ok(psp_uuid7(id, APR_INT64_C(1645557742000999)) == APR_SUCCESS, "made");
    (void)snprintf(head, sizeof head, "%.14s", id);
    is_str(head, "017f22e2-79b0-", "holds the milliseconds (the example of RFC 9562, A.6)");
    ok(psp_uuid7(later, APR_INT64_C(1645557742001000)) == APR_SUCCESS, "made");
    ok(strcmp(id, later) < 0, "a later millisecond sorts later");
    ok(psp_uuid7(later, APR_INT64_C(253402300799000000)) == APR_SUCCESS, "made");
    ok(strcmp(id, later) < 0, "year 9999 sorts later");
    ok(psp_uuid7(id, -5) == APR_SUCCESS && strncmp(id, "00000000-0000-7", 15) == 0,
       "before 1970 is 1970");
}

/* The buffered random bytes must not be handed out by parent and child alike. */
static void fork_does_not_repeat(void)
{
    uuid_text_t ids[9 * 100];
    int count = 0;
    int children;
    int k;
    int ends[2];

    ok(psp_uuid7(ids[0], 0) == APR_SUCCESS && pipe(ends) == 0, "buffer filled before the fork");
    for (children = 0; children < 8; children++) {
        if (fork() == 0) {
            for (k = 0; k < 100; k++) {
                if (psp_uuid7(ids[k], 0) != APR_SUCCESS) {
                    _exit(1);
                }
            }
            _exit(write(ends[1], ids, 100 * sizeof *ids) != 100 * sizeof *ids);
        }
    }
    close(ends[1]);
    while (count < 800 && read(ends[0], ids[count], sizeof *ids) == sizeof *ids) {
        count++;
    }
    close(ends[0]);
    while (wait(NULL) > 0) {
    }
    is_int(count, 800, "eight children made 100 each");
    for (; count < 900; count++) {
        if (psp_uuid7(ids[count], 0) != APR_SUCCESS) {
            break;
        }
    }
    ok(count == 900 && unique(ids, 900), "no two of parent and children are the same");
}

static void validity(void)
{
    ok(psp_uuid_valid("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"), "a UUID is valid");
    ok(psp_uuid_valid("00000000-0000-0000-0000-000000000000"), "any version is");
    ok(!psp_uuid_valid("017F22E2-79B0-7CC3-98C4-DC0C0C07398F"), "upper case is not");
    ok(!psp_uuid_valid("017f22e2-79b0-7cc3-98c4-dc0c0c07398"), "a digit missing");
    ok(!psp_uuid_valid("017f22e2-79b0-7cc3-98c4-dc0c0c07398f0"), "a digit too many");
    ok(!psp_uuid_valid("017f22e2-79b0-7cc3-98c4-dc0c0c07398f "), "a space behind");
    ok(!psp_uuid_valid("017f22e2079b0-7cc3-98c4-dc0c0c07398f"), "a dash missing");
    ok(!psp_uuid_valid("017f22e2-79b0-7cc3-98c4-dc0c0c07398g"), "not hexadecimal");
    ok(!psp_uuid_valid(""), "empty");
    ok(!psp_uuid_valid(NULL), "NULL");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();

    form_and_uniqueness(pool);
    embedded_time();
    fork_does_not_repeat();
    validity();
    return done(pool);
}
