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
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.subscription'::regclass AND attname = 'delete_method') THEN
    ALTER TABLE pubsubpull.subscription
      ADD COLUMN headers jsonb NOT NULL DEFAULT '{}',
      ADD COLUMN secret text,
      ADD COLUMN old_secret text,
      ADD COLUMN old_secret_until timestamptz,
      ADD COLUMN format text NOT NULL DEFAULT 'json',
      ADD COLUMN delete_method text NOT NULL DEFAULT 'PUT';
  END IF;
END $$;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.subscription'::regclass AND attname = 'batch') THEN
    ALTER TABLE pubsubpull.subscription
      ADD COLUMN batch int NOT NULL DEFAULT 1,
      ADD COLUMN rate float8,
      ADD COLUMN latest boolean NOT NULL DEFAULT false;
  END IF;
END $$;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.subscription'::regclass AND attname = 'requests') THEN
    ALTER TABLE pubsubpull.subscription ADD COLUMN requests jsonb;
    CREATE INDEX subscription_requests ON pubsubpull.subscription (id) WHERE requests IS NOT NULL;
  END IF;
END $$;
CREATE INDEX IF NOT EXISTS subscription_table_id ON pubsubpull.subscription (table_id);
COMMENT ON TABLE pubsubpull.subscription IS 'Who is sent which changes';
COMMENT ON COLUMN pubsubpull.subscription.owner IS 'The user who made it; NULL: made without one';
COMMENT ON COLUMN pubsubpull.subscription.base IS 'URL under which it was made; links in notifications begin with it';
COMMENT ON COLUMN pubsubpull.subscription.timeout IS 'Milliseconds, as retry_first and retry_max; retry_for is seconds';
COMMENT ON COLUMN pubsubpull.subscription.document IS 'As it was PUT, without secret and the values of headers: these are never shown';
COMMENT ON COLUMN pubsubpull.subscription.old_secret IS 'Signs beside secret until old_secret_until, so that receivers can change over';
COMMENT ON COLUMN pubsubpull.subscription.batch IS 'Most events in one PUT; above 1 its body is an array';
COMMENT ON COLUMN pubsubpull.subscription.rate IS 'Most PUTs in a second; NULL: as many as it takes';
COMMENT ON COLUMN pubsubpull.subscription.latest IS 'Of several events of one key that wait only the newest is sent';
COMMENT ON COLUMN pubsubpull.subscription.requests IS 'It follows API calls, those that fit this rule (see calls.sql); NULL: it follows the changes of a table';
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
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.progress'::regclass AND attname = 'given_up') THEN
    ALTER TABLE pubsubpull.progress ADD COLUMN given_up bigint NOT NULL DEFAULT 0;
  END IF;
END $$;
COMMENT ON TABLE pubsubpull.progress IS 'How far each subscription got, and which notifier works on it';
COMMENT ON COLUMN pubsubpull.progress.done IS 'Changes after position that are finished already';
COMMENT ON COLUMN pubsubpull.progress.given_up IS 'How many deliveries were given up so far: they leave no other trace once they are discarded';
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
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.delivery'::regclass AND attname = 'batch') THEN
    ALTER TABLE pubsubpull.delivery ADD COLUMN batch bigint, ADD COLUMN claimed boolean NOT NULL DEFAULT false;
    CREATE INDEX delivery_batch ON pubsubpull.delivery (subscription, batch, change) WHERE batch IS NOT NULL;
  END IF;
END $$;
DROP INDEX IF EXISTS pubsubpull.delivery_next_at; -- knew nothing of subscriptions
CREATE INDEX IF NOT EXISTS delivery_due ON pubsubpull.delivery (subscription, next_at) WHERE state = 'pending' AND next_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS delivery_lane ON pubsubpull.delivery (subscription, lane, change) WHERE state = 'pending';
-- Those in order with everything; their first is looked up whenever a delivery is done with.
CREATE INDEX IF NOT EXISTS delivery_barrier ON pubsubpull.delivery (subscription, change) WHERE state = 'pending' AND lane IS NULL;
COMMENT ON TABLE pubsubpull.delivery IS 'Deliveries that did not succeed at once: waiting for the next try, or given up';
COMMENT ON COLUMN pubsubpull.delivery.lane IS 'Deliveries of one lane go one after another (the row''s key); NULL: after all before it and before all after it';
COMMENT ON COLUMN pubsubpull.delivery.row_key IS 'For rows that existed when the subscription began: the key; NULL for changes';
COMMENT ON COLUMN pubsubpull.delivery.next_at IS 'When it is tried next; NULL: waits for an earlier one, or goes with another of its batch';
COMMENT ON COLUMN pubsubpull.delivery.claimed IS 'A notifier has fetched it to try it; should it not say what came of it, next_at is when another one may';
COMMENT ON COLUMN pubsubpull.delivery.batch IS 'Those that failed in one PUT are tried again in one: the number of the first';

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

