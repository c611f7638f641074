-- SPDX-License-Identifier: Apache-2.0
-- log.sql: the log of changes, and the triggers on published tables that write it.

CREATE TABLE IF NOT EXISTS pubsubpull.published (
  id             int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  relation       regclass NOT NULL,
  name           text NOT NULL,
  key            text[] NOT NULL,
  exclude        int[] NOT NULL,
  options        jsonb NOT NULL,
  row_level      boolean NOT NULL,
  published_at   timestamptz NOT NULL DEFAULT now(),
  unpublished_at timestamptz
);
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.published'::regclass AND attname = 'slot') THEN
    ALTER TABLE pubsubpull.published ADD COLUMN slot int;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.published'::regclass AND attname = 'whole_since') THEN
    ALTER TABLE pubsubpull.published ADD whole_since xid8, ADD interrupted boolean NOT NULL DEFAULT false;
  END IF;
END $$;
CREATE UNIQUE INDEX IF NOT EXISTS published_relation ON pubsubpull.published ((relation::oid));
COMMENT ON TABLE pubsubpull.published IS 'Tables whose changes are logged, or were until unpublished_at';
COMMENT ON COLUMN pubsubpull.published.name IS 'schema.table as SQL writes it, as last seen';
COMMENT ON COLUMN pubsubpull.published.key IS 'Names of the key columns; empty: no key';
COMMENT ON COLUMN pubsubpull.published.exclude IS 'Numbers (attnum) of columns that never enter the log: numbers survive renaming';
COMMENT ON COLUMN pubsubpull.published.slot IS 'Number of the table change_… that its trigger functions write to';
COMMENT ON COLUMN pubsubpull.published.whole_since IS 'The transaction that published it last: what was changed before may be missing in the log';
COMMENT ON COLUMN pubsubpull.published.interrupted IS 'It was published before that, and not for a time in between';
COMMENT ON COLUMN pubsubpull.published.row_level IS 'Logged row by row: partitions and inheritance, where statement triggers do not see all';

-- Not a column, for adding one would lock out notifiers during an upgrade.
CREATE TABLE IF NOT EXISTS pubsubpull.warned (
  table_id int PRIMARY KEY,
  at       timestamptz NOT NULL
);
COMMENT ON TABLE pubsubpull.warned IS 'When it was last said that the triggers of a published table are disabled or gone';

-- Ids are drawn while the row is locked, so that they are in commit order for one key; never cache them.
CREATE SEQUENCE IF NOT EXISTS pubsubpull.change_id CACHE 1;
CREATE TABLE IF NOT EXISTS pubsubpull.change (
  id       bigint NOT NULL DEFAULT nextval('pubsubpull.change_id'),
  xid      xid8 NOT NULL DEFAULT pg_current_xact_id(),
  at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  table_id int NOT NULL,
  type     "char" NOT NULL,
  key      text,
  old_key  text,
  old      json,
  new      json,
  request  uuid,
  channel  pubsubpull.channel
);
-- IF NOT EXISTS would lock out all writers before it looks.
DO $$ BEGIN
  IF to_regclass('pubsubpull.change_table_id') IS NULL THEN
    CREATE UNIQUE INDEX change_table_id ON pubsubpull.change (table_id, id);
    CREATE INDEX change_xid ON pubsubpull.change (xid, id);
    CREATE INDEX change_key ON pubsubpull.change (table_id, key);
    CREATE INDEX change_old_key ON pubsubpull.change (table_id, old_key) WHERE old_key IS NOT NULL;
    CREATE INDEX change_request ON pubsubpull.change (request) WHERE request IS NOT NULL;
  END IF;
