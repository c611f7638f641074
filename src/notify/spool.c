/* SPDX-License-Identifier: Apache-2.0 */
/* spool.c: records of requests on disk (PubSubPullSpool), one a line, while the database does not take them.
 *
 * Lines are appended to the newest of some files and read from the oldest, which goes when all of it is in the
 * database. A line is written at once, so that it survives this process, and forced to the disk once a second,
 * for the machine may die, too. After a crash the last line can be a part of one: it is left out. What was read
 * and not yet confirmed is read again: recording a request twice is recording it once.
 */
#include "notify/private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <apr_strings.h>
#include <http_log.h>
#include <unixd.h>

APLOG_USE_MODULE(pubsubpull);

#define FILES 8 /* that the size is divided into: as much is freed at a time */
#define SYNC apr_time_from_sec(1)
#define NAME "requests-"

struct psp_spool_t {
    server_rec *server;
    int dir; /* -1: it cannot be used */
    apr_off_t size, used;
    apr_uint64_t first, last; /* numbers of files; none: first > last */
    int in, out;              /* of the first, if it is open; of the last, if it is written to */
    apr_off_t at;             /* in the first: confirmed up to here */
    apr_off_t read;           /* in the first: bytes read and not confirmed */
    apr_off_t written;        /* bytes of the last */
    int dirty;
    apr_int64_t sync_at;
    int failed; /* said so in the log */
};

/* Before the child changes its user: what root makes is given to that user. */
apr_status_t psp_spool_prepare(const char *path)
{
    struct stat info;

    if (mkdir(path, 0700) == 0) {
        return geteuid() != 0 || chown(path, ap_unixd_config.user_id, ap_unixd_config.group_id) == 0
                   ? APR_SUCCESS
                   : APR_FROM_OS_ERROR(errno);
    }
    if (errno != EEXIST) {
        return APR_FROM_OS_ERROR(errno);
    }
    if (stat(path, &info) != 0) {
        return APR_FROM_OS_ERROR(errno);
    }
    return S_ISDIR(info.st_mode) ? APR_SUCCESS : APR_ENOTDIR;
}

static const char *name_of(char *buffer, apr_size_t room, apr_uint64_t number)
{
    apr_snprintf(buffer, room, NAME "%012" APR_UINT64_T_FMT, number);
    return buffer;
}

static void complain(psp_spool_t *s, const char *what)
{
    if (!s->failed) {
        ap_log_error(APLOG_MARK, APLOG_ERR, APR_FROM_OS_ERROR(errno), s->server,
                     "PSP0424: records of requests cannot be kept on disk, %s", what);
    }
    s->failed = 1;
}

/* What a child before us left. */
static void scan(psp_spool_t *s)
{
    int copy = dup(s->dir);
    DIR *list = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *entry;
    struct stat info;

    while (list && (entry = readdir(list))) {
        char *end;
        apr_uint64_t number;

        if (strncmp(entry->d_name, NAME, strlen(NAME)) != 0 ||
            fstatat(s->dir, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(info.st_mode)) {
            continue;
        }
        number = (apr_uint64_t)apr_strtoi64(entry->d_name + strlen(NAME), &end, 10);
        if (*end) {
            continue;
        }
        s->first = number < s->first || s->first > s->last ? number : s->first;
        s->last = number > s->last ? number : s->last;
        s->used += info.st_size;
    }
    if (list) {
        closedir(list);
    }
}

psp_spool_t *psp_spool_make(psp_child_t *c)
{
    psp_spool_t *s = apr_pcalloc(c->p, sizeof *s);

    s->server = c->server;
    s->dir = s->in = s->out = -1;
    s->first = 1;
    s->size = c->config->spool_size;
    if (!c->config->spool) {
        return s;
    }
    s->dir = open(c->config->spool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir < 0 || faccessat(s->dir, ".", R_OK | W_OK | X_OK, AT_EACCESS) != 0 ||
        flock(s->dir, LOCK_EX | LOCK_NB) != 0) {
        complain(s, errno == EWOULDBLOCK ? "another httpd uses PubSubPullSpool"
                                         : "PubSubPullSpool cannot be written to");
        if (s->dir >= 0) {
            close(s->dir);
        }
        s->dir = -1;
        return s;
    }
    scan(s);
    if (!psp_spool_empty(s)) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, c->server,
                     "PSP0425: %" APR_OFF_T_FMT " bytes of records of requests are on disk",
                     s->used);
    }
    return s;
}

