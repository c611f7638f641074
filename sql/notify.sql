-- SPDX-License-Identifier: Apache-2.0
-- notify.sql: what the notifier asks and says: leases, events to send, results.
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
BEGIN
  UPDATE pubsubpull.notifier n SET alive_until = clock_timestamp() + seconds * interval '1 second' WHERE n.id = notifier;
  IF NOT FOUND THEN -- new, or the server crashed
    UPDATE pubsubpull.progress g SET holder = NULL, epoch = g.epoch + 1
    WHERE g.subscription = ANY (ARRAY(SELECT q.subscription FROM pubsubpull.progress q WHERE q.holder = notifier ORDER BY q.subscription FOR UPDATE));
    INSERT INTO pubsubpull.notifier AS n (id, alive_until) VALUES (notifier, clock_timestamp() + seconds * interval '1 second');
  END IF;
  PERFORM pubsubpull.record_late();
  DELETE FROM pubsubpull.notifier n WHERE n.alive_until < clock_timestamp() - interval '1 hour';
  SELECT * INTO s FROM pubsubpull.notify_shares(notifier);
  held := s.held; epochs := s.epochs; versions := s.versions;
  takes := greatest(least(s.free, s.share - s.held), 0);
  gives := greatest(least(s.held - s.share, s.lacking - s.free), 0);
  parked := pubsubpull.notify_parked(notifier);
  next_ms := ceil(1000 * extract(epoch FROM (SELECT min(n.alive_until) FROM pubsubpull.notifier n WHERE n.id <> notifier AND n.alive_until > clock_timestamp()) - clock_timestamp()));
END $$;
COMMENT ON FUNCTION pubsubpull.notify_renew(uuid, int) IS
  'Says that a notifier is alive for some seconds more. Returns what it holds (see notify_shares), how many subscriptions it may take and should give to others, what is parked, and in how many milliseconds another notifier''s time is over unless it renews.';

DROP FUNCTION IF EXISTS pubsubpull.notify_lease(uuid, int); -- renewed, too, and gave all that is held
CREATE OR REPLACE FUNCTION pubsubpull.notify_lease(notifier uuid, ids int[], epochs bigint[], versions bigint[],
  OUT id int, OUT epoch bigint, OUT version bigint, OUT name text, OUT callback text, OUT key text, OUT table_name text,
  OUT "position" text, OUT done text, OUT timeout int, OUT concurrency int, OUT retry_first int, OUT retry_max int, OUT parked bigint,
  OUT headers text, OUT secrets text, OUT format text, OUT batch int, OUT rate float8, OUT latest boolean)
