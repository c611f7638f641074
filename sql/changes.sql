-- SPDX-License-Identifier: Apache-2.0
-- changes.sql: changes of all tables, of one, of a row, as pages, lines or events, and whether there are any for those who wait.

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
