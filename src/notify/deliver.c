/* SPDX-License-Identifier: Apache-2.0 */
/* deliver.c: PUT to a URL with libcurl, many at a time; the only file that knows curl.
 *
 * A wire is an easy handle set up once and used again and again; what differs between requests is written
 * into buffers that its list of headers points to.
 */
#include "notify/wire.h"

#include <stdlib.h>
#include <string.h>

#include <apr_strings.h>
#include <curl/curl.h>
#include <http_log.h>

APLOG_USE_MODULE(pubsubpull);

#ifndef PSP_VERSION
#define PSP_VERSION "0.1"
#endif

/* Headers of each request: what libcurl would add by itself, then the lines of the request. */
enum { H_EXPECT, H_ACCEPT, H_FIRST, H_COUNT = H_FIRST + PSP_REQUEST_LINES };

typedef struct wire_t {
    struct wire_t *next; /* while free */
    psp_deliver_t *d;
    CURL *easy;
    psp_event_t *e; /* borrowed while the request is under way */
    struct curl_slist headers[H_COUNT];
    psp_request_t request;
    psp_answer_t answer;
    psp_socket_fault_t fault;
    char error[CURL_ERROR_SIZE];
} wire_t;

struct psp_deliver_t {
    psp_child_t *c;
    CURLM *multi;
    psp_sockets_t *sockets;
    int most;          /* requests at a time that files should suffice for */
    int max;           /* as it turned out lately */
    apr_int64_t timer; /* when curl wants to be called, 0: not */
    wire_t *idle;
};

/* --- What curl asks of us --- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *baton, void *known)
{
    psp_deliver_t *d = baton;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        psp_socket_leave(d->sockets, fd);
        return 0;
    }
    if (!psp_socket_watch(d->sockets, fd, what & CURL_POLL_IN, what & CURL_POLL_OUT, !!known)) {
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

    if (purpose != CURLSOCKTYPE_IPCXN) {
        return CURL_SOCKET_BAD;
    }
    fd = psp_socket_open(w->d->sockets, address->socktype, address->protocol, &address->addr,
                         &w->fault);
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

static size_t on_header(char *data, size_t size, size_t n, void *baton)
{
    wire_t *w = baton;

    return psp_answer_header(&w->answer, data, size * n) ? size * n : 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *baton)
{
    wire_t *w = baton;

    return psp_answer_body(&w->answer, data, size * n) ? size * n : 0;
}

/* --- Wires --- */

/* Names without a value: libcurl leaves them out. Expect would cost a round trip. */
static void link_headers(wire_t *w)
{
    static char expect[] = "Expect:";
    static char accept[] = "Accept:";
    int i;

    w->headers[H_EXPECT].data = expect;
    w->headers[H_ACCEPT].data = accept;
    for (i = 0; i < H_COUNT - 1; i++) {
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

/* The subscription's own headers, linked once, in its pool. */
static struct curl_slist *own_headers(psp_sub_t *sub)
{
    struct curl_slist *list;
    char **lines;
    int i, count;

    if (sub->own || !*sub->headers) {
        return sub->own;
    }
    lines = psp_request_own_lines(sub, &count);
    list = apr_pcalloc(sub->p, (apr_size_t)count * sizeof *list);
    for (i = 0; i < count; i++) {
        list[i].data = lines[i];
        list[i].next = i + 1 < count ? &list[i + 1] : NULL;
    }
    sub->own = list;
    return list;
}

static void write_headers(wire_t *w, psp_sub_t *sub)
{
    int i;

    for (i = 0; i < w->request.count; i++) {
        w->headers[H_FIRST + i].data = w->request.lines[i];
        w->headers[H_FIRST + i].next = &w->headers[H_FIRST + i + 1];
    }
    w->headers[H_FIRST + i - 1].next = own_headers(sub);
}

apr_status_t psp_deliver_put(psp_deliver_t *d, psp_event_t *e, const char *url)
{
    wire_t *w = take_wire(d);
    const psp_request_t *r;

    if (!w) {
        return APR_EGENERAL;
    }
    w->e = e;
    w->fault = PSP_SOCKET_FINE;
    psp_answer_begin(&w->answer);
    w->error[0] = '\0';
    r = &w->request;
    psp_request_compose(d->c, &w->request, e);
    write_headers(w, e->sub);
    if (curl_easy_setopt(w->easy, CURLOPT_URL, url) != CURLE_OK ||
        curl_easy_setopt(w->easy, CURLOPT_CUSTOMREQUEST, r->method) != CURLE_OK ||
        curl_easy_setopt(w->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->length) != CURLE_OK ||
        curl_easy_setopt(w->easy, CURLOPT_POSTFIELDS, r->body) != CURLE_OK ||
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

    if (w->fault == PSP_SOCKET_DENIED) {
        return "no notification may be sent to the callback's address (PubSubPullCallbackAllow)";
    }
    if (rc == CURLE_OPERATION_TIMEDOUT) {
        apr_snprintf(text, size, "no answer in time: %s", detail);
        return text;
    }
    if (psp_answer_endless(&w->answer)) {
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

    if (w->answer.answered) { /* whatever became of the body: the receiver has spoken */
        result.outcome = PSP_PUT_ANSWERED;
        (void)curl_easy_getinfo(w->easy, CURLINFO_RESPONSE_CODE, &status);
        (void)curl_easy_getinfo(w->easy, CURLINFO_RETRY_AFTER, &retry_after);
        result.status = (int)status;
        result.retry_after = retry_after > 86400 ? 86400 : (int)retry_after;
        w->answer.body[w->answer.kept] = '\0';
        result.error = w->answer.body;
    }
    else {
        result.outcome = w->fault == PSP_SOCKET_NONE_LEFT ? PSP_PUT_LOCAL : PSP_PUT_FAILED;
        result.error = explain(w, rc, text, sizeof text);
    }
    if (result.outcome == PSP_PUT_LOCAL && d->c->flying > 1) {
        d->max = d->c->flying - 1; /* so many sockets there are */
    }
    else if (w->answer.answered && d->max < d->most) {
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
    return psp_sockets_fd(d->sockets);
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

static void on_ready(void *baton, int fd, int in, int out, int broken)
{
    act(baton, fd,
        (in ? CURL_CSELECT_IN : 0) | (out ? CURL_CSELECT_OUT : 0) |
            (broken ? CURL_CSELECT_ERR : 0));
}

void psp_deliver_step(psp_deliver_t *d)
{
    psp_sockets_step(d->sockets, on_ready, d);
    (void)psp_deliver_kick(d);
    (void)collect(d);
}

psp_deliver_t *psp_deliver_make(psp_child_t *c)
{
    psp_deliver_t *d = apr_pcalloc(c->p, sizeof *d);

    d->c = c;
    d->most = d->max = psp_child_sockets();
    d->sockets = psp_sockets_make(c);
    if (!d->sockets || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
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
