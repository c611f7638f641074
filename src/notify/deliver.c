/* SPDX-License-Identifier: Apache-2.0 */
/* deliver.c: PUT to a URL with libcurl, many at a time; the only file that knows curl.
 *
 * Sockets are watched by an epoll of our own, which the child's loop waits for as one file. A wire is
 * an easy handle set up once and used again and again; what differs between requests is written into
 * buffers that its list of headers points to.
 */
#include "notify/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <apr_strings.h>
#include <curl/curl.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#ifndef PSP_VERSION
#define PSP_VERSION "0.1"
#endif

#define BODY_MAX (64 * 1024) /* of an answer; the rest is cut off */
#define HEADERS_MAX (64 * 1024)
#define EVENTS 64

/* Headers of each request, in this order. */
enum {
    H_TYPE,
    H_ID,
    H_TIME,
    H_SUBSCRIPTION,
    H_EXPECT,
    H_ACCEPT,
    H_TRACE, /* from here on: not always there */
    H_SIGNATURE,
    H_COUNT
};

typedef struct wire_t {
    struct wire_t *next; /* while free */
    psp_deliver_t *d;
    CURL *easy;
    psp_event_t *e; /* borrowed while the request is under way */
    struct curl_slist headers[H_COUNT];
    char id[64];
    char time[48];
    char trace[80];
    char signature[24 + PSP_SIGNATURES];
    apr_size_t header_bytes, body_bytes;
    int final;    /* the header block being read is not a 1xx */
    int answered; /* a whole header block of a final answer was read */
    int denied;   /* an address was refused */
    int local;    /* we had no socket */
    apr_size_t kept;
    char body[PSP_PUT_KEPT + 1];
    char error[CURL_ERROR_SIZE];
} wire_t;

struct psp_deliver_t {
    psp_child_t *c;
    CURLM *multi;
    int epoll;
    int most;          /* requests at a time that files should suffice for */
    int max;           /* as it turned out lately */
    apr_int64_t timer; /* when curl wants to be called, 0: not */
    wire_t *idle;
};

/* --- What curl asks of us --- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *baton, void *known)
{
    psp_deliver_t *d = baton;
    struct epoll_event ev = {0};
    int op = known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    (void)easy;
    ev.data.fd = fd;
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(d->epoll, EPOLL_CTL_DEL, fd, &ev); /* may be closed already */
        return 0;
    }
    ev.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
    if (epoll_ctl(d->epoll, op, fd, &ev) != 0) {
        ap_log_error(APLOG_MARK, APLOG_ERR, errno, d->c->server,
                     "PSP0450: cannot wait for a connection to a receiver");
        return -1;
    }
    if (!known) {
        (void)curl_multi_assign(d->multi, fd, d); /* fails for unknown sockets only */
    }
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *baton)
{
    psp_deliver_t *d = baton;

    (void)multi;
    d->timer = ms < 0 ? 0 : psp_mono() + ms * 1000;
    return 0;
}

static curl_socket_t on_open(void *baton, curlsocktype purpose, struct curl_sockaddr *address)
{
    wire_t *w = baton;
    int fd;

    if (purpose != CURLSOCKTYPE_IPCXN || !psp_address_allowed(w->d->c->config, &address->addr)) {
        w->denied = 1;
        return CURL_SOCKET_BAD;
    }
    fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd < 0) {
        w->local = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
        return CURL_SOCKET_BAD;
    }
    return fd;
}

static size_t on_header(char *data, size_t size, size_t n, void *baton)
{
    wire_t *w = baton;
    size_t length = size * n;

    w->header_bytes += length;
    if (w->header_bytes > HEADERS_MAX) {
        return 0;
    }
    if (length > 9 && memcmp(data, "HTTP/", 5) == 0) {
        const char *blank = memchr(data, ' ', length);

        w->final = blank && blank + 1 < data + length && blank[1] != '1';
    }
    if (w->final && length <= 2 && (*data == '\r' || *data == '\n')) {
        w->answered = 1;
    }
    return length;
}

static size_t on_body(char *data, size_t size, size_t n, void *baton)
{
    wire_t *w = baton;
    size_t length = size * n, room = PSP_PUT_KEPT - w->kept;

    if (room > 0) {
        room = length < room ? length : room;
        memcpy(w->body + w->kept, data, room);
        w->kept += room;
    }
    w->body_bytes += length;
    return w->body_bytes > BODY_MAX ? 0 : length;
}

