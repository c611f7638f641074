-- SPDX-License-Identifier: Apache-2.0
-- audit.sql: who changed what and when: requests and what they changed; the history of a row is in changes.sql.

-- For the filters of /requests/. Newest first is the order of the primary key, whose ids begin with the time, and of all that end with the id.
-- What most requests have, GET and 200, costs nothing, and is found by walking back.
DO $$ BEGIN
  IF to_regclass('pubsubpull.request_user') IS NULL THEN
    CREATE INDEX request_user ON pubsubpull.request ("user", id) WHERE "user" IS NOT NULL;
    CREATE INDEX request_path ON pubsubpull.request (path text_pattern_ops);
    CREATE INDEX request_remote ON pubsubpull.request (remote, id);
  END IF;
  IF to_regclass('pubsubpull.request_status') IS NULL THEN
    CREATE INDEX request_status ON pubsubpull.request (status, id) WHERE status <> 200;
  END IF;
  IF to_regclass('pubsubpull.request_method') IS NULL THEN
    CREATE INDEX request_method ON pubsubpull.request (method, id) WHERE method <> 'GET';
  END IF;
  IF to_regclass('pubsubpull.request_failed') IS NOT NULL THEN -- in older schemas
    DROP INDEX pubsubpull.request_failed, pubsubpull.request_writes;
  END IF;
END $$;

CREATE OR REPLACE FUNCTION pubsubpull.parse_time(name text, value text) RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
BEGIN
  IF value !~ '^\d{4}-\d\d-\d\d' THEN
    RAISE data_exception USING MESSAGE = 'not a date';
  END IF;
  RETURN regexp_replace(lpad(to_hex((extract(epoch FROM value::timestamptz) * 1000)::bigint), 12, '0') || repeat('0', 20), '(.{8})(.{4})(.{4})(.{4})(.*)', '\1-\2-\3-\4-\5')::uuid;
EXCEPTION WHEN data_exception THEN
  PERFORM pubsubpull.problem(400, 'bad-time', format('%s is %L; it must be a time such as 2026-01-31T13:00:00Z.', name, value));
END $$;
COMMENT ON FUNCTION pubsubpull.parse_time(text, text) IS 'A time in a query as the least id of a request of that time, or problem 400.';

