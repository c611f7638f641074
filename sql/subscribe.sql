-- SPDX-License-Identifier: Apache-2.0
-- subscribe.sql: subscriptions: their documents, who owns them, where they stand.

-- Grows with every change to any subscription, so that a notifier sees with one look whether to read them again.
CREATE SEQUENCE IF NOT EXISTS pubsubpull.generation CACHE 1;

CREATE TABLE IF NOT EXISTS pubsubpull.subscription (
  id          int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name        text NOT NULL UNIQUE,
  owner       text,
  base        text NOT NULL,
  document    jsonb NOT NULL,
  callback    text NOT NULL,
  table_id    int NOT NULL REFERENCES pubsubpull.published,
  types       "char"[] NOT NULL,
  columns     text[],
  "when"      jsonpath,
  timeout     int NOT NULL,
  concurrency int NOT NULL,
  retry_first int NOT NULL,
  retry_max   int NOT NULL,
  retry_for   int NOT NULL,
  state       text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'disabled')),
  reason      text,
  version     bigint NOT NULL DEFAULT nextval('pubsubpull.generation'),
  created_at  timestamptz NOT NULL DEFAULT now(),
  updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS subscription_table_id ON pubsubpull.subscription (table_id);
COMMENT ON TABLE pubsubpull.subscription IS 'Who is sent which changes';
COMMENT ON COLUMN pubsubpull.subscription.owner IS 'The user who made it; NULL: made without one';
COMMENT ON COLUMN pubsubpull.subscription.base IS 'URL under which it was made; links in notifications begin with it';
COMMENT ON COLUMN pubsubpull.subscription.timeout IS 'Milliseconds, as retry_first and retry_max; retry_for is seconds';
COMMENT ON COLUMN pubsubpull.subscription.version IS 'Changes with the document, state or position';

CREATE TABLE IF NOT EXISTS pubsubpull.progress (
  subscription  int PRIMARY KEY REFERENCES pubsubpull.subscription ON DELETE CASCADE,
  "position"    pubsubpull.position NOT NULL,
  done          bigint[] NOT NULL DEFAULT '{}',
  holder        uuid,
  epoch         bigint NOT NULL DEFAULT 0,
  failing_since timestamptz,
  last_error    text
) WITH (fillfactor = 50);
COMMENT ON TABLE pubsubpull.progress IS 'How far each subscription got, and which notifier works on it';
COMMENT ON COLUMN pubsubpull.progress.done IS 'Changes after position that are finished already';
COMMENT ON COLUMN pubsubpull.progress.epoch IS 'Grows with every new holder; what a former holder says is refused';

