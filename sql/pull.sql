-- SPDX-License-Identifier: Apache-2.0
-- pull.sql: rows of published tables by key, as pages or one stream, and changes, as pages, lines or events.

-- The C library hands memory back to the system beyond twice the size of the largest block that was freed, and to fetch it again takes
-- a third of the time of a page. So each session frees a large block before its first page.
CREATE OR REPLACE FUNCTION pubsubpull.keep_memory() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('pubsubpull.roomy', true) IS DISTINCT FROM 'yes' THEN
    PERFORM set_config('pubsubpull.roomy', 'yes', false), length(repeat(repeat(' ', 10000), 400));
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.keep_memory() IS 'From now on the session keeps up to 8 MB of memory that it has used, if the C library is GNU''s.';

CREATE OR REPLACE FUNCTION pubsubpull.visible_columns(p pubsubpull.published) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
  WHERE a.attrelid = p.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> ALL (p.exclude));
END $$;
COMMENT ON FUNCTION pubsubpull.visible_columns(pubsubpull.published) IS 'Names of the columns that are not excluded, in their order.';

CREATE OR REPLACE FUNCTION pubsubpull.parse_fields(p pubsubpull.published, fields text) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  visible text[];
  names text[];
  unknown text;
BEGIN
  IF fields IS NULL THEN
    RETURN NULL;
  END IF;
  visible := pubsubpull.visible_columns(p);
  names := ARRAY(SELECT pubsubpull.percent_decode(v) FROM unnest(string_to_array(fields, ',')) WITH ORDINALITY AS u(v, n) ORDER BY n);
  SELECT string_agg(to_json(f)::text, ', ') INTO unknown FROM unnest(names) f WHERE f <> ALL (visible);
  IF unknown IS NOT NULL OR names = '{}' THEN
    PERFORM pubsubpull.problem(400, 'bad-fields', format('fields names %s, which %s does not have.', coalesce(unknown, 'nothing'), p.name),
      format('It has %s; names are joined by commas, each percent-encoded.', (SELECT string_agg(to_json(v)::text, ', ' ORDER BY n) FROM unnest(visible) WITH ORDINALITY AS u(v, n))));
  END IF;
  RETURN names;
END $$;
COMMENT ON FUNCTION pubsubpull.parse_fields(pubsubpull.published, text) IS 'The columns that the query parameter fields names (NULL: all that are not excluded); problem 400 for others.';

