-- SPDX-License-Identifier: Apache-2.0
-- subscriptions.sql: subscriptions over HTTP: /subscriptions/ and what is below.

-- A subscription belongs to the user who made it; to others it does not exist, unless they are admin.
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
LANGUAGE sql IMMUTABLE AS $$ SELECT md5(concat_ws('|', s.id, s.document, s.base, md5(s.headers::text), md5(s.secret))) $$;
COMMENT ON FUNCTION pubsubpull.subscription_etag(pubsubpull.subscription) IS 'ETag of the document: it does not change with the progress.';

CREATE OR REPLACE FUNCTION pubsubpull.rows_warning(table_id int) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE
    WHEN NOT has_table_privilege(pubsubpull.caller(), p.relation, 'SELECT') THEN
      format('cannot read the rows to begin with, and sends nothing until then: the owner of %s can GRANT SELECT ON %1$s TO %I', p.relation::regclass, pubsubpull.caller())
    WHEN c.relrowsecurity THEN format('cannot begin with rows of %s, for policies of row-level security apply to them: PUT the position {"since": "now"}', p.relation::regclass) END
  FROM pubsubpull.published p JOIN pg_class c ON c.oid = p.relation WHERE p.id = table_id
$$;
COMMENT ON FUNCTION pubsubpull.rows_warning(int) IS 'What a subscription''s document says when it is to begin with rows that cannot be read; else NULL.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_json(base text, s pubsubpull.subscription) RETURNS text
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
  g pubsubpull.progress;
  url text := base || '/subscriptions/' || pubsubpull.percent_encode(s.name);
  waiting int;
  oldest timestamptz;
  loses_at timestamptz;
BEGIN
  SELECT * INTO g FROM pubsubpull.progress q WHERE q.subscription = s.id;
  IF NOT pubsubpull.is_lost(g."position") THEN
    SELECT count(*), min(c.at) INTO waiting, oldest FROM pubsubpull.feed(pubsubpull.begin_batch(g."position"), ARRAY[s.table_id], 10000) c
    WHERE c.id <> ALL (g.done);
    loses_at := pubsubpull.loses_place_at(g, s.table_id);
  END IF;
  RETURN (s.document || jsonb_build_object('name', s.name, 'url', url, 'owner', s.owner, 'state', s.state, 'reason', s.reason,
    'created_at', s.created_at, 'updated_at', s.updated_at, 'position', pubsubpull.cursor_encode(g."position"),
    'lag', jsonb_build_object('changes', waiting, 'seconds', round(extract(epoch FROM greatest(clock_timestamp() - oldest, '0')), 3)),
    'pending', (SELECT count(*) FROM pubsubpull.delivery d WHERE d.subscription = s.id AND d.state = 'pending'),
    'failed', (SELECT count(*) FROM pubsubpull.delivery d WHERE d.subscription = s.id AND d.state = 'failed'),
    'loses_place_at', loses_at, 'warning', coalesce(pubsubpull.place_warning(g, loses_at), CASE WHEN (g."position")."rows" IS NOT NULL THEN pubsubpull.rows_warning(s.table_id) END),
    'failing_since', g.failing_since, 'last_error', g.last_error,
    'tables', (SELECT jsonb_agg(coalesce(pubsubpull.table_name(p.relation), p.name) ORDER BY p.name) FROM pubsubpull.published p WHERE s.requests->'tables' @> to_jsonb(p.id)),
    'headers', ARRAY(SELECT jsonb_object_keys(s.headers)), 'secret', s.secret IS NOT NULL,
    'old_secret_until', CASE WHEN s.old_secret IS NOT NULL AND s.old_secret_until > now() THEN s.old_secret_until END))::text;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_json(text, pubsubpull.subscription) IS 'The document of a subscription with its state. lag.changes is counted up to 10000.';

