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

#if LIBCURL_VERSION_NUM < 0x075700
#error "libcurl 7.87 is needed: those before wait for name servers that hang"
#endif

#define PROD_FIRST apr_time_from_msec(2)
#define PROD_AGAIN apr_time_from_msec(100)

typedef struct wire_t {
    struct wire_t *next, *previous; /* among the free, or among those under way over https */
    apr_int64_t prod_at;
    psp_deliver_t *d;
    CURL *easy;
    psp_event_t *e; /* borrowed while the request is under way */
    apr_int64_t started;
    int https;
    int fd; /* that it made last, -1: none */
    struct curl_slist headers[PSP_REQUEST_LINES + 2];
    psp_request_t request;
    psp_answer_t answer;
    psp_socket_fault_t fault;
    char error[CURL_ERROR_SIZE];
} wire_t;

struct psp_deliver_t {
    psp_child_t *c;
    CURLM *multi;
    int http2;         /* this libcurl speaks it */
    apr_int64_t timer; /* when curl wants to be called, 0: not */
    wire_t *idle, *secure;
};

/* --- What curl asks of us --- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *baton, void *unused)
{
    psp_sockets_t *sockets = baton;

    (void)easy;
    (void)unused;
    if (what == CURL_POLL_REMOVE) {
        psp_socket_leave(sockets, fd);
        return 0;
    }
    return psp_socket_watch(sockets, fd, what & CURL_POLL_IN, what & CURL_POLL_OUT) ? 0 : -1;
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

    if (purpose != CURLSOCKTYPE_IPCXN) {
        return CURL_SOCKET_BAD;
    }
    w->fd = psp_socket_open(w->d->c->sockets, address->socktype, address->protocol, &address->addr,
                            &w->fault);
    return w->fd < 0 ? CURL_SOCKET_BAD : w->fd;
}

/* --- Wires --- */

#define SET(option, value)                                                                         \
    do {                                                                                           \
        if (rc == CURLE_OK) {                                                                      \
            rc = curl_easy_setopt(h, option, value);                                               \
        }                                                                                          \
    } while (0)

/* Text in memory that stays there as long as we do. */
static struct curl_blob blob(const char *text)
{
    return (struct curl_blob){(void *)text, strlen(text), CURL_BLOB_NOCOPY};
}

/* Who receivers must be, and who we are: files that we could not read ourselves. */
static CURLcode set_up_tls(CURL *h, const psp_server_config_t *config)
{
    CURLcode rc = CURLE_OK;

    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (config->callback_authorities) {
        struct curl_blob authorities = blob(config->callback_authorities);

        SET(CURLOPT_CAINFO_BLOB, &authorities);
        SET(CURLOPT_CAPATH, NULL);
    }
    if (config->callback_certificate.certificate) {
        struct curl_blob certificate = blob(config->callback_certificate.certificate);
        struct curl_blob key = blob(config->callback_certificate.key);

        SET(CURLOPT_SSLCERT_BLOB, &certificate);
        SET(CURLOPT_SSLKEY_BLOB, &key);
    }
    return rc;
}

/* An option that this libcurl lacks or refuses would leave a hole: none may fail. */
static int set_up(wire_t *w)
{
    CURL *h = w->easy;
    CURLcode rc = set_up_tls(h, w->d->c->config);

    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_QUICK_EXIT, 1L); /* a name server that hangs must not hold the loop */
    SET(CURLOPT_USERAGENT, PSP_AGENT);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_DNS_CACHE_TIMEOUT, 5L); /* asked for new connections only */
    SET(CURLOPT_MAXAGE_CONN, 60L);
    SET(CURLOPT_MAXLIFETIME_CONN, 600L); /* the name may mean another host by now */
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_PROXY, ""); /* whatever the environment says */
    SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(CURLOPT_PATH_AS_IS, 1L);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_BUFFERSIZE, 4096L);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_open);
    SET(CURLOPT_OPENSOCKETDATA, w);
    SET(CURLOPT_HEADERFUNCTION, psp_answer_header);
    SET(CURLOPT_HEADERDATA, &w->answer);
    SET(CURLOPT_WRITEFUNCTION, psp_answer_body);
    SET(CURLOPT_WRITEDATA, &w->answer);
    SET(CURLOPT_ERRORBUFFER, w->error);
    SET(CURLOPT_PRIVATE, w);
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
    if (!w->easy || !set_up(w)) {
        ap_log_error(APLOG_MARK, APLOG_ERR, APR_EGENERAL, d->c->server,
                     "PSP0451: libcurl cannot do what is needed to notify");
        curl_easy_cleanup(w->easy);
        free(w);
        return NULL;
    }
    return w;
}

