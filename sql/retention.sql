-- SPDX-License-Identifier: Apache-2.0
-- retention.sql: the parts of the log in turn, what is dropped when, and who loses their place by that.
--
-- The log is written to one of the tables change_0 … change_7 ("slots"). When the current one is a sixth of the retention old, the trigger
-- functions are rewritten, some tables at a time, to write to an empty one; CREATE OR REPLACE FUNCTION locks no table. The life of a slot:
--   since     it became the current one
--   until     no trigger function writes to it any more
--   quiet_at  no transaction that wrote to it is open any more: quiet_xid is the transaction that found this, so that a snapshot
--             which shows quiet_xid shows all of the slot, and quiet_id is above all ids in it
--   mark      a batch (see feed.sql) up to a moment after that
-- It is emptied when quiet_at is older than the retention. So every change is kept for so long after its commit, also one of a
-- transaction that was open for days; and no position younger than the retention is ever lost, whatever else is open in the cluster.

CREATE TABLE IF NOT EXISTS pubsubpull.slot (
  number    int PRIMARY KEY,
  since     timestamptz,
  until     timestamptz,
  quiet_at  timestamptz,
  quiet_xid xid8,
  quiet_id  bigint,
  mark      pubsubpull.position
);
COMMENT ON TABLE pubsubpull.slot IS 'The tables change_… that hold the log in turn; see retention.sql';
COMMENT ON COLUMN pubsubpull.slot.number IS 'n of change_n; -1: the rows of pubsubpull.change itself, from before there were slots';
COMMENT ON COLUMN pubsubpull.slot.since IS 'When it became current; NULL: it is empty. Of those without until the latest is current';

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.log'::regclass AND attname = 'floor_xid') THEN
    ALTER TABLE pubsubpull.log
      ADD COLUMN retention interval,
      ADD COLUMN floor_xid xid8,
      ADD COLUMN floor_id bigint,
      ADD COLUMN floor_drop xid8,
      ADD COLUMN floor_at timestamptz;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.progress'::regclass AND attname = 'warned_at') THEN
    ALTER TABLE pubsubpull.progress ADD COLUMN warned_at timestamptz;
  END IF;
  INSERT INTO pubsubpull.slot (number, since)
  SELECT n, CASE n WHEN 0 THEN clock_timestamp() END FROM generate_series(-1, 7) n ON CONFLICT DO NOTHING;
  UPDATE pubsubpull.slot SET since = clock_timestamp(), until = clock_timestamp()
  WHERE number = -1 AND since IS NULL AND EXISTS (SELECT FROM ONLY pubsubpull.change);
END $$;
COMMENT ON COLUMN pubsubpull.log.retention IS 'How long changes are kept; NULL: for ever. As the notifier said last';
COMMENT ON COLUMN pubsubpull.log.floor_xid IS 'Positions whose snapshot does not show this transaction miss what was dropped; NULL: nothing was';
COMMENT ON COLUMN pubsubpull.log.floor_id IS 'All ids of dropped changes are up to this one';
COMMENT ON COLUMN pubsubpull.log.floor_drop IS 'The transaction that dropped changes last';
COMMENT ON COLUMN pubsubpull.log.floor_at IS 'Changes up to about this time were dropped';
COMMENT ON COLUMN pubsubpull.progress.warned_at IS 'When the notifier last said in its log that the place is about to be lost';

CREATE OR REPLACE FUNCTION pubsubpull.current_slot() RETURNS int
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.number FROM pubsubpull.slot s WHERE s.since IS NOT NULL AND s.until IS NULL ORDER BY s.since DESC LIMIT 1
$$;
COMMENT ON FUNCTION pubsubpull.current_slot() IS 'n of the table change_n that trigger functions are to write to.';

-- --- Places ---

