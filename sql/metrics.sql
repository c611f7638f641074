-- SPDX-License-Identifier: Apache-2.0
-- metrics.sql: how subscriptions are doing, all at once and with bounded work, for monitoring.

-- Transactions that were under way when a snapshot was taken (see feed.sql) and have ended since: nothing else of then can appear.
CREATE OR REPLACE FUNCTION pubsubpull.ended_xids(since pg_snapshot, next bigint) RETURNS SETOF xid8
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
  SELECT x FROM (SELECT * FROM pg_snapshot_xip(since)
                 UNION ALL SELECT n::text::xid8 FROM generate_series(pg_snapshot_xmax(since)::text::bigint, next - 1) n) o(x)
  WHERE pg_visible_in_snapshot(x, pg_current_snapshot())
$$;
COMMENT ON FUNCTION pubsubpull.ended_xids(pg_snapshot, bigint) IS 'Transactions that were under way at a snapshot and have ended since. next: no number from there on was given out then.';

-- Like feed, up to now and without the rows. At most most changes of each table are looked at, and of each transaction that ended late.
CREATE OR REPLACE FUNCTION pubsubpull.lag(p pubsubpull.position, done bigint[], tables int[], most int,
  OUT table_id int, OUT changes int, OUT oldest timestamptz)
RETURNS SETOF record LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
  start CONSTANT bigint := greatest(p.since_id, p.after_id);
  look CONSTANT int := most + cardinality(done);
  late CONSTANT xid8[] := ARRAY(SELECT x FROM pubsubpull.ended_xids(p.since, p.since_next) x
                                UNION SELECT x FROM pubsubpull.ended_xids(p.upto, p.upto_next) x);
BEGIN
  RETURN QUERY
    SELECT u.table_id, least(count(*), most)::int, min(u.at)
    FROM (SELECT c.* FROM unnest(tables) t CROSS JOIN LATERAL (
            SELECT l.table_id, l.id, l.xid, l.at FROM pubsubpull.change l WHERE l.table_id = t AND l.id > start ORDER BY l.id LIMIT look) c
          UNION ALL
          SELECT c.* FROM unnest(late) x CROSS JOIN LATERAL (
            SELECT l.table_id, l.id, l.xid, l.at FROM pubsubpull.change l WHERE l.xid = x AND l.id <= start ORDER BY l.id DESC LIMIT look) c
          WHERE c.table_id = ANY (tables)) u
    WHERE NOT pg_visible_in_snapshot(u.xid, p.since)
      AND NOT coalesce(u.id <= p.after_id AND pg_visible_in_snapshot(u.xid, p.upto), false)
      AND u.id NOT IN (SELECT d FROM unnest(done) d)
    GROUP BY u.table_id;
END $$;
COMMENT ON FUNCTION pubsubpull.lag(pubsubpull.position, bigint[], int[], int) IS
  'How many changes of each of these tables follow a position, except those in done, counted up to most, and the time of the oldest; only tables that have some.';

CREATE OR REPLACE FUNCTION pubsubpull.age_seconds(at timestamptz) RETURNS numeric
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$ SELECT round(coalesce(extract(epoch FROM greatest(clock_timestamp() - at, '0')), 0)::numeric, 3) $$;
COMMENT ON FUNCTION pubsubpull.age_seconds(timestamptz) IS 'How long ago a time is, in seconds to three decimals; 0 for NULL.';

DO $$ BEGIN
  IF to_regclass('pubsubpull.delivery_failed') IS NULL THEN
    CREATE INDEX delivery_failed ON pubsubpull.delivery (subscription) WHERE state = 'failed';
  END IF;
END $$;

CREATE OR REPLACE FUNCTION pubsubpull.count_deliveries(subscription int, most int, OUT parked int, OUT first bigint, OUT failed int)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
  SELECT w.n, w.first, f.n
  FROM (SELECT count(*)::int AS n, min(p.change) AS first FROM (
          SELECT d.change FROM pubsubpull.delivery d WHERE d.subscription = count_deliveries.subscription AND d.state = 'pending' LIMIT most) p) w,
       (SELECT count(*)::int AS n FROM (
          SELECT FROM pubsubpull.delivery d WHERE d.subscription = count_deliveries.subscription AND d.state = 'failed' LIMIT most) q) f
$$;
COMMENT ON FUNCTION pubsubpull.count_deliveries(int, int) IS 'How many deliveries of a subscription are parked, and were given up, each counted up to most, and the first of those parked.';