/* --- Wires --- */

static void link_headers(wire_t *w)
{
    static char expect[] = "Expect:"; /* removed: it would cost a round trip */
    static char accept[] = "Accept:";
    int i;

    w->headers[H_ID].data = w->id;
    w->headers[H_TIME].data = w->time;
    w->headers[H_EXPECT].data = expect;
    w->headers[H_ACCEPT].data = accept;
    w->headers[H_TRACE].data = w->trace;
    w->headers[H_SIGNATURE].data = w->signature;
    for (i = 0; i < H_TRACE; i++) {
        w->headers[i].next = &w->headers[i + 1];
    }
}

/* An option that this libcurl lacks or refuses would leave a hole: none may fail. */
static int set_up(wire_t *w)
{
    CURL *h = w->easy;
    CURLcode rc = CURLE_OK;

#define SET(option, value)                                                                         \
    do {                                                                                           \
        if (rc == CURLE_OK) {                                                                      \
            rc = curl_easy_setopt(h, option, value);                                               \
        }                                                                                          \
    } while (0)
#if LIBCURL_VERSION_NUM >= 0x075500
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
#else
    SET(CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
    SET(CURLOPT_REDIR_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
    SET(CURLOPT_QUICK_EXIT, 1L); /* a name server that hangs must not hold the loop */
#endif
    SET(CURLOPT_HTTPHEADER, w->headers);
    SET(CURLOPT_USERAGENT, "mod_pubsubpull/" PSP_VERSION);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOPROXY, "*");
    SET(CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_NOPROGRESS, 1L);
    SET(CURLOPT_BUFFERSIZE, 4096L);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_open);
    SET(CURLOPT_OPENSOCKETDATA, w);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, w);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, w);
    SET(CURLOPT_ERRORBUFFER, w->error);
    SET(CURLOPT_PRIVATE, w);
#undef SET
    return rc == CURLE_OK;
}

static wire_t *take_wire(psp_deliver_t *d)
{
    wire_t *w = d->idle;

    if (w) {
        d->idle = w->next;
        return w;
    }
    w = psp_child_alloc(NULL, sizeof *w);
    memset(w, 0, sizeof *w);
    w->d = d;
    w->easy = curl_easy_init();
    link_headers(w);
    if (!w->easy || !set_up(w)) {
        ap_log_error(APLOG_MARK, APLOG_ERR, APR_EGENERAL, d->c->server,
                     "PSP0451: libcurl cannot do what is needed to notify");
        curl_easy_cleanup(w->easy);
        free(w);
        return NULL;
    }
    return w;
}

static void put_back(psp_deliver_t *d, wire_t *w)
{
    w->e = NULL;
    w->next = d->idle;
    d->idle = w;
}

/* --- Requests --- */

/* The name is the administrators' own, but it must not end the header. */
static const char *name_header(psp_sub_t *sub)
{
    char *text, *at;

    if (!sub->header) {
        text = apr_pstrcat(sub->p, "PubSubPull-Subscription: ", sub->name, NULL);
        for (at = text; *at; at++) {
            if ((unsigned char)*at < ' ' || *at == 0x7f) {
                *at = '_';
            }
        }
        sub->header = text;
    }
    return sub->header;
}

static apr_status_t free_list(void *list)
{
    curl_slist_free_all(list);
    return APR_SUCCESS;
}

/* The subscription's own headers, made once and freed with it. */
static struct curl_slist *own_headers(psp_sub_t *sub)
{
    char *copy, *line, *state = NULL;
    struct curl_slist *list = NULL;

    if (sub->own || !*sub->headers) {
        return sub->own;
    }
    copy = apr_pstrdup(sub->p, sub->headers);
    for (line = apr_strtok(copy, "\n", &state); line; line = apr_strtok(NULL, "\n", &state)) {
        struct curl_slist *longer = curl_slist_append(list, line);

        list = longer ? longer : list;
    }
    apr_pool_cleanup_register(sub->p, list, free_list, apr_pool_cleanup_null);
    sub->own = list;
    return list;
}

/* What the request was caused by becomes the trace of what it causes (W3C Trace Context). */
static void write_trace(wire_t *w, const psp_event_t *e)
{
    const char *at;
    char hex[33];
    int n = 0;

    for (at = e->request; *at && n < 32; at++) {
        if (*at != '-') {
            hex[n++] = *at;
        }
    }
    hex[n] = '\0';
    apr_snprintf(w->trace, sizeof w->trace, "traceparent: 00-%s-%08x%08x-01", hex,
                 psp_child_random(w->d->c), psp_child_random(w->d->c) | 1);
}