END $$;
-- Every index costs each writer about a microsecond, one with a condition nearly half of that even for rows that are not in it. Keys are looked
-- up and not sorted, so they are compared as bytes, which is faster than any collation. This locks out all who read the log, so an
-- upgrade under load leaves indexes as they are, which do the same but slower, until their slot is emptied.
CREATE OR REPLACE FUNCTION pubsubpull.index_slot(number int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
BEGIN
  EXECUTE format('DROP INDEX IF EXISTS pubsubpull.change_%1$s_key, pubsubpull.change_%1$s_old_key, pubsubpull.change_%1$s_unattributed', number); -- the last was there once
  EXECUTE format('CREATE INDEX change_%1$s_key ON pubsubpull.change_%1$s (table_id, key text_pattern_ops, id)', number);
  EXECUTE format('CREATE INDEX change_%1$s_old_key ON pubsubpull.change_%1$s (table_id, old_key text_pattern_ops, id) WHERE old_key IS NOT NULL', number);
END $$;
COMMENT ON FUNCTION pubsubpull.index_slot(int) IS 'Gives an empty slot the indexes on keys that this version makes.';
-- Rows are written to one of these, and read through the parent. Plain inheritance: nothing is routed, and nobody who writes to
-- one waits while another is emptied. The parent itself holds what was logged before there were any.
DO $$ BEGIN
  FOR n IN 0 .. 7 LOOP
    IF to_regclass('pubsubpull.change_' || n) IS NULL THEN
      EXECUTE format('CREATE TABLE pubsubpull.change_%s () INHERITS (pubsubpull.change)', n);
      EXECUTE format('CREATE UNIQUE INDEX change_%1$s_table_id ON pubsubpull.change_%1$s (table_id, id)', n);
      EXECUTE format('CREATE INDEX change_%1$s_xid ON pubsubpull.change_%1$s (xid, id)', n);
      PERFORM pubsubpull.index_slot(n);
      EXECUTE format('CREATE INDEX change_%1$s_request ON pubsubpull.change_%1$s (request) WHERE request IS NOT NULL', n);
      EXECUTE format('COMMENT ON TABLE pubsubpull.change_%s IS %L', n, 'A part of the log, by time: see retention.sql');
    END IF;
  END LOOP;
  IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = 'pubsubpull.change'::regclass AND a.attname = 'unattributed' AND NOT a.attisdropped) THEN
    ALTER TABLE pubsubpull.change ADD COLUMN unattributed pubsubpull.unattributed;
  END IF;
END $$;
COMMENT ON TABLE pubsubpull.change IS 'The log: one row per committed change of a row of a published table';
COMMENT ON COLUMN pubsubpull.change.xid IS 'The transaction (top level) that made the change; followers compare it with snapshots';
COMMENT ON COLUMN pubsubpull.change.type IS 'I insert, U update, D delete, T truncate; Q the end of a request (see calls.sql)';
COMMENT ON COLUMN pubsubpull.change.key IS 'The row''s key as in URLs: values percent-encoded and joined by commas; NULL: no key';
COMMENT ON COLUMN pubsubpull.change.old_key IS 'The key before an update that changed it, else NULL';
COMMENT ON COLUMN pubsubpull.change.request IS 'The request that caused the change; NULL: none is known';
COMMENT ON COLUMN pubsubpull.change.unattributed IS 'Why the request that the session named is not believed; NULL: it is, or none was named';

