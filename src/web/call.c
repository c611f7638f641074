/* SPDX-License-Identifier: Apache-2.0 */
/* call.c: this process's sessions with the database, and whether it has the schema that we speak.
 */
#include "web/private.h"

#include <apr_atomic.h>
#include <apr_strings.h>
#include <http_log.h>

#include "config/config.h"

APLOG_USE_MODULE(pubsubpull);

#define REMEDY "psql -v ON_ERROR_STOP=1 -f sql/roles.sql -f sql/install.sql"

#define POOL_MIN 0
#define POOL_MAX 8
#define ASK_AGAIN 10 /* seconds; another module may upgrade the schema at any time */

/* Made in child_init, before there are threads. */
static struct place_t {
    psp_db_pool_t *database;
    volatile apr_uint32_t usable; /* the schema was seen and is ours */
    volatile apr_uint32_t asked;  /* seconds: when that was */
} places[2];
enum { PRIMARY, STANDBY }; /* without PubSubPullReadDatabase there is only the first */

static volatile apr_uint32_t told; /* it was not, and the log says so */

psp_db_pool_t *psp_web_pool_make(server_rec *s, const char *conninfo, int min, int max,
                                 apr_pool_t *p)
{
    psp_db_pool_t *pool;
    apr_status_t rv = psp_db_pool_make(&pool, conninfo, min, max, p);

    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, s,
                     "PSP0303: the pool of database sessions could not be made; resources answer "
                     "503 in this process");
        return NULL;
    }
    psp_db_pool_report(pool, psp_report, s);
    return pool;
}

static psp_db_pool_t *make(server_rec *s, const char *conninfo, apr_pool_t *p)
{
    const psp_server_config_t *c = psp_config_server(s);

    return psp_web_pool_make(s, conninfo, c->pool_min == PSP_UNSET ? POOL_MIN : c->pool_min,
                             c->pool_max == PSP_UNSET ? POOL_MAX : c->pool_max, p);
}

static void child_init(apr_pool_t *p, server_rec *s)
{
    const psp_server_config_t *c = psp_config_server(s);

    if (!c->conninfo) {
        return;
    }
    places[PRIMARY].database = make(s, c->conninfo, p);
    places[STANDBY].database = c->read_conninfo ? make(s, c->read_conninfo, p) : NULL;
}

static struct place_t *place_of(const psp_call_t *c)
{
    return &places[c->reads && psp_config_server(c->r->server)->read_conninfo ? STANDBY : PRIMARY];
}

psp_db_pool_t *psp_web_db(const psp_call_t *c)
{
    return place_of(c)->database;
}

static psp_result_t not_ours(request_rec *r, apr_status_t rv, const char *type, const char *detail)
{
    if (apr_atomic_cas32(&told, 1, 0) == 0) {
        ap_log_rerror(APLOG_MARK, APLOG_ERR, rv == APR_EGENERAL ? 0 : rv, r, "PSP0304: %s", detail);
    }
    return (psp_result_t){.rv = rv, .http = 503, .type = type, .detail = detail, .retry_after = 60};
}

static psp_result_t missing(request_rec *r, apr_status_t rv)
{
    return not_ours(r, rv, "schema-missing",
                    "The database has no schema pubsubpull, or only a part of it. "
                    "The administrator installs it with: " REMEDY);
}

static psp_result_t other_version(request_rec *r, const char *found)
{
    const char *remedy =
        apr_atoi64(found) < PSP_SCHEMA_VERSION
            ? "The administrator upgrades it with the files of this module: " REMEDY
            : "The administrator installs the module of that version here, and "
              "restarts httpd.";

    return not_ours(r, APR_EGENERAL, "schema-version",
                    apr_psprintf(r->pool,
                                 "The schema pubsubpull in the database is version %s, and this "
                                 "module speaks version %d. %s",
                                 found, PSP_SCHEMA_VERSION, remedy));
}

/* Asked until the answer is yes, and now and then afterwards: installing and upgrading are noticed
 * without a restart. */
static psp_result_t check_schema(request_rec *r, struct place_t *place)
{
    const apr_uint32_t now = (apr_uint32_t)apr_time_sec(apr_time_now());
    const psp_rows_t *rows;
    psp_result_t result;
    const char *found;

    if (apr_atomic_read32(&place->usable) && now - apr_atomic_read32(&place->asked) < ASK_AGAIN) {
        return (psp_result_t){.rv = APR_SUCCESS};
    }
    result = psp_db_call(place->database, r->pool, "SELECT pubsubpull.schema_version()", 0, NULL,
                         PSP_WEB_TIMEOUT, &rows);
    if (result.rv != APR_SUCCESS) {
        return !strcmp(result.type, "database-schema") ? missing(r, result.rv) : result;
    }
    found = psp_rows_get(rows, 0, 0);
    if (!found || apr_atoi64(found) != PSP_SCHEMA_VERSION) {
        apr_atomic_set32(&place->usable, 0);
        return other_version(r, found ? found : "0");
    }
    apr_atomic_set32(&place->asked, now);
    apr_atomic_set32(&place->usable, 1);
    apr_atomic_set32(&told, 0);
    return result;
}

psp_result_t psp_web_call_in(psp_call_t *c, apr_pool_t *p, const char *call, int n,
                             const char *const *params, const psp_rows_t **rows)
{
    struct place_t *place = place_of(c);
    psp_result_t result = check_schema(c->r, place);

    *rows = NULL;

    if (result.rv != APR_SUCCESS) {
        return result;
    }
    result = psp_db_call(place->database, p, call, n, params, PSP_WEB_TIMEOUT, rows);
    if (result.rv != APR_SUCCESS && !strcmp(result.type, "database-schema")) {
        apr_atomic_set32(&place->usable, 0);
        return missing(c->r, result.rv);
    }
    return result;
}

psp_result_t psp_web_call(psp_call_t *c, const char *call, int n, const char *const *params,
                          const psp_rows_t **rows)
{
    return psp_web_call_in(c, c->r->pool, call, n, params, rows);
}

void psp_call_register_hooks(apr_pool_t *p)
{
    (void)p;
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
}
