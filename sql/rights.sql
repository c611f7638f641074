-- SPDX-License-Identifier: Apache-2.0
-- rights.sql: what the module's role may do: call these functions, and nothing else. Nobody else may anything; triggers run by themselves.

REVOKE ALL ON SCHEMA pubsubpull FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pubsubpull FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pubsubpull FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pubsubpull FROM PUBLIC;

\ir names.sql
SELECT set_config('pubsubpull.module', :'module', true), set_config('pubsubpull.publisher', :'publisher', true) \g /dev/null
DO $$
DECLARE
  -- What httpd calls. These run with the rights of the schema's owner.
  calls CONSTANT text[] := ARRAY['root_get',
    'tables_get', 'table_get', 'table_put', 'table_delete',
    'rows_get', 'row_get', 'rows_copy', 'stream_begin', 'await_flush', 'changes_get', 'watch', 'logged_names',
    'requests_get', 'request_get',
    'subscriptions_get', 'subscription_get', 'subscription_put', 'subscription_delete', 'subscription_scope', 'subscription_state_get', 'subscription_state_put',
    'subscription_position_get', 'subscription_position_put', 'failures_get', 'failure_put', 'failure_delete',
    'notify_lease', 'notify_renew', 'notify_release', 'notify_leave', 'notify_give', 'notify_probe', 'notify_read', 'notify_due', 'notify_save', 'notify_maintain',
    'record_requests', 'record_reads', 'awaits_reads', 'set_keys', 'metrics', 'unattributed_counts'];
  -- Asked before anything else.
  helpers CONSTANT text[] := ARRAY['schema_version', 'percent_encode'];
  -- These run with the rights of the module's role, whoever calls them: the tables of the services are read so.
  readers CONSTANT text[] := ARRAY['run_rows', 'read_page', 'run_key'];
  -- What those call who publish tables by SQL; these look at the caller themselves.
  publishing CONSTANT text[] := ARRAY['publish', 'unpublish'];
  modules CONSTANT name[] := ARRAY(SELECT pubsubpull.module_roles() UNION SELECT rolname FROM pg_roles WHERE rolname = current_setting('pubsubpull.module'));
  publishers CONSTANT name[] := ARRAY(SELECT rolname FROM pg_roles WHERE rolname = current_setting('pubsubpull.publisher'));
  reader CONSTANT name := (SELECT rolname FROM pg_roles WHERE rolname = current_setting('pubsubpull.module'));
  f record;
  role name;
BEGIN
  IF reader <> current_user THEN
    EXECUTE format('GRANT CREATE ON SCHEMA pubsubpull TO %I', reader);
  END IF;
  FOR f IN SELECT p.oid::regprocedure AS name, p.proname FROM pg_proc p
           WHERE p.pronamespace = 'pubsubpull'::regnamespace AND p.proname = ANY (calls || helpers || readers || publishing) LOOP
    EXECUTE format('ALTER FUNCTION %s SECURITY %s', f.name, CASE WHEN f.proname = ANY (helpers) THEN 'INVOKER' ELSE 'DEFINER' END);
    IF f.proname = ANY (readers) THEN
      CONTINUE WHEN reader IS NULL;
      EXECUTE format('ALTER FUNCTION %s OWNER TO %I', f.name, reader);
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f.name, current_user); -- after that, for it replaces the grantee
      CONTINUE;
    END IF;
    FOREACH role IN ARRAY CASE WHEN f.proname = ANY (publishing) THEN publishers ELSE modules END LOOP
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f.name, role);
    END LOOP;
  END LOOP;
  IF reader <> current_user THEN
    EXECUTE format('REVOKE CREATE ON SCHEMA pubsubpull FROM %I', reader);
  END IF;
END $$;