CREATE TABLE IF NOT EXISTS pubsubpull.delivery (
  subscription int NOT NULL REFERENCES pubsubpull.subscription ON DELETE CASCADE,
  change       bigint NOT NULL,
  lane         text,
  row_key      text,
  state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'failed')),
  attempts     int NOT NULL DEFAULT 0,
  next_at      timestamptz,
  first_at     timestamptz,
  last_at      timestamptz,
  status       int,
  error        text,
  PRIMARY KEY (subscription, change)
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS delivery_next_at ON pubsubpull.delivery (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS delivery_lane ON pubsubpull.delivery (subscription, lane, change) WHERE state = 'pending';
COMMENT ON TABLE pubsubpull.delivery IS 'Deliveries that did not succeed at once: waiting for the next try, or given up';
COMMENT ON COLUMN pubsubpull.delivery.lane IS 'Deliveries of one lane go one after another (the row''s key); NULL: after all before it and before all after it';
COMMENT ON COLUMN pubsubpull.delivery.row_key IS 'For rows that existed when the subscription began: the key; NULL for changes';
COMMENT ON COLUMN pubsubpull.delivery.next_at IS 'When it is tried next; NULL: waits for an earlier one';

CREATE OR REPLACE FUNCTION pubsubpull.check_callback(callback text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF callback IS NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', '"callback" is missing: the URL to PUT changes to.');
  ELSIF length(callback) > 2000 THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', '"callback" is longer than 2000 characters.');
  ELSIF callback !~ '^https?://' THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', '"callback" must begin with http:// or https://.');
  ELSIF callback ~ '[[:cntrl:][:space:]#\\<>"^`|]' THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', '"callback" has a character that a URL cannot have, or a fragment.');
  ELSIF callback !~ '^https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?]|$)' THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', 'The host of "callback" must stand as it is: no variables, no user name, no password.');
  ELSIF regexp_replace(callback, '\{[+#./;?&]?[A-Za-z0-9_.%-]+(,[A-Za-z0-9_.%-]+)*\}', '', 'g') ~ '[{}]' THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', '"callback" is not a URI template of level 1 to 3 (RFC 6570).');
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_callback(text) IS 'Problem 422 unless the text is an http(s) URI template with a literal host.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_members() RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
  SELECT '{"callback": "text", "table": "text", "on": "texts", "columns": "texts", "when": "text", "since": "text", "timeout": "1..300",
           "concurrency": "1..256", "retry": "object"}'::jsonb
$$;
COMMENT ON FUNCTION pubsubpull.subscription_members() IS 'The members of a subscription document and their kinds (see member_problem).';

-- Fills a subscription from its document; raises a problem for what is wrong with it. Writes nothing.
CREATE OR REPLACE FUNCTION pubsubpull.parse_subscription(document jsonb) RETURNS pubsubpull.subscription
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  d jsonb := pubsubpull.check_members(document, pubsubpull.subscription_members());
  retry jsonb := pubsubpull.check_members(coalesce(d->'retry', '{}'), '{"first": "1..3600", "max": "1..86400", "for": "0..2592000"}', 'retry.');
  p pubsubpull.published;
  words text[] := pubsubpull.text_list(d->'on');
  strange text;
  s pubsubpull.subscription;
BEGIN
  s.document := d;
  s.callback := d->>'callback';
  PERFORM pubsubpull.check_callback(s.callback);
  IF d->'table' IS NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"table" is missing: the published table to follow, as schema.table.');
  END IF;
  p := pubsubpull.find_published(pubsubpull.subscription_table(d::text));
  s.table_id := p.id;
  SELECT string_agg(v, ', ') INTO strange FROM regexp_matches(s.callback, '\{[+#./;?&]?([^}]*)\}', 'g') m, unnest(string_to_array(m[1], ',')) v
  WHERE v <> 'table' AND v <> ALL (ARRAY(SELECT pubsubpull.percent_encode(k) FROM unnest(p.key) k));
  IF strange IS NOT NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', format('"callback" has {%s}, which is no column of the key of %s.', strange, p.name),
      format('Known are {%s}.', array_to_string(ARRAY(SELECT pubsubpull.percent_encode(k) FROM unnest(p.key) k) || 'table'::text, '}, {')));
  END IF;
  IF words <@ ARRAY['insert', 'update', 'delete', 'truncate'] IS FALSE OR words = '{}' THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"on" must be an array of some of "insert", "update", "delete", "truncate".');
  END IF;
  s.types := ARRAY(SELECT upper(left(w, 1))::"char" FROM unnest(coalesce(words, ARRAY['insert', 'update', 'delete', 'truncate'])) w);
  s.columns := pubsubpull.text_list(d->'columns');
  PERFORM pubsubpull.check_columns(p.relation, s.columns, 'columns');
  IF s.columns && pubsubpull.excluded_names(p) THEN
    PERFORM pubsubpull.problem(422, 'unknown-column', '"columns" names a column that is excluded from publication.');
  END IF;
  BEGIN
    s."when" := (d->>'when')::jsonpath;
  EXCEPTION WHEN data_exception OR syntax_error THEN
    PERFORM pubsubpull.problem(422, 'bad-when', format('"when" is not a jsonpath predicate: %s.', SQLERRM), 'Example: "$.new.country != $.old.country"');
  END;
  s.timeout := 1000 * coalesce((d->>'timeout')::int, 15);
  s.concurrency := coalesce((d->>'concurrency')::int, 8);
  s.retry_first := 1000 * coalesce((retry->>'first')::int, 1);
  s.retry_max := 1000 * coalesce((retry->>'max')::int, 3600);
  s.retry_for := coalesce((retry->>'for')::int, 259200);
  RETURN s;
END $$;
COMMENT ON FUNCTION pubsubpull.parse_subscription(jsonb) IS 'A subscription as its document says, or the problem with it.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_table(document text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name text := pubsubpull.check_members(pubsubpull.parse_object(document), pubsubpull.subscription_members())->>'table';
BEGIN
  IF name IS NULL THEN
    RETURN NULL;
  END IF;
  PERFORM pubsubpull.find_table(name);
  RETURN name;
EXCEPTION WHEN SQLSTATE 'PS308' THEN
  RETURN SQLERRM;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_table(text) IS 'Canonical name of the table that a subscription document is about; NULL when it names none.';

