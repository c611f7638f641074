-- SPDX-License-Identifier: Apache-2.0
-- adopt.sql: a log that was restored from a dump or copied with its database: nothing is sent from it until an administrator says so.
--
-- Transaction numbers begin anew there, so the positions of subscriptions and the numbers in the log are of another world; and whoever copies
-- a database to try something does not want its copy to send notifications. Until adopt_log() was called, subscriptions rest and "from the
-- beginning" is refused. Changes are logged as ever, and who follows from now on misses nothing.

-- What is here although its transaction is not is of another world, and older than all that began here: 3 is the first number there is.
CREATE OR REPLACE FUNCTION pubsubpull.adopt_log() RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  here CONSTANT text := pubsubpull.log_tag();
  now CONSTANT pg_snapshot := pg_current_snapshot();
  name text;
  text text;
  n int := 0;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE 'adopt_log() must be called in a transaction that is READ COMMITTED';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('pubsubpull.maintain'));
  UPDATE pubsubpull.home h SET tag = here WHERE h.tag <> here;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  UPDATE pubsubpull.change c SET xid = '3' WHERE c.xid >= pg_snapshot_xmin(now) AND NOT pg_visible_in_snapshot(c.xid, now);
  UPDATE pubsubpull.published p SET whole_since = '3' WHERE NOT pg_visible_in_snapshot(p.whole_since, now);
  UPDATE pubsubpull.slot s SET quiet_at = NULL, quiet_xid = NULL, quiet_id = NULL, mark = NULL WHERE s.quiet_at IS NOT NULL; -- found out anew
  UPDATE pubsubpull.log l SET floor_xid = '3', floor_id = coalesce(l.floor_id, 0), floor_drop = '3', floor_at = coalesce(l.floor_at, clock_timestamp());
  UPDATE pubsubpull.progress g SET holder = NULL, epoch = g.epoch + 1, done = '{}', "position" = ROW('2:2:', 0, 2, NULL, NULL, NULL, NULL, NULL, NULL)::pubsubpull.position;
  FOR name, text IN SELECT s.name, pubsubpull.lost_text(g) FROM pubsubpull.subscription s JOIN pubsubpull.progress g ON g.subscription = s.id ORDER BY s.id LOOP
    PERFORM pubsubpull.set_state(name, 'disabled', text);
    n := n + 1;
  END LOOP;
  PERFORM nextval('pubsubpull.generation');
  RETURN n;
END $$;
COMMENT ON FUNCTION pubsubpull.adopt_log() IS
  'Makes a log that was restored from a dump, or copied with its database, the one of this database: subscriptions are disabled until they are told where to start. Returns how many; 0 and nothing done when the log is not a copy. For administrators.';
