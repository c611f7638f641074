-- SPDX-License-Identifier: Apache-2.0
-- record.sql: requests, and which of them a statement belongs to.

DO $$ BEGIN
  IF to_regtype('pubsubpull.channel') IS NULL THEN
    CREATE TYPE pubsubpull.channel AS ENUM ('setting', 'application_name', 'comment');
  END IF;
END $$;
COMMENT ON TYPE pubsubpull.channel IS 'By which way the identity of a request reached the database session';

CREATE TABLE IF NOT EXISTS pubsubpull.request (
  id       uuid PRIMARY KEY,
  method   text,
  host     text,
  path     text,
  query    text,
  "user"   text,
  remote   text,
  agent    text,
  started  timestamptz,
  headers  jsonb,
  status   int,
  bytes    bigint,
  duration interval
) WITH (fillfactor = 80);
COMMENT ON TABLE pubsubpull.request IS
  'One row per recorded HTTP request: written by the first change it caused (or by httpd), completed by httpd with status, bytes and duration';

-- The id at the front of an envelope, or NULL when the text is not an envelope of ours.
CREATE OR REPLACE FUNCTION pubsubpull.envelope_id(envelope text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN envelope ~ '^\{"id":"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"'
              THEN substr(envelope, 8, 36)::uuid END
$$;
COMMENT ON FUNCTION pubsubpull.envelope_id(text) IS
  'The id of the request that an envelope describes; NULL when the text does not begin as an envelope does.';

-- The request's row goes into the writer's transaction. Two sessions of one request may do this at once; a unique index would
-- make the second wait for the first to commit, which may never happen if the service uses both. So only the holder of
-- the lock writes; httpd writes the row at the end of the request if it is missing then.
CREATE OR REPLACE FUNCTION pubsubpull.see_request(envelope text) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  request_id uuid := pubsubpull.envelope_id(envelope);
BEGIN
  IF request_id IS NULL THEN
    RETURN NULL;
  END IF;
  -- A SELECT here would be a conflict for serializable transactions.
  IF current_setting('pubsubpull.seen', true) = request_id::text OR NOT pg_try_advisory_xact_lock(hashtextextended(request_id::text, 0)) THEN
    RETURN request_id;
  END IF;
  INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, headers)
  SELECT request_id, e.method, e.host, e.path, e.query, e."user", e.remote, e.agent, e.started, e.headers
  FROM jsonb_to_record(envelope::jsonb) AS e(method text, host text, path text, query text, "user" text, remote text,
                                            agent text, started timestamptz, headers jsonb)
  ON CONFLICT (id) DO NOTHING;
  PERFORM set_config('pubsubpull.seen', request_id::text, true);
  RETURN request_id;
EXCEPTION
  WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN -- garbage in the setting must not break the service's own statement
    RETURN NULL;
  WHEN unique_violation OR serialization_failure THEN -- written by another session, invisible to this snapshot
    RETURN request_id;
END $$;
COMMENT ON FUNCTION pubsubpull.see_request(text) IS
  'Takes an envelope, writes the row of its request if there is none, returns its id; NULL for what is no envelope. Never waits, never fails.';

-- The identity of the request that the current statement belongs to: the setting, else application_name, else the comment
-- at the end of the statement (sqlcommenter). Nothing is guessed.
CREATE OR REPLACE FUNCTION pubsubpull.attribute(OUT request uuid, OUT channel pubsubpull.channel)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  envelope text := current_setting('pubsubpull.request', true);
  name text;
BEGIN
  IF envelope <> '' THEN
    request := pubsubpull.see_request(envelope);
    IF request IS NOT NULL THEN
      channel := 'setting';
    END IF;
    RETURN;
  END IF;
  name := current_setting('application_name');
  IF name ~ '^psp:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    request := substr(name, 5)::uuid;
    channel := 'application_name';
    RETURN;
  END IF;
  name := substring(right(current_query(), 2000) FROM
    '/\*[^*]*tracestate=''[^''*]*psp%3[Dd]([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})[^''*]*''[^*]*\*/\s*;?\s*$');
  IF name IS NOT NULL THEN
    request := name::uuid;
    channel := 'comment';
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.attribute() IS
  'The request that the current statement belongs to and by which channel that is known; both NULL when it is not known.';

