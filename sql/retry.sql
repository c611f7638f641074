-- SPDX-License-Identifier: Apache-2.0
-- retry.sql: deliveries that did not succeed at once: who waits for whom, what is tried again, what came of it.

-- Changes of a lane that has something waiting to be tried again wait behind it. Changes without a lane (TRUNCATE, a changed key, a table
-- without key) go after everything before them and before everything after them.
CREATE OR REPLACE FUNCTION pubsubpull.park(subscription int, change bigint, lane text, row_key text DEFAULT NULL) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
  DELETE FROM pubsubpull.delivery d USING pubsubpull.subscription s -- the newest of those that wait is enough
  WHERE s.id = park.subscription AND s.latest AND d.subscription = park.subscription AND d.lane = park.lane AND d.state = 'pending' AND d.change < park.change
    AND d.next_at IS NULL AND d.batch IS NULL;
  INSERT INTO pubsubpull.delivery (subscription, change, lane, row_key) VALUES (subscription, change, lane, row_key)
  ON CONFLICT (subscription, change) DO UPDATE SET state = 'pending', attempts = 0, next_at = NULL, first_at = NULL, batch = NULL, claimed = false -- replayed after it was given up
  WHERE delivery.state = 'failed'
$$;
COMMENT ON FUNCTION pubsubpull.park(int, bigint, text, text) IS 'Puts a delivery behind others of its lane; it is sent when its turn comes.';

CREATE OR REPLACE FUNCTION pubsubpull.lane(c pubsubpull.change) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN c.old_key IS NULL THEN c.key END $$;
COMMENT ON FUNCTION pubsubpull.lane(pubsubpull.change) IS 'What is delivered in order: the key; NULL: in order with everything.';

