-- SPDX-License-Identifier: Apache-2.0
-- lease.sql: which notifier serves which subscriptions.
--
-- A notifier holds subscriptions while its own row is alive (database time). Every taking over raises the subscription's
-- epoch, and what is said under an older epoch is refused. All calls are short transactions; none is open while a PUT is under way.

-- Unlogged: a crash of the server empties it. The positions that notifiers have in memory are worth nothing then, for ids and
-- transaction numbers that were in no WAL on disk are given out anew: they must begin where they saved last.
CREATE UNLOGGED TABLE IF NOT EXISTS pubsubpull.notifier (
  id          uuid PRIMARY KEY,
  alive_until timestamptz NOT NULL
);
DO $$ BEGIN
  IF (SELECT relpersistence FROM pg_class WHERE oid = 'pubsubpull.notifier'::regclass) <> 'u' THEN
    ALTER TABLE pubsubpull.notifier SET UNLOGGED;
  END IF;
END $$;
COMMENT ON TABLE pubsubpull.notifier IS 'Notifiers (one per httpd server) that deliver, or did until alive_until';

CREATE OR REPLACE FUNCTION pubsubpull.generation_now() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS 'SELECT g.last_value FROM pubsubpull.generation g';
COMMENT ON FUNCTION pubsubpull.generation_now() IS 'Differs from an earlier answer when any subscription was changed.';