-- Names that a subscription may not set: framing, and what the receiver relies on as ours.
CREATE OR REPLACE FUNCTION pubsubpull.check_headers(headers jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wrong text;
BEGIN
  SELECT string_agg(to_json(h.key)::text, ', ') INTO wrong FROM jsonb_each(headers) h
  WHERE h.key !~ '^[A-Za-z0-9!#$%&''*+.^_`|~-]{1,100}$' OR jsonb_typeof(h.value) <> 'string' OR h.value #>> '{}' !~ '^[\x20-\x7e]*$' OR length(h.value #>> '{}') > 4000
     OR h.key ~* '^(host|content-length|content-type|content-encoding|transfer-encoding|connection|keep-alive|te|trailer|upgrade|expect|proxy-.*|webhook-.*|pubsubpull-.*|traceparent|tracestate)$';
  IF wrong IS NOT NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-member', format('"headers" has %s: a name that is not a header''s or is set by the sender, or a value that is not a line of printable ASCII.', wrong));
  ELSIF (SELECT count(*) FROM jsonb_object_keys(headers)) > 20 THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"headers" has more than 20 members.');
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_headers(jsonb) IS 'Problem 422 unless these are headers that a subscription may add to its notifications.';

CREATE OR REPLACE FUNCTION pubsubpull.check_secret(secret text) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  size int;
BEGIN
  IF secret ~ '^whsec_[A-Za-z0-9+/]+={0,2}$' THEN
    BEGIN
      size := octet_length(decode(substr(secret, 7), 'base64'));
    EXCEPTION WHEN data_exception THEN
      size := 0;
    END;
  END IF;
  IF secret IS NOT NULL AND coalesce(size, 0) NOT BETWEEN 24 AND 64 THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"secret" must be whsec_ and the base64 of 24 to 64 random bytes (Standard Webhooks).',
                               'For example the output of: echo "whsec_$(openssl rand -base64 32)"');
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_secret(text) IS 'Problem 422 unless the text is a secret as Standard Webhooks 1.0 has them; NULL is none.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_members() RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
  SELECT '{"callback": "text", "table": "text", "requests": {"method": "~^[A-Z][A-Z0-9_-]{0,49}$ a method such as POST", "path": "~^[/*?].{0,250}$ a path such as /users/*",
             "status": "#^[1-5](xx|[0-9]{2})$ a status such as 404 or 5xx", "user": "~^.{1,250}$ a user", "host": "~^[^/[:space:]]{1,250}$ a host"}, "on": "insert|update|delete|truncate[]", "columns": "text[]", "when": "text", "since": "text", "latest": "flag",
           "batch": "1..1000", "concurrency": "1..256", "rate": "0.01..100000", "timeout": "1..300", "headers": "object", "secret": "text",
           "format": "json|cloudevents", "delete": "PUT|DELETE", "retry": {"first": "1..3600", "max": "1..86400", "for": "0..2592000"}}'::jsonb
$$;
COMMENT ON FUNCTION pubsubpull.subscription_members() IS 'The members of a subscription document and their kinds (see member_problem).';

-- Fills a subscription from its document; raises a problem for what is wrong with it. Writes nothing.
CREATE OR REPLACE FUNCTION pubsubpull.parse_subscription(document jsonb) RETURNS pubsubpull.subscription
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  d jsonb := pubsubpull.check_members(document, pubsubpull.subscription_members());
  retry jsonb := coalesce(d->'retry', '{}');
  p pubsubpull.published;
  words text[] := pubsubpull.text_list(d->'on');
  variables text[];
  strange text;
  s pubsubpull.subscription;
