-- SPDX-License-Identifier: Apache-2.0
-- feed.sql: where a follower stands in the log, and what comes next: snapshots, not ids.
--
-- Ids are drawn before commit, so "id greater than the last I saw" loses rows. A position therefore holds the snapshot up to
-- which everything was seen. What comes next is what a newer snapshot shows and the old one did not: changes of
-- transactions that began to write after the old snapshot (their ids are above the sequence's value read before it), and
-- those of the transactions that were under way then, looked up one by one: the snapshot lists those below its xmax, and
-- since xmax is only the last completed one plus one, those from there up to the next number to be given out belong to them
-- too. So a transaction that stays open delays its own changes only and costs nothing. Between two snapshots the order is
-- that of ids: per key, commit order.

CREATE TABLE IF NOT EXISTS pubsubpull.log (
  secret     text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX IF NOT EXISTS log_one ON pubsubpull.log ((true));
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pubsubpull.log'::regclass AND attname = 'tag' AND NOT attisdropped) THEN
    ALTER TABLE pubsubpull.log DROP COLUMN tag; -- was the identity once; see log_tag
  END IF;
END $$;
INSERT INTO pubsubpull.log (secret) VALUES (gen_random_uuid()::text) ON CONFLICT DO NOTHING;
COMMENT ON TABLE pubsubpull.log IS 'What makes cursors of this log known from others: a secret';

CREATE TABLE IF NOT EXISTS pubsubpull.origin (made_at timestamptz NOT NULL DEFAULT now());
CREATE UNIQUE INDEX IF NOT EXISTS origin_one ON pubsubpull.origin ((true));
INSERT INTO pubsubpull.origin DEFAULT VALUES ON CONFLICT DO NOTHING;
COMMENT ON TABLE pubsubpull.origin IS 'One row that is never updated: which transaction wrote it tells a log from its copy by dump and restore';

-- Cursors hold transaction numbers, so a copy in which these begin anew must not take them for its own. A restored row of origin was
-- written by another transaction than the first one was; physical copies (fail-over, backups) keep it and count on, pg_upgrade too.
CREATE OR REPLACE FUNCTION pubsubpull.log_tag() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (
    SELECT substr(md5(concat_ws(' ', l.secret, d.oid, o.tableoid::oid, o.xmin)), 1, 8)
    FROM pubsubpull.log l, pubsubpull.origin o, pg_database d WHERE d.datname = current_database());
END $$;
COMMENT ON FUNCTION pubsubpull.log_tag() IS 'The name of this log in cursors; another one after a restore from a dump, or in another database.';

CREATE TABLE IF NOT EXISTS pubsubpull.home (tag text NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS home_one ON pubsubpull.home ((true));
INSERT INTO pubsubpull.home SELECT pubsubpull.log_tag() ON CONFLICT DO NOTHING;
COMMENT ON TABLE pubsubpull.home IS 'The log_tag() of where this log belongs; where that is another one, this is a copy; see adopt.sql';

CREATE OR REPLACE FUNCTION pubsubpull.is_copy() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT h.tag <> pubsubpull.log_tag() FROM pubsubpull.home h);
END $$;
COMMENT ON FUNCTION pubsubpull.is_copy() IS 'Whether this log was restored from a dump, or copied with its database, and not adopted yet.';

DO $$ BEGIN
  IF to_regtype('pubsubpull.position') IS NULL THEN
    CREATE TYPE pubsubpull.position AS (
      since      pg_snapshot, -- everything this snapshot shows was seen
      since_id   bigint,      -- the sequence's value just before it
      since_next bigint,      -- no transaction number from here on was given out when it was taken
      upto       pg_snapshot, -- within a batch: what is being read now; NULL between batches
      upto_id    bigint,      -- as since_id, for upto
      upto_next  bigint,      -- as since_next, for upto
      top_id     bigint,      -- no change that upto shows has a higher id
      after_id   bigint,      -- last change of the batch that was seen
      "rows"     text         -- while existing rows are sent first: key of the last one, '' at the start; NULL: changes
    );
  END IF;
END $$;
COMMENT ON TYPE pubsubpull.position IS 'Where a follower stands in the log; see feed.sql';

CREATE OR REPLACE FUNCTION pubsubpull.last_id() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM pubsubpull.change_id s);
END $$;
COMMENT ON FUNCTION pubsubpull.last_id() IS 'The highest id drawn so far, by anybody, committed or not.';

-- PostgreSQL has no function for the next transaction number, but refuses to tell the status of one that lies in the future.
CREATE OR REPLACE FUNCTION pubsubpull.next_xid(first xid8) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  number bigint := first::text::bigint;
  step bigint := 4;
BEGIN
  LOOP
    PERFORM pg_xact_status(number::text::xid8);
    number := number + step;
    step := step * 4;
  END LOOP;
EXCEPTION WHEN invalid_parameter_value THEN
  RETURN number;
END $$;
COMMENT ON FUNCTION pubsubpull.next_xid(xid8) IS
  'A transaction number, not below first, from which on none has been given out yet; seldom more than a few above the next one.';

-- In REPEATABLE READ the snapshot is older than the sequence's value; the highest id that it shows is a lower bound as well.
-- On a standby a snapshot does not list who is under way, so all from its xmin on count as that; and the sequence's value runs ahead
-- of the last one drawn, by up to the 32 that the primary logs at a time.
CREATE OR REPLACE FUNCTION pubsubpull.now_position() RETURNS pubsubpull.position
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  standby CONSTANT boolean := pg_is_in_recovery();
  p pubsubpull.position;
BEGIN
  IF current_setting('transaction_isolation') = 'read committed' THEN
    p.since_id := CASE WHEN standby THEN greatest(pubsubpull.last_id() - 32, 0) ELSE pubsubpull.last_id() END;
  ELSE
    p.since_id := coalesce((SELECT max(c.id) FROM pubsubpull.published t
      CROSS JOIN LATERAL (SELECT id FROM pubsubpull.change WHERE table_id = t.id ORDER BY id DESC LIMIT 1) c), 0);
  END IF;
  p.since := pg_current_snapshot();
  p.since_next := pubsubpull.next_xid(pg_snapshot_xmax(p.since));
  IF standby THEN
    p.since := concat(pg_snapshot_xmin(p.since), ':', pg_snapshot_xmin(p.since), ':')::pg_snapshot;
  END IF;
  RETURN p;
END $$;
COMMENT ON FUNCTION pubsubpull.now_position() IS
  'The position of a follower that wants only what is committed from now on. The id is read before the snapshot and the transaction number after it: the order matters.';

-- After a crash the server gives out ids and transaction numbers anew that were in no WAL on disk, and what they stand for then would be
-- taken for seen by who holds an older position. So none goes out before that WAL is on disk: mostly somebody's commit does it.
CREATE OR REPLACE FUNCTION pubsubpull.is_flushed() RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  needed pg_lsn;
BEGIN
  IF pg_is_in_recovery() THEN
    RETURN true;
  END IF;
  needed := pg_current_wal_insert_lsn();
  FOR turn IN 1 .. 5 LOOP
    IF pg_current_wal_flush_lsn() >= needed THEN
      RETURN true;
    END IF;
    EXIT WHEN current_setting('synchronous_commit') = 'off'; -- nobody's commit does it soon
    PERFORM pg_sleep(0.001);
  END LOOP;
  RETURN false;
END $$;
COMMENT ON FUNCTION pubsubpull.is_flushed() IS 'Whether all that a position taken before knows will survive a crash; waits for that, but not long.';

CREATE OR REPLACE FUNCTION pubsubpull.await_flush() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT pubsubpull.is_flushed() THEN
    PERFORM set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, 'pubsubpull', ''); -- our own commit does it
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.await_flush() IS 'When the transaction ends, all that a position taken before knows will survive a crash.';

