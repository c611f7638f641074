/* SPDX-License-Identifier: Apache-2.0 */
/* check.c: is a connection string well-formed? Asked before anything is connected. */
#include "db/db.h"

#include <string.h>

#include <libpq-fe.h>

/* libpq's own words quote what they stumble over, and that may be a part of a password. */
static const char *tell(const char *message)
{
    if (message && strstr(message, "missing \"=\"")) {
        return "is not a connection string: a word in it has no '='; values with blanks are "
               "written 'in quotes'";
    }
    if (message && strstr(message, "unterminated quoted string")) {
        return "is not a connection string: a quote in it is not closed";
    }
    if (message && strstr(message, "invalid connection option")) {
        return "is not a connection string: it names a parameter that libpq does not know";
    }
    if (message && strstr(message, "invalid URI query parameter")) {
        return "is not a connection URI: it names a parameter that libpq does not know";
    }
    return "is neither a connection string such as \"host=/run/postgresql dbname=app user=psp\" "
           "nor a connection URI such as postgresql://psp@db.internal/app";
}

/*
 * A password with an @, : or / in it that is not percent-encoded splits a URI in the wrong place,
 * and its rest becomes host or port, which libpq's messages quote later.
 */
static const char *tell_split(const PQconninfoOption *o)
{
    for (; o->keyword; o++) {
        if (o->val && ((!strcmp(o->keyword, "host") && strchr(o->val, '@')) ||
                       (!strcmp(o->keyword, "port") && o->val[strspn(o->val, "0123456789,")]))) {
            return "has a host or port that cannot be one; in a URI, special characters in user "
                   "and password are percent-encoded";
        }
    }
    return NULL;
}

const char *psp_db_check_conninfo(apr_pool_t *p, const char *conninfo)
{
    PQconninfoOption *options;
    char *message = NULL;
    const char *wrong = NULL;

    (void)p;
    if (!conninfo || !conninfo[strspn(conninfo, " \t")]) {
        return "is empty";
    }
    options = PQconninfoParse(conninfo, &message);
    if (!options) {
        wrong = tell(message);
    }
    else {
        wrong = tell_split(options);
    }
    PQconninfoFree(options);
    PQfreemem(message);
    return wrong;
}