/* Those over https are known while they are under way, see prod(). */
static void set_off(psp_deliver_t *d, wire_t *w)
{
    w->prod_at = 0;
    w->previous = NULL;
    w->next = d->secure;
    if (w->next) {
        w->next->previous = w;
    }
    d->secure = w;
}

static void put_back(psp_deliver_t *d, wire_t *w)
{
    if (d->secure == w) {
        d->secure = w->next;
    }
    else if (w->previous) {
        w->previous->next = w->next;
    }
    if (w->https && w->next) {
        w->next->previous = w->previous;
    }
    w->previous = NULL;
    w->e = NULL;
    w->next = d->idle;
    d->idle = w;
}

/* --- Requests --- */

/* Names without a value: libcurl leaves them out. Expect would cost a round trip. */
static void write_headers(wire_t *w)
{
    static char expect[] = "Expect:", accept[] = "Accept:";
    int i, n = w->request.count;

    for (i = 0; i < n; i++) {
        w->headers[i].data = w->request.lines[i];
        w->headers[i].next = &w->headers[i + 1];
    }
    w->headers[n] = (struct curl_slist){expect, &w->headers[n + 1]};
    w->headers[n + 1] = (struct curl_slist){accept, NULL};
}

/* Over https the receiver may choose HTTP/2, and then one connection serves many requests. When it did so
 * before, it is no loss to wait for one that is being made; but what fails keeps to itself. */
static CURLcode set_request(wire_t *w, const char *url)
{
    const psp_sub_t *sub = w->e->sub;
    const psp_request_t *r = &w->request;
    int alone = w->e->lost || sub->failures;
    CURL *h = w->easy;
    CURLcode rc = CURLE_OK;

    SET(CURLOPT_URL, url);
    SET(CURLOPT_HTTP_VERSION,
        (long)(w->https && w->d->http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
    SET(CURLOPT_PIPEWAIT, sub->http2 && !alone ? 1L : 0L);
    SET(CURLOPT_FRESH_CONNECT, sub->http2 && alone ? 1L : 0L);
    SET(CURLOPT_CUSTOMREQUEST, r->method);
    SET(CURLOPT_HTTPHEADER, w->headers);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->length);
    SET(CURLOPT_POSTFIELDS, r->body);
    SET(CURLOPT_TIMEOUT_MS, (long)apr_time_as_msec(sub->timeout));
    return rc;
}

apr_status_t psp_deliver_put(psp_deliver_t *d, psp_event_t *e, const char *url)
{
    wire_t *w = take_wire(d);

    if (!w) {
        return APR_EGENERAL;
    }
    w->e = e;
    w->started = d->c->now;
    w->fault = PSP_SOCKET_FINE;
    w->fd = -1;
    psp_answer_begin(&w->answer);
    w->error[0] = '\0';
    w->https = strncasecmp(url, "https:", 6) == 0;
    w->next = NULL;
    psp_request_compose(d->c, &w->request, e);
    write_headers(w);
    if (set_request(w, url) != CURLE_OK || curl_multi_add_handle(d->multi, w->easy) != CURLM_OK) {
        put_back(d, w);
        return APR_EGENERAL;
    }
    if (w->https) {
        set_off(d, w);
    }
    return APR_SUCCESS;
}

/* Whether it was a connection of its own that broke (1), one that others had made (0), or none (-1). libcurl
 * may not know yet that it is broken. */
static int broke(const wire_t *w)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    long made = 1;

    (void)curl_easy_getinfo(w->easy, CURLINFO_ACTIVESOCKET, &fd);
    (void)curl_easy_getinfo(w->easy, CURLINFO_NUM_CONNECTS, &made);
    if (fd != CURL_SOCKET_BAD && psp_socket_alive(fd)) {
        return -1;
    }
    return made > 0;
}