CREATE OR REPLACE FUNCTION pubsubpull.is_blocked(subscription int, change bigint, lane text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN lane IS NULL THEN
      EXISTS (SELECT FROM pubsubpull.delivery d WHERE d.subscription = is_blocked.subscription AND d.state = 'pending' AND d.change < is_blocked.change)
    ELSE -- two look-ups in the index, where OR would scan
      EXISTS (SELECT FROM pubsubpull.delivery d WHERE d.subscription = is_blocked.subscription AND d.state = 'pending' AND d.lane = is_blocked.lane AND d.change < is_blocked.change)
      OR EXISTS (SELECT FROM pubsubpull.delivery d WHERE d.subscription = is_blocked.subscription AND d.state = 'pending' AND d.lane IS NULL AND d.change < is_blocked.change)
    END
$$;
COMMENT ON FUNCTION pubsubpull.is_blocked(int, bigint, text) IS 'Whether a delivery has to wait for an earlier one that is pending.';

-- Where only the latest counts, what waits behind takes the place, and the tries, of what was to be tried again.
CREATE OR REPLACE FUNCTION pubsubpull.overtake(INOUT d pubsubpull.delivery)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  newest bigint;
BEGIN
  SELECT max(w.change) INTO newest FROM pubsubpull.delivery w
  WHERE w.subscription = d.subscription AND w.lane = d.lane AND w.state = 'pending' AND w.next_at IS NULL AND w.batch IS NULL AND w.change > d.change
    AND NOT EXISTS (SELECT FROM pubsubpull.delivery b WHERE b.subscription = d.subscription AND b.lane IS NULL AND b.state = 'pending' AND b.change BETWEEN d.change AND w.change);
  IF newest IS NOT NULL AND d.batch IS NULL THEN
    DELETE FROM pubsubpull.delivery w WHERE w.subscription = d.subscription AND w.lane = d.lane AND w.state = 'pending' AND w.batch IS NULL AND w.change >= d.change AND w.change < newest;
    UPDATE pubsubpull.delivery w SET attempts = d.attempts, next_at = d.next_at, claimed = d.claimed, first_at = d.first_at, last_at = d.last_at, status = d.status, error = d.error
    WHERE w.subscription = d.subscription AND w.change = newest RETURNING w.* INTO d;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.overtake(pubsubpull.delivery) IS 'The newest delivery of the lane that may be made instead of this one, which it replaces; or this one.';

-- One of a batch has the time of the next try; when it goes its own way another must have it.
DROP FUNCTION IF EXISTS pubsubpull.hand_on(int, bigint, timestamptz); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.hand_on(subscription int, batch bigint, next_at timestamptz, claimed boolean) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
  UPDATE pubsubpull.delivery d SET next_at = hand_on.next_at, claimed = hand_on.claimed
  WHERE d.subscription = hand_on.subscription AND d.state = 'pending'
    AND d.change = (SELECT min(w.change) FROM pubsubpull.delivery w WHERE w.subscription = hand_on.subscription AND w.batch = hand_on.batch AND w.state = 'pending')
    AND NOT EXISTS (SELECT FROM pubsubpull.delivery w WHERE w.subscription = hand_on.subscription AND w.batch = hand_on.batch AND w.state = 'pending' AND w.next_at IS NOT NULL)
$$;
COMMENT ON FUNCTION pubsubpull.hand_on(int, bigint, timestamptz, boolean) IS 'Gives what is left of a batch the time of its next try.';

CREATE OR REPLACE FUNCTION pubsubpull.disband(subscription int, batch bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  those bigint[];
BEGIN
  WITH d AS (
    UPDATE pubsubpull.delivery q SET batch = NULL, next_at = NULL, claimed = false
    WHERE q.subscription = disband.subscription AND q.batch = disband.batch AND q.state = 'pending' RETURNING q.change)
  SELECT array_agg(d.change) INTO those FROM d;
  UPDATE pubsubpull.delivery q SET next_at = clock_timestamp()
  WHERE q.subscription = disband.subscription AND q.change = ANY (those) AND NOT pubsubpull.is_blocked(q.subscription, q.change, q.lane);
END $$;
COMMENT ON FUNCTION pubsubpull.disband(int, bigint) IS 'Lets deliveries that failed in one PUT go each by itself, in order.';

-- Changes that are to be sent in one PUT: d itself, or all of its batch. Those in the log, and rows that existed, as they are now.
CREATE OR REPLACE FUNCTION pubsubpull.batch_changes(p pubsubpull.published, d pubsubpull.delivery) RETURNS pubsubpull.change[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  page pubsubpull.change[] := '{}';
  w record;
BEGIN
  FOR w IN SELECT q.change, q.row_key FROM pubsubpull.delivery q WHERE q.subscription = d.subscription AND q.change = d.change AND d.batch IS NULL
           UNION ALL SELECT q.change, q.row_key FROM pubsubpull.delivery q WHERE q.subscription = d.subscription AND q.batch = d.batch AND q.state = 'pending' ORDER BY 1 LOOP
    IF w.change < 0 AND p.id = 0 THEN
      page := page || pubsubpull.past_call(w.row_key::uuid);
    ELSIF w.change < 0 THEN
      page := page || ARRAY(SELECT pubsubpull.row_change(p.id, w.row_key, b.body::json) FROM pubsubpull.row_or_nothing(p, w.row_key) b(body) WHERE b.body IS NOT NULL);
    ELSE
      page := page || ARRAY(SELECT c FROM pubsubpull.change c WHERE c.table_id = p.id AND c.id = w.change);
    END IF;
  END LOOP;
  RETURN page;
END $$;
COMMENT ON FUNCTION pubsubpull.batch_changes(pubsubpull.published, pubsubpull.delivery) IS 'The changes that a delivery, or the batch that it stands for, is about; those that are gone are left out.';

-- Until then something before it may be in a notifier's memory only, or was when that notifier died and has to be read again.
CREATE OR REPLACE FUNCTION pubsubpull.is_passed(p pubsubpull.position, table_id int, change bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((SELECT p."rows" IS NULL AND (pg_visible_in_snapshot(c.xid, p.since) OR (p.upto IS NOT NULL AND pg_visible_in_snapshot(c.xid, p.upto) AND c.id <= p.after_id))
                   FROM pubsubpull.change c WHERE c.table_id = is_passed.table_id AND c.id = is_passed.change), true)
$$;
COMMENT ON FUNCTION pubsubpull.is_passed(pubsubpull.position, int, bigint) IS 'Whether a subscription''s position is after a change: all that came before it was delivered or is parked.';

-- What stands right behind a barrier that has its turn: in the order of changes, and without a gap, so that who sends them one after another
-- needs to ask for none of their turns. It ends where one is not simply waiting, and where the notifier may not know all that comes before.
CREATE OR REPLACE FUNCTION pubsubpull.line_behind(barrier pubsubpull.delivery, p pubsubpull.published, "position" pubsubpull.position, most int)
RETURNS SETOF pubsubpull.delivery LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  w pubsubpull.delivery;
BEGIN
  FOR w IN SELECT q.* FROM pubsubpull.delivery q WHERE q.subscription = barrier.subscription AND q.state = 'pending' AND q.change > barrier.change
           ORDER BY q.subscription, q.change LIMIT most LOOP
    EXIT WHEN w.next_at IS NOT NULL OR w.batch IS NOT NULL OR (w.lane IS NULL AND NOT pubsubpull.is_passed("position", p.id, w.change));
    RETURN NEXT w;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.line_behind(pubsubpull.delivery, pubsubpull.published, pubsubpull.position, int) IS
  'The parked deliveries, at most most, that wait for nothing but a barrier and one another, in order.';

DROP FUNCTION IF EXISTS pubsubpull.notify_due(uuid, int[], int); -- gave less back once
CREATE OR REPLACE FUNCTION pubsubpull.notify_due(notifier uuid, subscriptions int[], most int,
  OUT subscription int, OUT change bigint, OUT key text, OUT body text, OUT attempts int, OUT barrier boolean, OUT deletes boolean, OUT request uuid, OUT batch bigint,
  OUT hops int, OUT follows boolean)
RETURNS SETOF record LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  since CONSTANT timestamptz := clock_timestamp();
  claims CONSTANT int := greatest(1, most / (SELECT max(b.batch) FROM pubsubpull.subscription b WHERE b.id = ANY (subscriptions)));
  claimed record;
  d pubsubpull.delivery;
  page pubsubpull.change[];
  e pubsubpull.event;
  made bigint[];
  gone bigint;
  line pubsubpull.delivery[]; -- behind a barrier
BEGIN
  FOR claimed IN
    UPDATE pubsubpull.delivery q SET next_at = clock_timestamp() + (s.timeout + 10000) * interval '1 millisecond', claimed = true
    FROM pubsubpull.subscription s, pubsubpull.published p
    WHERE s.id = q.subscription AND p.id = s.table_id AND (q.subscription, q.change) IN (
      SELECT w.subscription, w.change FROM pubsubpull.delivery w
      WHERE w.state = 'pending' AND w.next_at <= since AND (w.subscription, w.change) IN (
        SELECT x.subscription, x.change -- of each the first that are due, for thousands may be
        FROM unnest(subscriptions) AS u(id) JOIN pubsubpull.progress g ON g.subscription = u.id AND g.holder = notifier
        JOIN pubsubpull.subscription a ON a.id = u.id AND a.state = 'active'
        CROSS JOIN LATERAL (SELECT o.subscription, o.change, o.next_at FROM pubsubpull.delivery o
                            WHERE o.subscription = u.id AND o.state = 'pending' AND o.next_at <= since
                              AND (o.lane IS NOT NULL OR pubsubpull.is_passed(g."position", a.table_id, o.change)) ORDER BY o.next_at LIMIT claims) x
        ORDER BY x.next_at LIMIT claims)
      FOR UPDATE OF w SKIP LOCKED)
    RETURNING q AS delivery, p AS published, s.latest, s.batch AS most,
      (SELECT g."position" FROM pubsubpull.progress g WHERE g.subscription = q.subscription) AS "position"
  LOOP
    d := claimed.delivery;
    IF d.batch IS NOT NULL AND (claimed.most = 1 OR claimed.most < (SELECT count(*) FROM pubsubpull.delivery q
                                WHERE q.subscription = d.subscription AND q.batch = d.batch AND q.state = 'pending')) THEN
      PERFORM pubsubpull.disband(d.subscription, d.batch); -- the subscription wants fewer in one PUT now
      CONTINUE;
    END IF;
    IF claimed.latest THEN
      d := pubsubpull.overtake(d);
    END IF;
    BEGIN
      page := pubsubpull.batch_changes(claimed.published, d);
    EXCEPTION WHEN lock_not_available OR insufficient_privilege OR undefined_table OR syntax_error THEN
      CONTINUE; -- it is claimed and comes again later; the others must not wait for that
    END;
    made := '{}';
    body := NULL;
    follows := false;
    FOR e IN SELECT * FROM pubsubpull.events_or_errors(page, ARRAY[d.subscription], '') LOOP
      made := made || e.change;
      IF e.error IS NOT NULL THEN
        UPDATE pubsubpull.delivery q SET state = 'failed', next_at = NULL, batch = NULL WHERE q.subscription = e.subscription AND q.change = e.change;
        PERFORM pubsubpull.refuse_event(e), pubsubpull.promote(e.subscription, CASE WHEN NOT e.barrier THEN e.key END);
      ELSE
        subscription := e.subscription; change := e.change; key := e.key; body := e.body; attempts := d.attempts; barrier := e.barrier; deletes := e.deletes;
        request := e.request; batch := d.batch; hops := NULL;
        IF e.request IS NOT NULL THEN
          hops := (SELECT h.hops FROM pubsubpull.caused(ARRAY[e.request], 1000) h);
        END IF;
        RETURN NEXT;
      END IF;
    END LOOP;
    FOR gone IN SELECT q.change FROM pubsubpull.delivery q -- two look-ups in indexes, where OR would scan
                WHERE q.subscription = d.subscription AND q.change = d.change AND q.state = 'pending' AND q.change <> ALL (made)
                UNION SELECT q.change FROM pubsubpull.delivery q
                WHERE q.subscription = d.subscription AND q.batch = d.batch AND q.state = 'pending' AND q.change <> ALL (made) LOOP
      IF gone > 0 AND NOT EXISTS (SELECT FROM unnest(page) c WHERE c.id = gone) THEN
        PERFORM pubsubpull.give_up(d.subscription, gone);
      ELSE -- the row is gone, or the subscription does not want it any more
        PERFORM pubsubpull.finish_delivery(d.subscription, gone);
      END IF;
    END LOOP;
    IF d.batch IS NOT NULL THEN
      PERFORM pubsubpull.hand_on(d.subscription, d.batch, d.next_at, true);
    END IF;
    CONTINUE WHEN d.lane IS NOT NULL OR made <> ARRAY[d.change] OR body IS NULL OR most < 2;
    line := ARRAY(SELECT w::pubsubpull.delivery FROM pubsubpull.line_behind(d, claimed.published, claimed."position", most - 1) w);
    follows := true;
    batch := NULL;
    page := ARRAY(SELECT x.c FROM (SELECT c, sum(coalesce(octet_length(c.old::text), 0) + coalesce(octet_length(c.new::text), 0)) OVER (ORDER BY c.id) AS bytes
                                   FROM unnest(line) w JOIN pubsubpull.change c ON c.table_id = (claimed.published).id AND c.id = w.change) x
                  WHERE x.bytes < 1000000 ORDER BY (x.c).id);
    FOR e IN SELECT * FROM pubsubpull.events_or_errors(page, ARRAY[d.subscription], '') LOOP
      -- One that is not wanted any more or cannot be made ends the line: it is seen to when it has its turn.
      EXIT WHEN e.change IS DISTINCT FROM line[1].change OR e.error IS NOT NULL;
      subscription := e.subscription; change := e.change; key := e.key; body := e.body; attempts := line[1].attempts; barrier := e.barrier; deletes := e.deletes;
      request := e.request;
      hops := CASE WHEN e.request IS NOT NULL THEN (SELECT h.hops FROM pubsubpull.caused(ARRAY[e.request], 1000) h) END;
      RETURN NEXT;
      line := line[2:];
    END LOOP;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.notify_due(uuid, int[], int) IS 'Deliveries whose time for another try has come; those with the same batch, which is not null, go in one PUT. They are not returned again before the subscription''s timeout has passed. follows: waits behind the barrier that was returned before it, and those between, and nothing else; it is not claimed.';

CREATE OR REPLACE FUNCTION pubsubpull.row_or_nothing(p pubsubpull.published, row_key text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' AS $$
BEGIN
  RETURN (SELECT r.body FROM pubsubpull.row_get('', pubsubpull.table_name(p.relation), row_key, NULL) r);
EXCEPTION WHEN SQLSTATE 'PS404' OR SQLSTATE 'PS400' OR SQLSTATE 'PS409' THEN
  RETURN NULL;
END $$;
COMMENT ON FUNCTION pubsubpull.row_or_nothing(pubsubpull.published, text) IS 'A row''s JSON, or NULL when there is no such row (any more); an error, soon, when the table is locked.';

-- The next of the lane gets its turn; after a delivery without lane, everything up to the next such one.
CREATE OR REPLACE FUNCTION pubsubpull.promote(subscription int, lane text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  barrier CONSTANT bigint := (SELECT min(d.change) FROM pubsubpull.delivery d WHERE d.subscription = promote.subscription AND d.state = 'pending' AND d.lane IS NULL);
  turn bigint;
BEGIN
  FOR turn IN
    SELECT min(d.change) FROM pubsubpull.delivery d WHERE d.subscription = promote.subscription AND d.state = 'pending' AND d.lane = promote.lane
    UNION SELECT barrier
    UNION SELECT d.change FROM pubsubpull.delivery d
    WHERE promote.lane IS NULL AND d.subscription = promote.subscription AND d.state = 'pending' AND d.next_at IS NULL AND d.change <= coalesce(barrier, 9223372036854775807)
  LOOP -- one by one, so that each is looked up: thousands may be pending
    UPDATE pubsubpull.delivery d SET next_at = clock_timestamp()
    WHERE d.subscription = promote.subscription AND d.change = turn AND d.state = 'pending' AND d.next_at IS NULL AND d.batch IS NULL
      AND NOT pubsubpull.is_blocked(d.subscription, d.change, d.lane);
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.promote(int, text) IS 'Gives those a turn that waited for a delivery of this lane, now finished.';

CREATE OR REPLACE FUNCTION pubsubpull.finish_delivery(subscription int, change bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
  lane text;
BEGIN
  DELETE FROM pubsubpull.delivery d WHERE d.subscription = finish_delivery.subscription AND d.change = finish_delivery.change RETURNING d.lane INTO lane;
  IF FOUND THEN
    PERFORM pubsubpull.promote(subscription, lane);
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.finish_delivery(int, bigint) IS 'Takes away a delivery that succeeded or is not wanted any more.';

CREATE OR REPLACE FUNCTION pubsubpull.fail_delivery(s pubsubpull.subscription, report jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  number CONSTANT bigint := (report->>'change')::bigint;
  own_lane text;
  d pubsubpull.delivery;
  b bigint;
BEGIN
  own_lane := CASE WHEN number < 0 THEN report->>'key' ELSE (SELECT pubsubpull.lane(c) FROM pubsubpull.change c WHERE c.table_id = s.table_id AND c.id = number) END;
  -- The time of the transaction: all of a batch are given up together.
  INSERT INTO pubsubpull.delivery AS q (subscription, change, lane, row_key, attempts, next_at, first_at, last_at, status, error, batch)
  VALUES (s.id, number, own_lane, CASE WHEN number < 0 THEN report->>'key' END, (report->>'attempts')::int,
          clock_timestamp() + (report->>'delay')::float8 * interval '1 millisecond', now(), now(),
          (report->>'status')::int, left(report->>'error', 2000), (report->>'batch')::bigint)
  ON CONFLICT (subscription, change) DO UPDATE SET state = 'pending', attempts = excluded.attempts, next_at = excluded.next_at,
    first_at = CASE WHEN q.state = 'failed' THEN excluded.first_at ELSE coalesce(q.first_at, excluded.first_at) END,
    last_at = excluded.last_at, status = excluded.status, error = excluded.error, batch = excluded.batch, claimed = false
  RETURNING * INTO d;
  -- Later ones may have had their turn while this was not known to fail. Two look-ups in the index, where OR would scan.
  UPDATE pubsubpull.delivery q SET next_at = NULL
  WHERE q.subscription = s.id AND q.lane IS NULL AND q.state = 'pending' AND q.next_at IS NOT NULL AND q.batch IS NULL AND q.change > number;
  UPDATE pubsubpull.delivery q SET next_at = NULL
  WHERE q.subscription = s.id AND q.lane = own_lane AND q.state = 'pending' AND q.next_at IS NOT NULL AND q.batch IS NULL AND q.change > number;
  FOR b IN SELECT value::bigint FROM jsonb_array_elements_text(coalesce(report->'behind', '[]')) LOOP
    PERFORM pubsubpull.park(s.id, b, CASE WHEN b < 0 THEN report->>'key' ELSE (SELECT pubsubpull.lane(c) FROM pubsubpull.change c WHERE c.table_id = s.table_id AND c.id = b) END,
                            CASE WHEN b < 0 THEN report->>'key' END);
  END LOOP;
  IF now() >= d.first_at + s.retry_for * interval '1 second' THEN
    UPDATE pubsubpull.delivery q SET state = 'failed', next_at = NULL, batch = NULL WHERE q.subscription = s.id AND q.change = number;
    UPDATE pubsubpull.progress g SET given_up = g.given_up + 1 WHERE g.subscription = s.id;
    PERFORM pubsubpull.promote(s.id, own_lane);
    IF d.batch IS NOT NULL AND d.next_at IS NOT NULL THEN
      PERFORM pubsubpull.hand_on(s.id, d.batch, d.next_at, false);
    END IF;
  END IF;
  IF (report->>'gone')::boolean THEN
    PERFORM pubsubpull.set_state(s.name, 'disabled', 'the receiver answered 410 Gone');
  END IF;
  UPDATE pubsubpull.progress g SET failing_since = coalesce(g.failing_since, clock_timestamp()), last_error = d.error
  WHERE g.subscription = s.id AND (g.failing_since IS NULL OR g.last_error IS DISTINCT FROM d.error);
END $$;
COMMENT ON FUNCTION pubsubpull.fail_delivery(pubsubpull.subscription, jsonb) IS
  'Writes down a delivery that failed, when it is tried again, and what waits behind it; gives it up when retry_for has passed.';

-- In the notifier they were behind a failure, or behind what had come in before them, which may have a higher id if it was committed first.
CREATE OR REPLACE FUNCTION pubsubpull.give_turns(failed jsonb, subscriptions int[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
  UPDATE pubsubpull.delivery d SET next_at = clock_timestamp()
  FROM jsonb_array_elements(failed) x CROSS JOIN jsonb_array_elements_text(x->'behind') b
  WHERE d.subscription = (x->>'subscription')::int AND d.subscription = ANY (subscriptions) AND d.change = b::bigint AND d.state = 'pending'
    AND d.next_at IS NULL AND d.batch IS NULL AND NOT pubsubpull.is_blocked(d.subscription, d.change, d.lane)
$$;
COMMENT ON FUNCTION pubsubpull.give_turns(jsonb, int[]) IS 'Gives those parked behind failures a turn that need not wait for any of them: nobody else would.';

CREATE OR REPLACE FUNCTION pubsubpull.notify_save(notifier uuid, report jsonb) RETURNS SETOF int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  held int[];
  f jsonb;
  s pubsubpull.subscription;
BEGIN
  -- Locked in one order, so that two notifiers cannot wait for each other.
  WITH named AS (
    SELECT DISTINCT (x->>'subscription')::int AS id, (x->>'epoch')::bigint AS epoch
    FROM jsonb_path_query(report, '$.*[*]') x
  ), locked AS (
    SELECT g.subscription FROM pubsubpull.progress g JOIN named n ON n.id = g.subscription
    WHERE g.holder = notifier AND g.epoch = n.epoch AND EXISTS (SELECT FROM pubsubpull.notifier a WHERE a.id = notifier)
    ORDER BY g.subscription FOR UPDATE OF g)
  SELECT coalesce(array_agg(l.subscription), '{}') INTO held FROM locked l;
  UPDATE pubsubpull.progress g
  SET "position" = (x->>'position')::pubsubpull.position,
      done = ARRAY(SELECT d::bigint FROM jsonb_array_elements_text(x->'done') d)
  FROM jsonb_array_elements(coalesce(report->'positions', '[]')) x
  WHERE g.subscription = (x->>'subscription')::int AND g.subscription = ANY (held);
  FOR f IN SELECT x FROM jsonb_array_elements(coalesce(report->'failed', '[]')) x WHERE (x->>'subscription')::int = ANY (held) LOOP
    SELECT * INTO s FROM pubsubpull.subscription q WHERE q.id = (f->>'subscription')::int;
    PERFORM pubsubpull.fail_delivery(s, f);
  END LOOP;
  IF FOUND THEN
    PERFORM pubsubpull.give_turns(report->'failed', held);
  END IF;
  PERFORM pubsubpull.finish_delivery((x->>'subscription')::int, (x->>'change')::bigint)
  FROM jsonb_array_elements(coalesce(report->'sent', '[]')) x WHERE (x->>'subscription')::int = ANY (held);
  UPDATE pubsubpull.progress g SET failing_since = NULL, last_error = NULL
  WHERE g.subscription = ANY (held) AND g.failing_since IS NOT NULL
    AND NOT EXISTS (SELECT FROM pubsubpull.delivery d WHERE d.subscription = g.subscription AND d.state = 'pending' AND d.attempts > 0);
  RETURN QUERY SELECT DISTINCT (x->>'subscription')::int FROM jsonb_path_query(report, '$.*[*]') x WHERE (x->>'subscription')::int <> ALL (held);
END $$;
COMMENT ON FUNCTION pubsubpull.notify_save(uuid, jsonb) IS
  'Saves results: positions reached, failed deliveries, repeated ones that were sent. Returns the subscriptions that this notifier does not hold any more; nothing was saved for these.';