static const char *body(const psp_event_t *e)
{
    return e->joined ? e->joined : e->body;
}

static apr_size_t body_length(const psp_event_t *e)
{
    return e->deletes ? 0 : e->joined ? e->joined_length : e->length;
}

/* Spreads a number's bits, so that a sum of such stands for a set (the finalizer of MurmurHash3). */
static apr_uint64_t mix(apr_uint64_t x)
{
    x = (x ^ x >> 33) * 0xff51afd7ed558ccdu;
    x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53u;
    return x ^ x >> 33;
}

/* The same on every try. A batch has the same id when it holds the same events. */
static void write_id(wire_t *w, const psp_event_t *first)
{
    const psp_event_t *e;
    apr_uint64_t hash = 0;

    if (!first->joined) {
        apr_snprintf(w->id, sizeof w->id, "webhook-id: psp_%d_%" APR_INT64_T_FMT, first->sub->id,
                     first->id);
        return;
    }
    for (e = first; e; e = e->batch_next) {
        hash += mix((apr_uint64_t)e->id);
    }
    apr_snprintf(w->id, sizeof w->id, "webhook-id: psp_%d_b%" APR_UINT64_T_HEX_FMT, first->sub->id,
                 hash);
}

static void write_headers(wire_t *w, psp_event_t *e)
{
    static char json[] = "Content-Type: application/json";
    static char cloudevents[] = "Content-Type: application/cloudevents+json; charset=UTF-8";
    static char cloudevents_batch[] =
        "Content-Type: application/cloudevents-batch+json; charset=UTF-8";
    struct curl_slist *last = &w->headers[H_ACCEPT];

    w->headers[H_TYPE].data = !e->sub->cloudevents ? json
                              : e->joined          ? cloudevents_batch
                                                   : cloudevents;
    write_id(w, e);
    apr_snprintf(w->time, sizeof w->time, "webhook-timestamp: %" APR_INT64_T_FMT,
                 (apr_int64_t)apr_time_sec(apr_time_now()));
    w->headers[H_SUBSCRIPTION].data = (char *)name_header(e->sub);
    if (*e->request && !e->batch_next) {
        write_trace(w, e);
        last = last->next = &w->headers[H_TRACE];
    }
    if (*e->sub->secrets) {
        apr_size_t name = apr_snprintf(w->signature, sizeof w->signature, "webhook-signature: ");

        psp_sign(w->signature + name, sizeof w->signature - name, e->sub->secrets,
                 strchr(w->id, ' ') + 1, strchr(w->time, ' ') + 1, body(e), body_length(e));
        last = last->next = &w->headers[H_SIGNATURE];
    }
    last->next = own_headers(e->sub);
}

apr_status_t psp_deliver_put(psp_deliver_t *d, psp_event_t *e, const char *url)
{
    wire_t *w = take_wire(d);

    if (!w) {
        return APR_EGENERAL;
    }
    w->e = e;
    w->header_bytes = w->body_bytes = w->kept = 0;
    w->final = w->answered = w->denied = w->local = 0;
    w->error[0] = '\0';
    write_headers(w, e);
    if (curl_easy_setopt(w->easy, CURLOPT_URL, url) != CURLE_OK ||
        curl_easy_setopt(w->easy, CURLOPT_CUSTOMREQUEST, e->deletes ? "DELETE" : "PUT") !=
            CURLE_OK ||
        curl_easy_setopt(w->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_length(e)) !=
            CURLE_OK ||
        curl_easy_setopt(w->easy, CURLOPT_POSTFIELDS, body(e)) != CURLE_OK ||
        curl_easy_setopt(w->easy, CURLOPT_TIMEOUT_MS, (long)apr_time_as_msec(e->sub->timeout)) !=
            CURLE_OK ||
        curl_multi_add_handle(d->multi, w->easy) != CURLM_OK) {
        put_back(d, w);
        return APR_EGENERAL;
    }
    return APR_SUCCESS;
}

