/* SPDX-License-Identifier: Apache-2.0 */
/* socket.c: connections to receivers: opened if the address allows it, watched all together by one epoll. */
#include "notify/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define EVENTS 64         /* at a time */
#define FILES_WANTED 4096 /* if the system lets us */
#define OTHER_FILES 64    /* logs, sessions, pipes */
#define MUTE apr_time_from_sec(10)

typedef struct connection_t {
    int watched;
    int connected;     /* somebody waits to read */
    apr_int64_t heard; /* when something came last */
} connection_t;

struct psp_sockets_t {
    psp_child_t *c;
    int epoll;
    connection_t *by_file;
    int room; /* in it */
    int most; /* requests at a time that files should suffice for */
    int max;  /* as it turned out lately */
};

/* Half of the files we may open for requests, the other half for connections kept for the next. */
static int most_requests(void)
{
    struct rlimit files;
    rlim_t most;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0) {
        return 64;
    }
    if (files.rlim_cur < FILES_WANTED && files.rlim_max > files.rlim_cur) {
        files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0 && getrlimit(RLIMIT_NOFILE, &files) != 0) {
            return 64;
        }
    }
    most = files.rlim_cur > FILES_WANTED ? FILES_WANTED : files.rlim_cur;
    return (int)(most > 4 * OTHER_FILES ? (most - OTHER_FILES) / 2 : most / 4);
}

psp_sockets_t *psp_sockets_make(psp_child_t *c)
{
    psp_sockets_t *s = apr_pcalloc(c->p, sizeof *s);

    s->c = c;
    s->most = s->max = most_requests();
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    return s->epoll < 0 ? NULL : s;
}

int psp_sockets_max(const psp_sockets_t *s)
{
    return s->max;
}

void psp_sockets_learn(psp_sockets_t *s, int had)
{
    if (had && s->max < s->most) {
        s->max++;
    }
    else if (!had && s->c->flying > 1) {
        s->max = s->c->flying - 1; /* so many there are */
    }
}

int psp_sockets_fd(const psp_sockets_t *s)
{
    return s->epoll;
}

static void begin(psp_sockets_t *s, int fd)
{
    if (fd >= s->room) {
        int room = 2 * fd + 64;

        s->by_file = psp_child_alloc(s->by_file, (apr_size_t)room * sizeof *s->by_file);
        memset(s->by_file + s->room, 0, (apr_size_t)(room - s->room) * sizeof *s->by_file);
        s->room = room;
    }
    s->by_file[fd].watched = s->by_file[fd].connected = 0;
    s->by_file[fd].heard = s->c->now;
}

int psp_socket_open(psp_sockets_t *s, int type, int protocol, const struct sockaddr *address,
                    psp_socket_fault_t *fault)
{
    int fd;

    if (!psp_address_allowed(s->c->config, address)) {
        *fault = PSP_SOCKET_DENIED;
        return -1;
    }
    fd = socket(address->sa_family, type | SOCK_CLOEXEC, protocol);
    if (fd >= 0) {
        begin(s, fd);
    }
    else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        *fault = PSP_SOCKET_NONE_LEFT;
    }
    return fd;
}

/* libcurl waits for sockets of its own, too, that tell it of other threads. */
int psp_socket_watch(psp_sockets_t *s, int fd, int in, int out)
{
    struct epoll_event ev = {.events = (in ? EPOLLIN : 0) | (out ? EPOLLOUT : 0), .data.fd = fd};

    if (fd >= s->room) {
        begin(s, fd);
    }
    if (epoll_ctl(s->epoll, s->by_file[fd].watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev) != 0) {
        ap_log_error(APLOG_MARK, APLOG_ERR, errno, s->c->server,
                     "PSP0450: cannot wait for a connection to a receiver");
        return 0;
    }
    s->by_file[fd].watched = 1;
    s->by_file[fd].connected |= in != 0;
    return 1;
}

int psp_socket_connected(const psp_sockets_t *s, int fd)
{
    return fd >= 0 && fd < s->room && s->by_file[fd].connected;
}

int psp_socket_alive(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

void psp_socket_leave(psp_sockets_t *s, int fd)
{
    struct epoll_event ev = {0};

    (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, fd, &ev); /* may be closed already */
    s->by_file[fd].watched = 0;
}

void psp_socket_drop_if_mute(const psp_sockets_t *s, int fd, apr_int64_t since)
{
    apr_int64_t heard = s->by_file[fd].heard;

    if (heard <= since && heard <= s->c->now - MUTE) {
        (void)shutdown(fd, SHUT_RDWR); /* libcurl finds it closed */
    }
}

void psp_sockets_step(psp_sockets_t *s, psp_socket_ready_t ready, void *baton)
{
    struct epoll_event events[EVENTS];
    int i, n = epoll_wait(s->epoll, events, EVENTS, 0);

    for (i = 0; i < n; i++) {
        unsigned what = events[i].events;
        int fd = events[i].data.fd;

        if (what & EPOLLIN) {
            s->by_file[fd].heard = s->c->now;
        }
        ready(baton, fd, (what & (EPOLLIN | EPOLLHUP)) != 0, (what & EPOLLOUT) != 0,
              (what & EPOLLERR) != 0);
    }
}
