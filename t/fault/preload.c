/* SPDX-License-Identifier: Apache-2.0 */
/* preload.c: for LD_PRELOAD into httpd: makes the notifier, and nobody else, fail as the file $PSP_FAULT says.
 *
 *   abort    the process aborts as soon as it has its name
 *   _exit    at SIGUSR2 it ends with 15, which for httpd means: all is lost
 *   exit     the same, by exit()
 *   fork     there is no process for it
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static char fault[16];

static void on_signal(int number)
{
    (void)number;
    if (strcmp(fault, "_exit") == 0) {
        _exit(15);
    }
    exit(15);
}

static void read_fault(void)
{
    const char *file = getenv("PSP_FAULT");
    int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd >= 0 ? read(fd, fault, sizeof fault - 1) : 0;

    fault[n > 0 ? n : 0] = '\0';
    if (fd >= 0) {
        close(fd);
    }
}

int prctl(int option, ...)
{
    unsigned long a[4];
    va_list list;
    int i;

    va_start(list, option);
    for (i = 0; i < 4; i++) {
        a[i] = va_arg(list, unsigned long);
    }
    va_end(list);
    if (option == PR_SET_NAME && strcmp((const char *)a[0], "psp-notifier") == 0) {
        struct sigaction act = {.sa_handler = on_signal};

        read_fault();
        if (strcmp(fault, "abort") == 0) {
            abort();
        }
        if (*fault) {
            sigaction(SIGUSR2, &act, NULL);
        }
    }
    return (int)syscall(SYS_prctl, option, a[0], a[1], a[2], a[3]);
}

/* Of all that httpd forks only the notifier is forked with its signals blocked. */
pid_t fork(void)
{
    pid_t (*next)(void);
    sigset_t now;

    *(void **)&next = dlsym(RTLD_NEXT, "fork");
    if (sigprocmask(SIG_BLOCK, NULL, &now) == 0 && sigismember(&now, SIGTERM) == 1) {
        read_fault();
        if (strcmp(fault, "fork") == 0) {
            errno = EAGAIN;
            return -1;
        }
    }
    return next();
}
