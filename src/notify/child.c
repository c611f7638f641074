/* SPDX-License-Identifier: Apache-2.0 */
/* child.c: the notifier process: privileges, signals, event loop, leaving. One thread, nothing blocks. */
#include "notify/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <ap_listen.h>
#include <http_config.h>
#include <http_log.h>
#include <http_main.h>
#include <mpm_common.h>

#include "record/record.h"

APLOG_USE_MODULE(pubsubpull);

#define LEAVE_WIRE apr_time_from_msec(90)  /* for requests on the wire to end */
#define LEAVE_SAVE apr_time_from_msec(115) /* for records and results; then leases are given back */
#define LEAVE_ALL apr_time_from_msec(145)
#define LEAVE_END apr_time_from_sec(2) /* for records that would be lost with httpd */
#define ROUNDS 8                       /* of sending in one turn */
#define TURN_MAX apr_time_from_sec(1)

enum { SIGNALS, WAKE, WIRES, DB, RECORDS_DB, FILES };

static int signal_pipe[2] = {-1, -1};

apr_int64_t psp_mono(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail */
    return (apr_int64_t)t.tv_sec * APR_USEC_PER_SEC + t.tv_nsec / 1000;
}

void psp_child_want(psp_child_t *c, apr_int64_t when)
{
    if (when < c->next) {
        c->next = when;
    }
}

void psp_child_again(psp_child_t *c)
{
    psp_child_want(c, c->now);
}

apr_uint32_t psp_child_random(psp_child_t *c)
{
    c->random ^= c->random << 13;
    c->random ^= c->random >> 17;
    c->random ^= c->random << 5;
    return c->random;
}

void *psp_child_alloc(void *old, apr_size_t size)
{
    void *made = realloc(old, size);

    if (!made) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, APR_ENOMEM, ap_server_conf,
                     "PSP0406: the notifier is out of memory and starts again");
        _exit(1);
    }
    return made;
}

/* --- Becoming a process of its own --- */

static void on_term(int sig)
{
    int saved = errno;

    (void)sig;
    /* The pipe is full only when it was written to before. */
    if (write(signal_pipe[1], "", 1) < 0) {
        errno = saved;
    }
    errno = saved;
}

/* APEXIT_CHILDFATAL would shut httpd down, whoever calls exit() with it; and whatever it is, the cleanups that exit() runs are
 * the parent's. */
static void on_leaving(int status, void *unused)
{
    (void)unused;
    _exit(status == 0 ? 0 : 1);
}

/* The same for those who do not ask exit(): the kernel ends the process by a signal instead. Where that is not to be
 * had there is nothing to be done about it. */
static void never_fatal(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) +
                                               (APR_IS_BIGENDIAN ? sizeof(apr_uint32_t) : 0)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, APEXIT_CHILDFATAL, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) {
        (void)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                      &program);
    }
}

/* First of all: until then the parent's handlers are in place, which only set flags that nobody reads here. Signals
 * are blocked since before the fork. */
static int set_signals(void)
{
    static const int ignored[] = {SIGHUP, SIGINT, SIGPIPE, SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM};
    static const int normal[] = {SIGCHLD, SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGQUIT};
    struct sigaction act = {0};
    sigset_t none;
    apr_size_t i;

    if (pipe2(signal_pipe, O_NONBLOCK | O_CLOEXEC) != 0) {
        return 0;
    }
    act.sa_handler = on_term;
    act.sa_flags = SA_RESTART;
    if (sigemptyset(&act.sa_mask) != 0 || sigaction(SIGTERM, &act, NULL) != 0) {
        return 0;
    }
    for (i = 0; i < sizeof ignored / sizeof *ignored; i++) {
        act.sa_handler = SIG_IGN;
        (void)sigaction(ignored[i], &act, NULL);
    }
    for (i = 0; i < sizeof normal / sizeof *normal; i++) {
        act.sa_handler = SIG_DFL;
        (void)sigaction(normal[i], &act, NULL);
    }
    return sigemptyset(&none) == 0 && sigprocmask(SIG_SETMASK, &none, NULL) == 0;
}