CREATE OR REPLACE FUNCTION pubsubpull.column_list(names text[], alias text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  columns text;
  name text;
BEGIN
  FOREACH name IN ARRAY coalesce(names, '{}') LOOP
    columns := concat(columns || ', ', format('%s.%I', alias, name));
  END LOOP;
  RETURN columns;
END $$;
COMMENT ON FUNCTION pubsubpull.column_list(text[], text) IS 'SQL text that names these columns.';

DROP FUNCTION IF EXISTS pubsubpull.row_expression(pubsubpull.published, text); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.row_expression(p pubsubpull.published, alias text, fields text[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN CASE WHEN p.exclude = '{}' AND fields IS NULL THEN format('row_to_json(%s.*)', alias)
              ELSE format('(SELECT row_to_json(x.*) FROM (SELECT %s) x)', pubsubpull.column_list(coalesce(fields, pubsubpull.visible_columns(p)), alias)) END;
END $$;
COMMENT ON FUNCTION pubsubpull.row_expression(pubsubpull.published, text, text[]) IS 'SQL text for the JSON of a row: these columns, or all that are not excluded.';

-- The way the table is named in FROM: with inheritance its children are tables of their own, partitions are not.
CREATE OR REPLACE FUNCTION pubsubpull.from_clause(p pubsubpull.published) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p.row_level AND (SELECT relkind <> 'p' FROM pg_class WHERE oid = p.relation) THEN
    RETURN format('ONLY %s t', p.relation::regclass);
  END IF;
  RETURN format('%s t', p.relation::regclass);
END $$;
COMMENT ON FUNCTION pubsubpull.from_clause(pubsubpull.published) IS 'SQL text that reads the table under the name t.';

CREATE OR REPLACE FUNCTION pubsubpull.parse_key(p pubsubpull.published, key text) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  parts text[] := ARRAY(SELECT pubsubpull.percent_decode(v) FROM unnest(string_to_array(key, ',')) WITH ORDINALITY AS u(v, n) ORDER BY n);
BEGIN
  IF p.key = '{}' THEN
    PERFORM pubsubpull.problem(409, 'no-key', format('%s has no primary key, so its rows cannot be pulled.', p.name),
      'Publish it with "key": […] naming the columns of a unique index, all NOT NULL. Its changes can be followed as they are.');
  ELSIF key IS NOT NULL AND cardinality(parts) <> cardinality(p.key) THEN
    PERFORM pubsubpull.problem(400, 'bad-key', format('The key of %s is (%s): as many values, joined by commas, each percent-encoded.',
      p.name, array_to_string(p.key, ', ')));
  END IF;
  RETURN parts;
END $$;
COMMENT ON FUNCTION pubsubpull.parse_key(pubsubpull.published, text) IS
  'The values of a key in a URL; problem 400 when there are too few or many, 409 when the table has no key.';

-- "($1)[1]::int, ($1)[2]::text": types named by the server, values a parameter. A domain's conditions may be anybody's code.
CREATE OR REPLACE FUNCTION pubsubpull.base_type(type oid) RETURNS oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  WHILE (SELECT t.typtype = 'd' FROM pg_type t WHERE t.oid = type) LOOP
    type := (SELECT t.typbasetype FROM pg_type t WHERE t.oid = type);
  END LOOP;
  RETURN type;
END $$;
COMMENT ON FUNCTION pubsubpull.base_type(oid) IS 'The type that a domain restricts in the end; any other type itself.';

CREATE OR REPLACE FUNCTION pubsubpull.key_values(p pubsubpull.published, source text DEFAULT '$1') RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT string_agg(format('(%s)[%s]::%s', source, k.n, format_type(pubsubpull.base_type(a.atttypid), -1)), ', ' ORDER BY k.n)
  FROM unnest(p.key) WITH ORDINALITY AS k(name, n) JOIN pg_attribute a ON a.attrelid = p.relation AND a.attname = k.name);
END $$;
COMMENT ON FUNCTION pubsubpull.key_values(pubsubpull.published, text) IS 'SQL text of the values of a key, which source holds as text[], with the types of its columns.';

DROP FUNCTION IF EXISTS pubsubpull.key_condition(pubsubpull.published, text); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.key_condition(p pubsubpull.published, operator text, source text DEFAULT '$1') RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN format('(%s) %s (%s)', pubsubpull.column_list(p.key, 't'), operator, pubsubpull.key_values(p, source));
END $$;
COMMENT ON FUNCTION pubsubpull.key_condition(pubsubpull.published, text, text) IS 'SQL text that compares a row''s key with the values in source.';

CREATE OR REPLACE FUNCTION pubsubpull.key_order(p pubsubpull.published, descending boolean) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  columns text;
  name text;
BEGIN
  FOREACH name IN ARRAY p.key LOOP
    columns := concat(columns || ', ', format('t.%I', name), CASE WHEN descending THEN ' DESC' END);
  END LOOP;
  RETURN columns;
END $$;
COMMENT ON FUNCTION pubsubpull.key_order(pubsubpull.published, boolean) IS 'SQL text that orders rows by their key.';

DROP FUNCTION IF EXISTS pubsubpull.run_key(text, text[]); -- belongs to the module's role, see rights.sql
CREATE FUNCTION pubsubpull.run_key(command text, parts text[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1 SET bytea_output = 'hex' SET IntervalStyle = 'postgres' AS $$
DECLARE
  value text;
BEGIN
  EXECUTE command INTO value USING parts;
  RETURN value;
END $$;
COMMENT ON FUNCTION pubsubpull.run_key(text, text[]) IS 'What SQL text makes of the parts of a key, as the module''s role.';

-- Values are tried on their own: an error that a row causes, in a view for instance, is not the client's, and not for it to see.
CREATE OR REPLACE FUNCTION pubsubpull.canonical_key(p pubsubpull.published, key text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  parts text[] := pubsubpull.parse_key(p, key);
  canonical text;
BEGIN
  IF key IS NOT NULL THEN
    canonical := pubsubpull.run_key(format('SELECT %s FROM (SELECT %s) AS k(%s)', pubsubpull.key_expression(p.relation, p.key, 'k'), pubsubpull.key_values(p),
                                           (SELECT string_agg(quote_ident(v), ', ' ORDER BY n) FROM unnest(p.key) WITH ORDINALITY AS u(v, n))), parts);
  END IF;
  RETURN canonical;
EXCEPTION WHEN data_exception OR check_violation OR not_null_violation
  -- what types say whose values are names: regclass and its like
  OR undefined_table OR undefined_object OR undefined_function OR ambiguous_function OR syntax_error OR invalid_name OR invalid_schema_name OR feature_not_supported THEN
  PERFORM pubsubpull.problem(400, 'bad-key', format('The key %L does not fit %s: %s.', key, p.name, SQLERRM));
END $$;
COMMENT ON FUNCTION pubsubpull.canonical_key(pubsubpull.published, text) IS 'A key from a URL as the log and our own URLs spell it; problem 400 when it does not fit the table.';

-- Reading a table runs code of its owner: policies, views, expressions of indexes and constraints. So rows are read with the rights of the
-- module's role, as those in a COPY are, and never with the rights of the log's owner: rights.sql gives run_rows, read_page and run_key to it.
CREATE OR REPLACE FUNCTION pubsubpull.rows_command(p pubsubpull.published, after text, descending boolean, fields text[]) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT format('SELECT %s AS row_key, %s AS row_json FROM %s %s ORDER BY %s LIMIT $2',
    pubsubpull.key_expression(p.relation, p.key, 't'), pubsubpull.row_expression(p, 't', fields), pubsubpull.from_clause(p),
    CASE WHEN after IS NULL THEN '' ELSE 'WHERE ' || pubsubpull.key_condition(p, CASE WHEN descending THEN '<' ELSE '>' END) END, pubsubpull.key_order(p, descending)));
END $$;
COMMENT ON FUNCTION pubsubpull.rows_command(pubsubpull.published, text, boolean, text[]) IS
  'SQL text that reads rows of a published table in key order after a key (NULL: from the start), each with its key as in URLs. $1: the values of that key; $2: how many rows.';

DROP FUNCTION IF EXISTS pubsubpull.run_rows(text, text[], int, boolean);
CREATE FUNCTION pubsubpull.run_rows(command text, key_values text[], most int, policies boolean, OUT row_key text, OUT row_json json)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET row_security = off SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1 SET bytea_output = 'hex' SET IntervalStyle = 'postgres' AS $$
BEGIN
  IF policies THEN
    PERFORM set_config('row_security', 'on', true); -- until the end of this function
  END IF;
  RETURN QUERY EXECUTE command USING key_values, most;
END $$;
COMMENT ON FUNCTION pubsubpull.run_rows(text, text[], int, boolean) IS
  'The rows that rows_command says, as the module''s role. policies: row-level security hides rows, instead of being an error.';

-- Only the last row's key is needed: all are collected as they are, where they are small, and it becomes text alone.
CREATE OR REPLACE FUNCTION pubsubpull.page_command(p pubsubpull.published, after text, descending boolean, fields text[], OUT command text, OUT last_key text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  keys text;
BEGIN
  FOR i IN 1 .. cardinality(p.key) LOOP
    keys := concat(keys, format('t.%I', p.key[i]),
                   CASE WHEN (SELECT a.atttypid <> ALL ('{int2,int4,int8,oid,date,timestamp,timestamptz}'::regtype[]) FROM pg_attribute a WHERE a.attrelid = p.relation AND a.attname = p.key[i])
                        THEN '::pg_catalog.text' END, ' AS k', i, ', ');
    last_key := concat(last_key || ', ', '(array_agg(y.k', i, '))[count(*)]::pg_catalog.text');
  END LOOP;
  command := concat('SELECT ', keys, pubsubpull.row_expression(p, 't', fields), '::pg_catalog.text AS row_text FROM ', pubsubpull.from_clause(p),
                    CASE WHEN after IS NOT NULL THEN concat(' WHERE ', pubsubpull.key_condition(p, CASE WHEN descending THEN '<' ELSE '>' END)) END,
                    ' ORDER BY ', pubsubpull.key_order(p, descending), ' LIMIT $2');
END $$;
COMMENT ON FUNCTION pubsubpull.page_command(pubsubpull.published, text, boolean, text[]) IS
  'SQL text for read_page: reads rows of a published table in key order after a key (NULL: from the start), $1: the values of that key, $2: how many; and that which takes the values of the last one''s key out of them.';

-- Mostly all rows are small enough to be taken together; only if not, it is measured how many may come, and they are read again.
DROP FUNCTION IF EXISTS pubsubpull.read_page(text, text[], int); -- took less once
DROP FUNCTION IF EXISTS pubsubpull.read_page(text, text, text[], int); -- belongs to the module's role
CREATE FUNCTION pubsubpull.read_page(command text, last_key text, key_values text[], most int, OUT page text, OUT last_values text[], OUT cut boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET row_security = on SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1 SET bytea_output = 'hex' SET IntervalStyle = 'postgres' AS $$
DECLARE
  most_bytes CONSTANT bigint := 16000000;
  fit bigint := 4 * most_bytes / most;
  large boolean;
BEGIN
  LOOP
    EXECUTE format('SELECT string_agg(y.row_text, '','') FILTER (WHERE octet_length(y.row_text) <= $3), ARRAY[%s], count(*) = $2, max(octet_length(y.row_text)) > $3 FROM (%s) y', last_key, command)
    INTO page, last_values, cut, large USING key_values, most, fit;
    EXIT WHEN large IS NOT TRUE AND (octet_length(page) > most_bytes) IS NOT TRUE OR fit = 1000000000;
    EXECUTE format('SELECT count(*) FROM (SELECT sum(y.bytes) OVER (ROWS UNBOUNDED PRECEDING) - y.bytes AS before FROM (SELECT octet_length(x.row_text) AS bytes FROM (%s) x OFFSET 0) y) z'
      ' WHERE z.before < $3', command) INTO most USING key_values, most, most_bytes;
    fit := 1000000000; -- the largest value there is: now all are taken
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.read_page(text, text, text[], int) IS
  'The rows that page_command says, as the module''s role, joined by commas, cut when they exceed 16 MB, but one at least. Row-level security hides rows.';

DROP FUNCTION IF EXISTS pubsubpull.read_rows(pubsubpull.published, text, boolean, int),
  pubsubpull.read_rows(pubsubpull.published, text, boolean, int, text[], boolean); -- what two functions do now

CREATE OR REPLACE FUNCTION pubsubpull.check_readable(p pubsubpull.published) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT has_table_privilege(pubsubpull.caller(), p.relation, 'SELECT') THEN
    PERFORM pubsubpull.problem(403, 'missing-privilege', format('The role %s may not read %s.', pubsubpull.caller(), p.name),
      format('Its owner can allow it: GRANT SELECT ON %s TO %I;', p.relation::regclass, pubsubpull.caller()));
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_readable(pubsubpull.published) IS 'Problem 403 unless the caller may read the table, with what its owner can do.';

CREATE OR REPLACE FUNCTION pubsubpull.parse_order("order" text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF coalesce("order", 'asc') NOT IN ('asc', 'desc') THEN
    PERFORM pubsubpull.problem(400, 'bad-order', format('order is %L; it must be asc or desc.', "order"));
  END IF;
  RETURN "order" IS NOT DISTINCT FROM 'desc';
END $$;
COMMENT ON FUNCTION pubsubpull.parse_order(text) IS 'Whether the query parameter order says descending; problem 400 for what it does not know.';

DROP FUNCTION IF EXISTS pubsubpull.rows_get(text, text, text, text, text, text); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.rows_get(base text, name text, "limit" text, "order" text, after text, changes text, fields text, envelope text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p CONSTANT pubsubpull.published := pubsubpull.find_published(name);
  most CONSTANT int := pubsubpull.parse_limit("limit");
  descending CONSTANT boolean := pubsubpull.parse_order("order");
  names CONSTANT text[] := pubsubpull.parse_fields(p, fields);
  url CONSTANT text := pubsubpull.table_url(base, name);
  first CONSTANT boolean := changes IS NULL;
  c record;
  r record;
BEGIN
  PERFORM pubsubpull.keep_memory(), set_config('pubsubpull.request', coalesce(envelope, ''), true), pubsubpull.canonical_key(p, after), pubsubpull.check_readable(p);
  -- Taken before the first page is read, and handed from page to page: what changes meanwhile is found there.
  IF changes IS NOT NULL THEN
    PERFORM pubsubpull.cursor_decode(changes);
  ELSIF pubsubpull.is_logged(p) THEN
    changes := pubsubpull.cursor_encode(pubsubpull.now_position());
    PERFORM pubsubpull.await_flush();
  END IF;
  c := pubsubpull.page_command(p, after, descending, names);
  r := pubsubpull.read_page(c.command, c.last_key, pubsubpull.parse_key(p, after), most);
  IF r.cut THEN
    next := concat(url, '/rows/?limit=', most, '&order=', CASE WHEN descending THEN 'desc' ELSE 'asc' END, '&fields=' || pubsubpull.percent_encode(fields),
                   '&after=', pubsubpull.percent_encode((SELECT string_agg(pubsubpull.percent_encode(v), ',' ORDER BY n) FROM unnest(r.last_values) WITH ORDINALITY AS u(v, n))), '&changes=' || changes);
  END IF;
  status := 200;
  body := '{"rows":[' || coalesce(r.page, '') || concat('],"next":', coalesce(to_json(next)::text, 'null'), ',"changes":', coalesce(to_json(url || '/changes/?since=' || changes)::text, 'null'), '}');
  -- An older first page with the same rows is as good as a new one: its "changes" begin earlier.
  etag := CASE WHEN first THEN concat('W/', hashtextextended(r.page, 0)) ELSE hashtextextended(body, 0)::text END;
END $$;
COMMENT ON FUNCTION pubsubpull.rows_get(text, text, text, text, text, text, text, text) IS
  'GET /tables/{t}/rows/: a page of rows by key. "changes" is the same on all pages: following it after the last page misses nothing. envelope: the request, for policies of row-level security.';

CREATE OR REPLACE FUNCTION pubsubpull.rows_copy(base text, name text, "limit" text, "order" text, after text, changes text, fields text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p CONSTANT pubsubpull.published := pubsubpull.find_published(name);
  names CONSTANT text[] := coalesce(pubsubpull.parse_fields(p, fields), CASE WHEN p.exclude <> '{}' THEN pubsubpull.visible_columns(p) END);
  descending CONSTANT boolean := pubsubpull.parse_order("order");
  condition text;
BEGIN
  PERFORM pubsubpull.canonical_key(p, after), pubsubpull.parse_limit("limit", most => 2147483647), pubsubpull.check_readable(p);
  IF changes IS NOT NULL THEN
    PERFORM pubsubpull.cursor_decode(changes);
  END IF;
  IF after IS NOT NULL THEN -- COPY takes no parameters: the server quotes the values
    condition := pubsubpull.key_condition(p, CASE WHEN descending THEN '<' ELSE '>' END, format('%L::text[]', pubsubpull.parse_key(p, after)));
  END IF;
  status := 200;
  body := format('COPY (SELECT row_to_json(x.*) FROM (SELECT %s FROM %s %s ORDER BY %s%s) x) TO STDOUT (FORMAT binary)', coalesce(pubsubpull.column_list(names, 't'), 't.*'),
                 pubsubpull.from_clause(p), 'WHERE ' || condition, pubsubpull.key_order(p, descending), ' LIMIT ' || "limit");
  next := CASE WHEN pubsubpull.is_logged(p) THEN pubsubpull.table_url(base, name) || '/changes/?since=' END;
END $$;
COMMENT ON FUNCTION pubsubpull.rows_copy(text, text, text, text, text, text, text) IS
  'The COPY command that GET /tables/{t}/rows/ sends as a stream: one line of JSON for each row. next: where its changes are, up to the cursor; NULL for a view.';

CREATE OR REPLACE FUNCTION pubsubpull.stream_begin(envelope text, indexed boolean, OUT cursor text, OUT flushed boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM set_config(s.name, s.value, true)
  FROM (VALUES ('pubsubpull.request', coalesce(envelope, '')), ('row_security', 'on'), ('TimeZone', 'UTC'), ('DateStyle', 'ISO, YMD'),
    ('extra_float_digits', '1'), ('bytea_output', 'hex'), ('IntervalStyle', 'postgres'), ('lock_timeout', '5s'), ('statement_timeout', '0')) s(name, value);
  IF indexed THEN
    PERFORM set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true);
  END IF;
  cursor := pubsubpull.cursor_encode(pubsubpull.now_position());
  flushed := pubsubpull.is_flushed();
END $$;
COMMENT ON FUNCTION pubsubpull.stream_begin(text, boolean) IS
  'At the start of a stream''s transaction: its settings, and the cursor from which changes follow, which must not go out before it is flushed (await_flush, in another session). indexed: let an index give the order, so that the first row comes at once.';

DROP FUNCTION IF EXISTS pubsubpull.row_get(text, text, text); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.row_get(base text, name text, key text, envelope text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p CONSTANT pubsubpull.published := pubsubpull.find_published(name);
BEGIN
  PERFORM set_config('pubsubpull.request', coalesce(envelope, ''), true), pubsubpull.canonical_key(p, key), pubsubpull.check_readable(p);
  SELECT r.row_json::text INTO body FROM pubsubpull.run_rows(
    format('SELECT NULL::pg_catalog.text, %s FROM %s WHERE %s', pubsubpull.row_expression(p, 't', NULL), pubsubpull.from_clause(p), pubsubpull.key_condition(p, '=')),
    pubsubpull.parse_key(p, key), NULL, true) r;
  IF body IS NULL THEN
    PERFORM pubsubpull.problem(404, 'no-such-row', format('%s has no row with the key %s.', name, key));
  END IF;
  status := 200;
  etag := md5(body);
END $$;
COMMENT ON FUNCTION pubsubpull.row_get(text, text, text, text) IS 'GET /tables/{t}/rows/{key}: one row.';

-- The JSON text of one change, as pages and notifications show it, up to but without the closing brace.
DROP FUNCTION IF EXISTS pubsubpull.change_json(bigint, "char", timestamptz, text, json, json, uuid, pubsubpull.channel, text, text, text[], text); -- took less once
DROP FUNCTION IF EXISTS pubsubpull.change_json(bigint, "char", timestamptz, text, json, json, uuid, pubsubpull.channel, text, text, text[], text, json);
DROP FUNCTION IF EXISTS pubsubpull.change_json(bigint, "char", timestamptz, text, json, json, uuid, pubsubpull.channel, text, text, text[], text, json, pubsubpull.unattributed);
CREATE OR REPLACE FUNCTION pubsubpull.change_json(id bigint, type "char", at timestamptz, change_key text, old json, new json, request uuid, request_json text,
  channel pubsubpull.channel, name_json text, url text, key text[], plain text, whole json DEFAULT NULL,
  unattributed pubsubpull.unattributed DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE AS $$ -- short texts are joined before long ones are; concat takes longer
  SELECT ('{"id":' || id || ',"table":' || name_json || ',"type":"' || pubsubpull.change_type(type) || '","at":' || to_json(at)::text || ',"key":'
      || pubsubpull.key_object(key, plain, change_key, coalesce(whole, new, old)) || ',"old":')
    || (coalesce(old::text, 'null') || ',"new":' || coalesce(new::text, 'null'))
    || (CASE WHEN change_key IS NULL THEN ',"url":null' ELSE ',"url":"' || url || '/rows/' || change_key || '"' END
      || CASE WHEN request IS NULL AND channel IS NULL AND unattributed IS NULL THEN ',"request":null,"channel":null'
              ELSE concat(',"request":', CASE WHEN request IS NULL OR unattributed IS NOT NULL THEN 'null' ELSE coalesce(request_json, concat('{"id":"', request, '"}')) END,
                          ',"channel":', CASE WHEN channel IS NULL THEN 'null' ELSE concat('"', channel, '"') END,
                          CASE WHEN unattributed IS NOT NULL THEN concat(',"unattributed":"', unattributed, '"') END) END)
$$;
COMMENT ON FUNCTION pubsubpull.change_json(bigint, "char", timestamptz, text, json, json, uuid, text, pubsubpull.channel, text, text, text[], text, json, pubsubpull.unattributed) IS
  'JSON text of a change without its closing brace, so that members can be added. request_json: from request_document; name_json to plain are from shown_tables; whole: the row when old and new lack columns.';

-- Few changes belong to one row or one request: all of them are compared with the position.
CREATE OR REPLACE FUNCTION pubsubpull.feed_some(p pubsubpull.position, tables int[], row_key text, request uuid, most int) RETURNS SETOF pubsubpull.change
LANGUAGE plpgsql VOLATILE ROWS 100 SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET plan_cache_mode = auto AS $$
BEGIN
  IF row_key IS NULL THEN
    RETURN QUERY SELECT l.* FROM pubsubpull.change l
      WHERE l.request = feed_some.request AND l.table_id = ANY (tables)
        AND l.id > p.after_id AND pg_visible_in_snapshot(l.xid, p.upto) AND NOT pg_visible_in_snapshot(l.xid, p.since)
      ORDER BY l.id LIMIT most;
    PERFORM pubsubpull.check_place(p); -- after reading: a part of the log may have been dropped meanwhile
    RETURN;
  END IF;
  RETURN QUERY
    SELECT c.* FROM (
      SELECT * FROM pubsubpull.change l WHERE l.table_id = tables[1] AND l.key = row_key
      UNION ALL
      SELECT * FROM pubsubpull.change l WHERE l.table_id = tables[1] AND l.old_key = row_key AND l.old_key IS NOT NULL) c
    WHERE (feed_some.request IS NULL OR c.request = feed_some.request)
      AND c.id > p.after_id AND pg_visible_in_snapshot(c.xid, p.upto) AND NOT pg_visible_in_snapshot(c.xid, p.since)
    ORDER BY c.id LIMIT most;
  PERFORM pubsubpull.check_place(p);
END $$;
COMMENT ON FUNCTION pubsubpull.feed_some(pubsubpull.position, int[], text, uuid, int) IS
  'As feed, but only the changes of one row of the first table (row_key, as in URLs), or those that one request made in these tables.';

CREATE OR REPLACE FUNCTION pubsubpull.parse_types("on" text) RETURNS "char"[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  unknown text;
BEGIN
  SELECT string_agg(format('%L', w), ', ') INTO unknown FROM unnest(string_to_array("on", ',')) w WHERE w NOT IN ('insert', 'update', 'delete', 'truncate');
  IF unknown IS NOT NULL OR "on" = '' THEN
    PERFORM pubsubpull.problem(400, 'bad-on', format('on names %s; it takes insert, update, delete, truncate, joined by commas.', coalesce(unknown, 'nothing')));
  END IF;
  RETURN ARRAY(SELECT upper(left(w, 1))::"char" FROM unnest(string_to_array("on", ',')) w);
END $$;
COMMENT ON FUNCTION pubsubpull.parse_types(text) IS 'The types of change that the query parameter on names, as the log has them; empty: all.';

-- As text in the form that was asked for. Mostly all changes are small enough to be taken together; only if not, it is measured how many
-- may come, and they are read again. Line breaks that a value of type json may have between its tokens would end a line.
CREATE OR REPLACE FUNCTION pubsubpull.changes_read(p pubsubpull.position, tables int[], row_key text, request uuid, types "char"[], base text, form text, most int,
  OUT body text, OUT n int, OUT last_id bigint, OUT more boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  most_bytes CONSTANT bigint := CASE WHEN form = 'page' THEN 16000000 ELSE 1000000 END;
  fit bigint := 4 * most_bytes / most;
  large bigint;
  few CONSTANT boolean := row_key IS NOT NULL OR request IS NOT NULL;
  head CONSTANT text := CASE WHEN form = 'events' THEN pubsubpull.cursor_head(p) END;
  secret CONSTANT text := CASE WHEN form = 'events' THEN (SELECT l.secret FROM pubsubpull.log l) END;
BEGIN
  LOOP
    SELECT string_agg(CASE WHEN form = 'page' THEN c.line
                           ELSE concat(CASE WHEN form = 'events' THEN concat('id: ', pubsubpull.cursor_text(head, c.id, secret), E'\ndata: ') END,
                                       replace(replace(c.line, E'\n', ' '), E'\r', ' '), CASE WHEN form = 'events' THEN E'\n\n' ELSE E'\n' END) END,
                      CASE WHEN form = 'page' THEN ',' ELSE '' END ORDER BY c.id) FILTER (WHERE octet_length(c.line) <= fit),
           count(c.line), max(c.id), count(*) = most, count(*) FILTER (WHERE octet_length(c.line) > fit)
    INTO body, n, last_id, more, large
    FROM (SELECT f.id, CASE WHEN types = '{}' OR f.type = ANY (types)
                            THEN pubsubpull.change_json(f.id, f.type, f.at, f.key, f.old, f.new, f.request, (SELECT q.json FROM pubsubpull.request_document q WHERE q.id = f.request), f.channel,
                                                        t.name_json, t.url, t.key, t.plain, NULL, f.unattributed) || '}' END AS line
          FROM (SELECT * FROM pubsubpull.feed(p, CASE WHEN few THEN '{}' ELSE tables END, most)
                UNION ALL SELECT * FROM pubsubpull.feed_some(p, tables, row_key, changes_read.request, most) WHERE few) f
          JOIN pubsubpull.shown_tables(tables, base) t ON t.id = f.table_id OFFSET 0) c;
    EXIT WHEN large = 0 AND (octet_length(body) > most_bytes) IS NOT TRUE OR fit = 1000000000;
    SELECT count(*) INTO most
    FROM (SELECT sum(y.bytes) OVER (ORDER BY y.id ROWS UNBOUNDED PRECEDING) - y.bytes AS before
          FROM (SELECT l.id, coalesce(octet_length(l.old::text), 0) + coalesce(octet_length(l.new::text), 0) AS bytes
                FROM (SELECT * FROM pubsubpull.feed(p, CASE WHEN few THEN '{}' ELSE tables END, most)
                      UNION ALL SELECT * FROM pubsubpull.feed_some(p, tables, row_key, changes_read.request, most) WHERE few) l OFFSET 0) y) x
    WHERE x.before < most_bytes;
    fit := 1000000000; -- the largest value there is: now all are taken
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.changes_read(pubsubpull.position, int[], text, uuid, "char"[], text, text, int) IS
  'The next changes after a position with a batch under way, of one row or request if these are given, as text: page (elements of a JSON array), lines (NDJSON) or events (Server-Sent Events). n: how many; last_id: the last one looked at; more: whether the batch goes on.';

-- Also tables that are not published any more: their log is still there, and still only for those who may read them.
CREATE OR REPLACE FUNCTION pubsubpull.logged_names() RETURNS TABLE (name text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT DISTINCT coalesce(pubsubpull.table_name(q.relation), q.name) FROM pubsubpull.published q WHERE q.id <> 0 ORDER BY 1
$$;
COMMENT ON FUNCTION pubsubpull.logged_names() IS 'Canonical names of all tables that are in the log.';

CREATE OR REPLACE FUNCTION pubsubpull.table_id(name text) RETURNS int
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target regclass := pubsubpull.find_table(name);
  p pubsubpull.published;
BEGIN
  SELECT q.* INTO p FROM pubsubpull.published q WHERE q.relation = target;
  IF p.id IS NULL THEN
    p := pubsubpull.find_published(name);
  ELSIF NOT pubsubpull.is_logged(p) THEN
    PERFORM pubsubpull.problem(409, 'not-logged', format('%s is a view: its rows can be pulled, but its changes are not logged.', p.name), 'Follow the tables behind it.');
  END IF;
  RETURN p.id;
END $$;
COMMENT ON FUNCTION pubsubpull.table_id(text) IS
  'The id under which a table''s changes are logged, also when it is not published any more; problem 404 when it never was, 409 for a view.';

CREATE OR REPLACE FUNCTION pubsubpull.followed_tables(name text, names text) RETURNS int[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (
    SELECT CASE WHEN name IS NOT NULL THEN ARRAY[pubsubpull.table_id(name)]
                WHEN names IS NULL THEN pubsubpull.all_tables()
                ELSE ARRAY(SELECT q.id FROM pubsubpull.published q WHERE coalesce(pubsubpull.table_name(q.relation), q.name) = ANY (names::text[])) END);
END $$;
COMMENT ON FUNCTION pubsubpull.followed_tables(text, text) IS 'Ids of the table of this name, or else of those in names (an array of canonical names), or of all.';

DROP FUNCTION IF EXISTS pubsubpull.changes_page(text, text, int[], text, text), pubsubpull.changes_get(text, text, text, text),
  pubsubpull.table_changes_get(text, text, text, text), pubsubpull.row_changes_get(text, text, text, text, text); -- what one function does now
CREATE OR REPLACE FUNCTION pubsubpull.changes_get(base text, name text, key text, names text, since text, "limit" text, "on" text, request text, wait text, form text, target text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text, OUT n int, OUT more boolean, OUT cursor text, OUT tables int[])
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  most CONSTANT int := pubsubpull.parse_limit("limit");
  types CONSTANT "char"[] := coalesce(pubsubpull.parse_types("on"), '{}');
  filters CONSTANT text := concat('&limit=' || "limit", '&on=' || pubsubpull.percent_encode("on"), '&request=' || request, '&wait=' || wait);
  url text := concat(base, '/tables/' || pubsubpull.percent_encode(name));
  p pubsubpull.position;
  given boolean;
  row_key text;
  request_id uuid;
  r record;
BEGIN
  IF request !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
    PERFORM pubsubpull.problem(400, 'bad-request', format('request is %L; it must be the id of a request, a UUID.', request));
  END IF;
  request_id := request::uuid;
  tables := pubsubpull.followed_tables(name, names);
  IF key IS NOT NULL THEN
    row_key := pubsubpull.canonical_key(pubsubpull.find_published(name), key);
    url := concat(url, '/rows/', row_key);
  END IF;
  p := pubsubpull.parse_since(since);
  PERFORM pubsubpull.keep_memory();
  status := 200;
  given := p.upto IS NOT NULL;
  IF pubsubpull.lags(p) THEN
    n := 0;
    more := false;
    cursor := since;
    next := concat(url, '/changes/?since=', since, filters);
    body := CASE WHEN form = 'page' THEN concat('{"changes":[],"next":', to_json(next), ',"more":false}') END;
    RETURN;
  END IF;
  p := pubsubpull.begin_batch(p, target::pubsubpull.position);
  PERFORM pubsubpull.check_whole(p, tables, name IS NOT NULL); -- after the batch began: it may be published anew meanwhile
  r := pubsubpull.changes_read(p, tables, row_key, request_id, types, base, form, most);
  IF given AND r.last_id IS NULL THEN -- the cursor stood at the end of its batch
    given := false;
    p := pubsubpull.begin_batch(pubsubpull.end_batch(p), target::pubsubpull.position);
    PERFORM pubsubpull.check_whole(p, tables, name IS NOT NULL);
    r := pubsubpull.changes_read(p, tables, row_key, request_id, types, base, form, most);
  END IF;
  n := r.n;
  more := r.more;
  IF form = 'lines' AND "limit" IS NULL THEN -- all of the batch is sent, page by page
    next := pubsubpull.cursor_encode(pubsubpull.end_batch(p));
  END IF;
  IF r.more THEN
    p.after_id := r.last_id;
  ELSE
    p := pubsubpull.end_batch(p);
  END IF;
  cursor := pubsubpull.cursor_encode(p);
  PERFORM pubsubpull.await_flush();
  next := concat(url, '/changes/?since=', coalesce(next, cursor), filters);
  IF form = 'page' THEN
    body := '{"changes":[' || coalesce(r.body, '') || concat('],"next":', to_json(next), ',"more":', to_json(more), '}'); -- large: each copy counts
    -- What a batch that is under way holds does not change any more. A page without changes is as good as any other.
    etag := CASE WHEN more AND given THEN hashtextextended(body, 0)::text WHEN r.last_id IS NULL AND since IS DISTINCT FROM 'now' THEN 'W/idle-' || md5(concat(since)) END;
  ELSE
    body := r.body;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.changes_get(text, text, text, text, text, text, text, text, text, text, text) IS
  'GET /changes/ (name NULL; of the tables in names, or all), /tables/{t}/changes/, /tables/{t}/rows/{key}/changes/: what follows since. form: page, lines or events; target: a position up to which, made by watch; n: how many changes; cursor: where to go on; tables: ids of those followed.';

-- Many wait; one asks for all of them, often. A position behind which nothing is new is found by looking at one snapshot.
CREATE OR REPLACE FUNCTION pubsubpull.watch(since text, tables text, OUT target text, OUT changed text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p pubsubpull.position := since::pubsubpull.position;
  ids CONSTANT int[] := tables::int[];
  most CONSTANT int := CASE cardinality(ids) WHEN 1 THEN 1 ELSE 500 END;
  n int;
BEGIN
  IF since IS NULL THEN
    target := pubsubpull.now_position()::text;
    RETURN;
  END IF;
  target := since;
  changed := '{}';
  IF p.since::text = pg_current_snapshot()::text THEN
    RETURN;
  END IF;
  p := pubsubpull.begin_batch(p);
  target := pubsubpull.end_batch(p)::text;
  SELECT coalesce(array_agg(DISTINCT f.table_id), '{}')::text, count(*) INTO changed, n FROM pubsubpull.feed(p, ids, most) f;
  IF n = most AND cardinality(ids) > 1 THEN -- there are more than these
    changed := ARRAY(SELECT t FROM unnest(ids) t WHERE EXISTS (SELECT FROM pubsubpull.feed(p, ARRAY[t], 1)))::text;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.watch(text, text) IS
  'For those who wait: which of these tables have changes after since, a position, and the position up to which that holds. since NULL: only the position.';
