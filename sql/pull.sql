-- SPDX-License-Identifier: Apache-2.0
-- pull.sql: rows of published tables by key, and pages of changes.

CREATE OR REPLACE FUNCTION pubsubpull.row_expression(p pubsubpull.published, alias text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN p.exclude = '{}' THEN format('row_to_json(%s.*)', alias)
              ELSE format('(to_jsonb(%s.*) - %L::text[])::json', alias, pubsubpull.excluded_names(p)) END
$$;
COMMENT ON FUNCTION pubsubpull.row_expression(pubsubpull.published, text) IS 'SQL text for the JSON of a row without excluded columns.';

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

-- "(a, b) OP ($1[1]::int, $1[2]::text)": identifiers quoted, types named by the server, values a parameter.
CREATE OR REPLACE FUNCTION pubsubpull.key_condition(p pubsubpull.published, operator text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('(%s) %s (%s)', string_agg(format('t.%I', k.name), ', ' ORDER BY k.n), operator,
                string_agg(format('$1[%s]::%s', k.n, format_type(a.atttypid, -1)), ', ' ORDER BY k.n))
  FROM unnest(p.key) WITH ORDINALITY AS k(name, n) JOIN pg_attribute a ON a.attrelid = p.relation AND a.attname = k.name
$$;
COMMENT ON FUNCTION pubsubpull.key_condition(pubsubpull.published, text) IS 'SQL text that compares a row''s key with the values in $1.';

CREATE OR REPLACE FUNCTION pubsubpull.read_rows(p pubsubpull.published, after text, descending boolean, most int, OUT row_key text, OUT row_json json)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET row_security = off SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1 SET bytea_output = 'hex' SET IntervalStyle = 'postgres' AS $$
DECLARE
  key_values text[] := pubsubpull.parse_key(p, after);
BEGIN
  RETURN QUERY EXECUTE format('SELECT %s, %s FROM %s t %s ORDER BY %s LIMIT $2',
    pubsubpull.key_expression(p.relation, p.key, 't'), pubsubpull.row_expression(p, 't'),
    CASE WHEN p.row_level AND (SELECT relkind <> 'p' FROM pg_class WHERE oid = p.relation) THEN 'ONLY ' ELSE '' END || p.relation::regclass,
    CASE WHEN after IS NULL THEN '' ELSE 'WHERE ' || pubsubpull.key_condition(p, CASE WHEN descending THEN '<' ELSE '>' END) END,
    (SELECT string_agg(format('t.%I%s', k.name, CASE WHEN descending THEN ' DESC' ELSE '' END), ', ' ORDER BY k.n) FROM unnest(p.key) WITH ORDINALITY AS k(name, n)))
    USING key_values, most;
EXCEPTION WHEN data_exception THEN
  PERFORM pubsubpull.problem(400, 'bad-key', format('The key %L does not fit %s: %s.', after, p.name, SQLERRM));
END $$;
COMMENT ON FUNCTION pubsubpull.read_rows(pubsubpull.published, text, boolean, int) IS
  'Rows of a published table in key order after a key (NULL: from the start), each with its key as in URLs.';

CREATE OR REPLACE FUNCTION pubsubpull.rows_get(base text, name text, "limit" text, "order" text, after text, changes text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p pubsubpull.published := pubsubpull.find_published(name);
  most int := pubsubpull.parse_limit("limit");
  url text := pubsubpull.table_url(base, name);
  page text;
  last_key text;
  cut boolean;
BEGIN
  IF coalesce("order", 'asc') NOT IN ('asc', 'desc') THEN
    PERFORM pubsubpull.problem(400, 'bad-order', format('order is %L; it must be asc or desc.', "order"));
  END IF;
  PERFORM pubsubpull.parse_key(p, after);
  -- Taken before the first page is read, and handed from page to page: what changes meanwhile is found there.
  IF changes IS NULL THEN
    changes := pubsubpull.cursor_encode(pubsubpull.now_position());
  ELSE
    PERFORM pubsubpull.cursor_decode(changes);
  END IF;
  SELECT string_agg(r.row_json::text, ',' ORDER BY r.n) FILTER (WHERE r.kept), (array_agg(r.row_key ORDER BY r.n DESC) FILTER (WHERE r.kept))[1],
         count(*) = most OR NOT coalesce(bool_and(r.kept), true)
  INTO page, last_key, cut
  FROM (SELECT x.*, row_number() OVER () AS n, sum(octet_length(x.row_json::text)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(x.row_json::text) < 16000000 AS kept
        FROM pubsubpull.read_rows(p, after, "order" = 'desc', most) x) r;
  IF cut THEN
    next := format('%s/rows/?limit=%s&order=%s&after=%s&changes=%s', url, most, coalesce("order", 'asc'), pubsubpull.percent_encode(last_key), changes);
  END IF;
  status := 200;
  body := concat('{"rows":[', page, '],"next":', coalesce(to_json(next)::text, 'null'), ',"changes":', to_json(url || '/changes/?since=' || changes), '}');
END $$;
COMMENT ON FUNCTION pubsubpull.rows_get(text, text, text, text, text, text) IS
  'GET /tables/{t}/rows/: a page of rows by key. "changes" is the same on all pages: following it after the last page misses nothing.';

CREATE OR REPLACE FUNCTION pubsubpull.row_get(base text, name text, key text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET row_security = off SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1 SET bytea_output = 'hex' SET IntervalStyle = 'postgres' AS $$
DECLARE
  p pubsubpull.published := pubsubpull.find_published(name);
BEGIN
  EXECUTE format('SELECT %s FROM %s%s t WHERE %s', pubsubpull.row_expression(p, 't'),
                 CASE WHEN p.row_level AND (SELECT relkind <> 'p' FROM pg_class WHERE oid = p.relation) THEN 'ONLY ' ELSE '' END,
                 p.relation, pubsubpull.key_condition(p, '='))
    INTO body USING pubsubpull.parse_key(p, key);
  IF body IS NULL THEN
    PERFORM pubsubpull.problem(404, 'no-such-row', format('%s has no row with the key %s.', p.name, key));
  END IF;
  status := 200;
  etag := md5(body);
EXCEPTION WHEN data_exception THEN
  PERFORM pubsubpull.problem(400, 'bad-key', format('The key %L does not fit %s: %s.', key, p.name, SQLERRM));
END $$;
COMMENT ON FUNCTION pubsubpull.row_get(text, text, text) IS 'GET /tables/{t}/rows/{key}: one row.';

-- The JSON text of one change, as pages and notifications show it, up to but without the closing brace.
DROP FUNCTION IF EXISTS pubsubpull.change_json(bigint, "char", timestamptz, text, json, json, uuid, pubsubpull.channel, text, text, text[], text); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.change_json(id bigint, type "char", at timestamptz, change_key text, old json, new json, request uuid,
  channel pubsubpull.channel, name_json text, url text, key text[], plain text, whole json DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT concat('{"id":', id, ',"table":', name_json, ',"type":"', pubsubpull.change_type(type), '","at":', to_json(at), ',"key":',
    pubsubpull.key_object(key, plain, change_key, coalesce(whole, new, old)), ',"old":', coalesce(old::text, 'null'), ',"new":', coalesce(new::text, 'null'),
    ',"url":', CASE WHEN change_key IS NULL THEN 'null' ELSE concat('"', url, '/rows/', change_key, '"') END,
    ',"request":', CASE WHEN request IS NULL THEN 'null' ELSE coalesce(pubsubpull.request_json(request), concat('{"id":"', request, '"}')) END,
    ',"channel":', CASE WHEN channel IS NULL THEN 'null' ELSE concat('"', channel, '"') END)
$$;
COMMENT ON FUNCTION pubsubpull.change_json(bigint, "char", timestamptz, text, json, json, uuid, pubsubpull.channel, text, text, text[], text, json) IS
  'JSON text of a change without its closing brace, so that members can be added. name_json to plain are from shown_tables; whole: the row when old and new lack columns.';

CREATE OR REPLACE FUNCTION pubsubpull.changes_page(base text, url text, tables int[], since text, "limit" text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
  most int := pubsubpull.parse_limit("limit");
  p pubsubpull.position := pubsubpull.begin_batch(pubsubpull.parse_since(since));
  r record;
  page text;
BEGIN
  PERFORM pubsubpull.check_whole(p, tables, cardinality(tables) = 1);
  SELECT * INTO r FROM pubsubpull.feed_page(p, tables, most, 16000000);
  SELECT string_agg(concat(pubsubpull.change_json(c.id, c.type, c.at, c.key, c.old, c.new, c.request, c.channel, t.name_json, t.url, t.key, t.plain), '}'), ',' ORDER BY c.id)
  INTO page FROM unnest(r.page) c JOIN pubsubpull.shown_tables(tables, base) t ON t.id = c.table_id;
  IF r.more THEN
    p.after_id := r.page[cardinality(r.page)].id;
  ELSE
    p := pubsubpull.end_batch(p);
  END IF;
  next := concat(url, '?since=', pubsubpull.cursor_encode(p), '&limit=' || "limit");
  status := 200;
  body := concat('{"changes":[', page, '],"next":', to_json(next), ',"more":', to_json(r.more), '}');
END $$;
COMMENT ON FUNCTION pubsubpull.changes_page(text, text, int[], text, text) IS
  'A page of changes of these tables after since; "next" is the URL to go on with, now or later.';

-- Also tables that are not published any more: their log is still there, and still only for those who may read them.
CREATE OR REPLACE FUNCTION pubsubpull.logged_names() RETURNS TABLE (name text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT DISTINCT coalesce(pubsubpull.table_name(q.relation), q.name) FROM pubsubpull.published q ORDER BY 1
$$;
COMMENT ON FUNCTION pubsubpull.logged_names() IS 'Canonical names of all tables that are in the log.';

CREATE OR REPLACE FUNCTION pubsubpull.changes_get(base text, since text, "limit" text, names text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
  SELECT * FROM pubsubpull.changes_page(base, base || '/changes/',
    CASE WHEN names IS NULL THEN pubsubpull.all_tables()
         ELSE ARRAY(SELECT q.id FROM pubsubpull.published q WHERE coalesce(pubsubpull.table_name(q.relation), q.name) = ANY (names::text[])) END, since, "limit")
$$;
COMMENT ON FUNCTION pubsubpull.changes_get(text, text, text, text) IS
  'GET /changes/: changes of all tables, or of those in names (an array of canonical names) only.';

CREATE OR REPLACE FUNCTION pubsubpull.table_id(name text) RETURNS int
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target regclass := pubsubpull.find_table(name);
  id int;
BEGIN
  SELECT q.id INTO id FROM pubsubpull.published q WHERE q.relation = target;
  RETURN coalesce(id, (pubsubpull.find_published(name)).id);
END $$;
COMMENT ON FUNCTION pubsubpull.table_id(text) IS 'The id under which a table''s changes are logged, also when it is not published any more; problem 404 when it never was.';

CREATE OR REPLACE FUNCTION pubsubpull.table_changes_get(base text, name text, since text, "limit" text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
  SELECT * FROM pubsubpull.changes_page(base, pubsubpull.table_url(base, name) || '/changes/', ARRAY[pubsubpull.table_id(name)], since, "limit")
$$;
COMMENT ON FUNCTION pubsubpull.table_changes_get(text, text, text, text) IS 'GET /tables/{t}/changes/: changes of one table after since.';