static int detach(const psp_start_t *start, apr_pool_t *p)
{
    ap_close_listeners();
    (void)setsid(); /* prefork signals its whole group, and we leave last */
    (void)prctl(PR_SET_NAME, "psp-notifier");
    psp_share_begin();
    if (on_exit(on_leaving, NULL) != 0 || ap_run_drop_privileges(p, start->server) != 0) {
        return 0;
    }
    never_fatal();
    /* After the change of user, which takes it back; the parent may have died before it. */
    return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == start->parent;
}

/* True when SIGTERM came within that time. */
static int told_to_stop(apr_interval_time_t wait)
{
    struct pollfd file = {signal_pipe[0], POLLIN, 0};
    apr_int64_t until = psp_mono() + wait, now;

    while ((now = psp_mono()) < until) {
        if (poll(&file, 1, (int)((until - now + 999) / 1000)) > 0) {
            return 1;
        }
    }
    return poll(&file, 1, 0) > 0;
}

/* --- The loop --- */

static psp_child_t *make(const psp_start_t *start, apr_pool_t *p)
{
    psp_child_t *c = apr_pcalloc(p, sizeof *c);

    c->p = p;
    c->server = start->server;
    c->config = psp_config_server(start->server);
    c->id = start->id;
    c->now = psp_mono();
    c->random = (apr_uint32_t)(c->now ^ (apr_int64_t)getpid() << 16) | 1;
    c->db = psp_session_make(p, c->config->conninfo, "pubsubpull notifier");
    c->records_db = psp_session_make(p, c->config->conninfo, "pubsubpull records");
    if (!c->db || !c->records_db) {
        return NULL;
    }
    c->gate = psp_gate_make(c);
    c->records = psp_records_make(c);
    c->keys = psp_keys_make(c, start->previous);
    c->renew = psp_renew_make(c, start->previous);
    c->leases = psp_leases_make(c);
    c->give = psp_give_make(c);
    c->feed = psp_feed_make(c);
    c->due = psp_due_make(c);
    c->lanes = psp_lanes_make(c);
    c->sender = psp_sender_make(c);
    c->saver = psp_saver_make(c);
    c->keep = psp_keep_make(c);
    c->share = psp_share_make(c);
    c->sockets = psp_sockets_make(c);
    c->deliver = c->sockets ? psp_deliver_make(c) : NULL;
    return c->deliver ? c : NULL;
}

static void watch(struct pollfd *file, const psp_session_t *db)
{
    short events = 0;

    file->fd = psp_session_fd(db, &events);
    file->events =
        (short)((events & APR_POLLIN ? POLLIN : 0) | (events & APR_POLLOUT ? POLLOUT : 0));
}

static void want_session(psp_child_t *c, const psp_session_t *db)
{
    apr_time_t next = psp_session_next(db);

    if (next) {
        psp_child_want(c, next);
    }
}

static void wait_for_work(psp_child_t *c, struct pollfd *files)
{
    apr_int64_t now = psp_mono();
    int ms;

    watch(&files[DB], c->db);
    watch(&files[RECORDS_DB], c->records_db);
    want_session(c, c->db);
    want_session(c, c->records_db);
    ms = c->next > now ? (int)((c->next - now + 999) / 1000) : 0;
    if (poll(files, FILES, ms) < 0) {
        for (int i = 0; i < FILES; i++) {
            files[i].revents = 0; /* EINTR: another turn */
        }
    }
    c->now = psp_mono();
}

/* While near receivers answer at once there is no need to wait in between, but others want their turn. */
static void send_rounds(psp_child_t *c)
{
    int round = 0;

    do {
        psp_sender_step(c);
        if (!psp_deliver_kick(c->deliver)) {
            return;
        }
    } while (++round < ROUNDS);
    psp_child_want(c, c->now);
}