-- How the active subscriptions are spread: every notifier alive holds its share of them, the whole divided by their number, rounded up.
CREATE OR REPLACE FUNCTION pubsubpull.notify_shares(notifier uuid,
  OUT held bigint, OUT epochs numeric, OUT versions numeric, OUT free bigint, OUT share bigint, OUT lacking bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  WITH alive AS MATERIALIZED (
    SELECT n.id FROM pubsubpull.notifier n WHERE n.alive_until > clock_timestamp()
  ), holders AS MATERIALIZED (
    SELECT g.holder, count(*) AS n, sum(g.epoch) AS epochs, sum(s.version) AS versions
    FROM pubsubpull.progress g JOIN pubsubpull.subscription s ON s.id = g.subscription WHERE s.state = 'active' GROUP BY g.holder
  ), fair AS (
    SELECT ceil(coalesce((SELECT sum(h.n) FROM holders h), 0) / greatest((SELECT count(*) FROM alive), 1)) AS share
  )
  SELECT coalesce(sum(h.n) FILTER (WHERE h.holder = notifier), 0), coalesce(sum(h.epochs) FILTER (WHERE h.holder = notifier), 0),
         coalesce(sum(h.versions) FILTER (WHERE h.holder = notifier), 0),
         coalesce(sum(h.n) FILTER (WHERE h.holder IS DISTINCT FROM notifier AND NOT EXISTS (SELECT FROM alive a WHERE a.id = h.holder)), 0),
         (SELECT f.share FROM fair f),
         (SELECT coalesce(sum(greatest(f.share - coalesce(o.n, 0), 0)), 0) FROM fair f, alive a LEFT JOIN holders o ON o.holder = a.id WHERE a.id <> notifier)
  INTO held, epochs, versions, free, share, lacking FROM holders h;
END $$;
COMMENT ON FUNCTION pubsubpull.notify_shares(uuid) IS
  'What a notifier holds (how many, with the sums of their epochs and versions), how many nobody alive holds, its share, and how many all others lack.';

CREATE OR REPLACE FUNCTION pubsubpull.notify_parked(notifier uuid) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
  RETURN (
    WITH RECURSIVE w(subscription) AS ( -- one look into the index for each that has any
      SELECT min(d.subscription) FROM pubsubpull.delivery d WHERE d.state = 'pending'
      UNION ALL
      SELECT (SELECT min(d.subscription) FROM pubsubpull.delivery d WHERE d.state = 'pending' AND d.subscription > w.subscription) FROM w WHERE w.subscription IS NOT NULL)
    SELECT string_agg(concat(w.subscription, ':', (
             SELECT count(*) FROM (SELECT FROM pubsubpull.delivery d WHERE d.state = 'pending' AND d.subscription = w.subscription LIMIT 10000) x)), ',')
    FROM w JOIN pubsubpull.progress g ON g.subscription = w.subscription WHERE g.holder = notifier);
END $$;
COMMENT ON FUNCTION pubsubpull.notify_parked(uuid) IS
  'subscription:deliveries that wait to be tried again (counted up to 10000), comma-joined, of the subscriptions that a notifier holds and that have any.';

-- Called every second by every notifier: cheap however many subscriptions there are. held, epochs and versions tell the notifier whether it
-- knows what it holds; generation cannot, for it moves before the change is committed.
CREATE OR REPLACE FUNCTION pubsubpull.notify_renew(notifier uuid, seconds int,
  OUT held bigint, OUT epochs numeric, OUT versions numeric, OUT takes bigint, OUT gives bigint, OUT parked text, OUT next_ms int)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  s record;
  copied boolean;
BEGIN
  UPDATE pubsubpull.notifier n SET alive_until = clock_timestamp() + seconds * interval '1 second' WHERE n.id = notifier;
  IF NOT FOUND THEN -- new, or the server crashed
    UPDATE pubsubpull.progress g SET holder = NULL, epoch = g.epoch + 1
    WHERE g.subscription = ANY (ARRAY(SELECT q.subscription FROM pubsubpull.progress q WHERE q.holder = notifier ORDER BY q.subscription FOR UPDATE));
    INSERT INTO pubsubpull.notifier AS n (id, alive_until) VALUES (notifier, clock_timestamp() + seconds * interval '1 second');
  END IF;
  copied := pubsubpull.is_copy();
  IF copied THEN -- what is known of positions is of another world
    UPDATE pubsubpull.progress g SET holder = NULL, epoch = g.epoch + 1 WHERE g.holder IS NOT NULL;
  END IF;
  PERFORM pubsubpull.record_late();
  DELETE FROM pubsubpull.notifier n WHERE n.alive_until < clock_timestamp() - interval '1 hour';
  SELECT * INTO s FROM pubsubpull.notify_shares(notifier);
  held := s.held; epochs := s.epochs; versions := s.versions;
  takes := CASE WHEN copied THEN 0 ELSE greatest(least(s.free, s.share - s.held), 0) END;
  gives := greatest(least(s.held - s.share, s.lacking - s.free), 0);
  parked := pubsubpull.notify_parked(notifier);
  next_ms := ceil(1000 * extract(epoch FROM (SELECT min(n.alive_until) FROM pubsubpull.notifier n WHERE n.id <> notifier AND n.alive_until > clock_timestamp()) - clock_timestamp()));
END $$;
COMMENT ON FUNCTION pubsubpull.notify_renew(uuid, int) IS
  'Says that a notifier is alive for some seconds more. Returns what it holds (see notify_shares), how many subscriptions it may take and should give to others, what is parked, and in how many milliseconds another notifier''s time is over unless it renews.';

DROP FUNCTION IF EXISTS pubsubpull.notify_lease(uuid, int); -- renewed, too, and gave all that is held
DROP FUNCTION IF EXISTS pubsubpull.notify_lease(uuid, int[], bigint[], bigint[]); -- gave less back once
CREATE OR REPLACE FUNCTION pubsubpull.notify_lease(notifier uuid, ids int[], epochs bigint[], versions bigint[],
  OUT id int, OUT epoch bigint, OUT version bigint, OUT name text, OUT callback text, OUT key text, OUT table_name text,
  OUT "position" text, OUT done text, OUT timeout int, OUT concurrency int, OUT retry_first int, OUT retry_max int, OUT parked bigint,
  OUT headers text, OUT secrets text, OUT format text, OUT batch int, OUT rate float8, OUT latest boolean, OUT calls boolean)
RETURNS SETOF record LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  WITH shares AS MATERIALIZED (
    SELECT CASE WHEN pubsubpull.is_copy() THEN 0 ELSE greatest(h.share - h.held, 0) END AS most FROM pubsubpull.notify_shares(notifier) h
  ), free AS MATERIALIZED (
    SELECT q.subscription FROM pubsubpull.progress q JOIN pubsubpull.subscription s ON s.id = q.subscription
    WHERE s.state = 'active' AND q.holder IS DISTINCT FROM notifier
      AND NOT EXISTS (SELECT FROM pubsubpull.notifier n WHERE n.id = q.holder AND n.alive_until > clock_timestamp())
    ORDER BY q.subscription LIMIT (SELECT most FROM shares)
    FOR UPDATE OF q SKIP LOCKED
  )
  UPDATE pubsubpull.progress g SET holder = notifier, epoch = g.epoch + 1 WHERE g.subscription = ANY (ARRAY(SELECT subscription FROM free));
  -- What was fetched to be tried and was not, by a holder before or before the subscription changed, is due.
  UPDATE pubsubpull.delivery d SET next_at = clock_timestamp(), claimed = false
  WHERE (d.subscription, d.change) IN (
    SELECT q.subscription, q.change FROM pubsubpull.delivery q
    WHERE q.state = 'pending' AND q.next_at IS NOT NULL AND q.claimed AND q.subscription = ANY (ARRAY(
      SELECT g.subscription FROM pubsubpull.progress g WHERE g.holder = notifier AND g.subscription <> ALL (ids)))
    FOR UPDATE OF q SKIP LOCKED);
  FOR id IN SELECT k FROM unnest(ids) k
            WHERE NOT EXISTS (SELECT FROM pubsubpull.progress g JOIN pubsubpull.subscription s ON s.id = g.subscription
                              WHERE g.subscription = k AND g.holder = notifier AND s.state = 'active') LOOP
    RETURN NEXT;
  END LOOP;
  RETURN QUERY
    SELECT s.id, g.epoch, s.version, s.name, s.callback,
           coalesce((SELECT string_agg(pubsubpull.percent_encode(k), ',' ORDER BY n) FROM unnest(CASE WHEN s.requests IS NULL THEN p.key ELSE '{id}' END) WITH ORDINALITY AS u(k, n)), ''),
           coalesce(pubsubpull.table_name(p.relation), p.name), g."position"::text, array_to_string(g.done, ','),
           s.timeout, s.concurrency, s.retry_first, s.retry_max,
           (SELECT count(*) FROM pubsubpull.delivery d WHERE d.subscription = s.id AND d.state = 'pending'),
           (SELECT string_agg(h.key || ': ' || h.value, E'\n') FROM jsonb_each_text(s.headers) h),
           concat_ws(',', s.secret, CASE WHEN s.old_secret_until > clock_timestamp() THEN s.old_secret END), s.format, s.batch, s.rate, s.latest, s.requests IS NOT NULL
    FROM pubsubpull.progress g JOIN pubsubpull.subscription s ON s.id = g.subscription JOIN pubsubpull.published p ON p.id = coalesce((s.requests->>'table')::int, s.table_id)
    WHERE g.holder = notifier AND s.state = 'active'
      AND (s.id, g.epoch, s.version) NOT IN (SELECT * FROM unnest(ids, epochs, versions));
END $$;
COMMENT ON FUNCTION pubsubpull.notify_lease(uuid, int[], bigint[], bigint[]) IS
  'Takes subscriptions that nobody alive holds, as far as they are the notifier''s share. Returns those it holds whose epoch or version is not the one it knows, and of those it knows and does not hold (any more) the id only.';

CREATE OR REPLACE FUNCTION pubsubpull.notify_give(notifier uuid, ids int[], epochs bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE pubsubpull.progress g SET holder = NULL
  WHERE g.subscription = ANY (ids) AND g.holder = notifier AND (g.subscription, g.epoch) IN (SELECT * FROM unnest(ids, epochs));
  PERFORM nextval('pubsubpull.generation');
END $$;
COMMENT ON FUNCTION pubsubpull.notify_give(uuid, int[], bigint[]) IS 'Gives subscriptions to whoever has less; the notifier is done with them.';

-- Its successor on the same server starts in a moment and has the first call on what it holds; when there is none, others take it a second later.
CREATE OR REPLACE FUNCTION pubsubpull.notify_leave(notifier uuid) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  UPDATE pubsubpull.notifier n SET alive_until = least(n.alive_until, clock_timestamp() + interval '1 second') WHERE n.id = notifier;
$$;
COMMENT ON FUNCTION pubsubpull.notify_leave(uuid) IS 'A notifier is going away.';

-- Who waits for nobody is in no deadlock: what a last call of that notifier still locks is held by nobody alive a moment later.
CREATE OR REPLACE FUNCTION pubsubpull.notify_release(notifier uuid) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  UPDATE pubsubpull.progress g SET holder = NULL
  WHERE g.subscription = ANY (ARRAY(SELECT q.subscription FROM pubsubpull.progress q WHERE q.holder = notifier FOR UPDATE SKIP LOCKED));
  DELETE FROM pubsubpull.notifier n WHERE n.id = notifier;
$$;
COMMENT ON FUNCTION pubsubpull.notify_release(uuid) IS 'Gives back what a notifier held that is gone, at the word of its successor.';