/* What it was doing, as far as libcurl does not say so in a way that tells causes apart. */
static const char *stage(const wire_t *w, CURLcode rc)
{
    curl_off_t secured = 0;
    long made = 0;

    (void)curl_easy_getinfo(w->easy, CURLINFO_APPCONNECT_TIME_T, &secured);
    (void)curl_easy_getinfo(w->easy, CURLINFO_NUM_CONNECTS, &made);
    switch (rc) {
    case CURLE_OPERATION_TIMEDOUT:
        return w->https && !secured && psp_socket_connected(w->d->c->sockets, w->fd)
                   ? "no TLS handshake in time: "
                   : "no answer in time: ";
    case CURLE_PEER_FAILED_VERIFICATION:
        return "the receiver's certificate is not trusted: ";
    case CURLE_SSL_CONNECT_ERROR:
        return "no TLS connection: ";
    default:
        /* Its last words may still be unread, and so the socket look alive. */
        return secured && !w->answer.header_bytes && made > 0 &&
                       (rc == CURLE_SEND_ERROR || broke(w) == 1)
                   ? "closed after the TLS handshake, as by receivers that want another client "
                     "certificate: "
                   : "";
    }
}

static const char *explain(const wire_t *w, CURLcode rc, char *text, apr_size_t size)
{
    const char *detail = w->error[0] && rc != CURLE_SEND_ERROR ? w->error : curl_easy_strerror(rc);

    if (w->fault == PSP_SOCKET_DENIED) {
        return "no notification may be sent to the callback's address (PubSubPullCallbackAllow)";
    }
    if (psp_answer_endless(&w->answer) || rc == CURLE_OUT_OF_MEMORY) { /* of 100 KiB for a line */
        return "the answer's headers did not end";
    }
    if (rc == CURLE_OK) {
        return "the stream ended without an answer";
    }
    apr_snprintf(text, size, "%s%s", stage(w, rc), detail);
    return text;
}

/* Where requests share a connection, a time-out ends one of them. When nothing at all came for so long, the
 * connection is dead, and the next one would wait for it in vain, too. */
static psp_put_outcome_t judge(const wire_t *w, CURLcode rc)
{
    curl_socket_t fd = CURL_SOCKET_BAD;

    if (w->fault == PSP_SOCKET_NONE_LEFT) {
        return PSP_PUT_LOCAL;
    }
    if (rc != CURLE_OPERATION_TIMEDOUT) {
        return w->e->sub->http2 && broke(w) == 0 ? PSP_PUT_LOST : PSP_PUT_FAILED;
    }
    (void)curl_easy_getinfo(w->easy, CURLINFO_ACTIVESOCKET, &fd);
    if (fd != CURL_SOCKET_BAD) {
        psp_socket_drop_if_mute(w->d->c->sockets, fd, w->started);
    }
    return PSP_PUT_FAILED;
}

/* The same for the metrics. */
static psp_counter_t classify(const wire_t *w, CURLcode rc)
{
    if (w->fault != PSP_SOCKET_FINE) {
        return w->fault == PSP_SOCKET_DENIED ? PSP_COUNT_FAILED_DENIED : PSP_COUNT_FAILED_LOCAL;
    }
    switch (rc) {
    case CURLE_COULDNT_CONNECT:
        return PSP_COUNT_FAILED_CONNECT;
    case CURLE_OPERATION_TIMEDOUT:
        return PSP_COUNT_FAILED_TIMEOUT;
    case CURLE_COULDNT_RESOLVE_HOST:
        return PSP_COUNT_FAILED_DNS;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_USE_SSL_FAILED:
        return PSP_COUNT_FAILED_TLS;
    default:
        return PSP_COUNT_FAILED_OTHER;
    }
}