CREATE OR REPLACE FUNCTION pubsubpull.is_later(later pg_snapshot, earlier pg_snapshot) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (
    SELECT pg_snapshot_xmax(later) >= pg_snapshot_xmax(earlier) AND NOT EXISTS (SELECT FROM pg_snapshot_xip(later) x WHERE pg_visible_in_snapshot(x, earlier)));
END $$;
COMMENT ON FUNCTION pubsubpull.is_later(pg_snapshot, pg_snapshot) IS 'Whether all that the earlier snapshot shows is shown by the later one as well.';

CREATE OR REPLACE FUNCTION pubsubpull.first_position() RETURNS pubsubpull.position
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ROW('1:1:', 0, 1, NULL, NULL, NULL, NULL, NULL, NULL)::pubsubpull.position
$$;
COMMENT ON FUNCTION pubsubpull.first_position() IS 'The position before the first change of the log.';

-- Starts a batch if none is under way: what is visible now and was not. One that several share may end at a position which they
-- have in common, unless the follower has seen more than that already. One who has seen more than there is, as the primary showed
-- it and this is a standby, gets an empty batch and stays where he is.
DROP FUNCTION IF EXISTS pubsubpull.begin_batch(pubsubpull.position); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.begin_batch(p pubsubpull.position, target pubsubpull.position DEFAULT NULL) RETURNS pubsubpull.position
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  q pubsubpull.position := target;
BEGIN
  IF p.upto IS NOT NULL THEN
    RETURN p;
  END IF;
  IF q.since IS NULL OR q.since_id < p.since_id OR NOT pubsubpull.is_later(q.since, p.since) THEN
    q := pubsubpull.now_position();
  END IF;
  p.top_id := pubsubpull.last_id();
  IF NOT pubsubpull.is_later(q.since, p.since) THEN
    q := p;
    p.top_id := 0;
  END IF;
  p.upto := q.since;
  p.upto_id := q.since_id;
  p.upto_next := q.since_next;
  p.after_id := 0;
  RETURN p;