CREATE OR REPLACE FUNCTION pubsubpull.is_behind(p pubsubpull.position, quiet_xid xid8, quiet_id bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT NOT pg_catalog.pg_visible_in_snapshot(quiet_xid, (p).since) AND ((p).upto IS NULL OR coalesce((p).after_id, 0) < quiet_id)
$$;
COMMENT ON FUNCTION pubsubpull.is_behind(pubsubpull.position, xid8, bigint) IS 'Whether a follower there may not have seen all of a slot; quiet_xid and quiet_id are the slot''s.';

-- "From the beginning" means the oldest change that is retained, so that only a batch that was under way can lose its place there.
CREATE OR REPLACE FUNCTION pubsubpull.is_lost(p pubsubpull.position) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  l pubsubpull.log;
BEGIN
  SELECT * INTO l FROM pubsubpull.log;
  RETURN coalesce(l.floor_xid < pg_snapshot_xmax(pg_current_snapshot()), false) -- else there is none, or it was restored from a dump of another cluster
     AND pubsubpull.is_behind(p, l.floor_xid, l.floor_id)
     AND (pg_snapshot_xmax(p.since) > '1' OR (p.after_id > 0 AND NOT pg_visible_in_snapshot(l.floor_drop, p.upto)));
END $$;
COMMENT ON FUNCTION pubsubpull.is_lost(pubsubpull.position) IS 'Whether changes were dropped that a follower there may not have seen.';

CREATE OR REPLACE FUNCTION pubsubpull.check_place(p pubsubpull.position) RETURNS pubsubpull.position
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
BEGIN
  IF pubsubpull.is_lost(p) THEN
    PERFORM pubsubpull.problem(410, 'gone-cursor',
      format('Changes that come after this cursor are not kept any more: the log goes back to %s.', (SELECT to_char(l.floor_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM pubsubpull.log l)),
      'Start again: GET /tables/{t}/rows/ of each table and follow the "changes" link of its first page, or leave since out to begin with the oldest change that is kept.');
  END IF;
  RETURN p;
END $$;
COMMENT ON FUNCTION pubsubpull.check_place(pubsubpull.position) IS 'The position, or problem 410 when changes after it were dropped.';

-- A subscription that stands still (paused, say) while nothing happens to its table loses nothing: its position can be moved on.
CREATE OR REPLACE FUNCTION pubsubpull.carry(p pubsubpull.position, done bigint[], table_id int, s pubsubpull.slot) RETURNS pubsubpull.position
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p."rows" IS NOT NULL THEN
    RETURN NULL;
  END IF;
  WHILE pubsubpull.is_behind(p, s.quiet_xid, s.quiet_id) LOOP
    IF p.upto IS NULL THEN
      p.upto := (s.mark).upto; p.upto_id := (s.mark).upto_id; p.upto_next := (s.mark).upto_next; p.top_id := (s.mark).top_id; p.after_id := 0;
    END IF;
    IF EXISTS (SELECT FROM pubsubpull.feed(p, ARRAY[table_id], cardinality(done) + 1) c WHERE c.id <> ALL (done)) THEN
      RETURN NULL;
    END IF;
    p := pubsubpull.end_batch(p);
  END LOOP;
  RETURN p;
END $$;
COMMENT ON FUNCTION pubsubpull.carry(pubsubpull.position, bigint[], int, pubsubpull.slot) IS
  'A position that is as good for a subscription and does without the slot; NULL: there are changes that it has not seen.';

CREATE OR REPLACE FUNCTION pubsubpull.loses_place_at(g pubsubpull.progress, table_id int) RETURNS timestamptz
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
  SELECT min(s.quiet_at) + l.retention FROM pubsubpull.slot s, pubsubpull.log l
  WHERE NOT (s.mark IS NULL) AND l.retention IS NOT NULL AND NOT pubsubpull.is_lost(g."position") AND pubsubpull.is_behind(g."position", s.quiet_xid, s.quiet_id)
    AND pubsubpull.carry(g."position", g.done, table_id, s) IS NULL
  GROUP BY l.retention
$$;
COMMENT ON FUNCTION pubsubpull.loses_place_at(pubsubpull.progress, int) IS
  'When a subscription loses its place unless it gets on; NULL: that is further away than a part of the log lasts, or has happened.';

CREATE OR REPLACE FUNCTION pubsubpull.subscriptions_at_risk() RETURNS TABLE (name text, loses_place_at timestamptz)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
  WITH old AS MATERIALIZED (
    SELECT t.quiet_xid, t.quiet_id FROM pubsubpull.slot t, pubsubpull.log l WHERE t.quiet_at < clock_timestamp() - l.retention * 0.75
  ), late AS MATERIALIZED ( -- few, if any: only these are looked into
    SELECT g AS progress FROM pubsubpull.progress g WHERE EXISTS (SELECT FROM old) AND EXISTS (SELECT FROM old o WHERE pubsubpull.is_behind(g."position", o.quiet_xid, o.quiet_id))
  )
  SELECT s.name, r.at FROM late JOIN pubsubpull.subscription s ON s.id = (late.progress).subscription
  CROSS JOIN LATERAL pubsubpull.loses_place_at(late.progress, s.table_id) r(at), pubsubpull.log l
  WHERE r.at < clock_timestamp() + l.retention * 0.25
  ORDER BY r.at, s.name
$$;
COMMENT ON FUNCTION pubsubpull.subscriptions_at_risk() IS
  'Subscriptions that have less than a quarter of the retention left before they lose their place, and when they do.';

DROP FUNCTION IF EXISTS pubsubpull.lost_text(); -- knew one reason only
CREATE OR REPLACE FUNCTION pubsubpull.lost_text(g pubsubpull.progress) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN pg_catalog.pg_snapshot_xmax((g."position").since) = '2' THEN 'lost its place: the database was restored from a dump or copied'
              ELSE 'lost its place: changes it had not sent are older than what is kept' END
    || '; start again with PUT {"since": "now"} or {"since": "beginning"} to …/position, then PUT {"state": "active"} to …/state'
$$;
COMMENT ON FUNCTION pubsubpull.lost_text(pubsubpull.progress) IS 'Why a subscription was disabled that lost its place, and how it starts again.';

-- A subscription begins when its table is published. So it has seen all, or the table was published anew since.
CREATE OR REPLACE FUNCTION pubsubpull.is_interrupted(p pubsubpull.position, table_id int) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (SELECT FROM pubsubpull.published q WHERE q.id = is_interrupted.table_id AND q.interrupted AND NOT pg_visible_in_snapshot(q.whole_since, p.since));
END $$;
COMMENT ON FUNCTION pubsubpull.is_interrupted(pubsubpull.position, int) IS 'Whether the table was for a time not published that a follower there has yet to come to.';

CREATE OR REPLACE FUNCTION pubsubpull.interrupted_text() RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT 'lost its place: its table was not published for a time, and what was changed then is not known; start again with PUT {"since": "now"} or {"since": "beginning"} to …/position, then PUT {"state": "active"} to …/state'
$$;
COMMENT ON FUNCTION pubsubpull.interrupted_text() IS 'Why a subscription was disabled whose table was not published for a time, and how it starts again.';

CREATE OR REPLACE FUNCTION pubsubpull.disable_interrupted(table_id int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT s.name FROM pubsubpull.subscription s JOIN pubsubpull.progress g ON g.subscription = s.id
              WHERE s.table_id = disable_interrupted.table_id AND s.state <> 'disabled' AND pubsubpull.is_interrupted(g."position", s.table_id) ORDER BY s.id LOOP
    PERFORM pubsubpull.set_state(name, 'disabled', pubsubpull.interrupted_text());
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.disable_interrupted(int) IS 'Disables the subscriptions of a table that was published anew: in the same transaction, so that none gets past it.';

CREATE OR REPLACE FUNCTION pubsubpull.place_warning(g pubsubpull.progress, loses_place_at timestamptz) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
  SELECT CASE
    WHEN pubsubpull.is_copy() THEN 'nothing is sent: the database was restored from a dump or copied, and no administrator has called SELECT pubsubpull.adopt_log() yet'
    WHEN pubsubpull.is_lost(g."position") THEN pubsubpull.lost_text(g)
    WHEN pubsubpull.is_interrupted(g."position", (SELECT s.table_id FROM pubsubpull.subscription s WHERE s.id = g.subscription)) THEN pubsubpull.interrupted_text()
    WHEN loses_place_at < clock_timestamp() + l.retention * 0.25 THEN
      format('loses its place in the log at %s, when the changes it has to send next are dropped', to_char(loses_place_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) END
  FROM pubsubpull.log l
$$;
COMMENT ON FUNCTION pubsubpull.place_warning(pubsubpull.progress, timestamptz) IS 'What a subscription''s document says of a place that is lost or about to be; else NULL.';

-- --- Rotation ---

CREATE OR REPLACE FUNCTION pubsubpull.slot_table(number int) RETURNS regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT concat('pubsubpull.change', '_' || nullif(number, -1))::regclass $$;
COMMENT ON FUNCTION pubsubpull.slot_table(int) IS 'The table of a slot.';

CREATE OR REPLACE FUNCTION pubsubpull.is_target(number int) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT FROM pubsubpull.published q JOIN pg_class c ON c.oid = q.relation WHERE q.unpublished_at IS NULL AND q.slot = number)
$$;
COMMENT ON FUNCTION pubsubpull.is_target(int) IS 'Whether any trigger function writes to a slot.';

CREATE OR REPLACE FUNCTION pubsubpull.is_written(number int) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT pubsubpull.is_target(number)
    OR EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.relation = pubsubpull.slot_table(number)
                 AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
$$;
COMMENT ON FUNCTION pubsubpull.is_written(int) IS 'Whether any trigger function writes to a slot, or a transaction that did is open.';

-- As they are but for the table: publishing anew could change more (a column of the key was renamed, say), and that is not for the night.
CREATE OR REPLACE FUNCTION pubsubpull.redirect(p pubsubpull.published, target int) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  definition text;
BEGIN
  FOR definition IN
    SELECT regexp_replace(pg_get_functiondef(f.oid), 'INSERT INTO pubsubpull\.change_[0-9] \(', format('INSERT INTO pubsubpull.change_%s (', target), 'g')
    FROM pg_proc f WHERE f.pronamespace = 'pubsubpull'::regnamespace
      AND f.proname = ANY (ARRAY(SELECT format('log_%s_%s', p.id, event) FROM unnest('{insert,update,delete,truncate,row}'::text[]) event)) LOOP
    EXECUTE definition;
  END LOOP;
  UPDATE pubsubpull.published q SET slot = target WHERE q.id = p.id;
END $$;
COMMENT ON FUNCTION pubsubpull.redirect(pubsubpull.published, int) IS 'Lets the trigger functions of a table write to another slot.';

CREATE OR REPLACE FUNCTION pubsubpull.rotate_slot(span interval) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
  old_slot CONSTANT int := pubsubpull.current_slot();
  new_slot int := old_slot;
  used boolean;
  p pubsubpull.published;
  n int := 0;
BEGIN
  IF (SELECT s.since < clock_timestamp() - span FROM pubsubpull.slot s WHERE s.number = old_slot)
     AND NOT EXISTS (SELECT FROM pubsubpull.slot s WHERE s.until IS NULL AND s.since IS NOT NULL AND s.number <> old_slot) THEN
    EXECUTE format('SELECT EXISTS (SELECT FROM pubsubpull.change_%s)', old_slot) INTO used;
    IF used THEN
      SELECT s.number INTO new_slot FROM pubsubpull.slot s WHERE s.since IS NULL AND s.number >= 0 ORDER BY s.number < old_slot, s.number LIMIT 1;
    END IF;
    UPDATE pubsubpull.slot s SET since = clock_timestamp() WHERE s.number = new_slot;
  END IF;
  new_slot := pubsubpull.current_slot();
  FOR p IN SELECT q.* FROM pubsubpull.published q JOIN pg_class c ON c.oid = q.relation AND c.relkind IN ('r', 'p')
           WHERE q.unpublished_at IS NULL AND q.slot IS DISTINCT FROM new_slot LIMIT 20 FOR NO KEY UPDATE OF q SKIP LOCKED LOOP
    PERFORM pubsubpull.redirect(p, new_slot);
    n := n + 1;
  END LOOP;
  UPDATE pubsubpull.slot s SET until = clock_timestamp() WHERE s.since IS NOT NULL AND s.until IS NULL AND s.number <> new_slot AND NOT pubsubpull.is_target(s.number);
  RETURN n = 20;
END $$;
COMMENT ON FUNCTION pubsubpull.rotate_slot(interval) IS
  'Makes an empty slot the current one when the current one is older than span and not empty, and rewrites trigger functions that do not write to it, some at a time. Returns whether there are more.';

-- The id is read before it is looked who writes: whoever comes later all the same, with a function that was just being called, draws higher ones.
CREATE OR REPLACE FUNCTION pubsubpull.close_slots() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s pubsubpull.slot;
  id bigint;
BEGIN
  UPDATE pubsubpull.slot q SET quiet_at = NULL, quiet_xid = NULL, quiet_id = NULL, mark = NULL
  WHERE q.quiet_xid >= pg_snapshot_xmax(pg_current_snapshot()); -- restored from a dump of another cluster, where numbers were higher
  FOR s IN SELECT * FROM pubsubpull.slot q WHERE q.until < clock_timestamp() - interval '1 second' AND q.mark IS NULL LOOP
    IF s.quiet_at IS NOT NULL THEN
      UPDATE pubsubpull.slot q SET mark = pubsubpull.begin_batch(pubsubpull.first_position()) WHERE q.number = s.number;
    ELSE
      id := pubsubpull.last_id();
      UPDATE pubsubpull.slot q SET quiet_at = clock_timestamp(), quiet_xid = pg_current_xact_id(), quiet_id = id
      WHERE q.number = s.number AND NOT pubsubpull.is_written(s.number);
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.close_slots() IS 'Notes which slots no open transaction has written to, and later, for that has to be committed, a position behind them.';

-- --- Dropping ---

CREATE OR REPLACE FUNCTION pubsubpull.give_up(subscription int, change bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_variable
DECLARE
  was pubsubpull.delivery;
BEGIN
  SELECT * INTO was FROM pubsubpull.delivery d WHERE d.subscription = give_up.subscription AND d.change = give_up.change FOR UPDATE;
  UPDATE pubsubpull.delivery d SET state = 'failed', next_at = NULL, batch = NULL, last_at = coalesce(d.last_at, clock_timestamp()),
    error = left(concat('the change is older than what is kept and cannot be sent any more', '; before: ' || d.error), 2000)
  WHERE d.subscription = give_up.subscription AND d.change = give_up.change AND d.state = 'pending';
  IF NOT FOUND THEN
    RETURN;
  END IF;
  UPDATE pubsubpull.progress g SET given_up = g.given_up + 1 WHERE g.subscription = give_up.subscription;
  PERFORM pubsubpull.promote(subscription, was.lane);
  IF was.batch IS NOT NULL AND was.next_at IS NOT NULL THEN
    PERFORM pubsubpull.hand_on(subscription, was.batch, was.next_at, was.claimed);
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.give_up(int, bigint) IS 'Makes a pending delivery a failure because its change is not kept any more.';

CREATE OR REPLACE FUNCTION pubsubpull.give_up_deliveries(s pubsubpull.slot, most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  d record;
  n int := 0;
BEGIN
  FOR d IN EXECUTE format('SELECT d.subscription, d.change FROM pubsubpull.delivery d JOIN pubsubpull.subscription q ON q.id = d.subscription'
      ' WHERE d.state = ''pending'' AND d.change BETWEEN 1 AND $1 AND EXISTS (SELECT FROM ONLY %s c WHERE c.table_id = q.table_id AND c.id = d.change)'
      ' ORDER BY d.subscription, d.change LIMIT $2 FOR UPDATE OF d SKIP LOCKED', pubsubpull.slot_table(s.number)) USING s.quiet_id, most LOOP
    PERFORM pubsubpull.give_up(d.subscription, d.change);
    n := n + 1;
  END LOOP;
  RETURN n;
END $$;
COMMENT ON FUNCTION pubsubpull.give_up_deliveries(pubsubpull.slot, int) IS 'Makes failures of deliveries that wait with a change in the slot, at most most; returns how many.';

CREATE OR REPLACE FUNCTION pubsubpull.disable_lost(s pubsubpull.slot) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  g record;
  moved pubsubpull.position;
BEGIN
  FOR g IN SELECT q.*, t.name, t.table_id, t.state FROM pubsubpull.progress q JOIN pubsubpull.subscription t ON t.id = q.subscription
           WHERE pubsubpull.is_behind(q."position", s.quiet_xid, s.quiet_id) AND NOT pubsubpull.is_lost(q."position")
           ORDER BY q.subscription FOR UPDATE OF q LOOP
    moved := pubsubpull.carry(g."position", g.done, g.table_id, s);
    IF NOT (moved IS NULL) THEN
      UPDATE pubsubpull.progress q SET "position" = moved WHERE q.subscription = g.subscription;
      CONTINUE;
    END IF;
    IF g.state <> 'disabled' THEN -- else the reason it was disabled for is kept; that its place is lost is seen from its position
      PERFORM pubsubpull.set_state(g.name, 'disabled', pubsubpull.lost_text(NULL));
    END IF;
    RETURN NEXT g.name;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.disable_lost(pubsubpull.slot) IS 'Disables the subscriptions that have changes of the slot before them; returns their names.';

-- Only readers can have to wait for the lock, for lock_timeout at most. What is done before is undone when it cannot be had.
CREATE OR REPLACE FUNCTION pubsubpull.drop_slot(s pubsubpull.slot) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
  lost text[];
  late boolean;
BEGIN
  lost := ARRAY(SELECT pubsubpull.disable_lost(s));
  UPDATE pubsubpull.log l SET floor_xid = greatest(l.floor_xid, s.quiet_xid), floor_id = greatest(l.floor_id, s.quiet_id),
    floor_drop = pg_current_xact_id(), floor_at = greatest(l.floor_at, s.until);
  EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', pubsubpull.slot_table(s.number));
  EXECUTE format('SELECT EXISTS (SELECT FROM pubsubpull.published p WHERE EXISTS (SELECT FROM ONLY %s c WHERE c.table_id = p.id AND c.id > $1))',
                 pubsubpull.slot_table(s.number)) INTO late USING s.quiet_id;
  IF late THEN
    RAISE object_in_use;
  END IF;
  EXECUTE format('TRUNCATE ONLY %s', pubsubpull.slot_table(s.number));
  IF s.number >= 0 THEN
    PERFORM pubsubpull.index_slot(s.number);
  END IF;
  UPDATE pubsubpull.slot q SET since = NULL, until = NULL, quiet_at = NULL, quiet_xid = NULL, quiet_id = NULL, mark = NULL WHERE q.number = s.number;
  RETURN lost;
EXCEPTION
  WHEN lock_not_available OR deadlock_detected THEN
    RETURN NULL;
  WHEN object_in_use THEN -- somebody wrote to it after all; it has to grow old again
    UPDATE pubsubpull.slot q SET quiet_at = NULL, quiet_xid = NULL, quiet_id = NULL, mark = NULL WHERE q.number = s.number;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pubsubpull.drop_slot(pubsubpull.slot) IS
  'Empties a slot; disables subscriptions that lose their place by that and returns their names. NULL: not now, it is in use.';

-- Ids are UUIDv7 and begin with the time. A change refers to its request for as long as it is kept.
CREATE OR REPLACE FUNCTION pubsubpull.prune_requests(before timestamptz, most int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  top CONSTANT uuid := rpad(lpad(to_hex((extract(epoch FROM greatest(before, 'epoch')) * 1000)::bigint), 12, '0'), 32, '0')::uuid;
  n int;
BEGIN
  DELETE FROM pubsubpull.request r WHERE r.id = ANY (ARRAY(
    SELECT q.id FROM pubsubpull.request q WHERE q.id < top AND coalesce(q.started < before, true) ORDER BY q.id LIMIT most FOR UPDATE SKIP LOCKED));
  GET DIAGNOSTICS n = ROW_COUNT;
  DELETE FROM pubsubpull.request_late l WHERE l.ctid = ANY (ARRAY(
    SELECT q.ctid FROM pubsubpull.request_late q WHERE (q.record->>'id')::uuid < top LIMIT most FOR UPDATE SKIP LOCKED));
  RETURN n;
END $$;
COMMENT ON FUNCTION pubsubpull.prune_requests(timestamptz, int) IS 'Deletes requests that began before a time, at most most; returns how many.';

-- --- What the notifier calls ---

CREATE OR REPLACE FUNCTION pubsubpull.notify_maintain(retention int, OUT event text, OUT name text, OUT at text, OUT seconds int)
RETURNS SETOF record LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' SET TimeZone = 'UTC' AS $$
DECLARE
  keep CONSTANT interval := retention * interval '1 second';
  rest boolean;
  s pubsubpull.slot;
  lost text[];
BEGIN
  seconds := 60;
  event := 'next';
  IF NOT pg_try_advisory_xact_lock(hashtext('pubsubpull.maintain')) THEN -- another server does it
    RETURN NEXT;
    RETURN;
  END IF;
  UPDATE pubsubpull.log l SET retention = keep WHERE l.retention IS DISTINCT FROM keep;
  IF pubsubpull.is_copy() THEN
    event := 'copied';
    RETURN NEXT;
    event := 'next';
    RETURN NEXT;
    RETURN;
  END IF;
  event := 'silent';
  FOR name IN
    WITH w AS (
      SELECT q.id, x.names FROM pubsubpull.published q CROSS JOIN LATERAL (SELECT pubsubpull.silent(q) AS names) x
      WHERE x.names IS NOT NULL AND pubsubpull.table_name(q.relation) IS NOT NULL),
    told AS (
      INSERT INTO pubsubpull.warned AS t (table_id, at) SELECT w.id, clock_timestamp() FROM w
      ON CONFLICT (table_id) DO UPDATE SET at = excluded.at WHERE t.at < clock_timestamp() - interval '1 hour' RETURNING t.table_id)
    SELECT w.names FROM w JOIN told ON told.table_id = w.id ORDER BY 1
  LOOP
    RETURN NEXT;
  END LOOP;
  event := 'interrupted';
  FOR name IN
    WITH w AS (
      SELECT g.subscription, t.name AS lost_name FROM pubsubpull.published q JOIN pubsubpull.subscription t ON t.table_id = q.id JOIN pubsubpull.progress g ON g.subscription = t.id
      WHERE q.interrupted AND t.state = 'disabled' AND pubsubpull.is_interrupted(g."position", q.id) AND coalesce(g.warned_at < clock_timestamp() - interval '1 hour', true)
      FOR NO KEY UPDATE OF g SKIP LOCKED),
    told AS (UPDATE pubsubpull.progress g SET warned_at = clock_timestamp() FROM w WHERE g.subscription = w.subscription)
    SELECT w.lost_name FROM w ORDER BY 1
  LOOP
    RETURN NEXT;
  END LOOP;
  event := 'next'; name := NULL;
  IF keep IS NULL THEN
    RETURN NEXT;
    RETURN;
  END IF;
  rest := pubsubpull.rotate_slot(keep / 6);
  PERFORM pubsubpull.close_slots();
  SELECT * INTO s FROM pubsubpull.slot q WHERE NOT (q.mark IS NULL) AND q.quiet_at < clock_timestamp() - keep ORDER BY q.quiet_at LIMIT 1;
  IF FOUND AND pubsubpull.give_up_deliveries(s, 1000) = 1000 THEN
    rest := true;
  ELSIF FOUND THEN
    lost := pubsubpull.drop_slot(s);
    IF lost IS NOT NULL THEN
      event := 'dropped'; at := to_char(s.until, 'YYYY-MM-DD"T"HH24:MI:SS"Z"');
      RETURN NEXT;
      event := 'lost';
      FOREACH name IN ARRAY lost LOOP
        RETURN NEXT;
      END LOOP;
      rest := true;
    END IF;
  END IF;
  event := 'risk';
  FOR name, at IN SELECT r.name, to_char(r.loses_place_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM pubsubpull.subscriptions_at_risk() r LOOP
    UPDATE pubsubpull.progress g SET warned_at = clock_timestamp()
    WHERE g.subscription IN (SELECT q.subscription FROM pubsubpull.progress q JOIN pubsubpull.subscription t ON t.id = q.subscription
                             WHERE t.name = notify_maintain.name AND coalesce(q.warned_at < clock_timestamp() - interval '1 hour', true) FOR UPDATE OF q SKIP LOCKED);
    IF FOUND THEN
      RETURN NEXT;
    END IF;
  END LOOP;
  -- Overdue: it could not be emptied, or transactions that wrote to it are still open.
  event := 'stuck'; name := NULL;
  SELECT to_char(min(q.until), 'YYYY-MM-DD"T"HH24:MI:SS"Z"') INTO at FROM pubsubpull.slot q
  WHERE coalesce(q.quiet_at, q.until + keep / 6) < clock_timestamp() - keep - greatest(keep / 6, interval '5 minutes');
  IF at IS NOT NULL THEN
    RETURN NEXT;
  END IF;
  IF pubsubpull.prune_requests(least(clock_timestamp() - keep * 7 / 6, (SELECT min(q.since) FROM pubsubpull.slot q) - interval '1 hour'), 3000) = 3000 THEN
    rest := true;
  END IF;
  event := 'next'; at := NULL;
  seconds := CASE WHEN rest THEN 0 ELSE greatest(1, least(60, retention / 12)) END;
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION pubsubpull.notify_maintain(int) IS
  'Keeps the log as long as the notifier says (retention: seconds; NULL: for ever); called about once a minute. Returns what is worth a line in its log, and last, in how many seconds to call again.';
