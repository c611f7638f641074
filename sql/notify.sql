-- SPDX-License-Identifier: Apache-2.0
-- notify.sql: what there is to send: the events of changes and of existing rows, read by the notifier.

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

DROP TYPE IF EXISTS pubsubpull.event CASCADE; -- had fewer members once; what returns it follows below
CREATE TYPE pubsubpull.event AS (subscription int, change bigint, key text, barrier boolean, body text, deletes boolean, request uuid, error text);
COMMENT ON TYPE pubsubpull.event IS 'One PUT to be made: key as in URLs, barrier: ordered with everything, body: JSON, deletes: to be made with DELETE, request: what caused it; error: it cannot be made, and why';

-- The events of a page of changes for some subscriptions. head and secret make the cursor behind each change.
CREATE OR REPLACE FUNCTION pubsubpull.too_large() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded',
    MESSAGE = 'it is larger than 32 MB: leave out what is large with "columns" in the subscription, or with "exclude" of the table';
END $$;
COMMENT ON FUNCTION pubsubpull.too_large() IS 'Raised for a notification that no receiver could be expected to take.';

CREATE OR REPLACE FUNCTION pubsubpull.events(page pubsubpull.change[], subscriptions int[], head text) RETURNS SETOF pubsubpull.event
LANGUAGE plpgsql STABLE ROWS 500 SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET enable_seqscan = off SET jit = off AS $$
BEGIN -- not in SQL: that is planned anew for each delivery that is tried again
  RETURN QUERY
  WITH w AS MATERIALIZED (
    SELECT q.* FROM pubsubpull.subscription q WHERE q.id = ANY (subscriptions) AND q.table_id = ANY (SELECT DISTINCT x.table_id FROM unnest(page) x)
  ), t AS MATERIALIZED ( -- once for all that follow a table
    SELECT d.base, x.* FROM (SELECT DISTINCT w.table_id, w.base FROM w) d CROSS JOIN LATERAL pubsubpull.shown_tables(ARRAY[d.table_id], d.base) x
  ), s AS MATERIALIZED (
    SELECT w.id, w.table_id, w.types, w.columns, w."when", w.delete_method = 'DELETE' AS deletes, to_json(w.name)::text AS name_json,
           t.name_json AS table_json, t.url, t.key, t.plain, l.secret, CASE WHEN w.format = 'cloudevents' THEN to_json(t.url)::text END AS source_json
    FROM pubsubpull.log l, w JOIN t ON t.id = w.table_id AND t.base = w.base)
  SELECT x.subscription, x.id, x.key, x.key IS NULL OR x.old_key IS NOT NULL,
         concat(CASE WHEN x.source_json IS NOT NULL THEN concat('{"specversion":"1.0","id":"psp_', x.subscription, '_', x.id, '","source":', x.source_json, ',"type":"pubsubpull.',
                       pubsubpull.change_type(x.type), '"', ',"subject":"' || x.key || '"', ',"time":', to_json(x.at), ',"datacontenttype":"application/json","data":') END,
                pubsubpull.change_json(x.id, x.type, x.at, x.key, x.old_shown, x.new_shown, x.request, (SELECT q.json FROM pubsubpull.request_document q WHERE q.id = x.request), x.channel, x.table_json, x.url, x.table_key, x.plain, x.whole, x.unattributed),
                CASE WHEN coalesce(octet_length(x.old_shown::text), 0) + coalesce(octet_length(x.new_shown::text), 0) > 32000000 THEN pubsubpull.too_large() END,
                ',"subscription":', x.name_json, ',"cursor":', CASE WHEN head = '' OR x.id < 0 THEN 'null' ELSE concat('"', pubsubpull.cursor_text(head, x.id, x.secret), '"') END,
                '}', CASE WHEN x.source_json IS NOT NULL THEN '}' END),
         x.deletes AND x.type = 'D', x.request, CASE WHEN x."when" IS NOT NULL THEN '"when" ' || pubsubpull.rejects(x.c, x.columns, x."when") END
  FROM ( -- OFFSET: what is computed in here is a plain value out there, and so the planner can put change_json's body in place of its call
    SELECT c.*, c, s.id AS subscription, s.columns, s."when", s.deletes, s.name_json, s.table_json, s.url, s.key AS table_key, s.plain, s.secret, s.source_json,
           CASE WHEN s.columns IS NULL THEN c.old ELSE pubsubpull.project(c.old, s.columns) END AS old_shown,
           CASE WHEN s.columns IS NULL THEN c.new ELSE pubsubpull.project(c.new, s.columns) END AS new_shown, coalesce(c.new, c.old) AS whole
    FROM unnest(page) c JOIN s ON s.table_id = c.table_id AND (c.type = ANY (s.types) OR c.type = 'R') OFFSET 0) x
  WHERE (x.columns IS NULL AND x."when" IS NULL) OR pubsubpull.rejects(x.c, x.columns, x."when") IS DISTINCT FROM ''
  ORDER BY x.id, x.subscription;
  IF EXISTS (SELECT FROM unnest(page) c WHERE c.table_id = 0) THEN -- no subscription follows a table and calls, so these have an order of their own
    RETURN QUERY SELECT e.* FROM unnest(page) WITH ORDINALITY AS u CROSS JOIN LATERAL
      pubsubpull.call_events(ROW(u.id, u.xid, u.at, u.table_id, u.type, u.key, u.old_key, u.old, u.new, u.request, u.channel, u.unattributed)::pubsubpull.change, subscriptions, head) e
      WHERE u.table_id = 0 ORDER BY u.ordinality;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.events(pubsubpull.change[], int[], text) IS 'The PUTs that a page of changes means for these subscriptions, in order.';