static void finish(psp_deliver_t *d, wire_t *w, CURLcode rc)
{
    char text[CURL_ERROR_SIZE + 128];
    psp_put_result_t result = {0};
    psp_event_t *e = w->e;
    long status = 0, version = 0;
    curl_off_t retry_after = 0;

    if (w->answer.answered) { /* whatever became of the body: the receiver has spoken */
        result.outcome = PSP_PUT_ANSWERED;
        (void)curl_easy_getinfo(w->easy, CURLINFO_RESPONSE_CODE, &status);
        (void)curl_easy_getinfo(w->easy, CURLINFO_HTTP_VERSION, &version);
        (void)curl_easy_getinfo(w->easy, CURLINFO_RETRY_AFTER, &retry_after);
        e->sub->http2 = version == CURL_HTTP_VERSION_2_0;
        result.status = (int)status;
        result.retry_after = retry_after > 86400 ? 86400 : (int)retry_after;
        result.error = w->answer.body;
    }
    else {
        result.outcome = judge(w, rc);
        result.error = explain(w, rc, text, sizeof text);
        result.failure = classify(w, rc);
    }
    if (w->answer.answered || result.outcome == PSP_PUT_LOCAL) {
        psp_sockets_learn(d->c->sockets, w->answer.answered);
    }
    (void)curl_multi_remove_handle(d->multi, w->easy);
    psp_sender_done(d->c, e, &result);
    put_back(d, w); /* only now: the result points into it */
}

/* --- The loop's side --- */

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

/* Over HTTP/2 a receiver may answer before it has the body, as nginx does with errors. libcurl then may forget to see
 * the end of it and wait for the time-out, unless told to go on. */
static int prod(psp_deliver_t *d)
{
    wire_t *w;
    int n = 0;

    for (w = d->secure; w; w = w->next) {
        if (!w->answer.answered) {
            continue;
        }
        if (!w->prod_at) {
            w->prod_at = d->c->now + PROD_FIRST;
        }
        else if (w->prod_at <= d->c->now) {
            (void)curl_easy_pause(w->easy, CURLPAUSE_ALL); /* what fails ends the request */
            (void)curl_easy_pause(w->easy, CURLPAUSE_CONT);
            w->prod_at = d->c->now + PROD_AGAIN;
            n++;
        }
        psp_child_want(d->c, w->prod_at);
    }
    if (n > 0) {
        act(d, CURL_SOCKET_TIMEOUT, 0);
    }
    return n;
}

int psp_deliver_kick(psp_deliver_t *d)
{
    int n = 0;

    if (d->timer && psp_mono() >= d->timer) {
        d->timer = 0;
        act(d, CURL_SOCKET_TIMEOUT, 0);
        n = collect(d); /* a near receiver may have answered meanwhile, and nothing would tell us */
    }
    if (prod(d) > 0) {
        n += collect(d);
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
    psp_sockets_step(d->c->sockets, on_ready, d);
    (void)psp_deliver_kick(d);
    (void)collect(d);
}

psp_deliver_t *psp_deliver_make(psp_child_t *c)
{
    psp_deliver_t *d = apr_pcalloc(c->p, sizeof *d);

    d->c = c;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK ||
        (d->multi = curl_multi_init()) == NULL ||
        curl_multi_setopt(d->multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_SOCKETDATA, c->sockets) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_TIMERFUNCTION, on_timer) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_TIMERDATA, d) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX) != CURLM_OK ||
        curl_multi_setopt(d->multi, CURLMOPT_MAXCONNECTS, 2L * psp_sockets_max(c->sockets)) !=
            CURLM_OK) {
        return NULL;
    }
    d->http2 = (curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_HTTP2) != 0;
    return d;
}