CREATE OR REPLACE FUNCTION pubsubpull.start_position(s pubsubpull.subscription, since text) RETURNS pubsubpull.position
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p pubsubpull.position;
  t pubsubpull.published;
BEGIN
  IF coalesce(since, 'now') <> 'beginning' THEN
    RETURN pubsubpull.parse_since(coalesce(since, 'now'));
  END IF;
  SELECT * INTO t FROM pubsubpull.published q WHERE q.id = s.table_id;
  PERFORM pubsubpull.parse_key(t, NULL);
  p := pubsubpull.now_position();
  p."rows" := s.id || ':';
  RETURN p;
END $$;
COMMENT ON FUNCTION pubsubpull.start_position(pubsubpull.subscription, text) IS
  'Where a subscription starts: now, a cursor, or beginning: first every existing row, then what changed since this moment.';

CREATE OR REPLACE FUNCTION pubsubpull.subscribe(name text, document jsonb, owner text DEFAULT NULL, base text DEFAULT '') RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s pubsubpull.subscription := pubsubpull.parse_subscription(document);
  existing pubsubpull.subscription;
  start pubsubpull.position;
BEGIN
  IF name !~ '^[A-Za-z0-9._~-]{1,100}$' THEN
    PERFORM pubsubpull.problem(422, 'bad-name', 'A subscription''s name is 1 to 100 of the characters A-Z a-z 0-9 . _ ~ -');
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('pubsubpull.subscription'), hashtext(name));
  SELECT * INTO existing FROM pubsubpull.subscription q WHERE q.name = subscribe.name FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO pubsubpull.subscription AS q (name, owner, base, document, callback, table_id, types, columns, "when", timeout, concurrency, retry_first, retry_max, retry_for)
    VALUES (subscribe.name, subscribe.owner, subscribe.base, s.document, s.callback, s.table_id, s.types, s.columns, s."when", s.timeout, s.concurrency, s.retry_first, s.retry_max, s.retry_for)
    RETURNING * INTO s;
    INSERT INTO pubsubpull.progress (subscription, "position") VALUES (s.id, pubsubpull.start_position(s, s.document->>'since'));
    RETURN true;
  END IF;
  IF existing.document = s.document AND existing.base = subscribe.base THEN
    RETURN false; -- PUT again: nothing changes, above all not the position
  END IF;
  s.id := existing.id;
  UPDATE pubsubpull.subscription q
  SET base = subscribe.base, document = s.document, callback = s.callback, table_id = s.table_id, types = s.types, columns = s.columns, "when" = s."when",
      timeout = s.timeout, concurrency = s.concurrency, retry_first = s.retry_first, retry_max = s.retry_max, retry_for = s.retry_for,
      version = nextval('pubsubpull.generation'), updated_at = now()
  WHERE q.id = existing.id;
  IF existing.table_id <> s.table_id OR existing.document->'since' IS DISTINCT FROM s.document->'since' THEN
    start := pubsubpull.start_position(s, s.document->>'since');
    PERFORM pubsubpull.move_subscription(s.id, start);
  END IF;
  RETURN false;
END $$;
COMMENT ON FUNCTION pubsubpull.subscribe(text, jsonb, text, text) IS
  'Creates or replaces a subscription; returns true when it is new. The position stays unless table or since differ from before. base: URL that links in notifications begin with.';

CREATE OR REPLACE FUNCTION pubsubpull.move_subscription(subscription int, target pubsubpull.position) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- A new epoch: what is in flight cannot move the position any more.
  UPDATE pubsubpull.progress q SET "position" = target, done = '{}', epoch = q.epoch + 1, holder = NULL, failing_since = NULL, last_error = NULL
  WHERE q.subscription = move_subscription.subscription;
  DELETE FROM pubsubpull.delivery d WHERE d.subscription = move_subscription.subscription AND d.state = 'pending';
  PERFORM nextval('pubsubpull.generation');
END $$;
COMMENT ON FUNCTION pubsubpull.move_subscription(int, pubsubpull.position) IS 'Sets where a subscription stands; what was waiting to be tried again is dropped.';