END $$;
COMMENT ON FUNCTION pubsubpull.begin_batch(pubsubpull.position, pubsubpull.position) IS 'The position with a batch under way, which ends now or at target.';

CREATE OR REPLACE FUNCTION pubsubpull.lags(p pubsubpull.position) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN pg_is_in_recovery() AND p.upto IS NOT NULL AND pg_snapshot_xmin(pg_current_snapshot()) < pg_snapshot_xmax(p.upto);
END $$;
COMMENT ON FUNCTION pubsubpull.lags(pubsubpull.position) IS 'Whether this is a standby that does not yet have all of the batch under way.';

CREATE OR REPLACE FUNCTION pubsubpull.end_batch(p pubsubpull.position) RETURNS pubsubpull.position
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ROW(p.upto, p.upto_id, p.upto_next, NULL, NULL, NULL, NULL, NULL, NULL)::pubsubpull.position
$$;
COMMENT ON FUNCTION pubsubpull.end_batch(pubsubpull.position) IS 'The position after all of the batch under way.';

-- A short window is one index range on xid for all tables together; a long one an index range per table, in id order, that ends at
-- the limit. Both in each part of the log. And one for each transaction that was under way. Settings: the plan is made once, perhaps
-- while all is empty, and has to be right for ever. What retention dropped meanwhile is noticed after reading, with a newer
-- snapshot (hence VOLATILE): what was read is locked until the end of the transaction, so nothing of it can be dropped any more.
CREATE OR REPLACE FUNCTION pubsubpull.feed(p pubsubpull.position, tables int[], most int) RETURNS SETOF pubsubpull.change
LANGUAGE plpgsql VOLATILE ROWS 500 SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off
SET enable_sort = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  first_xid CONSTANT xid8 := p.since_next::text::xid8;
  upto CONSTANT pg_snapshot := p.upto; -- fields of p cost more at each row
  end_xid CONSTANT xid8 := pg_snapshot_xmax(upto);
  top_id CONSTANT bigint := p.top_id;
  after_id CONSTANT bigint := p.after_id;
  first_id CONSTANT bigint := greatest(p.since_id, after_id);
  open_xids CONSTANT xid8[] := ARRAY(
    SELECT x FROM (SELECT * FROM pg_snapshot_xip(p.since)
                   UNION ALL SELECT n::text::xid8 FROM generate_series(pg_snapshot_xmax(p.since)::text::bigint, p.since_next - 1) n) o(x)
    WHERE pg_visible_in_snapshot(x, upto));