-- Ends of requests that could not be written yet: the change they caused is not committed, or may still come.
CREATE TABLE IF NOT EXISTS pubsubpull.request_late (
  record jsonb NOT NULL,
  tries  int NOT NULL DEFAULT 1,
  try_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS request_late_try_at ON pubsubpull.request_late (try_at);
COMMENT ON TABLE pubsubpull.request_late IS 'Ends of requests that are waiting for the row they complete';

DROP FUNCTION IF EXISTS pubsubpull.record_requests(jsonb, int); -- took jsonb once
CREATE OR REPLACE FUNCTION pubsubpull.record_requests(records json, tries int DEFAULT 0) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  written int;
BEGIN
  -- NOT IN hashes its list; a join of these would be planned for few rows and take quadratic time. The settings are for plans
  -- that a session made while the table was empty: they must not scan it for ever.
  WITH r AS MATERIALIZED (
    SELECT * FROM json_to_recordset(records) AS e(id uuid, method text, host text, path text, query text, "user" text, remote text,
      agent text, started timestamptz, headers jsonb, status int, bytes bigint, duration bigint, mode int)
  ), completed AS (
    UPDATE pubsubpull.request q
    SET status = r.status, bytes = r.bytes, duration = r.duration * interval '1 microsecond', "user" = coalesce(r."user", q."user")
    FROM r WHERE q.id = r.id RETURNING q.id
  ), missing AS MATERIALIZED (
    SELECT * FROM r WHERE r.id NOT IN (SELECT c.id FROM completed c)
  ), inserted AS (
    INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, headers, status, bytes, duration)
    SELECT m.id, m.method, m.host, m.path, m.query, m."user", m.remote, m.agent, m.started, m.headers, m.status, m.bytes,
           m.duration * interval '1 microsecond'
    FROM missing m WHERE m.mode = 2 AND pg_try_advisory_xact_lock(hashtextextended(m.id::text, 0))
    ON CONFLICT (id) DO NOTHING RETURNING id
  ), late AS (
    INSERT INTO pubsubpull.request_late (record, tries, try_at)
    SELECT to_jsonb(m), tries + 1, clock_timestamp() + interval '1 second' * 8 ^ tries
    FROM missing m
    WHERE m.id NOT IN (SELECT i.id FROM inserted i)
      AND (m.mode = 2 OR (tries < 3 AND m.method NOT IN ('GET', 'HEAD', 'OPTIONS', 'TRACE')))
  )
  SELECT (SELECT count(*) FROM completed) + (SELECT count(*) FROM inserted) INTO written;
  RETURN written;
END $$;
COMMENT ON FUNCTION pubsubpull.record_requests(json, int) IS
  'Completes requests with status, bytes and duration (microseconds). records: array of envelopes with these members and mode: 1 = only if a change wrote the request, 2 = write it anyway. Returns how many rows were written. Never waits for a writer.';

CREATE OR REPLACE FUNCTION pubsubpull.record_late() RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  late record;
  written int := 0;
BEGIN
  FOR late IN
    WITH taken AS (
      DELETE FROM pubsubpull.request_late l WHERE l.ctid = ANY (ARRAY(
        SELECT ctid FROM pubsubpull.request_late WHERE try_at <= clock_timestamp() ORDER BY try_at LIMIT 500 FOR UPDATE SKIP LOCKED))
      RETURNING l.record, l.tries)
    SELECT t.tries, json_agg(t.record) AS records FROM taken t GROUP BY t.tries
  LOOP
    written := written + pubsubpull.record_requests(late.records, least(late.tries, 4));
  END LOOP;
  RETURN written;
END $$;
COMMENT ON FUNCTION pubsubpull.record_late() IS 'Tries again what record_requests could not write; called about once a second.';
