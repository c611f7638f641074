-- SPDX-License-Identifier: Apache-2.0
-- roles.sql: the roles that mod_pubsubpull needs, and its empty schema. Run it in the database of the services, before install.sql:
--   psql -v ON_ERROR_STOP=1 -f sql/roles.sql -f sql/install.sql
-- as a superuser or a role with CREATEROLE and with CREATE on the database; it becomes a member of the owner, which is what upgrades need.
-- Running it again changes nothing, or gives a schema that belongs to somebody else to the owner.
--
--   pubsubpull            owns schema, log and triggers; nobody connects as it            -v owner=NAME
--   pubsubpull_httpd      httpd connects as it: calls what httpd calls, reads rows        -v module=NAME
--   pubsubpull_publisher  its members may publish tables of theirs by SQL                 -v publisher=NAME
\set ON_ERROR_STOP on
\ir names.sql
BEGIN;
SET LOCAL client_min_messages = notice;
SET LOCAL lock_timeout = '5s';
SET LOCAL search_path = pg_catalog, pg_temp;
SELECT pg_advisory_xact_lock(hashtext('pubsubpull.install')) \g /dev/null
SELECT set_config('pubsubpull.owner', :'owner', true), set_config('pubsubpull.module', :'module', true), set_config('pubsubpull.publisher', :'publisher', true) \g /dev/null

DO $$
DECLARE
  r record;
BEGIN
  FOR r IN SELECT w.name, w.kind, p.oid AS found, p.rolsuper OR p.rolbypassrls OR p.rolcreaterole OR p.rolreplication AS mighty
           FROM (VALUES (current_setting('pubsubpull.owner'), 'NOLOGIN'), (current_setting('pubsubpull.module'), 'LOGIN'),
                        (current_setting('pubsubpull.publisher'), 'NOLOGIN')) w(name, kind) LEFT JOIN pg_roles p ON p.rolname = w.name LOOP
    IF r.found IS NULL THEN
      EXECUTE format('CREATE ROLE %I %s', r.name, r.kind);
    ELSIF r.mighty THEN
      RAISE EXCEPTION USING MESSAGE = format('the role %I has more rights than the module may have', r.name),
        HINT = 'It must not be SUPERUSER, CREATEROLE, REPLICATION or BYPASSRLS: name another one with -v owner=, -v module= or -v publisher=.';
    END IF;
  END LOOP;
  -- The owner gives two functions to the module's role, so that they run with its rights. An upgrade is made as the owner; who may not
  -- make roles must be a member already.
  IF current_setting('pubsubpull.owner') <> current_setting('pubsubpull.module') AND NOT pg_has_role(current_setting('pubsubpull.owner'), current_setting('pubsubpull.module'), 'USAGE') THEN
    EXECUTE format('GRANT %I TO %I', current_setting('pubsubpull.module'), current_setting('pubsubpull.owner'));
  END IF;
  IF NOT pg_has_role(current_setting('pubsubpull.owner'), 'USAGE') AND (SELECT q.rolcreaterole FROM pg_roles q WHERE q.rolname = current_user) THEN
    EXECUTE format('GRANT %I TO CURRENT_USER', current_setting('pubsubpull.owner'));
  END IF;
  IF pg_has_role(current_setting('pubsubpull.module'), current_setting('pubsubpull.owner'), 'MEMBER') THEN
    RAISE WARNING USING MESSAGE = format('%I is a member of %I and so may do anything with the log', current_setting('pubsubpull.module'), current_setting('pubsubpull.owner'));
  END IF;
END $$;

-- A schema that somebody else owns was installed before there were roles: all in it goes to the owner.
DO $$
DECLARE
  owner CONSTANT text := current_setting('pubsubpull.owner');
  space CONSTANT oid := to_regnamespace('pubsubpull');
  command text;
BEGIN
  IF space IS NULL THEN
    EXECUTE format('CREATE SCHEMA pubsubpull AUTHORIZATION %I', owner);
    RETURN;
  ELSIF (SELECT pg_get_userbyid(n.nspowner) = owner FROM pg_namespace n WHERE n.oid = space) THEN
    RETURN;
  END IF;
  EXECUTE format('GRANT USAGE, CREATE ON SCHEMA pubsubpull TO %I', owner);
  FOR turn IN 1 .. 50 LOOP -- who works with these locks them in many orders: all are had at once, or none is held while the others go on
    BEGIN
      SET LOCAL lock_timeout = '100ms';
      FOR command IN
        SELECT format('ALTER %s %s OWNER TO %I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass, owner) FROM pg_class c
        WHERE c.relnamespace = space AND (c.relkind IN ('r', 'p', 'v') OR c.relkind = 'S' AND NOT EXISTS (
          SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, owner) FROM pg_proc p WHERE p.pronamespace = space
        UNION ALL
        SELECT format('ALTER TYPE %s OWNER TO %I', t.oid::regtype, owner) FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE t.typnamespace = space AND t.typelem = 0 AND coalesce(c.relkind, 'c') = 'c'
      LOOP
        EXECUTE command;
      END LOOP;
      SET LOCAL lock_timeout = '5s';
      EXIT;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
      IF turn = 50 THEN
        RAISE;
      END IF;
      PERFORM pg_sleep(0.1);
    END;
  END LOOP;
  EXECUTE format('ALTER SCHEMA pubsubpull OWNER TO %I', owner);
END $$;

SELECT format('SET LOCAL ROLE %I', :'owner') \gexec
SELECT format('GRANT USAGE ON SCHEMA pubsubpull TO %I, %I', :'module', :'publisher') \gexec

-- What is left to others.
DO $$
DECLARE
  owner CONSTANT text := current_setting('pubsubpull.owner');
  module CONSTANT text := current_setting('pubsubpull.module');
  command text;
BEGIN
  IF NOT has_database_privilege(module, current_database(), 'CONNECT') THEN
    RAISE WARNING '% may not connect. The owner of the database can allow it: GRANT CONNECT ON DATABASE % TO %;', module, quote_ident(current_database()), quote_ident(module);
  END IF;
  IF (SELECT r.rolcanlogin FROM pg_roles r WHERE r.rolname = owner) THEN
    RAISE NOTICE 'Nobody needs to connect as % any more once httpd connects as %: ALTER ROLE % NOLOGIN;', owner, module, quote_ident(owner);
  END IF;
  IF to_regclass('pubsubpull.published') IS NOT NULL THEN
    FOR command IN EXECUTE
      'SELECT format(''GRANT %s ON %s TO %I;'', w.rights, p.relation, w.role)
       FROM pubsubpull.published p JOIN pg_class c ON c.oid = p.relation
       CROSS JOIN LATERAL (SELECT $1, ''TRIGGER'' WHERE c.relkind IN (''r'', ''p'') UNION ALL SELECT $2, ''SELECT'') w(role, rights)
       WHERE p.unpublished_at IS NULL AND NOT has_table_privilege(w.role, p.relation, w.rights) ORDER BY p.relation::text, w.role'
      USING owner, module
    LOOP
      RAISE NOTICE 'The owner of a published table has to say: %', command;
    END LOOP;
  END IF;
END $$;
COMMIT;