-- Changes with no request, or with one that is not believed, newest first. Hardly any or nearly all may be such, so a page looks
-- through so many ids of the log and no more: it can be empty and have a next one.
CREATE OR REPLACE FUNCTION pubsubpull.odd_changes(base text, odd text, tables int[], since text, "limit" text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET TimeZone = 'UTC' AS $$
DECLARE
  step CONSTANT bigint := 20000;
  most int := pubsubpull.parse_limit("limit", 100, 1000);
  upto bigint;
  least_id bigint := coalesce((SELECT min(m.id) FROM unnest(tables) t CROSS JOIN LATERAL
    (SELECT c.id FROM pubsubpull.change c WHERE c.table_id = t ORDER BY c.id LIMIT 1) m), 0);
  page text[] := '{}';
  found_page text[];
  last_id bigint;
BEGIN
  IF since IS NOT NULL AND since !~ '^[0-9]{1,18}$' THEN
    PERFORM pubsubpull.problem(400, 'bad-cursor', 'since must come from the "next" URL of an earlier page.');
  END IF;
  upto := coalesce(since::bigint, (SELECT q.last_value + 1 FROM pubsubpull.change_id q));
  FOR i IN 1 .. 10 LOOP
    SELECT array_agg(concat(pubsubpull.change_json(c.id, c.type, c.at, c.key, c.old, c.new, c.request, pubsubpull.request_json(c.request), c.channel, t.name_json, t.url, t.key, t.plain, NULL, c.unattributed), '}') ORDER BY c.id DESC), min(c.id)
    INTO found_page, last_id
    FROM (SELECT o.* FROM unnest(tables) u CROSS JOIN LATERAL (
            SELECT l.* FROM pubsubpull.change l
            WHERE l.table_id = u AND l.id < upto AND l.id >= upto - step AND (l.unattributed IS NOT NULL OR odd = 'no-request' AND l.request IS NULL)
            ORDER BY l.id DESC LIMIT most - cardinality(page)) o
          ORDER BY o.id DESC LIMIT most - cardinality(page)) c
    JOIN pubsubpull.shown_tables(tables, base) t ON t.id = c.table_id;
    page := page || coalesce(found_page, '{}');
    upto := CASE WHEN cardinality(page) = most THEN last_id ELSE upto - step END;
    EXIT WHEN cardinality(page) = most OR upto <= least_id;
  END LOOP;
  IF upto > least_id THEN
    next := concat(base, '/requests/?odd=', odd, '&since=', upto, '&limit=', most);
  END IF;
  status := 200;
  body := concat('{"changes":[', array_to_string(page, ','), '],"next":', coalesce(to_json(next)::text, 'null'), '}');
END $$;
COMMENT ON FUNCTION pubsubpull.odd_changes(text, text, int[], text, text) IS 'GET /requests/?odd=no-request and ?odd=unattributed: pages of changes, newest first.';

-- The condition of one filter, as SQL text: all that comes from outside is a parameter of it.
CREATE OR REPLACE FUNCTION pubsubpull.request_condition(name text, value text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE name
    WHEN 'user' THEN 'q."user" = $2->>''user'''
    WHEN 'method' THEN 'q.method = $2->>''method'''
    WHEN 'path' THEN 'q.path LIKE $6'
    WHEN 'status' THEN 'q.status BETWEEN replace($2->>''status'', ''x'', ''0'')::int AND replace($2->>''status'', ''x'', ''9'')::int'
    WHEN 'from' THEN 'q.id >= pubsubpull.parse_time(''from'', $2->>''from'')'
    WHEN 'to' THEN 'q.id < pubsubpull.parse_time(''to'', $2->>''to'')'
    WHEN 'cause' THEN 'q.cause = ($2->>''cause'')::uuid'
    WHEN 'remote' THEN 'q.remote = $2->>''remote'''
    WHEN 'table' THEN 'EXISTS (SELECT FROM pubsubpull.change c WHERE c.request = q.id AND c.table_id + 0 = $3 AND c.unattributed IS NULL)'
    WHEN 'key' THEN 'q.id = ANY (ARRAY(SELECT c.request FROM pubsubpull.change c WHERE c.table_id = $3 AND c.key = $4 AND c.unattributed IS NULL'
      || ' UNION SELECT c.request FROM pubsubpull.change c WHERE c.table_id = $3 AND c.old_key = $4 AND c.unattributed IS NULL))'
    WHEN 'odd' THEN CASE value
      WHEN '5xx-committed' THEN 'q.status >= 500 AND EXISTS (SELECT FROM pubsubpull.change c WHERE c.request = q.id AND c.unattributed IS NULL)'
      WHEN '2xx-unchanged' THEN 'q.status BETWEEN 200 AND 299 AND q.method = ANY (''{PUT,POST,DELETE,PATCH}'')'
        || ' AND NOT EXISTS (SELECT FROM pubsubpull.change c WHERE c.request = q.id AND c.unattributed IS NULL)' END
    WHEN 'since' THEN 'q.id < ($2->>''since'')::uuid' END
$$;
COMMENT ON FUNCTION pubsubpull.request_condition(text, text) IS 'SQL text of a filter of /requests/. Parameters: $2 all filters (jsonb), $3 the table''s id, $4 the key, $6 the path as a pattern.';

CREATE OR REPLACE FUNCTION pubsubpull.statuses(first int, last int) RETURNS int[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
  found_status int := first - 1;
  all_found int[] := '{}';
BEGIN
  LOOP
    found_status := (SELECT q.status FROM pubsubpull.request q WHERE q.status > found_status AND q.status <= last AND q.status <> 200 ORDER BY q.status LIMIT 1);
    EXIT WHEN found_status IS NULL;
    all_found := all_found || found_status;
  END LOOP;
  RETURN all_found;
END $$;
COMMENT ON FUNCTION pubsubpull.statuses(int, int) IS 'Which statuses from first to last any recorded request has, but for 200.';

-- From the table's changes, if they are few, else back through the log, for an index on table and request would cost each writer. What is
-- looked at last may be a part only of what its request changed.
CREATE OR REPLACE FUNCTION pubsubpull.requests_of_table(table_id int, first uuid, below uuid, most int, OUT ids uuid[], OUT looked_to uuid)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off
SET enable_hashagg = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  few CONSTANT int := 1000;
  look CONSTANT int := 100000;
BEGIN
  PERFORM FROM pubsubpull.change c WHERE c.table_id = requests_of_table.table_id OFFSET few LIMIT 1;
  IF NOT FOUND THEN
    ids := ARRAY(SELECT x.request FROM (SELECT c.request, c.unattributed FROM pubsubpull.change c WHERE c.table_id = requests_of_table.table_id OFFSET 0) x
                 WHERE x.request >= first AND x.request < below AND x.unattributed IS NULL);
    RETURN;
  END IF;
  ids := ARRAY(SELECT DISTINCT x.request FROM (
      SELECT c.request, c.table_id, c.unattributed FROM pubsubpull.change c WHERE c.request >= first AND c.request < below ORDER BY c.request DESC LIMIT look) x
    WHERE x.table_id = requests_of_table.table_id AND x.unattributed IS NULL ORDER BY x.request DESC LIMIT most);
  IF cardinality(ids) = most THEN
    looked_to := ids[most];
    RETURN;
  END IF;
  looked_to := (SELECT c.request FROM pubsubpull.change c WHERE c.request >= first AND c.request < below ORDER BY c.request DESC OFFSET look - 1 LIMIT 1);
  IF looked_to <> ALL (ids) AND EXISTS (SELECT FROM pubsubpull.change c WHERE c.request = looked_to AND c.table_id + 0 = requests_of_table.table_id AND c.unattributed IS NULL) THEN
    ids := ids || looked_to;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.requests_of_table(int, uuid, uuid, int) IS
  'Ids of requests that changed a table, the newest of those from first to below (excluded). looked_to: there may be more below that; NULL: these are all.';

-- The filter that leads should leave the fewest, and has an index in whose order its requests are the newest first; statuses and methods of
-- which there are several have it each. Nothing is left to the planner, which knows neither that all requests of a user fail nor that a path
-- was last asked for a year ago.
CREATE OR REPLACE FUNCTION pubsubpull.request_source(filters jsonb, leader text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  part text := concat(' q WHERE q.claimed IS NULL',
    (SELECT string_agg(' AND ' || pubsubpull.request_condition(f.key, f.value), '') FROM jsonb_each_text(filters) f WHERE f.key IN ('from', 'to', 'since')));
BEGIN
  IF leader = 'path' THEN
    RETURN concat('SELECT q.* FROM (SELECT * FROM pubsubpull.request WHERE path LIKE $6 OFFSET 0)', part, ' ORDER BY q.id DESC');
  END IF;
  part := 'SELECT q.* FROM pubsubpull.request' || part;
  RETURN concat('SELECT q.* FROM (', CASE leader
    WHEN 'status' THEN coalesce((SELECT string_agg(format('(%s AND q.status <> 200 AND q.status = %s ORDER BY q.id DESC)', part, s), ' UNION ALL ') FROM unnest(pubsubpull.statuses(
        coalesce(replace(filters->>'status', 'x', '0')::int, 500), coalesce(replace(filters->>'status', 'x', '9')::int, 599))) s), part || ' AND false')
    WHEN 'method' THEN part || ' AND q.method <> ''GET'' AND ' || pubsubpull.request_condition('method', '')
    WHEN 'methods' THEN (SELECT string_agg(format('(%s AND q.method <> ''GET'' AND q.method = %L ORDER BY q.id DESC)', part, m), ' UNION ALL ') FROM unnest('{PUT,POST,DELETE,PATCH}'::text[]) m)
    WHEN 'table' THEN part || ' AND q.id = ANY ($7)'
    ELSE concat(part, ' AND ' || pubsubpull.request_condition(leader, '')) END, ') q ORDER BY q.id DESC');
END $$;
COMMENT ON FUNCTION pubsubpull.request_source(jsonb, text) IS
  'SQL text that reads requests, newest first, by the filters of time and one other: NULL none, methods those that write. Parameters as in request_condition, and $7 what requests_of_table found.';

CREATE OR REPLACE FUNCTION pubsubpull.readable_tables(names text) RETURNS int[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN names IS NULL THEN pubsubpull.all_tables()
    ELSE ARRAY(SELECT q.id FROM pubsubpull.published q WHERE coalesce(pubsubpull.table_name(q.relation), q.name) = ANY (names::text[])) END
$$;
COMMENT ON FUNCTION pubsubpull.readable_tables(text) IS 'Ids of the tables in names (an array of canonical names); NULL: of all.';

DROP FUNCTION IF EXISTS pubsubpull.requests_get(text, text, text, text, text, text, text); -- knew fewer filters
CREATE OR REPLACE FUNCTION pubsubpull.requests_get(base text, filters jsonb, names text, "limit" text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_sort = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  most int := pubsubpull.parse_limit("limit", 100, 1000);
  pattern CONSTANT text := regexp_replace(filters->>'path', '([\\%_])', '\\\1', 'g') || '%';
  tables int[];
  touched pubsubpull.published;
  touched_id int;
  touched_key text;
  few_paths boolean;
  leader text;
  source text;
  others text;
  look int;
  ids uuid[];
  page text;
  last_id uuid;
  n int;
BEGIN
  IF filters->>'odd' IN ('no-request', 'unattributed') THEN
    IF filters - 'odd' - 'since' <> '{}' THEN
      PERFORM pubsubpull.problem(400, 'bad-query', format('odd=%s lists changes, which the other filters do not know.', filters->>'odd'));
    END IF;
    SELECT o.status, o.body, o.next INTO status, body, next FROM pubsubpull.odd_changes(base, filters->>'odd', pubsubpull.readable_tables(names), filters->>'since', "limit") o;
    RETURN;
  ELSIF filters->>'since' !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    PERFORM pubsubpull.problem(400, 'bad-cursor', 'since must come from the "next" URL of an earlier page.');
  ELSIF filters->>'cause' !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    PERFORM pubsubpull.problem(400, 'bad-cause', 'cause must be the id of a request.');
  ELSIF filters->>'status' !~ '^[1-5](xx|[0-9]{2})$' THEN
    PERFORM pubsubpull.problem(400, 'bad-status', 'status must be a number such as 404 or a class such as 5xx.');
  ELSIF filters->>'odd' NOT IN ('5xx-committed', '2xx-unchanged') THEN
    PERFORM pubsubpull.problem(400, 'bad-odd', 'odd must be no-request, unattributed, 5xx-committed or 2xx-unchanged.');
  ELSIF filters ? 'key' AND NOT filters ? 'table' THEN
    PERFORM pubsubpull.problem(400, 'bad-query', 'key needs table: it is the key of a row of that table.');
  ELSIF filters ? 'table' THEN
    tables := pubsubpull.readable_tables(names);
    BEGIN
      touched_id := pubsubpull.table_id(filters->>'table');
    EXCEPTION WHEN SQLSTATE 'PS308' THEN -- a bare name: the problem says the canonical one
      touched_id := pubsubpull.table_id(SQLERRM);
    END;
    SELECT * INTO touched FROM pubsubpull.published p WHERE p.id = touched_id AND p.id = ANY (tables);
    IF NOT FOUND THEN
      PERFORM pubsubpull.problem(403, 'forbidden', format('The changes of %s are not for this user.', filters->>'table'));
    END IF;
    IF filters ? 'key' THEN
      touched_key := array_to_string(ARRAY(SELECT pubsubpull.percent_encode(v) FROM unnest(pubsubpull.parse_key(touched, filters->>'key')) WITH ORDINALITY AS u(v, i) ORDER BY u.i), ',');
    END IF;
  END IF;
  PERFORM pubsubpull.parse_time(f.key, f.value) FROM jsonb_each_text(filters) f WHERE f.key IN ('from', 'to');
  IF pattern IS NOT NULL AND touched_key IS NULL THEN
    EXECUTE 'SELECT NOT EXISTS (SELECT FROM pubsubpull.request q WHERE q.path LIKE $1 OFFSET 1000)' INTO few_paths USING pattern;
  END IF;
  leader := CASE WHEN touched_key IS NOT NULL THEN 'key' WHEN few_paths THEN 'path' WHEN filters ? 'cause' THEN 'cause' WHEN filters ? 'user' THEN 'user'
    WHEN filters ? 'remote' THEN 'remote' WHEN filters ? 'table' THEN 'table'
    WHEN filters->>'status' NOT IN ('200', '2xx') OR filters->>'odd' = '5xx-committed' THEN 'status'
    WHEN filters->>'method' <> 'GET' THEN 'method' WHEN filters->>'odd' = '2xx-unchanged' THEN 'methods' END;
  source := pubsubpull.request_source(filters, leader);
  others := (SELECT string_agg(' AND ' || pubsubpull.request_condition(f.key, f.value), '') FROM jsonb_each_text(filters) f
             WHERE f.key <> ALL (ARRAY['from', 'to', 'since', coalesce(leader, '')]) AND NOT (f.key = 'table' AND leader = 'key'));
  look := CASE WHEN others IS NULL THEN most WHEN others LIKE '%EXISTS%' THEN 5000 WHEN leader = 'table' THEN greatest(1000, 5 * most) WHEN leader IS NULL THEN 100000 ELSE 10000 END;
  IF leader = 'table' THEN
    SELECT r.ids, r.looked_to INTO ids, last_id FROM pubsubpull.requests_of_table(touched.id,
      coalesce(pubsubpull.parse_time('from', filters->>'from'), '00000000-0000-0000-0000-000000000000'),
      least((filters->>'since')::uuid, pubsubpull.parse_time('to', filters->>'to'), 'ffffffff-ffff-ffff-ffff-ffffffffffff'), look) r;
  END IF;
  EXECUTE concat('SELECT string_agg(concat(left(pubsubpull.request_json(r.id), -1), '',"url":'', to_json($1 || ''/requests/'' || r.id), ''}''), '','' ORDER BY r.id DESC),',
    ' coalesce(CASE WHEN count(*) = $5 THEN (array_agg(r.id ORDER BY r.id))[1] END, $9), count(*)',
    ' FROM (SELECT q.id FROM (', source, CASE WHEN leader = 'table' THEN '' ELSE ' LIMIT $8' END, ') q WHERE true', others, ' ORDER BY q.id DESC LIMIT $5) r')
  INTO page, last_id, n USING base, filters, touched.id, touched_key, most, pattern, ids, look, last_id;
  IF n < most AND others IS NOT NULL AND coalesce(leader, '') NOT IN ('key', 'path', 'table') THEN
    EXECUTE concat('SELECT q.id FROM (', source, ') q OFFSET $8 - 1 LIMIT 1') INTO last_id USING base, filters, touched.id, touched_key, most, pattern, ids, look;
  END IF;
  IF last_id IS NOT NULL THEN
    next := concat(base, '/requests/?limit=', most, (SELECT string_agg(concat('&', f.key, '=', pubsubpull.percent_encode(f.value)), '' ORDER BY f.key)
      FROM jsonb_each_text(filters || jsonb_build_object('since', last_id)) f));
  END IF;
  status := 200;
  body := concat('{"requests":[', page, '],"next":', coalesce(to_json(next)::text, 'null'), '}');
END $$;
COMMENT ON FUNCTION pubsubpull.requests_get(text, jsonb, text, text) IS
  'GET /requests/: recorded requests, newest first. filters: user, method, path (a prefix), status, from, to, remote, cause, table, key, odd, since; names: the tables that the user may see (an array), NULL: all.';

DROP FUNCTION IF EXISTS pubsubpull.request_get(text, text); -- showed changes of all tables to everybody
CREATE OR REPLACE FUNCTION pubsubpull.request_get(base text, id text, names text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET TimeZone = 'UTC' AS $$
DECLARE
  request_id uuid;
  tables int[] := pubsubpull.readable_tables(names);
  head text;
  page text;
BEGIN
  IF request_get.id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    request_id := request_get.id::uuid;
    head := pubsubpull.request_json(request_id);
  END IF;
  SELECT string_agg(concat(pubsubpull.change_json(c.id, c.type, c.at, c.key, c.old, c.new, c.request, head, c.channel, t.name_json, t.url, t.key, t.plain, NULL, c.unattributed), '}'), ',' ORDER BY c.id) INTO page
  FROM pubsubpull.change c JOIN pubsubpull.shown_tables(tables, base) t ON t.id = c.table_id WHERE c.request = request_id AND c.unattributed IS NULL;
  IF head IS NULL AND page IS NULL THEN
    PERFORM pubsubpull.problem(404, 'no-such-request', format('No request %s is recorded.', request_get.id));
  END IF;
  status := 200;
  body := concat(left(coalesce(head, concat('{"id":"', request_id, '"}')), -1), ',"changes":[', page, ']}');
  etag := md5(body);
END $$;
COMMENT ON FUNCTION pubsubpull.request_get(text, text, text) IS 'GET /requests/{id}: one request with all changes it made to tables that the user may see.';