-- Subscriptions that stand at the same place share one look into the log. A first look counts up to 100; what is above that shares a
-- million changes, and a quarter of a million deliveries, to count on.
DROP FUNCTION IF EXISTS pubsubpull.metrics(); -- what it returns may grow
CREATE FUNCTION pubsubpull.metrics(OUT name text, OUT state text, OUT lag_changes int, OUT lag_seconds numeric, OUT oldest_pending_seconds numeric,
  OUT parked int, OUT failed int, OUT given_up bigint, OUT at_risk int)
RETURNS SETOF record LANGUAGE sql STABLE ROWS 100 SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
  WITH place AS MATERIALIZED (
    SELECT row_number() OVER () AS number, g."position"::text AS "position", g.done, array_agg(s.id) AS subscriptions, array_agg(DISTINCT s.table_id) AS tables
    FROM pubsubpull.progress g JOIN pubsubpull.subscription s ON s.id = g.subscription GROUP BY 2, 3
  ), behind AS MATERIALIZED (
    SELECT p.number, p."position"::pubsubpull.position AS "position", p.done, l.table_id, l.changes
    FROM place p CROSS JOIN LATERAL pubsubpull.lag(p."position"::pubsubpull.position, p.done, p.tables, 100) l
  ), most_changes AS MATERIALIZED (
    SELECT greatest(100, least(10000, 1000000 / greatest(1, count(*))))::int AS n FROM behind WHERE changes = 100
  ), lag AS MATERIALIZED (
    SELECT b.number, l.table_id, l.changes, l.oldest
    FROM behind b CROSS JOIN LATERAL pubsubpull.lag(b."position", b.done, ARRAY[b.table_id], (SELECT n FROM most_changes)) l
  ), holding AS MATERIALIZED (
    SELECT g.subscription, c.parked, c.failed
    FROM pubsubpull.progress g CROSS JOIN LATERAL pubsubpull.count_deliveries(g.subscription, 100) c WHERE c.parked > 0 OR c.failed > 0
  ), most_deliveries AS MATERIALIZED (
    SELECT greatest(100, least(10000, 250000 / greatest(1, count(*))))::int AS n FROM holding WHERE parked = 100 OR failed = 100
  ), held AS MATERIALIZED (
    SELECT h.subscription, c.* FROM holding h CROSS JOIN LATERAL pubsubpull.count_deliveries(h.subscription, (SELECT n FROM most_deliveries)) c
  )
  SELECT s.name, s.state, coalesce(l.changes, 0), pubsubpull.age_seconds(l.oldest),
         pubsubpull.age_seconds(least(l.oldest, coalesce(
           (SELECT c.at FROM pubsubpull.change c WHERE c.table_id = s.table_id AND c.id = h.first),
           (SELECT d.first_at FROM pubsubpull.delivery d WHERE d.subscription = s.id AND d.change = h.first)))),
         coalesce(h.parked, 0), coalesce(h.failed, 0), g.given_up, (r.name IS NOT NULL)::int
  FROM place p CROSS JOIN LATERAL unnest(p.subscriptions) AS u(id)
  JOIN pubsubpull.subscription s ON s.id = u.id
  JOIN pubsubpull.progress g ON g.subscription = s.id
  LEFT JOIN lag l ON l.number = p.number AND l.table_id = s.table_id
  LEFT JOIN held h ON h.subscription = s.id
  LEFT JOIN pubsubpull.subscriptions_at_risk() r ON r.name = s.name
  ORDER BY s.name
$$;
COMMENT ON FUNCTION pubsubpull.metrics() IS
  'How each subscription is doing: changes after its position and the age of the oldest, that of the oldest that is not delivered or is to be tried again, parked deliveries, those given up now and ever. Counts stop at 10000, or sooner where many subscriptions are far behind.';

CREATE OR REPLACE FUNCTION pubsubpull.unattributed_counts(OUT reason text, OUT changes bigint) RETURNS SETOF record
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
  SELECT r::text, coalesce((SELECT sum(u.changes) FROM pubsubpull.unattributed_count u WHERE u.reason = r), 0)::bigint
  FROM unnest(enum_range(NULL::pubsubpull.unattributed)) r
$$;
COMMENT ON FUNCTION pubsubpull.unattributed_counts() IS 'How many changes were logged whose session named a request that is not believed, by reason. What was pruned since or is believed now stays counted.';