BEGIN
  s.headers := coalesce(d->'headers', '{}');
  PERFORM pubsubpull.check_headers(s.headers);
  s.secret := d->>'secret';
  PERFORM pubsubpull.check_secret(s.secret);
  s.format := coalesce(d->>'format', 'json');
  s.delete_method := coalesce(d->>'delete', 'PUT');
  s.batch := coalesce((d->>'batch')::int, 1);
  s.rate := (d->>'rate')::float8;
  s.latest := coalesce((d->>'latest')::boolean, false);
  s.document := d - 'secret' - 'headers';
  s.callback := d->>'callback';
  PERFORM pubsubpull.check_callback(s.callback);
  IF d->'table' IS NULL AND d->'requests' IS NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"table" is missing: the published table to follow, as schema.table; or "requests": API calls to follow.');
  ELSIF d->'table' IS NOT NULL THEN
    p := pubsubpull.find_published((pubsubpull.subscription_scope(d::text)).table_name);
    IF NOT pubsubpull.is_logged(p) THEN
      PERFORM pubsubpull.problem(422, 'not-logged', format('%s is a view: its rows can be pulled, but its changes are not logged.', p.name), 'Subscribe to the tables behind it.');
    END IF;
  END IF;
  s.table_id := CASE WHEN d->'requests' IS NULL THEN p.id ELSE 0 END;
  s.requests := pubsubpull.calls_rule(d, p.id);
  variables := CASE WHEN s.requests IS NULL THEN ARRAY(SELECT pubsubpull.percent_encode(k) FROM unnest(p.key) k) ELSE ARRAY['id'] END
               || CASE WHEN p.id IS NOT NULL THEN 'table'::text END;
  SELECT string_agg(v, ', ') INTO strange FROM regexp_matches(s.callback, '\{[+#./;?&]?([^}]*)\}', 'g') m, unnest(string_to_array(m[1], ',')) v
  WHERE (v = ANY (variables)) IS NOT TRUE;
  IF strange IS NOT NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', CASE WHEN s.requests IS NULL THEN format('"callback" has {%s}, which is no column of the key of %s.', strange, p.name)
                                                      ELSE format('"callback" has {%s}, which is nothing that a request has here.', strange) END,
      format('Known are {%s}.', array_to_string(variables, '}, {')));
  END IF;
  IF s.batch > 1 AND s.callback ~ '\{' AND regexp_replace(s.callback, '\{[+#./;?&]?table\}', '', 'g') ~ '\{' THEN
    PERFORM pubsubpull.problem(422, 'bad-callback', '"callback" has variables of the key, but with "batch" one PUT holds changes of many keys.', 'Only {table} can stand there.');
  ELSIF s.batch > 1 AND s.delete_method = 'DELETE' THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"delete" must be "PUT" with "batch": a DELETE cannot stand for many changes.');
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