int psp_spool_empty(const psp_spool_t *s)
{
    return s->first > s->last;
}

int psp_spool_room(const psp_spool_t *s, apr_size_t length)
{
    return s->dir >= 0 && s->used + (apr_off_t)length <= s->size;
}

void psp_spool_sync(psp_spool_t *s)
{
    if (s->dirty && fdatasync(s->out) != 0) {
        complain(s, "the disk reports an error");
    }
    s->dirty = 0;
}

static void close_last(psp_spool_t *s)
{
    psp_spool_sync(s);
    if (s->out >= 0) {
        close(s->out);
    }
    s->out = -1;
}

static int open_last(psp_spool_t *s)
{
    char name[64];

    s->out = openat(s->dir, name_of(name, sizeof name, s->last + 1),
                    O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (s->out < 0 || fsync(s->dir) != 0) {
        complain(s, "no file can be made");
        return s->out >= 0;
    }
    s->first = psp_spool_empty(s) ? s->last + 1 : s->first;
    s->last++;
    s->written = 0;
    return 1;
}

/* All of it or nothing: a part of a line must not be followed by another line. */
int psp_spool_append(psp_spool_t *s, const char *lines, apr_size_t length)
{
    ssize_t n;

    if (!psp_spool_room(s, length)) {
        return 0;
    }
    if (s->out >= 0 && s->written + (apr_off_t)length > s->size / FILES) {
        close_last(s);
    }
    if (s->out < 0 && !open_last(s)) {
        return 0;
    }
    do {
        n = write(s->out, lines, length);
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)length) {
        complain(s, "the disk may be full");
        if (n > 0 && ftruncate(s->out, s->written) != 0) {
            close_last(s);
        }
        return 0;
    }
    s->written += n;
    s->used += n;
    s->dirty = 1;
    s->failed = 0;
    return 1;
}

void psp_spool_step(psp_child_t *c, psp_spool_t *s)
{
    if (!s->dirty) {
        s->sync_at = c->now + SYNC;
    }
    else if (c->now >= s->sync_at) {
        psp_spool_sync(s);
    }
    else {
        psp_child_want(c, s->sync_at);
    }
}

/* The oldest file is done with. */
static void drop_first(psp_spool_t *s)
{
    char name[64];
    struct stat info;

    if (s->in >= 0) {
        s->used -= fstat(s->in, &info) == 0 ? info.st_size : 0;
        close(s->in);
    }
    s->in = -1;
    if (s->first == s->last) {
        close_last(s);
        s->used = 0;
    }
    if (unlinkat(s->dir, name_of(name, sizeof name, s->first), 0) != 0 && errno != ENOENT) {
        complain(s, "a file cannot be removed");
    }
    s->first++;
    s->at = 0;
}

/* Cut to whole lines, not too many of them. */
static apr_size_t whole_lines(const char *text, apr_size_t length, int most)
{
    apr_size_t end = 0, i;

    for (i = 0; i < length && most > 0; i++) {
        if (text[i] == '\n') {
            end = i + 1;
            most--;
        }
    }
    return end;
}

apr_size_t psp_spool_read(psp_spool_t *s, char *buffer, apr_size_t room, int most)
{
    while (!psp_spool_empty(s)) {
        char name[64];
        ssize_t n = 0;
        apr_size_t length;

        if (s->in < 0) {
            s->in = openat(s->dir, name_of(name, sizeof name, s->first),
                           O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        }
        if (s->in >= 0) {
            n = pread(s->in, buffer, room, s->at);
        }
        length = n > 0 ? whole_lines(buffer, (apr_size_t)n, most) : 0;
        if (length > 0) {
            s->read = (apr_off_t)length;
            return length;
        }
        drop_first(s); /* at its end, or the part of a line that a crash left */
    }
    return 0;
}

void psp_spool_done(psp_spool_t *s)
{
    s->at += s->read;
    s->read = 0;
}
