-- SPDX-License-Identifier: Apache-2.0
-- calls.sql: API calls as events: which requests a subscription wants, and what is sent of them.
--
-- The end of a request that some subscription may want is a row of the log, of type Q and of table 0, which is no table: so it has a
-- place in the feed like any change, in whatever order servers write down what ended, and all that is true of changes (order, tries,
-- leases, retention) is true of calls. It holds no more than the request's id, and the snapshot that says which changes had
-- been committed then: what is sent is made of these and of the request when it is read, and is the same at each try.
-- A rule (subscription.requests) is what the document says, made ready: {"method": […], "path": regex, "status": regex, "user": […],
-- "host": […], "table": id, "types": […]}; and "tables": ids of those whose changes may be shown, "since": from which transaction
-- on the log has all calls that fit.

CREATE OR REPLACE FUNCTION pubsubpull.word_list(value jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
  SELECT ARRAY(SELECT e FROM jsonb_array_elements_text(CASE WHEN jsonb_typeof(value) = 'array' THEN value ELSE jsonb_build_array(value) END) e ORDER BY e)
$$;
COMMENT ON FUNCTION pubsubpull.word_list(jsonb) IS 'A JSON string or number, or an array of such, as a sorted array; NULL when absent.';

-- As in httpd's own patterns * and ? stand for no slash; ** does.
CREATE OR REPLACE FUNCTION pubsubpull.path_regex(patterns text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
  SELECT concat('^(?:', string_agg(x.r, '|' ORDER BY x.r), ')$')
  FROM (SELECT replace(replace(replace(replace(regexp_replace(p, '([][\\.^$+(){}|])', '\\\1', 'g'), '**', chr(1)), '*', '[^/]*'), '?', '[^/]'), chr(1), '.*') AS r FROM unnest(patterns) p) x
$$;
COMMENT ON FUNCTION pubsubpull.path_regex(text[]) IS 'A regular expression for the paths that one of these patterns means.';

-- A path as httpd looks at it: clients can write the same one in many ways.
CREATE OR REPLACE FUNCTION pubsubpull.plain_path(path text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  plain text := path;
  segment text;
  kept text[] := '{}';
  n int := 0;
BEGIN
  IF position('%' IN plain) > 0 THEN
    BEGIN
      plain := pubsubpull.percent_decode(plain);
    EXCEPTION WHEN SQLSTATE 'PS400' THEN
      NULL; -- it is no text: as it was sent
    END;
  END IF;
  IF plain !~ '//|/\.' THEN
    RETURN plain;
  END IF;
  FOREACH segment IN ARRAY string_to_array(plain, '/') LOOP
    IF segment = '..' THEN
      n := greatest(n - 1, 0);
    ELSIF segment NOT IN ('', '.') THEN
      n := n + 1;
      kept[n] := segment;
    END IF;
  END LOOP;
  RETURN concat('/', array_to_string(kept[:n], '/'), CASE WHEN n > 0 AND segment IN ('', '.', '..') THEN '/' END);
END $$;
COMMENT ON FUNCTION pubsubpull.plain_path(text) IS 'A request''s path decoded, without doubled slashes and dot segments.';

CREATE OR REPLACE FUNCTION pubsubpull.calls_rule(d jsonb, table_id int) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  r CONSTANT jsonb := d->'requests';
  wrong text;
BEGIN
  IF r IS NULL THEN
    RETURN NULL;
  END IF;
  wrong := concat_ws('; ',
    CASE WHEN d->'columns' IS NOT NULL THEN '"columns" does not go with "requests": a call is sent with the whole of each row it changed' END,
    CASE WHEN d->'on' IS NOT NULL AND table_id IS NULL THEN '"on" needs "table": it says which changes of that table a call must have made' END,
    CASE WHEN d->'latest' = 'true' THEN '"latest" does not go with "requests": each call is sent' END,
    CASE WHEN d->>'delete' = 'DELETE' THEN '"delete" must be "PUT" with "requests"' END,
    CASE WHEN length(r->>'path') > 2000 THEN '"requests.path" is longer than 2000 characters' END); -- each request is compared with it
  IF wrong <> '' THEN
    PERFORM pubsubpull.problem(422, 'bad-member', wrong || '.');
  END IF;
  RETURN jsonb_strip_nulls(jsonb_build_object('method', pubsubpull.word_list(r->'method'), 'path', pubsubpull.path_regex(pubsubpull.word_list(r->'path')),
    'status', '^(?:' || replace(array_to_string(pubsubpull.word_list(r->'status'), '|'), 'x', '.') || ')$', 'user', pubsubpull.word_list(r->'user'),
    'host', pubsubpull.word_list(lower((r->'host')::text)::jsonb), 'table', table_id,
    'types', CASE WHEN d->'on' IS NOT NULL THEN ARRAY(SELECT upper(left(w, 1)) FROM unnest(pubsubpull.word_list(d->'on')) w) END));
END $$;
COMMENT ON FUNCTION pubsubpull.calls_rule(jsonb, int) IS 'The rule that a subscription document means, NULL when it follows no calls; or the problem with it.';

CREATE OR REPLACE FUNCTION pubsubpull.prepare_calls(rule jsonb, names text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO pubsubpull.published (id, relation, name, key, exclude, options, row_level, unpublished_at)
  OVERRIDING SYSTEM VALUE VALUES (0, 0, 'requests', '{id}', '{}', '{}', false, now()) ON CONFLICT DO NOTHING;
  RETURN rule || jsonb_build_object('tables', ARRAY(SELECT t FROM unnest(pubsubpull.readable_tables(names)) t ORDER BY t),
    'since', coalesce((SELECT min((q.requests->>'since')::bigint) FROM pubsubpull.subscription q WHERE q.requests - 'tables' - 'since' = rule),
                      pg_current_xact_id()::text::bigint));
END $$;
COMMENT ON FUNCTION pubsubpull.prepare_calls(jsonb, text) IS 'The rule with what a subscription needs beside it: tables that may be shown, and from when on the log has such calls.';

-- What nobody wanted is not in the log, so a cursor from before must not pass over it in silence.
CREATE OR REPLACE FUNCTION pubsubpull.check_calls(rule jsonb, p pubsubpull.position) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p.since_next <= coalesce((rule->>'since')::bigint, 0) THEN
    PERFORM pubsubpull.problem(410, 'not-logged-then', 'This cursor is from before there was a subscription to such requests: they are missing in the log.',
                               'Use "beginning": all that are recorded, then those that end from now on; or "now".');
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_calls(jsonb, pubsubpull.position) IS 'Problem 410 when the log does not have all calls after a position that fit the rule.';

CREATE OR REPLACE FUNCTION pubsubpull.fits_call(rule jsonb, r pubsubpull.request, tables int[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN coalesce((rule->'method' IS NULL OR rule->'method' ? r.method) AND (rule->'status' IS NULL OR r.status::text ~ (rule->>'status'))
    AND (rule->'table' IS NULL OR (rule->>'table')::int = ANY (tables)) AND (rule->'user' IS NULL OR rule->'user' ? r."user")
    AND (rule->'host' IS NULL OR rule->'host' ? lower(r.host)) AND (rule->'path' IS NULL OR r.path ~ (rule->>'path')), false);
END $$;
COMMENT ON FUNCTION pubsubpull.fits_call(jsonb, pubsubpull.request, int[]) IS 'Whether a request, as call gives it, fits a rule. tables: in which it changed something.';

CREATE OR REPLACE FUNCTION pubsubpull.call(id uuid) RETURNS pubsubpull.request
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  r pubsubpull.request;
BEGIN
  SELECT * INTO r FROM pubsubpull.request q WHERE q.id = call.id AND q.claimed IS NULL;
  r.path := pubsubpull.plain_path(r.path);
  RETURN r;
END $$;
COMMENT ON FUNCTION pubsubpull.call(uuid) IS 'A recorded request with its path made plain, to be compared with rules; all NULL when there is none.';

-- --- Into the log ---

CREATE OR REPLACE FUNCTION pubsubpull.call_size(request uuid) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  RETURN (SELECT coalesce(sum(x.size), 0)
          FROM (SELECT coalesce(octet_length(c.old::text), 0) + coalesce(octet_length(c.new::text), 0) AS size FROM pubsubpull.change c WHERE c.request = call_size.request LIMIT 10000) x);
END $$;
COMMENT ON FUNCTION pubsubpull.call_size(uuid) IS 'About how many bytes the notification of a call will have, without fetching them.';

-- Calls that changed the same row first go one after another, all others side by side. A call may have changed millions of rows, and this
-- must not take long.
CREATE OR REPLACE FUNCTION pubsubpull.ended_calls(ids uuid[], OUT request uuid, OUT lane text, OUT new json)
RETURNS SETOF record LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  id uuid;
  r pubsubpull.request;
  tables int[];
  first bigint;
BEGIN
  FOR id IN SELECT q.id FROM pubsubpull.request q WHERE q.id = ANY (ids) ORDER BY q.started + q.duration, q.id LOOP
    r := pubsubpull.call(id);
    CONTINUE WHEN NOT EXISTS (SELECT FROM pubsubpull.subscription s WHERE s.requests IS NOT NULL AND pubsubpull.fits_call(s.requests - 'table', r, '{}'))
      OR EXISTS (SELECT FROM pubsubpull.change c WHERE c.request = r.id AND c.table_id = 0); -- a record may come again after a crash
    SELECT array_agg(DISTINCT x.table_id), min(x.id) INTO tables, first
    FROM (SELECT c.table_id, c.id FROM pubsubpull.change c WHERE c.request = r.id AND c.table_id <> 0 AND c.unattributed IS NULL LIMIT 1000000) x;
    IF EXISTS (SELECT FROM pubsubpull.subscription s WHERE s.requests IS NOT NULL AND pubsubpull.fits_call(s.requests, r, tables)) THEN
      request := r.id;
      lane := coalesce((SELECT concat(pubsubpull.percent_encode(p.name), '/', c.key) FROM pubsubpull.change c JOIN pubsubpull.published p ON p.id = c.table_id
                        WHERE c.table_id = ANY (tables) AND c.id = first), r.id::text);
      new := json_build_object('seen', pg_current_snapshot(), 'tables', coalesce(tables, '{}'), 'size', pubsubpull.call_size(r.id));
      RETURN NEXT;
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.ended_calls(uuid[]) IS
  'Of these requests those that a subscription may want and that are not in the log, in the order in which they ended, with the lane in which they are delivered and what the log holds of them.';

CREATE OR REPLACE FUNCTION pubsubpull.log_calls(ids uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_current_xact_id(); -- before ids are drawn
  EXECUTE format('INSERT INTO pubsubpull.change_%s (table_id, type, key, new, request) SELECT 0, ''Q'', c.lane, c.new, c.request FROM pubsubpull.ended_calls($1) c',
                 pubsubpull.current_slot()) USING ids;
END $$;
COMMENT ON FUNCTION pubsubpull.log_calls(uuid[]) IS 'Writes to the log that these requests have ended, as far as a subscription may want them.';

-- --- Out of it ---

CREATE OR REPLACE FUNCTION pubsubpull.past_call(id uuid) RETURNS pubsubpull.change
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ROW(-1 - (hashtextextended(past_call.id::text, 0) & 9223372036854775806), NULL, NULL, 0, 'Q', past_call.id::text, NULL, NULL, NULL, past_call.id, NULL, NULL)::pubsubpull.change
$$;
COMMENT ON FUNCTION pubsubpull.past_call(uuid) IS 'A request that had ended when a subscription began, in the shape of a change; it stands under a negative number as existing rows do.';

-- Those whose end is in the log after the position come from there.
CREATE OR REPLACE FUNCTION pubsubpull.past_calls(p pubsubpull.position, after uuid, most int) RETURNS pubsubpull.change[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off AS $$
BEGIN
  RETURN (
    SELECT array_agg(pubsubpull.past_call(x.id) ORDER BY x.id) FILTER (WHERE x.size < 4000000)
    FROM (SELECT q.id, coalesce(sum(z.size) OVER (ORDER BY q.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS size
          FROM (SELECT r.id FROM pubsubpull.request r
                WHERE r.id > coalesce(after, '00000000-0000-0000-0000-000000000000') AND r.claimed IS NULL AND r.status IS NOT NULL
                  AND NOT EXISTS (SELECT FROM pubsubpull.change c WHERE c.request = r.id AND c.table_id = 0 AND NOT pg_visible_in_snapshot(c.xid, p.since))
                ORDER BY r.id LIMIT most) q
          CROSS JOIN LATERAL pubsubpull.call_size(q.id) z(size)) x);
END $$;
COMMENT ON FUNCTION pubsubpull.past_calls(pubsubpull.position, uuid, int) IS 'The next recorded requests, oldest first, of those that had ended at a position.';

-- As many as fit into one notification; one more says that there are others.
CREATE OR REPLACE FUNCTION pubsubpull.call_changes(c pubsubpull.change, tables int[]) RETURNS SETOF pubsubpull.change
LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  seen CONSTANT pg_snapshot := (c.new->>'seen')::pg_snapshot;
  l pubsubpull.change;
  n int := 0;
  size bigint := 0;
BEGIN
  FOR l IN SELECT x.* FROM pubsubpull.change x
           WHERE x.request = c.request AND x.table_id = ANY (tables) AND x.table_id <> 0 AND x.unattributed IS NULL AND (seen IS NULL OR pg_visible_in_snapshot(x.xid, seen))
           ORDER BY x.id LIMIT 10001 LOOP
    IF n >= 10000 OR size >= 4000000 THEN
      RETURN NEXT NULL;
      RETURN;
    END IF;
    RETURN NEXT l;
    n := n + 1;
    size := size + coalesce(octet_length(l.old::text), 0) + coalesce(octet_length(l.new::text), 0);
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.call_changes(pubsubpull.change, int[]) IS
  'The changes of these tables that a call made, in order, as they were committed when it was logged; up to 10000 or 4 MB, and a NULL after them when there are more.';

CREATE OR REPLACE FUNCTION pubsubpull.call_json(c pubsubpull.change, r pubsubpull.request, base text, name_json text, changes pubsubpull.change[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
  SELECT concat('{"id":', (c).id, ',"table":', coalesce(name_json, 'null'), ',"type":"request","at":', coalesce(to_json((r).started + (r).duration)::text, 'null'),
    ',"key":{"id":"', (r).id, '"},"old":null,"new":null,"url":', to_json(concat(base, '/requests/', (r).id)), ',"request":', pubsubpull.request_json((r).id), ',"changes":[',
    (SELECT string_agg(concat('{"id":', x.id, ',"table":', t.name_json, ',"type":"', pubsubpull.change_type(x.type), '","at":', to_json(x.at), ',"key":',
              pubsubpull.key_object(t.key, t.plain, x.key, coalesce(x.new, x.old)), ',"old":', coalesce(x.old::text, 'null'), ',"new":', coalesce(x.new::text, 'null'), ',"url":',
              CASE WHEN x.key IS NULL THEN 'null' ELSE concat('"', t.url, '/rows/', x.key, '"') END, ',"channel":', coalesce(concat('"', x.channel, '"'), 'null'), '}'), ',' ORDER BY x.id)
     FROM unnest(changes) x JOIN pubsubpull.shown_tables(ARRAY(SELECT DISTINCT y.table_id FROM unnest(changes) y), base) t ON t.id = x.table_id),
    '],"more":', CASE WHEN cardinality(changes) > 0 AND changes[cardinality(changes)] IS NULL THEN to_json(concat(base, '/changes/?request=', (r).id))::text ELSE 'null' END)
$$;
COMMENT ON FUNCTION pubsubpull.call_json(pubsubpull.change, pubsubpull.request, text, text, pubsubpull.change[]) IS
  'JSON text of a call with what it changed, without its closing brace, so that members can be added.';

CREATE OR REPLACE FUNCTION pubsubpull.rejects_call(body text, "when" jsonpath) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted boolean;
BEGIN
  IF "when" IS NULL THEN
    RETURN NULL;
  END IF;
  wanted := jsonb_path_match(body::jsonb, "when");
  RETURN CASE WHEN wanted THEN NULL WHEN NOT wanted THEN '' ELSE 'is unknown for this event: it compares values of different types, or members that are missing' END;
EXCEPTION WHEN data_exception THEN
  RETURN 'failed: ' || SQLERRM;
END $$;
COMMENT ON FUNCTION pubsubpull.rejects_call(text, jsonpath) IS 'As rejects, for an API call: NULL: it is wanted, empty: it is not, else the error in when.';

-- A request that was removed since (forget_user) is sent to nobody.
CREATE OR REPLACE FUNCTION pubsubpull.call_events(c pubsubpull.change, subscriptions int[], head text) RETURNS SETOF pubsubpull.event
LANGUAGE plpgsql STABLE ROWS 5 SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET enable_seqscan = off AS $$
DECLARE
  r CONSTANT pubsubpull.request := pubsubpull.call(c.request);
  s pubsubpull.subscription;
  touched int[] := ARRAY(SELECT json_array_elements_text(c.new->'tables')::int);
  changes pubsubpull.change[];
  body text;
  error text;
BEGIN
  IF r.id IS NULL THEN
    RETURN;
  ELSIF c.new IS NULL THEN
    touched := ARRAY(SELECT DISTINCT x.table_id FROM (SELECT y.table_id FROM pubsubpull.change y
                     WHERE y.request = r.id AND y.table_id <> 0 AND y.unattributed IS NULL LIMIT 1000000) x);
  END IF;
  FOR s IN SELECT q.* FROM pubsubpull.subscription q WHERE q.id = ANY (subscriptions) AND pubsubpull.fits_call(q.requests, r, touched) ORDER BY q.id LOOP
    changes := ARRAY(SELECT x FROM pubsubpull.call_changes(c, ARRAY(SELECT t::int FROM jsonb_array_elements_text(s.requests->'tables') t)) x);
    CONTINUE WHEN s.requests->'types' IS NOT NULL
      AND NOT EXISTS (SELECT FROM unnest(changes) x WHERE x.table_id = (s.requests->>'table')::int AND s.requests->'types' ? x.type::text);
    body := pubsubpull.call_json(c, r, s.base, to_json(s.document->>'table')::text, changes);
    error := pubsubpull.rejects_call(body || '}', s."when");
    CONTINUE WHEN error = '';
    body := concat(body, ',"subscription":', to_json(s.name), ',"cursor":',
                   CASE WHEN head = '' OR c.id < 0 THEN 'null' ELSE (SELECT to_json(pubsubpull.cursor_text(head, c.id, l.secret))::text FROM pubsubpull.log l) END, '}');
    IF octet_length(body) > 32000000 THEN
      PERFORM pubsubpull.too_large();
    ELSIF s.format = 'cloudevents' THEN
      body := concat('{"specversion":"1.0","id":"psp_', s.id, '_', c.id, '","source":', to_json(s.base || '/requests/'), ',"type":"pubsubpull.request","subject":"', r.id,
                     '","time":', to_json(r.started + r.duration), ',"datacontenttype":"application/json","data":', body, '}');
    END IF;
    RETURN NEXT ROW(s.id, c.id, c.key, false, body, false, r.id, '"when" ' || error)::pubsubpull.event;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.call_events(pubsubpull.change, int[], text) IS 'The PUTs that a call means for these subscriptions; see events.';

-- --- Causes ---

CREATE OR REPLACE FUNCTION pubsubpull.caused(ids uuid[], most int, OUT request uuid, OUT hops int)
RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 1 SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  IF EXISTS (SELECT FROM pubsubpull.request q WHERE q.cause IS NOT NULL) THEN
    RETURN QUERY
      WITH RECURSIVE w(id, cause, n) AS (
        SELECT q.id, q.cause, 1 FROM pubsubpull.request q WHERE q.id = ANY (ids) AND q.cause IS NOT NULL
        UNION ALL SELECT w.id, q.cause, w.n + 1 FROM w JOIN pubsubpull.request q ON q.id = w.cause WHERE q.cause IS NOT NULL AND w.n <= most)
      SELECT w.id, max(w.n) FROM w GROUP BY w.id;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.caused(uuid[], int) IS
  'Of these requests those that were caused by others, and how many came one after another before each, counted up to one more than most.';