CREATE OR REPLACE FUNCTION pubsubpull.table_name(relation oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN -- not in SQL: that is planned anew for each read
  RETURN (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation);
END $$;
COMMENT ON FUNCTION pubsubpull.table_name(oid) IS 'schema.table as SQL writes it; NULL when there is no such table.';

CREATE OR REPLACE FUNCTION pubsubpull.excluded_names(p pubsubpull.published) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(array_agg(a.attname::text), '{}') FROM pg_attribute a
  WHERE a.attrelid = p.relation AND a.attnum = ANY (p.exclude) AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION pubsubpull.excluded_names(pubsubpull.published) IS 'Today''s names of the columns that are left out.';

-- The SQL expression for the key of row alias, as kept in change.key. Numbers and the like need no encoding.
CREATE OR REPLACE FUNCTION pubsubpull.key_expression(relation oid, key text[], alias text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT coalesce(string_agg(CASE
      WHEN a.atttypid = ANY ('{int2,int4,int8,uuid,bool,oid,date}'::regtype[]) THEN format('%s.%I::pg_catalog.text', alias, a.attname)
      ELSE format('pubsubpull.percent_encode(%s.%I::pg_catalog.text)', alias, a.attname) END, ' || '','' || ' ORDER BY k.n), 'NULL::pg_catalog.text')
  FROM unnest(key) WITH ORDINALITY AS k(name, n)
  JOIN pg_attribute a ON a.attrelid = relation AND a.attname = k.name AND NOT a.attisdropped);
END $$;
COMMENT ON FUNCTION pubsubpull.key_expression(oid, text[], text) IS
  'SQL text that computes the key of a row in its URL form.';

-- Session settings that change how values are written; functions pin those that the columns of their table depend on.
CREATE OR REPLACE FUNCTION pubsubpull.pinned_settings(relation oid, key text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  WITH t AS (
    SELECT a.attname = ANY (key) AS in_key, a.atttypid::regtype AS type,
           a.atttypid <> ALL ('{int2,int4,int8,text,varchar,bpchar,bool,uuid,numeric,date,timestamp,timestamptz,time,json,jsonb,name,oid}'::regtype[]) AS other
    FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped)
  SELECT concat(CASE WHEN bool_or(in_key AND (type IN ('timestamptz', 'timestamp', 'date') OR other)) THEN ' SET TimeZone = ''UTC'' SET DateStyle = ''ISO, YMD''' END,
                CASE WHEN bool_or(other) THEN ' SET extra_float_digits = 1 SET bytea_output = ''hex'' SET IntervalStyle = ''postgres''' END) FROM t
$$;
COMMENT ON FUNCTION pubsubpull.pinned_settings(oid, text[]) IS
  'SET clauses that make the text of values independent of the writer''s session.';

-- A service's own AFTER trigger may change the row again; that inner statement is logged before the outer one, whose trigger
-- comes last. Changes of the inner statements that follow one of the outer statement (their old row is its new row) get
-- new ids, so that the order of ids is the order of changes. border: an id drawn between the inner and the outer ones; the settings
-- nested and shut keep, within the transaction, from which id on statements at each depth logged.
DROP FUNCTION IF EXISTS pubsubpull.settle(int, bigint) CASCADE; -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.settle(published_id int, border bigint, op text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_nestloop = off AS $$
DECLARE
  depth CONSTANT int := pg_trigger_depth();
  rank CONSTANT int := position(op IN 'DELETE UPDATE INSERT'); -- the order in which one statement's triggers fire
  state text := current_setting('pubsubpull.nested', true);    -- per depth: the id below what was logged there
  first bigint[] := CASE WHEN state ~ E'^\\{[0-9NUL,]+\\}$' THEN string_to_array(translate(state, '{}', ''), ',', 'NULL')::bigint[] ELSE '{}' END; -- whatever array_nulls is
  shut text[] := regexp_match(current_setting('pubsubpull.shut', true), '^([0-9]+) ([0-9]+) ([0-9]+)$'); -- depth, id, rank
  inner_id bigint := (SELECT min(f) FROM unnest(first[depth + 1:]) f);
  late bigint;
BEGIN
  IF shut[1]::int = depth AND shut[3]::int < rank THEN
    inner_id := least(inner_id, shut[2]::bigint);
  END IF;
  IF inner_id IS NOT NULL THEN
    FOR late IN
      WITH x AS MATERIALIZED ( -- what this transaction logged for the table during the statement
        SELECT c.id, coalesce(c.key, '') AS key, coalesce(c.old_key, c.key, '') AS was, c.old::text AS old, c.new::text AS new
        FROM pubsubpull.change c WHERE c.xid = pg_current_xact_id() AND c.id >= inner_id AND c.table_id = published_id),
      y AS (SELECT x.*, lag(x.new) OVER (PARTITION BY x.key ORDER BY x.id) AS before FROM x),
      m AS (SELECT i.key, min(i.id) AS id FROM y i JOIN x o ON o.key = i.was AND o.new = i.old
            WHERE i.id <= border AND o.id > border AND i.before IS DISTINCT FROM i.old
              AND (i.before IS NOT NULL OR NOT EXISTS (SELECT FROM pubsubpull.change b WHERE b.table_id = published_id AND b.key = o.key
                   AND b.xid = pg_current_xact_id() AND b.id < inner_id AND b.new::text = i.old)) GROUP BY i.key)
      SELECT x.id FROM x JOIN m ON m.key = x.key AND x.id >= m.id WHERE x.id < border ORDER BY x.id
    LOOP
      UPDATE pubsubpull.change c SET id = nextval('pubsubpull.change_id') WHERE c.table_id = published_id AND c.id = late;
    END LOOP;
  END IF;
  PERFORM set_config('pubsubpull.shut', CASE WHEN inner_id IS NULL THEN '' ELSE concat_ws(' ', depth, inner_id, rank) END, true);
  first := first[:depth];
  IF depth > 1 AND first[depth] IS NULL THEN
    first := first || array_fill(NULL::bigint, ARRAY[greatest(depth - cardinality(first), 0)]);
    first[depth] := border;
  END IF;
  PERFORM set_config('pubsubpull.nested', CASE WHEN cardinality(array_remove(first, NULL)) > 0 THEN first::text ELSE '' END, true);
END $$;
COMMENT ON FUNCTION pubsubpull.settle(int, bigint, text) IS 'Puts changes that triggers made during a statement behind those of the statement itself.';

CREATE OR REPLACE FUNCTION pubsubpull.create_function(p pubsubpull.published, event text, declarations text, body text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format(
    'CREATE OR REPLACE FUNCTION pubsubpull.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER'
    ' SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off%s AS %L',
    format('log_%s_%s', p.id, event), pubsubpull.pinned_settings(p.relation, p.key),
    format(E'#variable_conflict use_variable\nDECLARE\n  request uuid;\n  channel pubsubpull.channel;\n  unattributed pubsubpull.unattributed;\n  who record;\n  border bigint;\n  changes bigint;\n%sBEGIN\n'
      || E'  IF pg_trigger_depth() > 1 OR concat(current_setting(''pubsubpull.nested'', true), current_setting(''pubsubpull.shut'', true)) <> '''' THEN\n    border := nextval(''pubsubpull.change_id'');\n  END IF;\n'
      || E'%s  IF unattributed IS NOT NULL AND changes > 0 THEN\n    PERFORM pubsubpull.count_unattributed(unattributed, changes);\n  END IF;\n'
      || E'  IF border IS NOT NULL THEN\n    PERFORM pubsubpull.settle(%s, border, TG_OP);\n  END IF;\n  RETURN NULL;\nEND', declarations, body, p.id));
  -- Who adds a partition has its triggers cloned and needs EXECUTE; without USAGE on the schema nobody can name the function.
  EXECUTE format(CASE WHEN p.row_level THEN 'GRANT EXECUTE ON FUNCTION pubsubpull.%I() TO PUBLIC' ELSE 'REVOKE ALL ON FUNCTION pubsubpull.%I() FROM PUBLIC' END,
                 format('log_%s_%s', p.id, event));
END $$;
COMMENT ON FUNCTION pubsubpull.create_function(pubsubpull.published, text, text, text) IS
  'Creates or replaces one generated trigger function, pubsubpull.log_<id>_<event>.';

-- row_to_json and casts to text call casts that anybody may have defined for a type of his own, with the rights of the log's
-- owner. Those of superusers, that is of extensions, are trusted; the log refuses to work beside any other.
CREATE OR REPLACE FUNCTION pubsubpull.check_casts() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  culprit text;
BEGIN
  SELECT format('CAST (%s AS %s)', c.castsource::regtype, c.casttarget::regtype) INTO culprit
  FROM pg_cast c JOIN pg_proc f ON f.oid = c.castfunc JOIN pg_roles r ON r.oid = f.proowner
  WHERE c.oid >= 16384 AND c.casttarget IN ('json'::regtype, 'jsonb'::regtype, 'text'::regtype) AND NOT r.rolsuper LIMIT 1;
  IF culprit IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('%s would run its function with the rights of the log of changes', culprit),
      HINT = 'Drop the cast, or let a superuser own its function.';
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_casts() IS 'An error when there is a cast to json, jsonb or text whose function belongs to no superuser.';

-- Only a type that somebody made can have such a cast. The server evaluates an immutable function of constants when it plans the
-- expression, once in a session; a plan that names a table, as regclass, is made anew when the table is altered. So this costs a
-- statement nothing, and is true in time: it is immutable for as long as its result is used.
CREATE OR REPLACE FUNCTION pubsubpull.has_made_types(relation regclass) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(bool_or(a.atttypid >= 16384), true) FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION pubsubpull.has_made_types(regclass) IS 'Whether a column of a table is of a type that does not come with PostgreSQL; also when there is no such table.';

-- The generated functions hold static SQL: the server plans it once per session, even if what it is planned for looks expensive, being a
-- statement of many rows (and such a plan must not be compiled each time that there is one row). Column names appear for the key only, so that
-- columns may come and go; whole rows are taken as they are.
CREATE OR REPLACE FUNCTION pubsubpull.create_functions(p pubsubpull.published) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  slot_number CONSTANT int := pubsubpull.current_slot();
  target CONSTANT text := format('  INSERT INTO pubsubpull.change_%s (table_id, type, key, old_key, old, new, request, channel, unattributed)', slot_number);
  seek CONSTANT text := format(E'  IF pubsubpull.has_made_types(%L::pg_catalog.regclass) THEN\n    IF EXISTS (SELECT FROM pg_cast c WHERE c.oid >= 16384 AND c.casttarget IN (25, 114, 3802)) THEN\n'
      || E'      PERFORM pubsubpull.check_casts();\n    END IF;\n  END IF;\n', p.relation::oid)
    || E'  IF current_setting(''pubsubpull.request'', true) <> '''' OR current_setting(''application_name'') LIKE ''psp:%''\n'
    || CASE WHEN p.row_level THEN '' ELSE E'    OR current_query() LIKE ''%tracestate%''\n' END
    || E'  THEN\n    who := pubsubpull.attribute();\n    request := who.request;\n    channel := who.channel;\n    unattributed := who.unattributed;\n  END IF;\n';
  hidden text := '';
  declarations text := '';
  n text;   -- JSON of the new row
  o text;   -- JSON of the old row
  nk text;  -- key of the new row
  ok text;  -- key of the old row
  an text := 'n';
  ao text := 'o';
BEGIN
  IF p.row_level THEN
    an := 'NEW';
    ao := 'OLD';
  END IF;
  nk := pubsubpull.key_expression(p.relation, p.key, an);
  ok := pubsubpull.key_expression(p.relation, p.key, ao);
  IF p.exclude = '{}' THEN
    n := format(CASE WHEN p.row_level THEN 'row_to_json(%s)' ELSE 'row_to_json(%s.*)' END, an);
    o := format(CASE WHEN p.row_level THEN 'row_to_json(%s)' ELSE 'row_to_json(%s.*)' END, ao);
  ELSE
    declarations := E'  hidden text[];\n';
    hidden := format(E'  hidden := ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum = ANY (%L::int[]));\n',
                     p.relation::oid, p.exclude);
    n := format(CASE WHEN p.row_level THEN '(to_jsonb(%s) - hidden)::json' ELSE '(to_jsonb(%s.*) - hidden)::json' END, an);
    o := format(CASE WHEN p.row_level THEN '(to_jsonb(%s) - hidden)::json' ELSE '(to_jsonb(%s.*) - hidden)::json' END, ao);
  END IF;
  IF p.row_level THEN
    PERFORM pubsubpull.create_function(p, 'row', declarations, format(
      E'  IF TG_RELID <> %1$s AND NOT EXISTS (SELECT FROM pg_partition_ancestors(TG_RELID) a WHERE a.relid = %1$s) THEN\n'
      || E'    RAISE EXCEPTION USING MESSAGE = %2$L;\n  END IF;\n', p.relation::oid, format('this function logs changes of %s only', p.name)) || seek || hidden || format(
      E'  IF TG_OP = ''INSERT'' THEN\n  %1$s\n    VALUES (%2$s, ''I'', %3$s, NULL, NULL, %5$s, request, channel, unattributed);\n    GET DIAGNOSTICS changes = ROW_COUNT;\n'
      || E'  ELSIF TG_OP = ''DELETE'' THEN\n  %1$s\n    VALUES (%2$s, ''D'', %4$s, NULL, %6$s, NULL, request, channel, unattributed);\n    GET DIAGNOSTICS changes = ROW_COUNT;\n'
      || E'  ELSIF %7$s THEN\n  %1$s\n    VALUES (%2$s, ''U'', %3$s, nullif(%4$s, %3$s), %6$s, %5$s, request, channel, unattributed);\n    GET DIAGNOSTICS changes = ROW_COUNT;\n  END IF;\n',
      target, p.id, nk, ok, n, o,
      CASE WHEN (p.options->>'skip_unchanged')::boolean THEN 'row_to_json(OLD)::text <> row_to_json(NEW)::text' ELSE 'true' END));
  ELSE
    PERFORM pubsubpull.create_function(p, 'insert', declarations, seek || hidden || format(
      E'%s\n  SELECT %s, ''I'', %s, NULL, NULL, %s, request, channel, unattributed FROM new_rows n;\n  GET DIAGNOSTICS changes = ROW_COUNT;\n', target, p.id, nk, n));
    PERFORM pubsubpull.create_function(p, 'delete', declarations, seek || hidden || format(
      E'%s\n  SELECT %s, ''D'', %s, NULL, %s, NULL, request, channel, unattributed FROM old_rows o;\n  GET DIAGNOSTICS changes = ROW_COUNT;\n', target, p.id, ok, o));
    PERFORM pubsubpull.create_function(p, 'update', declarations || E'  loops text;\n  memory text;\n', seek || hidden
      || pubsubpull.update_body(p, target, nk, ok, n, o));
  END IF;
  -- TRUNCATE is one event for the whole table; for a partition on its own it is the deletion of its rows.
  -- That the whole is truncated is kept in a table, for any session can set a setting.
  PERFORM pubsubpull.create_function(p, 'truncate', declarations, seek || hidden || format(
    E'  IF TG_RELID = %1$s AND TG_WHEN = ''BEFORE'' THEN\n    INSERT INTO pubsubpull.truncation (xid, relation) VALUES (pg_current_xact_id(), %1$s);\n'
    || E'  ELSIF TG_RELID = %1$s THEN\n    DELETE FROM pubsubpull.truncation q WHERE q.xid = pg_current_xact_id() AND q.relation = %1$s;\n  %2$s\n'
    || E'    VALUES (%3$s, ''T'', NULL, NULL, NULL, NULL, request, channel, unattributed);\n    GET DIAGNOSTICS changes = ROW_COUNT;\n'
    || E'  ELSIF NOT EXISTS (SELECT FROM pg_partition_ancestors(TG_RELID) a WHERE a.relid = %1$s) THEN\n    RAISE EXCEPTION USING MESSAGE = %4$L;\n'
    || E'  ELSIF NOT EXISTS (SELECT FROM pubsubpull.truncation q WHERE q.xid = pg_current_xact_id() AND q.relation = %1$s) THEN\n'
    || E'    PERFORM pubsubpull.log_truncated(%3$s, TG_RELID, request, channel, unattributed);\n  END IF;\n',
    p.relation::oid, target, p.id, format('this function logs changes of %s only', p.name)));
  UPDATE pubsubpull.published q SET slot = slot_number WHERE q.id = p.id AND q.slot IS DISTINCT FROM slot_number;
END $$;
COMMENT ON FUNCTION pubsubpull.create_functions(pubsubpull.published) IS
  'Writes the trigger functions of one published table: pubsubpull.log_<id>_insert, _update, _delete, _truncate or _row.';

-- The two transition tables hold the rows of an UPDATE in the same order, so old and new are paired by position, which also
-- holds when the key changed. One row, the common case, needs no join. A plan made for few rows must never be used for many,
-- hence no nested loop.
CREATE OR REPLACE FUNCTION pubsubpull.update_body(p pubsubpull.published, target text, nk text, ok text, n text, o text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT format(
    E'%1$s\n  SELECT %2$s, ''U'', %3$s, nullif(%4$s, %3$s), %6$s, %5$s, request, channel, unattributed FROM old_rows o, new_rows n\n'
    || E'  WHERE NOT EXISTS (SELECT FROM new_rows OFFSET 1)%8$s;\n  GET DIAGNOSTICS changes = ROW_COUNT;\n'
    || E'  IF NOT FOUND THEN\n'
    || E'  loops := current_setting(''enable_nestloop'');\n  memory := current_setting(''work_mem'');\n'
    || E'  PERFORM set_config(''enable_nestloop'', ''off'', true), set_config(''work_mem'', ''64MB'', true);\n'
    || E'%1$s\n  SELECT %2$s, ''U'', n.key, nullif(o.key, n.key), o.row, n.row, request, channel, unattributed\n'
    || E'  FROM (SELECT row_number() OVER () AS n, %3$s AS key, %5$s AS row FROM new_rows n) n\n'
    || E'  JOIN (SELECT row_number() OVER () AS n, %4$s AS key, %6$s AS row FROM old_rows o) o ON o.n = n.n%7$s ORDER BY n.n;\n  GET DIAGNOSTICS changes = ROW_COUNT;\n'
    || E'  PERFORM set_config(''enable_nestloop'', loops, true), set_config(''work_mem'', memory, true);\n  END IF;\n',
    target, p.id, nk, ok, n, o,
    CASE WHEN (p.options->>'skip_unchanged')::boolean THEN ' WHERE o.row::text <> n.row::text' ELSE '' END,
    CASE WHEN (p.options->>'skip_unchanged')::boolean THEN format(' AND %s::text <> %s::text', o, n) ELSE '' END)
$$;
COMMENT ON FUNCTION pubsubpull.update_body(pubsubpull.published, text, text, text, text, text) IS 'The part of a trigger function that logs an UPDATE.';

CREATE TABLE IF NOT EXISTS pubsubpull.truncation (
  xid      xid8 NOT NULL,
  relation oid NOT NULL,
  PRIMARY KEY (xid, relation)
);
COMMENT ON TABLE pubsubpull.truncation IS 'Partitioned tables that are being truncated as a whole; rows live as long as the statement';

DROP FUNCTION IF EXISTS pubsubpull.log_truncated(int, oid, uuid, pubsubpull.channel); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.log_truncated(published_id int, partition oid, request uuid, channel pubsubpull.channel,
  unattributed pubsubpull.unattributed) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p pubsubpull.published;
  changes bigint;
BEGIN
  PERFORM pg_current_xact_id(); -- before ids are drawn
  SELECT * INTO p FROM pubsubpull.published q WHERE q.id = published_id;
  EXECUTE format('INSERT INTO pubsubpull.change_%s (table_id, type, key, old, request, channel, unattributed)'
                 ' SELECT $1, ''D'', r.row_key, r.row_json, $4, $5, $6 FROM pubsubpull.run_rows($2, $3, NULL, false) r', p.slot)
    USING published_id, format('SELECT %s, (to_jsonb(o.*) - $1)::json FROM %s o', pubsubpull.key_expression(partition, p.key, 'o'), partition::regclass),
          pubsubpull.excluded_names(p), request, channel, unattributed;
  GET DIAGNOSTICS changes = ROW_COUNT;
  IF unattributed IS NOT NULL AND changes > 0 THEN
    PERFORM pubsubpull.count_unattributed(unattributed, changes);
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.log_truncated(int, oid, uuid, pubsubpull.channel, pubsubpull.unattributed) IS
  'Logs the rows of a partition that is about to be truncated by itself as deleted.';

CREATE OR REPLACE FUNCTION pubsubpull.create_trigger(p pubsubpull.published, relation regclass, event text, clause text, function text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  trigger_name text := format('pubsubpull_%s_%s', p.id, event);
BEGIN
  PERFORM FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname = trigger_name;
  IF NOT FOUND THEN
    EXECUTE format('CREATE TRIGGER %I %s EXECUTE FUNCTION pubsubpull.%I()', trigger_name, format(clause, relation), format('log_%s_%s', p.id, function));
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.create_trigger(pubsubpull.published, regclass, text, text, text) IS 'Creates one trigger unless it is there.';

CREATE OR REPLACE FUNCTION pubsubpull.create_triggers(p pubsubpull.published) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  part regclass;
BEGIN
  IF p.row_level THEN -- row triggers of a partitioned table are cloned to its partitions, also to later ones
    PERFORM pubsubpull.create_trigger(p, p.relation, 'row', 'AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW', 'row');
    FOR part IN SELECT t.relid FROM pg_partition_tree(p.relation) t LOOP
      PERFORM pubsubpull.create_trigger(p, part, 'before_truncate', 'BEFORE TRUNCATE ON %s FOR EACH STATEMENT', 'truncate');
    END LOOP;
  ELSE
    PERFORM pubsubpull.create_trigger(p, p.relation, 'insert',
      'AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT', 'insert');
    PERFORM pubsubpull.create_trigger(p, p.relation, 'update',
      'AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT', 'update');
    PERFORM pubsubpull.create_trigger(p, p.relation, 'delete',
      'AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT', 'delete');
  END IF;
  PERFORM pubsubpull.create_trigger(p, p.relation, 'truncate', 'AFTER TRUNCATE ON %s FOR EACH STATEMENT', 'truncate');
END $$;
COMMENT ON FUNCTION pubsubpull.create_triggers(pubsubpull.published) IS 'Creates the triggers of one published table that are missing.';

CREATE OR REPLACE FUNCTION pubsubpull.refresh() RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p pubsubpull.published;
  n int := 0;
BEGIN
  FOR p IN SELECT q.* FROM pubsubpull.published q JOIN pg_class c ON c.oid = q.relation AND c.relkind IN ('r', 'p') WHERE q.unpublished_at IS NULL
           FOR NO KEY UPDATE OF q LOOP
    PERFORM pubsubpull.create_functions(p);
    PERFORM pubsubpull.create_triggers(p);
    n := n + 1;
  END LOOP;
  RETURN n;
END $$;
COMMENT ON FUNCTION pubsubpull.refresh() IS
  'Writes the trigger functions and missing triggers of all published tables anew; part of an upgrade. Returns how many tables there are.';
