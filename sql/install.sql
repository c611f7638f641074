-- SPDX-License-Identifier: Apache-2.0
-- install.sql: installs or upgrades the schema pubsubpull, after roles.sql, which makes its owner and the module's role:
--   psql -v ON_ERROR_STOP=1 -f sql/roles.sql -f sql/install.sql
-- by whoever is a member of the owner. Running it again is an upgrade: it replaces functions, adds what is missing and keeps all data.
-- -v module=NAME: the module's role, if it is not called pubsubpull_httpd.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '30s';
SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pubsubpull.install')) \g /dev/null
-- Without roles.sql whoever runs this becomes the owner, and the module can connect as that role only. All that is new belongs to whom the rest belongs.
DO $$ BEGIN
  IF to_regnamespace('pubsubpull') IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    CREATE SCHEMA pubsubpull;
  END IF;
  IF to_regnamespace('pubsubpull') IS NULL OR (SELECT r.rolsuper FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = 'pubsubpull') THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = 'the schema pubsubpull must not belong to a superuser, for its triggers run as its owner',
      HINT = 'Run sql/roles.sql first: it makes a role for that.';
  END IF;
  EXECUTE format('SET LOCAL ROLE %I', (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'pubsubpull'));
END $$;
DO $$ BEGIN -- before it is replaced
  IF to_regprocedure('pubsubpull.schema_version()') IS NOT NULL THEN
    PERFORM set_config('pubsubpull.installed', pubsubpull.schema_version()::text, true);
  END IF;
END $$;
COMMENT ON SCHEMA pubsubpull IS 'mod_pubsubpull: the log of changes, who follows it, and the requests that caused them';
\ir web.sql
DO $$ BEGIN
  IF pubsubpull.schema_version() < nullif(current_setting('pubsubpull.installed', true), '')::int THEN
    RAISE 'the schema pubsubpull in this database is of version %, newer than these files, which are of version %',
      current_setting('pubsubpull.installed'), pubsubpull.schema_version()
      USING HINT = 'Nothing was changed. Install with the files of the newer module.';
  END IF;
  PERFORM set_config('pubsubpull.upgraded', CASE WHEN pubsubpull.schema_version()::text <> current_setting('pubsubpull.installed', true) THEN 'yes' ELSE '' END, false);
END $$;
\ir record.sql
\ir log.sql
\ir publish.sql
\ir feed.sql
\ir rows.sql
\ir changes.sql
\ir audit.sql
\ir subscribe.sql
\ir subscriptions.sql
\ir retention.sql
\ir adopt.sql
\ir lease.sql
\ir notify.sql
\ir calls.sql
\ir retry.sql
\ir metrics.sql
\ir rights.sql
-- Tables published before an upgrade get the trigger functions of this version.
SELECT pubsubpull.refresh() \g /dev/null
COMMIT;
-- Notifiers of another version look at the schema again when they connect.
DO $$ BEGIN
  IF current_setting('pubsubpull.upgraded', true) = 'yes' THEN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('pubsubpull notifier', 'pubsubpull records');
  END IF;
EXCEPTION WHEN insufficient_privilege THEN
  NULL; -- notifiers since version 3 look by themselves, within seconds
END $$;
