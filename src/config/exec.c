/* SPDX-License-Identifier: Apache-2.0 */
/* exec.c: PubSubPullDatabase exec:/path: a program that prints the connection string. */
#include "config/private.h"

#include <signal.h>
#include <unistd.h>

#include <apr_lib.h>
#include <apr_strings.h>
#include <apr_thread_proc.h>

#include "db/db.h"

#define EXEC_PREFIX "exec:"
#define EXEC_TIMEOUT apr_time_from_sec(10)
#define OUTPUT_MAX 8192

int psp_config_is_exec(const char *database)
{
    return !strncmp(database, EXEC_PREFIX, sizeof(EXEC_PREFIX) - 1);
}

const char *psp_config_check_exec(apr_pool_t *p, const char *database)
{
    const char *path = database + sizeof(EXEC_PREFIX) - 1;
    apr_finfo_t info;

    if (*path != '/') {
        return apr_psprintf(p, "exec: wants the absolute path of a program, not '%s'", path);
    }
    if (apr_stat(&info, path, APR_FINFO_TYPE, p) != APR_SUCCESS || info.filetype != APR_REG ||
        access(path, X_OK)) {
        return apr_psprintf(p, "exec: '%s' is not a program that can be run", path);
    }
    return NULL;
}

/* Started by httpd's parent before it serves, with its environment; reap() ends it whatever
 * happens. */
static apr_status_t start(apr_proc_t *program, const char *path, apr_pool_t *p)
{
    const char *const argv[] = {path, NULL};
    apr_procattr_t *attributes;
    apr_status_t rv;

    if ((rv = apr_procattr_create(&attributes, p)) != APR_SUCCESS ||
        (rv = apr_procattr_io_set(attributes, APR_NO_PIPE, APR_FULL_BLOCK, APR_NO_PIPE)) !=
            APR_SUCCESS ||
        (rv = apr_procattr_cmdtype_set(attributes, APR_PROGRAM_ENV)) != APR_SUCCESS ||
        (rv = apr_procattr_error_check_set(attributes, 1)) != APR_SUCCESS) {
        return rv;
    }
    return apr_proc_create(program, path, argv, NULL, attributes, p);
}

/* Read to the end of the output, up to the deadline. */
static apr_status_t read_output(apr_file_t *from, char *buffer, apr_size_t *length)
{
    apr_time_t deadline = apr_time_now() + EXEC_TIMEOUT;
    apr_size_t room = *length - 1;
    apr_status_t rv = APR_SUCCESS;

    *length = 0;
    while (*length < room) {
        apr_interval_time_t left = deadline - apr_time_now();
        apr_size_t part = room - *length;

        if (left <= 0) {
            rv = APR_TIMEUP;
            break;
        }
        if ((rv = apr_file_pipe_timeout_set(from, left)) != APR_SUCCESS ||
            (rv = apr_file_read(from, buffer + *length, &part)) != APR_SUCCESS) {
            break;
        }
        *length += part;
    }
    buffer[*length] = '\0';
    return APR_STATUS_IS_EOF(rv) ? APR_SUCCESS : rv;
}

/* A program that closed its output may still take its time to end; one that hangs is killed. */
static apr_status_t reap(apr_proc_t *program, int *code)
{
    apr_time_t deadline = apr_time_now() + apr_time_from_sec(1);
    apr_exit_why_e why;
    apr_status_t rv;

    while (APR_STATUS_IS_CHILD_NOTDONE(rv = apr_proc_wait(program, code, &why, APR_NOWAIT))) {
        if (apr_time_now() > deadline) {
            (void)apr_proc_kill(program, SIGKILL);
            (void)apr_proc_wait(program, code, &why, APR_WAIT);
            return APR_TIMEUP;
        }
        apr_sleep(apr_time_from_msec(5));
    }
    if (!APR_STATUS_IS_CHILD_DONE(rv)) {
        return rv;
    }
    return APR_PROC_CHECK_EXIT(why) && *code == 0 ? APR_SUCCESS : APR_EGENERAL;
}

const char *psp_config_run_exec(const char **conninfo, const char *database, apr_pool_t *p,
                                apr_status_t *rv)
{
    const char *path = database + sizeof(EXEC_PREFIX) - 1;
    char output[OUTPUT_MAX];
    apr_size_t length = sizeof(output);
    apr_proc_t program;
    apr_status_t ended;
    const char *wrong;
    int code = 0;
    char *end;

    if ((*rv = start(&program, path, p)) != APR_SUCCESS) {
        return apr_psprintf(p, "%s could not be started", path);
    }
    if ((*rv = read_output(program.out, output, &length)) != APR_SUCCESS) {
        (void)apr_proc_kill(&program, SIGKILL);
    }
    (void)apr_file_close(program.out);
    ended = reap(&program, &code);
    if (*rv != APR_SUCCESS) {
        return apr_psprintf(p, "%s printed nothing to its end within 10 seconds", path);
    }
    if ((*rv = ended) != APR_SUCCESS) {
        return apr_psprintf(p, "%s ended with code %d", path, code);
    }
    if ((end = strpbrk(output, "\r\n"))) {
        *end = '\0';
    }
    *rv = APR_EINVAL;
    if (!*output) {
        return apr_psprintf(p, "%s printed nothing", path);
    }
    if ((wrong = psp_db_check_conninfo(p, output))) {
        return apr_psprintf(p, "what %s printed %s", path, wrong);
    }
    *conninfo = apr_pstrdup(p, output);
    *rv = APR_SUCCESS;
    return NULL;
}