RETURNS SETOF record LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
  WITH shares AS MATERIALIZED (
    SELECT greatest(h.share - h.held, 0) AS most FROM pubsubpull.notify_shares(notifier) h
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
           coalesce((SELECT string_agg(pubsubpull.percent_encode(k), ',' ORDER BY n) FROM unnest(p.key) WITH ORDINALITY AS u(k, n)), ''),
           coalesce(pubsubpull.table_name(p.relation), p.name), g."position"::text, array_to_string(g.done, ','),
           s.timeout, s.concurrency, s.retry_first, s.retry_max,
           (SELECT count(*) FROM pubsubpull.delivery d WHERE d.subscription = s.id AND d.state = 'pending'),
           (SELECT string_agg(h.key || ': ' || h.value, E'\n') FROM jsonb_each_text(s.headers) h),
           concat_ws(',', s.secret, CASE WHEN s.old_secret_until > clock_timestamp() THEN s.old_secret END), s.format, s.batch, s.rate, s.latest
    FROM pubsubpull.progress g JOIN pubsubpull.subscription s ON s.id = g.subscription JOIN pubsubpull.published p ON p.id = s.table_id
    WHERE g.holder = notifier AND s.state = 'active'
      AND (s.id, g.epoch, s.version) NOT IN (SELECT * FROM unnest(ids, epochs, versions));
END $$;
COMMENT ON FUNCTION pubsubpull.notify_lease(uuid, int[], bigint[], bigint[]) IS
  'Takes subscriptions that nobody alive holds, as far as they are the notifier''s share. Returns those it holds whose epoch or version is not the one it knows, and of those it knows and does not hold (any more) the id only.';

CREATE OR REPLACE FUNCTION pubsubpull.project(row_json json, columns text[]) RETURNS json
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN row_json IS NOT NULL THEN coalesce((SELECT json_object_agg(j.key, j.value) FROM json_each(row_json) j WHERE j.key = ANY (columns)), '{}') END
$$;
COMMENT ON FUNCTION pubsubpull.project(json, text[]) IS 'A row with these columns only.';

-- In jsonpath a comparison that cannot be made is unknown, not false: that is an error here too, so that nothing is left out silently.
DROP FUNCTION IF EXISTS pubsubpull.wants(pubsubpull.change, text[], jsonpath) CASCADE; -- took an error for a yes once
CREATE OR REPLACE FUNCTION pubsubpull.rejects(c pubsubpull.change, columns text[], "when" jsonpath) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted boolean;
BEGIN
  IF columns IS NOT NULL AND c.type = 'U' AND pubsubpull.project(c.old, columns)::text = pubsubpull.project(c.new, columns)::text THEN
    RETURN '';
  ELSIF "when" IS NULL THEN
    RETURN NULL;
  END IF;
  wanted := jsonb_path_match(jsonb_build_object('id', c.id, 'type', pubsubpull.change_type(c.type), 'at', c.at,
    'old', c.old, 'new', c.new, 'request', pubsubpull.request_json(c.request)::jsonb), "when");
  RETURN CASE WHEN wanted THEN NULL WHEN NOT wanted THEN '' ELSE 'is unknown for this event: it compares values of different types, or members that are missing' END;
EXCEPTION WHEN data_exception THEN
  RETURN 'failed: ' || SQLERRM;
END $$;
COMMENT ON FUNCTION pubsubpull.rejects(pubsubpull.change, text[], jsonpath) IS
  'Why a subscription does not want a change whose table and type fit: NULL: it does, empty: columns (one of them changed) or when (a jsonpath predicate over the event) leave it out, else the error in when.';

-- Rows that existed when a subscription began have no id in the log: a negative number made of the key stands for it.
CREATE OR REPLACE FUNCTION pubsubpull.row_number_of(row_key text) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT -1 - (hashtextextended(row_key, 0) & 9223372036854775806) $$;
COMMENT ON FUNCTION pubsubpull.row_number_of(text) IS 'The number under which an existing row is delivered: stable for its key.';

CREATE OR REPLACE FUNCTION pubsubpull.row_change(table_id int, row_key text, row_json json) RETURNS pubsubpull.change
LANGUAGE sql STABLE AS $$
  SELECT ROW(pubsubpull.row_number_of(row_key), NULL, clock_timestamp(), table_id, 'R', row_key, NULL, NULL, row_json, NULL, NULL, NULL)::pubsubpull.change
$$;
COMMENT ON FUNCTION pubsubpull.row_change(int, text, json) IS 'An existing row in the shape of a change, of type row.';


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

DROP TYPE IF EXISTS pubsubpull.event CASCADE; -- had fewer members once; what returns it follows below
CREATE TYPE pubsubpull.event AS (subscription int, change bigint, key text, barrier boolean, body text, deletes boolean, request uuid, error text);
COMMENT ON TYPE pubsubpull.event IS 'One PUT to be made: key as in URLs, barrier: ordered with everything, body: JSON, deletes: to be made with DELETE, request: what caused it; error: it cannot be made, and why';

-- The events of a page of changes for some subscriptions. head and secret make the cursor behind each change.
CREATE OR REPLACE FUNCTION pubsubpull.events(page pubsubpull.change[], subscriptions int[], head text) RETURNS SETOF pubsubpull.event
LANGUAGE plpgsql STABLE ROWS 500 SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET enable_seqscan = off SET jit = off AS $$
BEGIN -- not in SQL: that is planned anew for each delivery that is tried again
  RETURN QUERY
  WITH s AS MATERIALIZED (
    SELECT q.id, q.table_id, q.types, q.columns, q."when", q.delete_method = 'DELETE' AS deletes, to_json(q.name)::text AS name_json,
           t.name_json AS table_json, t.url, t.key, t.plain, l.secret, CASE WHEN q.format = 'cloudevents' THEN to_json(t.url)::text END AS source_json
    FROM pubsubpull.log l, pubsubpull.subscription q CROSS JOIN LATERAL pubsubpull.shown_tables(ARRAY[q.table_id], q.base) t
    WHERE q.id = ANY (subscriptions) AND q.table_id = ANY (SELECT DISTINCT x.table_id FROM unnest(page) x))
  SELECT s.id, c.id, c.key, c.key IS NULL OR c.old_key IS NOT NULL,
         concat(CASE WHEN s.source_json IS NOT NULL THEN concat('{"specversion":"1.0","id":"psp_', s.id, '_', c.id, '","source":', s.source_json, ',"type":"pubsubpull.',
                       pubsubpull.change_type(c.type), '"', ',"subject":"' || c.key || '"', ',"time":', to_json(c.at), ',"datacontenttype":"application/json","data":') END,
                pubsubpull.change_json(c.id, c.type, c.at, c.key, CASE WHEN s.columns IS NULL THEN c.old ELSE pubsubpull.project(c.old, s.columns) END,
                  CASE WHEN s.columns IS NULL THEN c.new ELSE pubsubpull.project(c.new, s.columns) END, c.request, c.channel, s.table_json, s.url, s.key, s.plain, coalesce(c.new, c.old), c.unattributed),
                ',"subscription":', s.name_json, ',"cursor":', CASE WHEN head = '' OR c.id < 0 THEN 'null' ELSE concat('"', pubsubpull.cursor_text(head, c.id, s.secret), '"') END,
                '}', CASE WHEN s.source_json IS NOT NULL THEN '}' END),
         s.deletes AND c.type = 'D', c.request, CASE WHEN s."when" IS NOT NULL THEN '"when" ' || pubsubpull.rejects(c, s.columns, s."when") END
  FROM unnest(page) c JOIN s ON s.table_id = c.table_id AND (c.type = ANY (s.types) OR c.type = 'R')
  WHERE (s.columns IS NULL AND s."when" IS NULL) OR pubsubpull.rejects(c, s.columns, s."when") IS DISTINCT FROM ''
  ORDER BY c.id, s.id;
END $$;
COMMENT ON FUNCTION pubsubpull.events(pubsubpull.change[], int[], text) IS 'The PUTs that a page of changes means for these subscriptions, in order.';

-- A value that PostgreSQL cannot show (\u0000 in json, or too large a text) must not keep the others from being sent.
CREATE OR REPLACE FUNCTION pubsubpull.events_or_errors(page pubsubpull.change[], subscriptions int[], head text) RETURNS SETOF pubsubpull.event
LANGUAGE plpgsql STABLE ROWS 500 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  c pubsubpull.change;
BEGIN
  BEGIN
    RETURN QUERY SELECT * FROM pubsubpull.events(page, subscriptions, head);
    RETURN;
  EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
    NULL; -- one of them: it will be found out which
  END;
  FOREACH c IN ARRAY page LOOP
    BEGIN
      RETURN QUERY SELECT * FROM pubsubpull.events(ARRAY[c], subscriptions, head);
    EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
      RETURN QUERY SELECT s.id, c.id, c.key, c.key IS NULL OR c.old_key IS NOT NULL, NULL::text, false, c.request, 'the notification cannot be made: ' || SQLERRM
        FROM pubsubpull.subscription s WHERE s.id = ANY (subscriptions) AND s.table_id = c.table_id AND (c.type = ANY (s.types) OR c.type = 'R');
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.events_or_errors(pubsubpull.change[], int[], text) IS 'As events; those that cannot be made have an error, and no body.';

CREATE OR REPLACE FUNCTION pubsubpull.refuse_event(e pubsubpull.event) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO pubsubpull.delivery AS d (subscription, change, lane, row_key, state, first_at, last_at, error)
  VALUES (e.subscription, e.change, CASE WHEN NOT e.barrier THEN e.key END, CASE WHEN e.change < 0 THEN e.key END, 'failed', clock_timestamp(), clock_timestamp(), left(e.error, 2000))
  ON CONFLICT (subscription, change) DO UPDATE SET last_at = excluded.last_at, error = excluded.error WHERE d.state = 'failed'
$$;
COMMENT ON FUNCTION pubsubpull.refuse_event(pubsubpull.event) IS 'Writes down as given up an event that cannot be made; later ones of its key go on.';

-- Nothing is new when no id was drawn since, and of the transactions that were under way then none has ended that wrote to the log. It is
-- asked all the time, so it looks into the sequences itself, where the functions for that would be planned each time.
CREATE OR REPLACE FUNCTION pubsubpull.notify_probe("position" text, OUT quiet boolean, OUT generation bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  p CONSTANT pubsubpull.position := "position"::pubsubpull.position;
  now CONSTANT pg_snapshot := pg_current_snapshot(); -- before the id: what is committed later is found later
  ended xid8[];
BEGIN
  SELECT g.last_value, "position" IS NULL OR (p.upto IS NULL AND p."rows" IS NULL AND p.since_id = CASE WHEN c.is_called THEN c.last_value ELSE 0 END)
  INTO generation, quiet FROM pubsubpull.generation g, pubsubpull.change_id c;
  IF quiet AND p.since::text <> now::text THEN
    ended := ARRAY(SELECT x FROM (SELECT * FROM pg_snapshot_xip(p.since)
                                  UNION ALL SELECT n::text::xid8 FROM generate_series(pg_snapshot_xmax(p.since)::text::bigint, p.since_next - 1) n) o(x)
                   WHERE pg_visible_in_snapshot(x, now));
    quiet := ended = '{}' OR NOT EXISTS (SELECT FROM pubsubpull.change c WHERE c.xid = ANY (ended));
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.notify_probe(text) IS 'Whether certainly nothing came after a position, at a fraction of what reading costs.';

DROP FUNCTION IF EXISTS pubsubpull.notify_read(uuid, jsonb, int); -- gave less back once
CREATE OR REPLACE FUNCTION pubsubpull.notify_read(notifier uuid, groups jsonb, most int,
  OUT "group" int, OUT subscription int, OUT change bigint, OUT key text, OUT body text, OUT "position" text, OUT more boolean, OUT generation bigint, OUT barrier boolean,
  OUT deletes boolean, OUT request uuid)
RETURNS SETOF record LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target CONSTANT pubsubpull.position := pubsubpull.begin_batch(pubsubpull.first_position());
  g record;
  r record;
  p pubsubpull.position;
  e pubsubpull.event;
  page pubsubpull.change[];
  slow int[]; -- those whose events are looked at one by one
  held int[];
  settled text[]; -- subscription:change of this page that are done already
BEGIN
  IF NOT EXISTS (SELECT FROM pubsubpull.notifier a WHERE a.id = notifier) THEN
    RETURN; -- the server crashed, and these positions are from before
  END IF;
  generation := pubsubpull.generation_now();
  FOR g IN SELECT (j.n - 1)::int AS number, (j.value->>'position')::pubsubpull.position AS "position",
                  ARRAY(SELECT i::int FROM jsonb_array_elements_text(j.value->'subscriptions') i) AS ids, (j.value->>'versions')::numeric AS versions
           FROM jsonb_array_elements(groups) WITH ORDINALITY AS j(value, n) LOOP
    "group" := g.number;
    -- Looked at after the target was taken: whoever replaces a subscription and then changes a row has the row sent by the new document.
    IF (SELECT sum(s.version) FROM pubsubpull.subscription s WHERE s.id = ANY (g.ids)) IS DISTINCT FROM g.versions THEN
      subscription := NULL; change := NULL; key := NULL; body := NULL; barrier := NULL; deletes := NULL; request := NULL; more := NULL;
      "position" := g."position"::text;
      RETURN NEXT;
      CONTINUE;
    END IF;
    p := g."position";
    IF pubsubpull.is_lost(p) THEN -- it is disabled, which the new generation tells
      subscription := NULL; change := NULL; key := NULL; body := NULL; barrier := NULL; deletes := NULL; request := NULL;
      "position" := p::text;
      more := false;
      RETURN NEXT;
      CONTINUE;
    ELSIF p."rows" IS NOT NULL THEN
      SELECT * INTO r FROM pubsubpull.rows_page(p, most);
      p := r.p;
    ELSE
      IF p.upto IS NULL THEN -- all groups get the same target, so that those which reach it can be merged
        p.upto := target.upto; p.upto_id := target.upto_id; p.upto_next := target.upto_next; p.top_id := target.top_id; p.after_id := 0;
      END IF;
      SELECT * INTO r FROM pubsubpull.feed_page(p, ARRAY(SELECT DISTINCT q.table_id FROM pubsubpull.subscription q WHERE q.id = ANY (g.ids)), most, 4000000);
    END IF;
    page := r.page;
    IF page IS NOT NULL THEN
      slow := ARRAY(SELECT DISTINCT d.subscription FROM pubsubpull.delivery d WHERE d.state = 'pending' AND d.subscription = ANY (g.ids)
                    UNION SELECT q.id FROM pubsubpull.subscription q WHERE q.id = ANY (g.ids) AND q."when" IS NOT NULL);
      IF cardinality(slow) < cardinality(g.ids) THEN
        BEGIN
          RETURN QUERY SELECT g.number, v.subscription, v.change, v.key, v.body, NULL::text, NULL::boolean, NULL::bigint, v.barrier, v.deletes, v.request
            FROM pubsubpull.events(page, ARRAY(SELECT i FROM unnest(g.ids) i WHERE i <> ALL (slow)), pubsubpull.cursor_head(p)) v;
        EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
          slow := g.ids; -- one of them cannot be made
        END;
      END IF;
      IF slow <> '{}' THEN -- what parks or gives up must hold the lease until it is done
        held := ARRAY(SELECT q.subscription FROM pubsubpull.progress q WHERE q.subscription = ANY (slow) AND q.holder = notifier
                      ORDER BY q.subscription FOR SHARE);
        settled := ARRAY(SELECT concat_ws(':', q.subscription, d.id) FROM pubsubpull.progress q CROSS JOIN LATERAL unnest(q.done) d(id)
                         WHERE q.subscription = ANY (held) AND d.id IN (SELECT x.id FROM unnest(page) x));
        FOR e IN SELECT * FROM pubsubpull.events_or_errors(page, held, pubsubpull.cursor_head(p)) LOOP
          IF e.error IS NOT NULL OR pubsubpull.is_blocked(e.subscription, e.change, CASE WHEN NOT e.barrier THEN e.key END)
             OR EXISTS (SELECT FROM pubsubpull.delivery d WHERE d.subscription = e.subscription AND d.change = e.change AND d.state = 'pending') THEN
            IF concat_ws(':', e.subscription, e.change) = ANY (settled) THEN
              NULL; -- an earlier holder of the lease was done with it
            ELSIF e.error IS NOT NULL THEN
              PERFORM pubsubpull.refuse_event(e);
            ELSE
              PERFORM pubsubpull.park(e.subscription, e.change, CASE WHEN NOT e.barrier THEN e.key END, CASE WHEN e.change < 0 THEN e.key END);
            END IF;
            RETURN QUERY SELECT g.number, e.subscription, e.change, e.key, NULL::text, NULL::text, NULL::boolean, NULL::bigint, e.barrier, e.deletes, e.request;
          ELSE
            RETURN QUERY SELECT g.number, e.subscription, e.change, e.key, e.body, NULL::text, NULL::boolean, NULL::bigint, e.barrier, e.deletes, e.request;
          END IF;
        END LOOP;
      END IF;
    END IF;
    IF (g."position")."rows" IS NULL THEN
      IF r.more THEN
        p.after_id := page[cardinality(page)].id;
      ELSE
        p := pubsubpull.end_batch(p);
      END IF;
    END IF;
    subscription := NULL; change := NULL; key := NULL; body := NULL; barrier := NULL; deletes := NULL; request := NULL;
    "position" := p::text;
    more := r.more;
    RETURN NEXT;
  END LOOP;
  IF "group" IS NULL THEN
    RETURN NEXT;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.notify_read(uuid, jsonb, int) IS
  'Reads on from the positions of groups of subscriptions, at most most changes for each: rows with the events to send (body NULL: parked, given up or done before), and after them one with the group''s new position. more is NULL, and nothing was read, when the versions of the subscriptions do not add up to versions: the notifier does not know them as they are.';

DROP FUNCTION IF EXISTS pubsubpull.rows_page(pubsubpull.position, int); -- gave a number back once
CREATE OR REPLACE FUNCTION pubsubpull.rows_page(INOUT p pubsubpull.position, most int, OUT page pubsubpull.change[], OUT more boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' AS $$
DECLARE
  number CONSTANT int := split_part(p."rows", ':', 1)::int;
  t pubsubpull.published;
BEGIN
  SELECT q.* INTO t FROM pubsubpull.published q JOIN pubsubpull.subscription s ON s.table_id = q.id WHERE s.id = number;
  SELECT array_agg(pubsubpull.row_change(t.id, r.row_key, r.row_json) ORDER BY r.n) FILTER (WHERE r.kept), true INTO page, more
  FROM (SELECT x.*, row_number() OVER () AS n, sum(octet_length(x.row_json::text)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(x.row_json::text) < 4000000 AS kept
        FROM pubsubpull.read_rows(t, nullif(split_part(p."rows", ':', 2), ''), false, most) x) r;
  p."rows" := number || ':' || page[cardinality(page)].key; -- NULL after the last: changes follow
EXCEPTION WHEN lock_not_available OR insufficient_privilege OR undefined_table OR syntax_error THEN
  page := NULL; -- somebody alters the table, dropped it or took the right away; the others must not wait for that
  more := false;
END $$;
COMMENT ON FUNCTION pubsubpull.rows_page(pubsubpull.position, int) IS 'The next existing rows for a subscription that began at the beginning, as changes of type row; none and the same position while the table is locked.';

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
    IF w.change < 0 THEN
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

DROP FUNCTION IF EXISTS pubsubpull.notify_due(uuid, int[], int); -- gave less back once
CREATE OR REPLACE FUNCTION pubsubpull.notify_due(notifier uuid, subscriptions int[], most int,
  OUT subscription int, OUT change bigint, OUT key text, OUT body text, OUT attempts int, OUT barrier boolean, OUT deletes boolean, OUT request uuid, OUT batch bigint)
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
    RETURNING q AS delivery, p AS published, s.latest, s.batch AS most
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
    FOR e IN SELECT * FROM pubsubpull.events_or_errors(page, ARRAY[d.subscription], '') LOOP
      made := made || e.change;
      IF e.error IS NOT NULL THEN
        UPDATE pubsubpull.delivery q SET state = 'failed', next_at = NULL, batch = NULL WHERE q.subscription = e.subscription AND q.change = e.change;
        PERFORM pubsubpull.refuse_event(e), pubsubpull.promote(e.subscription, CASE WHEN NOT e.barrier THEN e.key END);
      ELSE
        subscription := e.subscription; change := e.change; key := e.key; body := e.body; attempts := d.attempts; barrier := e.barrier; deletes := e.deletes;
        request := e.request; batch := d.batch;
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
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.notify_due(uuid, int[], int) IS 'Deliveries whose time for another try has come; those with the same batch, which is not null, go in one PUT. They are not returned again before the subscription''s timeout has passed.';

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
  PERFORM pubsubpull.give_turns(coalesce(report->'failed', '[]'), held);
  PERFORM pubsubpull.finish_delivery((x->>'subscription')::int, (x->>'change')::bigint)
  FROM jsonb_array_elements(coalesce(report->'sent', '[]')) x WHERE (x->>'subscription')::int = ANY (held);
  UPDATE pubsubpull.progress g SET failing_since = NULL, last_error = NULL
  WHERE g.subscription = ANY (held) AND g.failing_since IS NOT NULL
    AND NOT EXISTS (SELECT FROM pubsubpull.delivery d WHERE d.subscription = g.subscription AND d.state = 'pending' AND d.attempts > 0);
  RETURN QUERY SELECT DISTINCT (x->>'subscription')::int FROM jsonb_path_query(report, '$.*[*]') x WHERE (x->>'subscription')::int <> ALL (held);
END $$;
COMMENT ON FUNCTION pubsubpull.notify_save(uuid, jsonb) IS
  'Saves results: positions reached, failed deliveries, repeated ones that were sent. Returns the subscriptions that this notifier does not hold any more; nothing was saved for these.';

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

-- In the order in which notify_save locks, so that there is no deadlock.
CREATE OR REPLACE FUNCTION pubsubpull.notify_release(notifier uuid) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  UPDATE pubsubpull.progress g SET holder = NULL
  WHERE g.subscription = ANY (ARRAY(SELECT q.subscription FROM pubsubpull.progress q WHERE q.holder = notifier ORDER BY q.subscription FOR UPDATE));
  DELETE FROM pubsubpull.notifier n WHERE n.id = notifier;
$$;
COMMENT ON FUNCTION pubsubpull.notify_release(uuid) IS 'Gives back what a notifier held that is gone, at the word of its successor.';