CREATE OR REPLACE FUNCTION pubsubpull.subscriptions_get(base text, "user" text, admin boolean,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT 200, d.body, md5(d.body), NULL, NULL FROM (
    SELECT json_build_object('subscriptions', coalesce(json_agg(json_build_object('name', s.name, 'url', base || '/subscriptions/' || pubsubpull.percent_encode(s.name),
             'owner', s.owner, 'table', s.document->>'table', 'requests', s.document->'requests', 'callback', s.callback, 'state', s.state) ORDER BY s.name), '[]'))::text AS body
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

DROP FUNCTION IF EXISTS pubsubpull.subscription_put(text, text, text, boolean, text, text, text); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.subscription_put(base text, name text, "user" text, admin boolean, document text, if_match text, if_none_match text, names text,
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
  status := CASE WHEN pubsubpull.subscribe(name, pubsubpull.parse_object(document), coalesce(s.owner, "user"), base, names) THEN 201 ELSE 200 END;
  SELECT * INTO s FROM pubsubpull.subscription q WHERE q.name = subscription_put.name;
  body := pubsubpull.subscription_json(base, s);
  etag := pubsubpull.subscription_etag(s);
  location := base || '/subscriptions/' || pubsubpull.percent_encode(name);
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_put(text, text, text, boolean, text, text, text, text) IS
  'PUT /subscriptions/{name}: create or replace. names: the tables whose changes the user may see with API calls (an array), NULL: all.';

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
  IF wanted = 'active' AND (SELECT pubsubpull.is_lost(g."position") FROM pubsubpull.progress g WHERE g.subscription = s.id) THEN
    PERFORM pubsubpull.problem(409, 'lost-place', format('The subscription %s %s.', s.name, (SELECT pubsubpull.lost_text(g) FROM pubsubpull.progress g WHERE g.subscription = s.id)));
  ELSIF wanted = 'active' AND (SELECT pubsubpull.is_interrupted(g."position", s.table_id) FROM pubsubpull.progress g WHERE g.subscription = s.id) THEN
    PERFORM pubsubpull.problem(409, 'lost-place', format('The subscription %s %s.', s.name, pubsubpull.interrupted_text()));
  END IF;
  PERFORM pubsubpull.set_state(s.name, wanted);
  SELECT r.status, r.body INTO status, body FROM pubsubpull.subscription_state_get(base, name, "user", admin) r;
END $$;
COMMENT ON FUNCTION pubsubpull.subscription_state_put(text, text, text, boolean, text) IS 'PUT /subscriptions/{name}/state: pause or resume.';

CREATE OR REPLACE FUNCTION pubsubpull.subscription_position_get(base text, name text, "user" text, admin boolean,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s pubsubpull.subscription := pubsubpull.own_subscription(name, "user", admin); -- in a join it would not be called when there is no progress at all
BEGIN
  status := 200;
  SELECT json_build_object('since', pubsubpull.cursor_encode(g."position"))::text INTO STRICT body FROM pubsubpull.progress g WHERE g.subscription = s.id;
END $$;
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

-- Deliveries that were given up. They can be sent again, once; what came later of the same key was sent long ago.
CREATE OR REPLACE FUNCTION pubsubpull.failure_json(url text, d pubsubpull.delivery) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT jsonb_build_object('id', d.change, 'url', url || '/failures/' || d.change, 'state', d.state, 'key', CASE WHEN s.requests IS NULL THEN coalesce(d.row_key, d.lane) END,
    'request', coalesce(CASE WHEN s.requests IS NOT NULL THEN d.row_key END,
                        (SELECT c.request::text FROM pubsubpull.change c WHERE c.table_id = s.table_id AND c.id = d.change AND c.unattributed IS NULL)),
    'attempts', d.attempts, 'first_at', d.first_at, 'last_at', d.last_at, 'next_at', d.next_at, 'status', d.status, 'error', d.error)
  FROM pubsubpull.subscription s WHERE s.id = d.subscription
$$;
COMMENT ON FUNCTION pubsubpull.failure_json(text, pubsubpull.delivery) IS 'The document of a delivery that did not succeed.';

CREATE OR REPLACE FUNCTION pubsubpull.failures_get(base text, name text, "user" text, admin boolean, since text, "limit" text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
  s pubsubpull.subscription := pubsubpull.own_subscription(name, "user", admin);
  url text := base || '/subscriptions/' || pubsubpull.percent_encode(s.name);
  most int := pubsubpull.parse_limit("limit", 100, 1000);
  page jsonb;
  last_id bigint;
  n int;
BEGIN
  IF since !~ '^-?[0-9]{1,19}$' THEN
    PERFORM pubsubpull.problem(400, 'bad-cursor', 'since must come from the "next" URL of an earlier page.');
  END IF;
  SELECT jsonb_agg(pubsubpull.failure_json(url, d) ORDER BY d.change), max(d.change), count(*) INTO page, last_id, n
  FROM (SELECT * FROM pubsubpull.delivery q WHERE q.subscription = s.id AND (q.state = 'failed' OR q.attempts > 0) AND (since IS NULL OR q.change > since::bigint)
        ORDER BY q.change LIMIT most) d;
  next := CASE WHEN n = most THEN concat(url, '/failures/?since=', last_id, '&limit=', most) END;
  status := 200;
  body := jsonb_build_object('failures', coalesce(page, '[]'), 'next', next)::text;
END $$;
COMMENT ON FUNCTION pubsubpull.failures_get(text, text, text, boolean, text, text) IS
  'GET /subscriptions/{name}/failures/: deliveries that were given up (state failed) and those being tried again (pending).';

CREATE OR REPLACE FUNCTION pubsubpull.failure_put(base text, name text, "user" text, admin boolean, failure text, document text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
  s pubsubpull.subscription := pubsubpull.own_subscription(name, "user", admin);
  d pubsubpull.delivery;
  those bigint[];
BEGIN
  IF pubsubpull.check_members(pubsubpull.parse_object(document), '{"state": "pending"}')->'state' IS NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-member', '"state" must be "pending": try again.');
  END IF;
  PERFORM pubsubpull.lock_progress(s.name); -- nothing that one of them has to wait for ends unseen
  WITH again AS (
    UPDATE pubsubpull.delivery q SET state = 'pending', next_at = NULL, first_at = NULL, batch = NULL, claimed = false
    WHERE q.subscription = s.id AND q.state = 'failed' AND (failure IS NULL OR q.change::text = failure) RETURNING q.change)
  SELECT array_agg(a.change) INTO those FROM again a;
  IF those IS NOT NULL THEN
    UPDATE pubsubpull.delivery q SET next_at = clock_timestamp()
    WHERE q.subscription = s.id AND q.change = ANY (those) AND NOT pubsubpull.is_blocked(s.id, q.change, q.lane);
    UPDATE pubsubpull.subscription q SET version = nextval('pubsubpull.generation') WHERE q.id = s.id;
  END IF;
  IF failure IS NULL THEN
    SELECT r.status, r.body INTO status, body FROM pubsubpull.failures_get(base, name, "user", admin, NULL, NULL) r;
    RETURN;
  END IF;
  SELECT * INTO d FROM pubsubpull.delivery q WHERE q.subscription = s.id AND q.change::text = failure;
  IF d.subscription IS NULL THEN
    PERFORM pubsubpull.problem(404, 'no-such-failure', format('%s has no failed delivery %s.', name, failure));
  END IF;
  status := 200;
  body := pubsubpull.failure_json(base || '/subscriptions/' || pubsubpull.percent_encode(s.name), d)::text;
END $$;
COMMENT ON FUNCTION pubsubpull.failure_put(text, text, text, boolean, text, text) IS
  'PUT {"state": "pending"} to /subscriptions/{name}/failures/ (all that were given up) or …/{id}: try again.';

CREATE OR REPLACE FUNCTION pubsubpull.failure_delete(base text, name text, "user" text, admin boolean, failure text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s pubsubpull.subscription := pubsubpull.own_subscription(name, "user", admin);
BEGIN
  PERFORM pubsubpull.lock_progress(s.name);
  DELETE FROM pubsubpull.delivery q WHERE q.subscription = s.id AND q.state = 'failed' AND (failure IS NULL OR q.change::text = failure);
  IF NOT FOUND AND failure IS NOT NULL THEN
    PERFORM pubsubpull.problem(404, 'no-such-failure', format('%s has no delivery %s that was given up.', name, failure));
  END IF;
  status := 204;
END $$;
COMMENT ON FUNCTION pubsubpull.failure_delete(text, text, text, boolean, text) IS
  'DELETE /subscriptions/{name}/failures/ (all that were given up) or …/{id}: discard.';
