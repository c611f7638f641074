-- SPDX-License-Identifier: Apache-2.0
-- rows.sql: rows of published tables by key, as pages or one stream.

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