/* In words that tell the causes apart, with libcurl's detail where it has one. */
static const char *explain(const wire_t *w, CURLcode rc, char *text, apr_size_t size)
{
    const char *detail = w->error[0] ? w->error : curl_easy_strerror(rc);

    if (w->denied) {
        return "no notification may be sent to the callback's address (PubSubPullCallbackAllow)";
    }
    if (rc == CURLE_OPERATION_TIMEDOUT) {
        apr_snprintf(text, size, "no answer in time: %s", detail);
        return text;
    }
    if (w->header_bytes > HEADERS_MAX) {
        return "the answer's headers did not end";
    }
    return detail;
}

static void finish(psp_deliver_t *d, wire_t *w, CURLcode rc)
{
    char text[CURL_ERROR_SIZE + 64];
    psp_put_result_t result = {0};
    psp_event_t *e = w->e;
    long status = 0;
    curl_off_t retry_after = 0;

    if (w->answered) { /* whatever became of the body: the receiver has spoken */
        result.outcome = PSP_PUT_ANSWERED;
        (void)curl_easy_getinfo(w->easy, CURLINFO_RESPONSE_CODE, &status);
        (void)curl_easy_getinfo(w->easy, CURLINFO_RETRY_AFTER, &retry_after);
        result.status = (int)status;
        result.retry_after = retry_after > 86400 ? 86400 : (int)retry_after;
        w->body[w->kept] = '\0';
        result.error = w->body;
    }
    else {
        result.outcome = w->local && !w->denied ? PSP_PUT_LOCAL : PSP_PUT_FAILED;
        result.error = explain(w, rc, text, sizeof text);
    }
    if (result.outcome == PSP_PUT_LOCAL && d->c->flying > 1) {
        d->max = d->c->flying - 1; /* so many sockets there are */
    }
    else if (w->answered && d->max < d->most) {
        d->max++;
    }
    (void)curl_multi_remove_handle(d->multi, w->easy);
    psp_sender_done(d->c, e, &result);
    put_back(d, w); /* only now: the result points into it */
}

/* --- The loop's side --- */

int psp_deliver_max(const psp_deliver_t *d)
{
    return d->max;
}

int psp_deliver_fd(const psp_deliver_t *d)
{
    return d->epoll;
}

static int collect(psp_deliver_t *d)
{
    CURLMsg *message;
    int left, n = 0;

    while ((message = curl_multi_info_read(d->multi, &left)) != NULL) {
        wire_t *w = NULL;

        if (message->msg == CURLMSG_DONE &&
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&w) == CURLE_OK) {
            finish(d, w, message->data.result);
            n++;
        }
    }
    return n;
}

static void act(psp_deliver_t *d, curl_socket_t fd, int what)
{
    CURLMcode rc;
    int running;

    rc = curl_multi_socket_action(d->multi, fd, what, &running);
    if (rc != CURLM_OK && rc != CURLM_BAD_SOCKET) {
        ap_log_error(APLOG_MARK, APLOG_ERR, APR_EGENERAL, d->c->server, "PSP0452: libcurl: %s",
                     curl_multi_strerror(rc));
    }
}

int psp_deliver_kick(psp_deliver_t *d)
{
    int n = 0;

    if (d->timer && psp_mono() >= d->timer) {
        d->timer = 0;
        act(d, CURL_SOCKET_TIMEOUT, 0);
        n = collect(d); /* a near receiver may have answered meanwhile, and nothing would tell us */
    }
    if (d->timer) {
        psp_child_want(d->c, d->timer);
    }
    return n;
}

void psp_deliver_step(psp_deliver_t *d)
{
    struct epoll_event events[EVENTS];
    int i, n = epoll_wait(d->epoll, events, EVENTS, 0);

    for (i = 0; i < n; i++) {
        int what = (events[i].events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
                   (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                   (events[i].events & EPOLLERR ? CURL_CSELECT_ERR : 0);

        act(d, events[i].data.fd, what);
    }
    (void)psp_deliver_kick(d);
    (void)collect(d);
}

psp_deliver_t *psp_deliver_make(psp_child_t *c)
{
    psp_deliver_t *d = apr_pcalloc(c->p, sizeof *d);

    d->c = c;
    d->most = d->max = psp_child_sockets();
    d->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (d->epoll < 0 || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
        (d->multi = curl_multi_init()) == NULL ||
        curl_multi_setopt(d->multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_SOCKETDATA, d) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_TIMERFUNCTION, on_timer) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_TIMERDATA, d) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_MAXCONNECTS, (long)(2 * d->most)) != CURLM_OK) {
        return NULL;
    }
    return d;
}