-- A value that PostgreSQL cannot show (\u0000 in json, or too large a text) must not keep the others from being sent.
CREATE OR REPLACE FUNCTION pubsubpull.events_or_errors(page pubsubpull.change[], subscriptions int[], head text) RETURNS SETOF pubsubpull.event
LANGUAGE plpgsql STABLE ROWS 500 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  c pubsubpull.change := page[1];
  id int;
BEGIN
  RETURN QUERY SELECT * FROM pubsubpull.events(page, subscriptions, head);
EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN -- one of them: it will be found out which
  IF cardinality(page) > 1 THEN
    FOREACH c IN ARRAY page LOOP
      RETURN QUERY SELECT * FROM pubsubpull.events_or_errors(ARRAY[c], subscriptions, head);
    END LOOP;
  ELSIF cardinality(subscriptions) > 1 THEN
    FOR id IN SELECT s.id FROM pubsubpull.subscription s WHERE s.id = ANY (subscriptions) AND s.table_id = c.table_id ORDER BY s.id LOOP
      RETURN QUERY SELECT * FROM pubsubpull.events_or_errors(ARRAY[c], ARRAY[id], head);
    END LOOP;
  ELSE
    RETURN QUERY SELECT s.id, c.id, c.key, c.key IS NULL OR c.old_key IS NOT NULL, NULL::text, false, c.request, 'the notification cannot be made: ' || SQLERRM
      FROM pubsubpull.subscription s WHERE s.id = ANY (subscriptions) AND s.table_id = c.table_id
        AND (c.type = ANY (s.types) OR c.type = 'R' OR c.type = 'Q' AND pubsubpull.fits_call(s.requests, pubsubpull.call(c.request), ARRAY(SELECT json_array_elements_text(c.new->'tables')::int)));
  END IF;
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
DROP FUNCTION IF EXISTS pubsubpull.notify_probe(text); -- gave less back once
CREATE OR REPLACE FUNCTION pubsubpull.notify_probe("position" text, OUT quiet boolean, OUT generation bigint, OUT last_id bigint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  p CONSTANT pubsubpull.position := "position"::pubsubpull.position;
  now CONSTANT pg_snapshot := pg_current_snapshot(); -- before the id: what is committed later is found later
  ended xid8[];
BEGIN
  SELECT g.last_value, CASE WHEN c.is_called THEN c.last_value ELSE 0 END INTO generation, last_id FROM pubsubpull.generation g, pubsubpull.change_id c;
  quiet := "position" IS NULL OR (p.upto IS NULL AND p."rows" IS NULL AND p.since_id = last_id);
  IF quiet AND p.since::text <> now::text THEN
    ended := ARRAY(SELECT x FROM (SELECT * FROM pg_snapshot_xip(p.since)
                                  UNION ALL SELECT n::text::xid8 FROM generate_series(pg_snapshot_xmax(p.since)::text::bigint, p.since_next - 1) n) o(x)
                   WHERE pg_visible_in_snapshot(x, now));
    quiet := ended = '{}' OR NOT EXISTS (SELECT FROM pubsubpull.change c WHERE c.xid = ANY (ended));
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.notify_probe(text) IS 'Whether certainly nothing came after a position, at a fraction of what reading costs; last_id: how far the log is.';

DROP FUNCTION IF EXISTS pubsubpull.notify_read(uuid, jsonb, int), pubsubpull.notify_read(uuid, jsonb, int, int); -- gave back less once
CREATE OR REPLACE FUNCTION pubsubpull.notify_read(notifier uuid, groups jsonb, most int, most_hops int DEFAULT 1000,
  OUT "group" int, OUT subscription int, OUT change bigint, OUT key text, OUT body text, OUT "position" text, OUT more boolean, OUT generation bigint, OUT barrier boolean,
  OUT deletes boolean, OUT request uuid, OUT hops int, OUT last_id bigint)
RETURNS SETOF record LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target CONSTANT pubsubpull.position := pubsubpull.begin_batch(pubsubpull.first_position());
  g record;
  r record;
  p pubsubpull.position;
  e pubsubpull.event;
  page pubsubpull.change[];
  versions_now numeric;
  tables int[];
  ids int[];
  slow int[]; -- those whose events are looked at one by one
  held int[];
  settled text[]; -- subscription:change of this page that are done already
  caused uuid[];  -- requests that others caused, and
  depths int[];   -- how many came before each
  done boolean;
BEGIN
  IF NOT EXISTS (SELECT FROM pubsubpull.notifier a WHERE a.id = notifier) THEN
    RETURN; -- the server crashed, and these positions are from before
  END IF;
  generation := pubsubpull.generation_now();
  last_id := target.top_id;
  FOR g IN SELECT (j.n - 1)::int AS number, (j.value->>'position')::pubsubpull.position AS "position",
                  (j.value->>'subscriptions')::int[] AS ids, (j.value->>'versions')::numeric AS versions
           FROM jsonb_array_elements(groups) WITH ORDINALITY AS j(value, n) LOOP
    "group" := g.number;
    -- Looked at after the target was taken: whoever replaces a subscription and then changes a row has the row sent by the new document.
    SELECT sum(s.version), array_agg(DISTINCT s.table_id) INTO versions_now, tables FROM unnest(g.ids) i JOIN pubsubpull.subscription s ON s.id = i; -- a hash, where = ANY compares one by one
    IF versions_now IS DISTINCT FROM g.versions THEN
      subscription := NULL; change := NULL; key := NULL; body := NULL; barrier := NULL; deletes := NULL; request := NULL; hops := NULL; more := NULL;
      "position" := g."position"::text;
      RETURN NEXT;
      CONTINUE;
    END IF;
    p := g."position";
    IF pubsubpull.is_lost(p) THEN -- it is disabled, which the new generation tells
      subscription := NULL; change := NULL; key := NULL; body := NULL; barrier := NULL; deletes := NULL; request := NULL; hops := NULL;
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
      SELECT * INTO r FROM pubsubpull.feed_page(p, tables, most, 4000000);
    END IF;
    page := r.page;
    IF page IS NOT NULL THEN
      ids := ARRAY(SELECT q.id FROM (SELECT DISTINCT x.table_id FROM unnest(page) x) t JOIN pubsubpull.subscription q ON q.table_id = t.table_id
                   WHERE EXISTS (SELECT FROM unnest(g.ids) i WHERE i = q.id)); -- of a thousand few may want any of this page
      slow := ARRAY(SELECT q.id FROM pubsubpull.subscription q WHERE q.id = ANY (ids)
                    AND (q."when" IS NOT NULL OR EXISTS (SELECT FROM pubsubpull.delivery d WHERE d.state = 'pending' AND d.subscription = q.id)));
      SELECT array_agg(h.request), array_agg(h.hops) INTO caused, depths
      FROM pubsubpull.caused(ARRAY(SELECT DISTINCT x.request FROM unnest(page) x WHERE x.request IS NOT NULL), most_hops) h;
      IF most_hops < ANY (depths) THEN
        slow := ids; -- some of these go no further
      END IF;
      IF cardinality(slow) < cardinality(ids) THEN
        BEGIN
          RETURN QUERY SELECT g.number, v.subscription, v.change, v.key, v.body, NULL::text, NULL::boolean, NULL::bigint, v.barrier, v.deletes, v.request,
              depths[array_position(caused, v.request)], NULL::bigint
            FROM pubsubpull.events(page, ARRAY(SELECT i FROM unnest(ids) i WHERE i <> ALL (slow)), pubsubpull.cursor_head(p)) v;
        EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
          slow := ids; -- one of them cannot be made
        END;
      END IF;
      IF slow <> '{}' THEN -- what parks or gives up must hold the lease until it is done
        held := ARRAY(SELECT q.subscription FROM pubsubpull.progress q WHERE q.subscription = ANY (slow) AND q.holder = notifier
                      ORDER BY q.subscription FOR SHARE);
        settled := ARRAY(SELECT concat_ws(':', q.subscription, d.id) FROM pubsubpull.progress q CROSS JOIN LATERAL unnest(q.done) d(id)
                         WHERE q.subscription = ANY (held) AND d.id IN (SELECT x.id FROM unnest(page) x));
        FOR e IN SELECT * FROM pubsubpull.events_or_errors(page, held, pubsubpull.cursor_head(p)) LOOP
          hops := depths[array_position(caused, e.request)];
          IF hops > most_hops THEN
            e.error := format('stopped: %s requests before this one caused one another through deliveries, and PubSubPullMaxHops is %s', hops, most_hops);
          END IF;
          IF e.error IS NOT NULL OR pubsubpull.is_blocked(e.subscription, e.change, CASE WHEN NOT e.barrier THEN e.key END)
             OR EXISTS (SELECT FROM pubsubpull.delivery d WHERE d.subscription = e.subscription AND d.change = e.change AND d.state = 'pending') THEN
            done := concat_ws(':', e.subscription, e.change) = ANY (settled);
            IF done THEN
              NULL; -- an earlier holder of the lease was done with it
            ELSIF e.error IS NOT NULL THEN
              PERFORM pubsubpull.refuse_event(e);
            ELSE
              PERFORM pubsubpull.park(e.subscription, e.change, CASE WHEN NOT e.barrier THEN e.key END, CASE WHEN e.change < 0 THEN e.key END);
            END IF;
            RETURN QUERY SELECT g.number, e.subscription, e.change, e.key, NULL::text, NULL::text, NULL::boolean, NULL::bigint, e.barrier, e.deletes, e.request,
              CASE WHEN NOT done AND hops > most_hops THEN hops END, NULL::bigint;
          ELSE
            RETURN QUERY SELECT g.number, e.subscription, e.change, e.key, e.body, NULL::text, NULL::boolean, NULL::bigint, e.barrier, e.deletes, e.request, hops, NULL::bigint;
          END IF;
        END LOOP;
      END IF;
    END IF;
    IF (g."position")."rows" IS NULL THEN
      IF r.more THEN
        p.after_id := page[cardinality(page)].id;
      ELSE
        p := ROW(p.upto, p.upto_id, p.upto_next, NULL, NULL, NULL, NULL, NULL, NULL)::pubsubpull.position;
      END IF;
    END IF;
    subscription := NULL; change := NULL; key := NULL; body := NULL; barrier := NULL; deletes := NULL; request := NULL; hops := NULL;
    "position" := p::text;
    more := r.more;
    RETURN NEXT;
  END LOOP;
  IF "group" IS NULL THEN
    RETURN NEXT;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.notify_read(uuid, jsonb, int, int) IS
  'Reads on from the positions of groups of subscriptions, at most most changes for each: rows with the events to send (body NULL: parked, given up or done before), and after them one with the group''s new position. hops: how many requests caused one another before the one that caused the event; above most_hops it was given up, and body is NULL. last_id: how far the log is. more is NULL, and nothing was read, when the versions of the subscriptions do not add up to versions: the notifier does not know them as they are.';

DROP FUNCTION IF EXISTS pubsubpull.rows_page(pubsubpull.position, int); -- gave a number back once
CREATE OR REPLACE FUNCTION pubsubpull.rows_page(INOUT p pubsubpull.position, most int, OUT page pubsubpull.change[], OUT more boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET lock_timeout = '20ms' AS $$
DECLARE
  number CONSTANT int := split_part(p."rows", ':', 1)::int;
  after CONSTANT text := nullif(split_part(p."rows", ':', 2), '');
  t pubsubpull.published;
BEGIN
  SELECT q.* INTO t FROM pubsubpull.published q JOIN pubsubpull.subscription s ON s.table_id = q.id WHERE s.id = number;
  IF t.id = 0 THEN
    page := pubsubpull.past_calls(p, after::uuid, most);
    p."rows" := number || ':' || page[cardinality(page)].key;
    more := true;
    RETURN;
  END IF;
  SELECT array_agg(pubsubpull.row_change(t.id, r.row_key, r.row_json) ORDER BY r.n) FILTER (WHERE r.kept), true INTO page, more
  FROM (SELECT x.*, row_number() OVER () AS n, sum(octet_length(x.row_json::text)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(x.row_json::text) < 4000000 AS kept
        FROM pubsubpull.run_rows(pubsubpull.rows_command(t, after, false, NULL), pubsubpull.parse_key(t, after), most, false) x) r;
  p."rows" := number || ':' || page[cardinality(page)].key; -- NULL after the last: changes follow
EXCEPTION WHEN lock_not_available OR insufficient_privilege OR undefined_table OR syntax_error THEN
  page := NULL; -- somebody alters the table, dropped it or took the right away; the others must not wait for that
  more := false;
END $$;
COMMENT ON FUNCTION pubsubpull.rows_page(pubsubpull.position, int) IS 'The next existing rows, or requests that had ended, for a subscription that began at the beginning, as changes of type row; none and the same position while the table is locked.';