BEGIN
  IF top_id <= first_id AND open_xids = '{}' THEN
    NULL; -- nothing can have come
  ELSIF top_id - first_id <= least(2000, 20 * cardinality(tables)) THEN
    RETURN QUERY -- the sum keeps the planner from looking for each table
      SELECT u.* FROM (
        SELECT * FROM pubsubpull.change l
        WHERE l.xid >= first_xid AND l.xid < end_xid AND l.id > first_id AND l.id <= top_id AND pg_visible_in_snapshot(l.xid, upto)
          AND l.table_id + 0 = ANY (tables)
        UNION ALL
        SELECT c.* FROM unnest(open_xids) x CROSS JOIN LATERAL (
          SELECT * FROM pubsubpull.change l
          WHERE l.xid = x AND l.id > after_id AND l.table_id + 0 = ANY (tables)
          ORDER BY l.id LIMIT most) c) u
      ORDER BY u.id LIMIT most;
  ELSE
    RETURN QUERY
      SELECT u.* FROM (
        SELECT c.* FROM unnest(tables) t CROSS JOIN LATERAL (
          SELECT * FROM pubsubpull.change l
          WHERE l.table_id = t AND l.id > first_id AND l.id <= top_id AND l.xid >= first_xid AND pg_visible_in_snapshot(l.xid, upto)
          ORDER BY l.id LIMIT most) c
        UNION ALL
        SELECT c.* FROM unnest(open_xids) x CROSS JOIN LATERAL (
          SELECT * FROM pubsubpull.change l
          WHERE l.xid = x AND l.id > after_id AND l.table_id + 0 = ANY (tables)
          ORDER BY l.id LIMIT most) c) u
      ORDER BY u.id LIMIT most;
  END IF;
  PERFORM pubsubpull.check_place(p);
END $$;
COMMENT ON FUNCTION pubsubpull.feed(pubsubpull.position, int[], int) IS
  'The next changes of these tables after a position with a batch under way (begin_batch), in order, at most most; problem 410 when some were dropped.';