CREATE OR REPLACE FUNCTION pubsubpull.unsubscribe(name text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  DELETE FROM pubsubpull.subscription q WHERE q.name = unsubscribe.name;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM nextval('pubsubpull.generation');
  RETURN true;
END $$;
COMMENT ON FUNCTION pubsubpull.unsubscribe(text) IS 'Deletes a subscription and what waits to be sent for it; returns whether there was one.';

CREATE OR REPLACE FUNCTION pubsubpull.set_state(name text, state text, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE pubsubpull.subscription q SET state = set_state.state, reason = set_state.reason, version = nextval('pubsubpull.generation')
  WHERE q.name = set_state.name AND (q.state <> set_state.state OR q.reason IS DISTINCT FROM set_state.reason);
  RETURN FOUND;
END $$;
COMMENT ON FUNCTION pubsubpull.set_state(text, text, text) IS 'Sets a subscription active, paused or disabled; returns whether that was a change.';

-- Everything below is HTTP. A subscription belongs to the user who made it; to others it does not exist, unless they are admin.
CREATE OR REPLACE FUNCTION pubsubpull.own_subscription(name text, "user" text, admin boolean) RETURNS pubsubpull.subscription
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s pubsubpull.subscription;
BEGIN
  SELECT * INTO s FROM pubsubpull.subscription q WHERE q.name = own_subscription.name;
  IF s.id IS NULL OR NOT (admin OR s.owner IS NOT DISTINCT FROM "user") THEN
    PERFORM pubsubpull.problem(404, 'no-such-subscription', format('You have no subscription %s.', name), 'PUT its document to this URL to create it.');
  END IF;
  RETURN s;
END $$;
COMMENT ON FUNCTION pubsubpull.own_subscription(text, text, boolean) IS 'The user''s subscription of this name, or problem 404.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_etag(s pubsubpull.subscription) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT md5(concat_ws('|', s.id, s.document, s.base)) $$;
COMMENT ON FUNCTION pubsubpull.subscription_etag(pubsubpull.subscription) IS 'ETag of the document: it does not change with the progress.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_json(base text, s pubsubpull.subscription) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
  g pubsubpull.progress;
  url text := base || '/subscriptions/' || pubsubpull.percent_encode(s.name);
  waiting int;
  oldest timestamptz;
BEGIN
  SELECT * INTO g FROM pubsubpull.progress q WHERE q.subscription = s.id;
  SELECT count(*), min(c.at) INTO waiting, oldest FROM pubsubpull.feed(pubsubpull.begin_batch(g."position"), ARRAY[s.table_id], 10000) c
  WHERE c.id <> ALL (g.done);
  RETURN (s.document || jsonb_build_object('name', s.name, 'url', url, 'owner', s.owner, 'state', s.state, 'reason', s.reason,
    'created_at', s.created_at, 'updated_at', s.updated_at, 'position', pubsubpull.cursor_encode(g."position"),
    'lag', jsonb_build_object('changes', waiting, 'seconds', round(extract(epoch FROM greatest(clock_timestamp() - oldest, '0')), 3)),
    'pending', (SELECT count(*) FROM pubsubpull.delivery d WHERE d.subscription = s.id AND d.state = 'pending'),
    'failed', (SELECT count(*) FROM pubsubpull.delivery d WHERE d.subscription = s.id AND d.state = 'failed'),
    'failing_since', g.failing_since, 'last_error', g.last_error))::text;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_json(text, pubsubpull.subscription) IS 'The document of a subscription with its state. lag.changes is counted up to 10000.';

CREATE OR REPLACE FUNCTION pubsubpull.subscriptions_get(base text, "user" text, admin boolean,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT 200, d.body, md5(d.body), NULL, NULL FROM (
    SELECT json_build_object('subscriptions', coalesce(json_agg(json_build_object('name', s.name, 'url', base || '/subscriptions/' || pubsubpull.percent_encode(s.name),
             'owner', s.owner, 'table', s.document->>'table', 'callback', s.callback, 'state', s.state) ORDER BY s.name), '[]'))::text AS body
    FROM pubsubpull.subscription s WHERE admin OR s.owner IS NOT DISTINCT FROM "user") d
$$;
COMMENT ON FUNCTION pubsubpull.subscriptions_get(text, text, boolean) IS 'GET /subscriptions/: the user''s, or all for an admin.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_get(base text, name text, "user" text, admin boolean,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  status := 200;
  body := pubsubpull.subscription_json(base, pubsubpull.own_subscription(name, "user", admin));
  etag := NULL;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_get(text, text, text, boolean) IS 'GET /subscriptions/{name}: the document, and how it is doing.';

CREATE OR REPLACE FUNCTION pubsubpull.check_match(current_etag text, if_match text, if_none_match text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF if_none_match IS NOT NULL AND current_etag IS NOT NULL AND (if_none_match = '*' OR position('"' || current_etag || '"' IN if_none_match) > 0) THEN
    PERFORM pubsubpull.problem(412, 'precondition-failed', 'There is such a subscription already, and If-None-Match asked for none.');
  ELSIF if_match IS NOT NULL AND (current_etag IS NULL OR (if_match <> '*' AND position('"' || current_etag || '"' IN if_match) = 0)) THEN
    PERFORM pubsubpull.problem(412, 'precondition-failed', 'The subscription is not the one that If-Match names.', 'GET it again, and use its ETag.');
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_match(text, text, text) IS 'Problem 412 unless the conditions of RFC 9110, 13.1 hold. current_etag NULL: there is no such resource.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_put(base text, name text, "user" text, admin boolean, document text, if_match text, if_none_match text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s pubsubpull.subscription;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('pubsubpull.subscription'), hashtext(name));
  SELECT * INTO s FROM pubsubpull.subscription q WHERE q.name = subscription_put.name;
  IF s.id IS NOT NULL AND NOT (admin OR s.owner IS NOT DISTINCT FROM "user") THEN
    PERFORM pubsubpull.problem(403, 'not-yours', format('The subscription %s belongs to another user.', name), 'Choose another name.');
  END IF;
  PERFORM pubsubpull.check_match(CASE WHEN s.id IS NOT NULL THEN pubsubpull.subscription_etag(s) END, if_match, if_none_match);
  status := CASE WHEN pubsubpull.subscribe(name, pubsubpull.parse_object(document), coalesce(s.owner, "user"), base) THEN 201 ELSE 200 END;
  SELECT * INTO s FROM pubsubpull.subscription q WHERE q.name = subscription_put.name;
  body := pubsubpull.subscription_json(base, s);
  etag := pubsubpull.subscription_etag(s);
  location := base || '/subscriptions/' || pubsubpull.percent_encode(name);
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_put(text, text, text, boolean, text, text, text) IS 'PUT /subscriptions/{name}: create or replace.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_delete(base text, name text, "user" text, admin boolean, if_match text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pubsubpull.check_match(pubsubpull.subscription_etag(pubsubpull.own_subscription(name, "user", admin)), if_match, NULL);
  PERFORM pubsubpull.unsubscribe(name);
  status := 204;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_delete(text, text, text, boolean, text) IS 'DELETE /subscriptions/{name}.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_state_get(base text, name text, "user" text, admin boolean,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT 200, json_build_object('state', s.state, 'reason', s.reason)::text, NULL, NULL, NULL FROM pubsubpull.own_subscription(name, "user", admin) s
$$;
COMMENT ON FUNCTION pubsubpull.subscription_state_get(text, text, text, boolean) IS 'GET /subscriptions/{name}/state.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_state_put(base text, name text, "user" text, admin boolean, document text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s pubsubpull.subscription := pubsubpull.own_subscription(name, "user", admin);
  wanted text := pubsubpull.check_members(pubsubpull.parse_object(document), '{"state": "active|paused"}')->>'state';
BEGIN
  IF wanted IS NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"state" must be "active" or "paused".');
  END IF;
  PERFORM pubsubpull.set_state(s.name, wanted);
  SELECT r.status, r.body INTO status, body FROM pubsubpull.subscription_state_get(base, name, "user", admin) r;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_state_put(text, text, text, boolean, text) IS 'PUT /subscriptions/{name}/state: pause or resume.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_position_get(base text, name text, "user" text, admin boolean,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT 200, json_build_object('since', pubsubpull.cursor_encode(g."position"))::text, NULL, NULL, NULL
  FROM pubsubpull.own_subscription(name, "user", admin) s JOIN pubsubpull.progress g ON g.subscription = s.id
$$;
COMMENT ON FUNCTION pubsubpull.subscription_position_get(text, text, text, boolean) IS 'GET /subscriptions/{name}/position: the cursor up to which all was delivered.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_position_put(base text, name text, "user" text, admin boolean, document text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s pubsubpull.subscription := pubsubpull.own_subscription(name, "user", admin);
  since text := pubsubpull.check_members(pubsubpull.parse_object(document), '{"since": "text"}')->>'since';
BEGIN
  IF since IS NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"since" must be "beginning", "now" or a cursor.');
  END IF;
  PERFORM pubsubpull.move_subscription(s.id, pubsubpull.start_position(s, since));
  UPDATE pubsubpull.subscription q SET version = nextval('pubsubpull.generation') WHERE q.id = s.id;
  SELECT r.status, r.body INTO status, body FROM pubsubpull.subscription_position_get(base, name, "user", admin) r;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_position_put(text, text, text, boolean, text) IS 'PUT /subscriptions/{name}/position: replay or skip.';