static void turn(psp_child_t *c, struct pollfd *files)
{
    wait_for_work(c, files);
    if (files[WAKE].revents) {
        psp_records_woken(c);
    }
    psp_deliver_step(c->deliver);
    psp_session_step(c->db, psp_mono());
    psp_session_step(c->records_db, psp_mono());
    c->next = c->now + TURN_MAX; /* from here on everybody says when */
    psp_gate_step(c);
    psp_keys_step(c); /* before records: what they belong to was signed with them */
    psp_records_step(c);
    psp_renew_step(c);
    psp_keep_step(c);
    psp_share_step(c);
    psp_due_step(c);
    send_rounds(c);
    psp_saver_step(c); /* before the feed: what is owed has to be saved before anything is read */
    psp_feed_step(c);
    psp_session_step(c->db, psp_mono()); /* send what was queued */
    psp_session_step(c->records_db, psp_mono());
    psp_count_turn(c);
}

/* Whether it is worth to stay: nobody comes after us, and there is a database as far as is known. */
static int may_save(const psp_child_t *c, int ending, apr_int64_t spent)
{
    return ending && spent < LEAVE_END && !psp_gate_away(c) && !psp_records_spooling(c) &&
           (!psp_records_clean(c) || psp_records_waiting(c));
}

/* Finish what can be finished soon; httpd waits for us. */
static void leave(psp_child_t *c, struct pollfd *files, int ending)
{
    apr_int64_t began = psp_mono();
    int released = 0;

    c->stopping = 1;
    files[SIGNALS].fd = -1;
    for (;;) {
        apr_int64_t spent;
        int clean;

        turn(c, files);
        spent = c->now - began;
        clean = psp_records_clean(c) && psp_saver_clean(c);
        if (!released &&
            ((clean && !c->flying) || (clean && spent > LEAVE_WIRE) || spent > LEAVE_SAVE)) {
            psp_renew_leave(c);
            released = 1;
            psp_session_step(c->records_db, psp_mono());
        }
        if (!may_save(c, ending, spent) &&
            (spent > LEAVE_ALL || !psp_gate_open(c) ||
             (released && psp_session_idle(c->db) && psp_session_idle(c->records_db)))) {
            return;
        }
        psp_child_want(c, began +
                              (spent < LEAVE_WIRE   ? LEAVE_WIRE
                               : spent < LEAVE_SAVE ? LEAVE_SAVE
                               : spent < LEAVE_ALL  ? LEAVE_ALL
                                                    : LEAVE_END) +
                              1000);
    }
}

static void run(psp_child_t *c, pid_t parent)
{
    struct pollfd files[FILES] = {
        [SIGNALS] = {signal_pipe[0], POLLIN, 0},
        [WAKE] = {psp_record_wake_fd(), POLLIN, 0},
        [WIRES] = {psp_sockets_fd(c->sockets), POLLIN, 0},
    };

    int ending;

    c->next = c->now;
    while (!files[SIGNALS].revents && getppid() == parent) {
        turn(c, files);
    }
    ending = psp_record_ending() || getppid() != parent;
    leave(c, files, ending);
    psp_records_leave(c, ending);
}

/* The end is always _exit: the pools hold the parent's cleanups too, and curl's would wait for name servers. */
void psp_child_run(const psp_start_t *start, apr_pool_t *p)
{
    psp_child_t *c;

    if (!set_signals() || !detach(start, p)) {
        ap_log_error(APLOG_MARK, APLOG_ERR, errno, start->server,
                     "PSP0405: the notifier cannot set itself up");
        _exit(1);
    }
    if (told_to_stop(start->delay) && !psp_record_ending()) {
        _exit(0);
    }
    c = make(start, p);
    if (!c) {
        ap_log_error(APLOG_MARK, APLOG_ERR, errno, start->server,
                     "PSP0407: the notifier cannot make its sessions or set up libcurl");
        _exit(1);
    }
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, start->server, "PSP0400: notifier %s started%s", c->id,
                 c->config->notifier ? "" : ", for records of requests only");
    run(c, start->parent);
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, start->server,
                 "PSP0401: notifier %s stopped, %d requests cut off%s", c->id, c->flying,
                 psp_saver_clean(c) ? "" : ", results not saved");
    _exit(0);
}