-- The length of a large value is known without fetching it.
CREATE OR REPLACE FUNCTION pubsubpull.feed_page(p pubsubpull.position, tables int[], most int, most_bytes bigint, OUT page pubsubpull.change[], OUT more boolean)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN -- not in SQL: that is planned anew for each read
  SELECT array_agg(x.c ORDER BY x.id) FILTER (WHERE x.kept), count(*) = most OR NOT coalesce(bool_and(x.kept), true) INTO page, more
  FROM (SELECT f::pubsubpull.change AS c, f.id,
               coalesce(sum(CASE WHEN f.table_id = 0 THEN (f.new->>'size')::bigint ELSE coalesce(octet_length(f.old::text), 0) + coalesce(octet_length(f.new::text), 0) END)
                        OVER (ORDER BY f.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) < most_bytes AS kept
        FROM pubsubpull.feed(p, tables, most) f) x;
END $$;
COMMENT ON FUNCTION pubsubpull.feed_page(pubsubpull.position, int[], int, bigint) IS
  'The next changes as an array (NULL: none), cut at most changes or when the rows in them exceed most_bytes, but one at least; more: whether it was cut.';

CREATE OR REPLACE FUNCTION pubsubpull.all_tables() RETURNS int[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT coalesce(array_agg(id), '{}') FROM pubsubpull.published WHERE id <> 0 $$;
COMMENT ON FUNCTION pubsubpull.all_tables() IS 'Ids of all tables that are or were published.';

-- Cursors (in PL/pgSQL, which keeps plans where SQL functions are planned at every call): the position as text that clients need not understand, with a check so that nothing but ours is taken. Numbers are
-- hexadecimal with the last digit from G to V, so none needs a separator; a snapshot's transactions are given by their distances,
-- most of which take one character.
CREATE OR REPLACE FUNCTION pubsubpull.pack(numbers bigint[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  packed text;
  n bigint;
BEGIN
  FOREACH n IN ARRAY numbers LOOP
    packed := concat(packed, left(to_hex(n), -1), translate(to_hex(n & 15), '0123456789abcdef', 'GHIJKLMNOPQRSTUV'));
  END LOOP;
  RETURN packed;
END $$;
COMMENT ON FUNCTION pubsubpull.pack(bigint[]) IS 'Numbers as short text without separators; unpack is the inverse.';

CREATE OR REPLACE FUNCTION pubsubpull.unpack(packed text) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (
    SELECT array_agg(('x' || lpad(translate(m[1], 'GHIJKLMNOPQRSTUV', '0123456789abcdef'), 16, '0'))::bit(64)::bigint ORDER BY n)
    FROM regexp_matches(packed, '[0-9a-f]{0,15}[G-V]', 'g') WITH ORDINALITY AS r(m, n));
END $$;
COMMENT ON FUNCTION pubsubpull.unpack(text) IS 'The numbers that pack made text of.';

CREATE OR REPLACE FUNCTION pubsubpull.snapshot_numbers(snapshot pg_snapshot) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF pg_snapshot_xmin(snapshot) = pg_snapshot_xmax(snapshot) THEN -- nothing was under way, as is common
    RETURN ARRAY[pg_snapshot_xmin(snapshot)::text::bigint, 0, 0];
  END IF;
  RETURN (
    WITH x AS (SELECT n, n - lag(n, 1, pg_snapshot_xmin(snapshot)::text::bigint) OVER (ORDER BY n) AS distance
               FROM (SELECT v::text::bigint AS n FROM pg_snapshot_xip(snapshot) v) y)
    SELECT ARRAY[pg_snapshot_xmin(snapshot)::text::bigint, pg_snapshot_xmax(snapshot)::text::bigint - pg_snapshot_xmin(snapshot)::text::bigint, (SELECT count(*) FROM x)]
           || ARRAY(SELECT distance FROM x ORDER BY n));
END $$;
COMMENT ON FUNCTION pubsubpull.snapshot_numbers(pg_snapshot) IS 'A snapshot as small numbers: xmin, distance of xmax, how many transactions were open, the distance of each from the one before.';

CREATE OR REPLACE FUNCTION pubsubpull.numbers_snapshot(numbers bigint[]) RETURNS pg_snapshot
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (
    SELECT concat(numbers[1], ':', numbers[1] + numbers[2], ':',
                  (SELECT string_agg(x::text, ',' ORDER BY n)
                   FROM (SELECT n, numbers[1] + sum(d) OVER (ORDER BY n) AS x FROM unnest(numbers[4:3 + numbers[3]]) WITH ORDINALITY AS u(d, n)) y))::pg_snapshot);
END $$;
COMMENT ON FUNCTION pubsubpull.numbers_snapshot(bigint[]) IS 'The snapshot of which snapshot_numbers made these numbers; more may follow them.';

CREATE OR REPLACE FUNCTION pubsubpull.cursor_head(p pubsubpull.position) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  numbers bigint[] := ARRAY[p.since_id, p.since_next] || pubsubpull.snapshot_numbers(p.since);
BEGIN
  IF p.upto IS NOT NULL THEN
    numbers := numbers || ARRAY[p.upto_id, p.upto_next, p.top_id] || pubsubpull.snapshot_numbers(p.upto);
  END IF;
  RETURN concat('2', pubsubpull.log_tag(), pubsubpull.pack(numbers));
END $$;
COMMENT ON FUNCTION pubsubpull.cursor_head(pubsubpull.position) IS 'The part of a cursor that is the same for all changes of a batch.';

CREATE OR REPLACE FUNCTION pubsubpull.cursor_text(head text, after_id bigint, secret text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT concat(head, '.', after_id, '.', substr(md5(concat(secret, head, '.', after_id)), 1, 10))
$$;
COMMENT ON FUNCTION pubsubpull.cursor_text(text, bigint, text) IS 'A cursor: head, last change seen in the batch, check.';

CREATE OR REPLACE FUNCTION pubsubpull.cursor_encode(p pubsubpull.position) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  head CONSTANT text := pubsubpull.cursor_head(p);
BEGIN
  RETURN (SELECT pubsubpull.cursor_text(head, p.after_id, l.secret) FROM pubsubpull.log l);
END $$;
COMMENT ON FUNCTION pubsubpull.cursor_encode(pubsubpull.position) IS 'The cursor of a position.';

CREATE OR REPLACE FUNCTION pubsubpull.gone(slug text, detail text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT pubsubpull.problem(410, slug, detail, 'Start again: GET all rows and follow their "changes" link, or GET changes without since.')
$$;
COMMENT ON FUNCTION pubsubpull.gone(text, text) IS 'Problem 410: a cursor that was good once leads nowhere any more.';

CREATE OR REPLACE FUNCTION pubsubpull.cursor_decode(cursor text) RETURNS pubsubpull.position
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  head CONSTANT text := split_part(cursor, '.', 1);
  p pubsubpull.position;
  numbers bigint[];
  known boolean;
BEGIN
  known := length(cursor) <= 16000 AND cursor ~ '^2[0-9a-f]{8}[0-9a-fG-V]+[G-V]\.[0-9]{0,18}\.[0-9a-f]{10}$';
  IF known AND substr(head, 2, 8) <> pubsubpull.log_tag() THEN
    PERFORM pubsubpull.gone('other-log', 'This cursor belongs to another log: the one here was created anew or restored from a dump.');
  END IF;
  IF cursor ~ '^MT[A-Za-z0-9_-]{10,}\.[0-9]{0,18}\.[0-9a-f]{10}$' THEN -- the base64 of "1;"
    PERFORM pubsubpull.gone('old-cursor', 'This cursor was given out by the first version of this schema.');
  END IF;
  IF known IS NOT TRUE OR cursor <> (SELECT pubsubpull.cursor_text(head, nullif(split_part(cursor, '.', 2), '')::bigint, l.secret) FROM pubsubpull.log l) THEN
    PERFORM pubsubpull.problem(400, 'bad-cursor', 'This is not a cursor that was given out here.',
                               'Use the "next" or "changes" URL of an earlier answer as it is, or since=now, or leave since out to start at the beginning.');
  END IF;
  numbers := pubsubpull.unpack(substr(head, 10));
  p.since_id := numbers[1];
  p.since_next := numbers[2];
  p.since := pubsubpull.numbers_snapshot(numbers[3:]);
  numbers := numbers[6 + numbers[5]:];
  IF numbers <> '{}' THEN
    p.upto_id := numbers[1];
    p.upto_next := numbers[2];
    p.top_id := numbers[3];
    p.upto := pubsubpull.numbers_snapshot(numbers[4:]);
    p.after_id := split_part(cursor, '.', 2)::bigint;
  END IF;
  -- A server that was set back to an earlier state gives the numbers after it out again. One that lags behind is a standby.
  IF NOT pg_is_in_recovery() AND (p.since_id > pubsubpull.last_id() OR pg_snapshot_xmax(coalesce(p.upto, p.since)) > pg_snapshot_xmax(pg_current_snapshot())) THEN
    PERFORM pubsubpull.gone('log-set-back', 'This cursor is ahead of the log: the database was set back to an earlier state.');
  END IF;
  RETURN pubsubpull.check_place(p);
END $$;
COMMENT ON FUNCTION pubsubpull.cursor_decode(text) IS
  'The position of a cursor; problem 400 for a text that is no cursor of ours, 410 for one of another log or older than what is retained.';

-- What was changed while a table was not published is not in the log, so a cursor from before must not pass over it in silence. Who
-- follows all tables loses nothing by one that is published for the first time.
CREATE OR REPLACE FUNCTION pubsubpull.check_whole(p pubsubpull.position, tables int[], single boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  t pubsubpull.published;
BEGIN
  IF p.since::text = ((pubsubpull.first_position()).since)::text THEN
    RETURN;
  END IF;
  SELECT q.* INTO t FROM pubsubpull.published q
  WHERE q.id = ANY (tables) AND (single OR q.interrupted) AND NOT pg_visible_in_snapshot(q.whole_since, p.since) ORDER BY q.id LIMIT 1;
  IF FOUND THEN
    PERFORM pubsubpull.gone('not-published-then', format('This cursor is from a time when %s was not published: changes of it are missing in the log.',
                                                         coalesce(pubsubpull.table_name(t.relation), t.name)));
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_whole(pubsubpull.position, int[], boolean) IS
  'Problem 410 when a table''s changes since the position are not all in the log, as it was not published for a time. single: the position is one in this table''s changes alone.';

CREATE OR REPLACE FUNCTION pubsubpull.parse_since(since text) RETURNS pubsubpull.position
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (since IS NULL OR since = 'beginning') AND pubsubpull.is_copy() THEN
    PERFORM pubsubpull.problem(503, 'log-copied', 'This log was restored from a dump or copied with its database, and does not begin until an administrator has adopted it.',
                               'An administrator calls SELECT pubsubpull.adopt_log(); since=now works meanwhile.');
  END IF;
  RETURN CASE WHEN since IS NULL OR since = 'beginning' THEN pubsubpull.first_position()
              WHEN since = 'now' THEN pubsubpull.now_position()
              ELSE pubsubpull.cursor_decode(since) END;
END $$;
COMMENT ON FUNCTION pubsubpull.parse_since(text) IS 'The position that since means: a cursor, now, or beginning (also NULL).';

CREATE OR REPLACE FUNCTION pubsubpull.change_type(type "char") RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE type WHEN 'I' THEN 'insert' WHEN 'U' THEN 'update' WHEN 'D' THEN 'delete' WHEN 'T' THEN 'truncate' WHEN 'R' THEN 'row' WHEN 'Q' THEN 'request' END
$$;
COMMENT ON FUNCTION pubsubpull.change_type("char") IS 'The word for a type of change.';

-- Text of {"column": value, …} for the key of a change. One column of a number type, the common case, is the key's text itself.
-- key_object, cursor_text and change_json have no SET clause and are STABLE, as concat is: so the planner puts their bodies in place of the calls.
CREATE OR REPLACE FUNCTION pubsubpull.key_members(key text[], row_json json) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT concat('{', string_agg(concat(to_json(k), ':', coalesce((row_json->k)::text, 'null')), ',' ORDER BY n), '}')
  FROM unnest(key) WITH ORDINALITY AS u(k, n)
$$;
COMMENT ON FUNCTION pubsubpull.key_members(text[], json) IS 'The JSON object that holds the key''s columns of a row.';

CREATE OR REPLACE FUNCTION pubsubpull.key_object(key text[], plain text, url_key text, row_json json) RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN url_key IS NULL THEN 'null' WHEN plain IS NOT NULL THEN plain || url_key || '}' ELSE pubsubpull.key_members(key, row_json) END
$$;
COMMENT ON FUNCTION pubsubpull.key_object(text[], text, text, json) IS 'The JSON object that holds a row''s key.';

-- What is the same for all changes of a table when they are shown.
CREATE OR REPLACE FUNCTION pubsubpull.shown_tables(tables int[], base text,
  OUT id int, OUT name_json text, OUT url text, OUT key text[], OUT plain text)
RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p pubsubpull.published;
  name text;
BEGIN
  FOR p IN SELECT q.* FROM pubsubpull.published q WHERE q.id = ANY (shown_tables.tables) LOOP
    name := coalesce(pubsubpull.table_name(p.relation), p.name);
    id := p.id;
    name_json := to_json(name);
    url := pubsubpull.table_url(base, name);
    key := p.key;
    plain := NULL;
    IF cardinality(p.key) = 1 AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p.relation AND a.attname = p.key[1] AND a.atttypid = ANY ('{int2,int4,int8}'::regtype[])) THEN
      plain := concat('{', to_json(p.key[1]), ':');
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.shown_tables(int[], text) IS 'Names, URLs and keys of tables, as documents show them. plain: how the object of a key begins that is one whole number.';

-- Looked up for each change of a page: as a part of the query that reads the page this costs an eighth of what a function does. A text that
-- is NULL makes its member NULL, and concat leaves that out.
CREATE OR REPLACE VIEW pubsubpull.request_document AS
  SELECT r.id, concat('{"id":"', r.id, '"', ',"method":' || to_json(r.method), ',"host":' || to_json(r.host), ',"path":' || to_json(r.path), ',"query":' || to_json(r.query),
    ',"user":' || to_json(r."user"), ',"remote":' || to_json(r.remote), ',"agent":' || to_json(r.agent), ',"started":' || to_json(r.started),
    ',"headers":' || json_strip_nulls(r.headers::json), ',"cause":"' || r.cause || '"', ',"status":' || r.status, ',"bytes":' || r.bytes,
    ',"duration":' || extract(epoch FROM r.duration), '}') AS json
  FROM pubsubpull.request r WHERE r.claimed IS NULL;
COMMENT ON VIEW pubsubpull.request_document IS 'Recorded requests as JSON objects, as text.';

CREATE OR REPLACE FUNCTION pubsubpull.request_json(request uuid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT q.json FROM pubsubpull.request_document q WHERE q.id = request
$$;
COMMENT ON FUNCTION pubsubpull.request_json(uuid) IS 'The JSON object of a recorded request; NULL when there is none.';
