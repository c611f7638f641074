/* SPDX-License-Identifier: Apache-2.0 */
/* socket.c: connections to receivers: opened if the address allows it, watched all together by one epoll. */
#include "notify/wire.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#define EVENTS 64 /* at a time */

struct psp_sockets_t {
    psp_child_t *c;
    int epoll;
};

psp_sockets_t *psp_sockets_make(psp_child_t *c)
{
    psp_sockets_t *s = apr_pcalloc(c->p, sizeof *s);

    s->c = c;
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    return s->epoll < 0 ? NULL : s;
}

int psp_sockets_fd(const psp_sockets_t *s)
{
    return s->epoll;
}

int psp_socket_open(const psp_sockets_t *s, int type, int protocol, const struct sockaddr *address,
                    psp_socket_fault_t *fault)
{
    int fd;

    if (!psp_address_allowed(s->c->config, address)) {
        *fault = PSP_SOCKET_DENIED;
        return -1;
    }
    fd = socket(address->sa_family, type | SOCK_CLOEXEC, protocol);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        *fault = PSP_SOCKET_NONE_LEFT;
    }
    return fd;
}

int psp_socket_watch(psp_sockets_t *s, int fd, int in, int out, int known)
{
    struct epoll_event ev = {.events = (in ? EPOLLIN : 0) | (out ? EPOLLOUT : 0), .data.fd = fd};

    if (epoll_ctl(s->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &ev) != 0) {
        ap_log_error(APLOG_MARK, APLOG_ERR, errno, s->c->server,
                     "PSP0450: cannot wait for a connection to a receiver");
        return 0;
    }
    return 1;
}

void psp_socket_leave(psp_sockets_t *s, int fd)
{
    struct epoll_event ev = {0};

    (void)epoll_ctl(s->epoll, EPOLL_CTL_DEL, fd, &ev); /* may be closed already */
}

void psp_sockets_step(psp_sockets_t *s, psp_socket_ready_t ready, void *baton)
{
    struct epoll_event events[EVENTS];
    int i, n = epoll_wait(s->epoll, events, EVENTS, 0);

    for (i = 0; i < n; i++) {
        unsigned what = events[i].events;

        ready(baton, events[i].data.fd, (what & (EPOLLIN | EPOLLHUP)) != 0, (what & EPOLLOUT) != 0,
              (what & EPOLLERR) != 0);
    }
}
