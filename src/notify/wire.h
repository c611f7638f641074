/* SPDX-License-Identifier: Apache-2.0 */
/* wire.h: what the files that make one request share: its text, its answer, its connection.
 *
 *   request.c     what is sent for an event: method, header lines, body
 *   sign.c        signatures; the only file that knows libcrypto
 *   answer.c      what came back for it, read within bounds
 *   address.c     which addresses may be connected to
 *   socket.c      connections to receivers, opened and watched
 */
#ifndef PSP_NOTIFY_WIRE_H
#define PSP_NOTIFY_WIRE_H

#include "notify/private.h"
#include "record/record.h"

/* --- request.c --- */

#define PSP_AGENT "mod_pubsubpull/0.1"
#define PSP_SIGNATURES 256 /* room for the value of webhook-signature */
#define PSP_REQUEST_LINES 32

/** One request. It points into itself and the event: no copy of it is any good. */
typedef struct psp_request_t {
    const char *method;
    const char *body;
    apr_size_t length;
    char *lines[PSP_REQUEST_LINES]; /* headers, "Name: value" */
    int count;                      /* of lines; at least one */
    char id[64], time[48], trace[80], cause[24 + PSP_CAUSE_LENGTH], signature[24 + PSP_SIGNATURES];
} psp_request_t;

void psp_request_compose(psp_child_t *c, psp_request_t *r, psp_event_t *e);

/* --- answer.c --- */

/** As much of an answer as is looked at. */
typedef struct psp_answer_t {
    apr_size_t header_bytes, body_bytes;
    int final;    /* the header block being read is not a 1xx */
    int answered; /* a whole header block of a final answer was read */
    apr_size_t kept;
    char body[PSP_PUT_KEPT + 1];
} psp_answer_t;

void psp_answer_begin(psp_answer_t *a);
/** A header line, or part of the body, as libcurl hands it over. @return 0: that is enough, cut it off */
apr_size_t psp_answer_header(char *data, apr_size_t size, apr_size_t n, void *answer);
apr_size_t psp_answer_body(char *data, apr_size_t size, apr_size_t n, void *answer);
/** It was cut off because its headers, those of 1xx included, did not end. */
int psp_answer_endless(const psp_answer_t *a);

/* --- socket.c --- */

struct sockaddr;

typedef enum {
    PSP_SOCKET_FINE,
    PSP_SOCKET_DENIED,   /* the address may not be connected to */
    PSP_SOCKET_NONE_LEFT /* we have no more files: not the receiver's fault */
} psp_socket_fault_t;

/** A socket is ready to be read, to be written, or broken. */
typedef void (*psp_socket_ready_t)(void *baton, int fd, int in, int out, int broken);

psp_sockets_t *psp_sockets_make(psp_child_t *c);
/** Most requests at a time: what the process may open files for, less when it turned out to be fewer. */
int psp_sockets_max(const psp_sockets_t *s);
/** A request ended: it had a socket (true) or got none. */
void psp_sockets_learn(psp_sockets_t *s, int had);
/** A file that is readable when one of the sockets is ready. */
int psp_sockets_fd(const psp_sockets_t *s);
/** A socket to connect to that address, or -1; fault stays as it was unless it is one of the above. */
int psp_socket_open(psp_sockets_t *s, int type, int protocol, const struct sockaddr *address,
                    psp_socket_fault_t *fault);
/** Wait for a socket, from now on for this. 0 when that is impossible. */
int psp_socket_watch(psp_sockets_t *s, int fd, int in, int out);
/** The last connection on it was made, as far as TCP goes. */
int psp_socket_connected(const psp_sockets_t *s, int fd);
/** It is not closed by the other side. */
int psp_socket_alive(int fd);
/** Break a connection on which nothing came since then, nor lately. */
void psp_socket_drop_if_mute(const psp_sockets_t *s, int fd, apr_int64_t since);
void psp_socket_leave(psp_sockets_t *s, int fd);
/** Call for each socket that is ready now; never waits. */
void psp_sockets_step(psp_sockets_t *s, psp_socket_ready_t ready, void *baton);

/* --- sign.c --- */

/** The value of webhook-signature: `v1,<base64>` for each secret, joined by blanks (Standard Webhooks 1.0).
 * @param secrets comma-joined whsec_…; one that is none is left out
 * @param out room for PSP_SIGNATURES */
void psp_sign(char *out, apr_size_t room, const char *secrets, const char *id,
              const char *timestamp, const char *body, apr_size_t length);

/* --- address.c --- */

/** May a notification go to this address? Asked at each connect, after the name was resolved. */
int psp_address_allowed(const psp_server_config_t *config, const struct sockaddr *address);

#endif