DROP FUNCTION IF EXISTS pubsubpull.subscription_table(text); -- knew of tables only
CREATE OR REPLACE FUNCTION pubsubpull.subscription_scope(document text, OUT table_name text, OUT requests boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  d CONSTANT jsonb := pubsubpull.check_members(pubsubpull.parse_object(document), pubsubpull.subscription_members());
BEGIN
  requests := d->'requests' IS NOT NULL;
  table_name := d->>'table';
  IF table_name IS NOT NULL THEN
    PERFORM pubsubpull.find_table(table_name);
  END IF;
EXCEPTION WHEN SQLSTATE 'PS308' THEN
  table_name := SQLERRM;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_scope(text) IS 'What a subscription document is about: the canonical name of its table, NULL when it names none, and whether it follows API calls.';

CREATE OR REPLACE FUNCTION pubsubpull.start_position(s pubsubpull.subscription, since text) RETURNS pubsubpull.position
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p pubsubpull.position;
  t pubsubpull.published;
BEGIN
  IF coalesce(since, 'now') <> 'beginning' THEN
    p := pubsubpull.parse_since(coalesce(since, 'now'));
    PERFORM pubsubpull.check_whole(p, ARRAY[s.table_id], true);
    IF since <> 'now' AND s.requests IS NOT NULL THEN
      PERFORM pubsubpull.check_calls(s.requests, p);
    END IF;
    RETURN p;
  END IF;
  IF s.requests IS NULL THEN
    SELECT * INTO t FROM pubsubpull.published q WHERE q.id = s.table_id;
    PERFORM pubsubpull.parse_key(t, NULL);
  END IF;
  p := pubsubpull.now_position();
  p."rows" := s.id || ':';
  RETURN p;
END $$;
COMMENT ON FUNCTION pubsubpull.start_position(pubsubpull.subscription, text) IS
  'Where a subscription starts: now, a cursor, or beginning: first every existing row, or request that is recorded, then what came since this moment.';

-- The notifier saves progress and then looks at the subscription; all others lock in the same order.
CREATE OR REPLACE FUNCTION pubsubpull.lock_progress(name text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT FROM pubsubpull.progress g JOIN pubsubpull.subscription s ON s.id = g.subscription WHERE s.name = lock_progress.name FOR UPDATE OF g
$$;
COMMENT ON FUNCTION pubsubpull.lock_progress(text) IS 'Locks the progress of a subscription until the end of the transaction, before the subscription is changed.';

DROP FUNCTION IF EXISTS pubsubpull.subscribe(text, jsonb, text, text); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.subscribe(name text, document jsonb, owner text DEFAULT NULL, base text DEFAULT '', names text DEFAULT NULL) RETURNS boolean
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
  PERFORM pubsubpull.lock_progress(name);
  SELECT * INTO existing FROM pubsubpull.subscription q WHERE q.name = subscribe.name FOR NO KEY UPDATE;
  IF s.requests IS NOT NULL THEN
    s.requests := pubsubpull.prepare_calls(s.requests, names);
  END IF;
  IF existing.id IS NULL THEN
    INSERT INTO pubsubpull.subscription AS q (name, owner, base, document, callback, table_id, types, columns, "when", timeout, concurrency, retry_first, retry_max, retry_for,
      headers, secret, format, delete_method, batch, rate, latest, requests)
    VALUES (subscribe.name, subscribe.owner, subscribe.base, s.document, s.callback, s.table_id, s.types, s.columns, s."when", s.timeout, s.concurrency, s.retry_first, s.retry_max, s.retry_for,
      s.headers, s.secret, s.format, s.delete_method, s.batch, s.rate, s.latest, s.requests)
    RETURNING * INTO s;
    INSERT INTO pubsubpull.progress (subscription, "position") VALUES (s.id, pubsubpull.start_position(s, s.document->>'since'));
    RETURN true;
  END IF;
  IF existing.document = s.document AND existing.base = subscribe.base AND existing.headers = s.headers AND existing.secret IS NOT DISTINCT FROM s.secret
     AND existing.requests IS NOT DISTINCT FROM s.requests THEN
    RETURN false; -- PUT again: nothing changes, above all not the position
  END IF;
  s.id := existing.id;
  UPDATE pubsubpull.subscription q
  SET base = subscribe.base, document = s.document, callback = s.callback, table_id = s.table_id, types = s.types, columns = s.columns, "when" = s."when",
      timeout = s.timeout, concurrency = s.concurrency, retry_first = s.retry_first, retry_max = s.retry_max, retry_for = s.retry_for,
      headers = s.headers, format = s.format, delete_method = s.delete_method, batch = s.batch, rate = s.rate, latest = s.latest, requests = s.requests, secret = s.secret,
      old_secret = CASE WHEN q.secret IS DISTINCT FROM s.secret THEN q.secret ELSE q.old_secret END,
      old_secret_until = CASE WHEN q.secret IS DISTINCT FROM s.secret THEN now() + interval '24 hours' ELSE q.old_secret_until END,
      version = nextval('pubsubpull.generation'), updated_at = now()
  WHERE q.id = existing.id;
  IF existing.table_id <> s.table_id OR existing.document->'since' IS DISTINCT FROM s.document->'since' THEN
    start := pubsubpull.start_position(s, s.document->>'since');
    PERFORM pubsubpull.move_subscription(s.id, start);
  END IF;
  RETURN false;
END $$;
COMMENT ON FUNCTION pubsubpull.subscribe(text, jsonb, text, text, text) IS
  'Creates or replaces a subscription; returns true when it is new. The position stays unless table or since differ from before. base: URL that links in notifications begin with; names: of the tables whose changes may be shown with API calls (an array), NULL: all.';

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
  PERFORM pubsubpull.lock_progress(name);
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
  PERFORM pubsubpull.lock_progress(name);
  UPDATE pubsubpull.subscription q SET state = set_state.state, reason = set_state.reason, version = nextval('pubsubpull.generation')
  WHERE q.name = set_state.name AND (q.state <> set_state.state OR q.reason IS DISTINCT FROM set_state.reason);
  RETURN FOUND;
END $$;
COMMENT ON FUNCTION pubsubpull.set_state(text, text, text) IS 'Sets a subscription active, paused or disabled; returns whether that was a change.';
