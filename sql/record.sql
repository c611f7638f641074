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
  duration interval,
  claimed  timestamptz
) WITH (fillfactor = 80);
-- An upgrade that adds columns or drops indexes needs these tables to itself until it ends. Who works with them locks them in many orders: all are had at
-- once, or none is held while the others go on.
DO $$ BEGIN
  IF to_regclass('pubsubpull.delivery') IS NOT NULL
     AND (to_regclass('pubsubpull.request_failed') IS NOT NULL
          OR NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = 'pubsubpull.request'::regclass AND a.attname = 'cause' AND NOT a.attisdropped)) THEN
    FOR turn IN 1 .. 200 LOOP
      BEGIN
        SET LOCAL lock_timeout = '50ms';
        LOCK TABLE pubsubpull.request, pubsubpull.request_late, pubsubpull.subscription, pubsubpull.delivery IN ACCESS EXCLUSIVE MODE;
        SET LOCAL lock_timeout = '30s';
        RETURN;
      EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        PERFORM pg_sleep(0.1);
      END;
    END LOOP;
    RAISE lock_not_available USING MESSAGE = 'the tables of the schema pubsubpull are in use for too long', HINT = 'Try again when no long transaction is open that wrote to a published table.';
  END IF;
END $$;
-- IF NOT EXISTS would lock out all writers before it looks.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = 'pubsubpull.request'::regclass AND a.attname = 'claimed' AND NOT a.attisdropped) THEN
    ALTER TABLE pubsubpull.request ADD COLUMN claimed timestamptz; -- in older schemas
  END IF;
  IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = 'pubsubpull.request'::regclass AND a.attname = 'cause' AND NOT a.attisdropped) THEN
    ALTER TABLE pubsubpull.request ADD COLUMN cause uuid;
    CREATE INDEX request_cause ON pubsubpull.request (cause, id) WHERE cause IS NOT NULL;
  END IF;
  IF to_regclass('pubsubpull.request_claimed') IS NULL THEN
    CREATE INDEX request_claimed ON pubsubpull.request (claimed) WHERE claimed IS NOT NULL;
  END IF;
END $$;
COMMENT ON TABLE pubsubpull.request IS
  'One row per recorded HTTP request: written by the first change it caused (or by httpd), completed by httpd with status, bytes and duration';
COMMENT ON COLUMN pubsubpull.request.claimed IS
  'Only the id is known so far, from a session that named it at that time (infinity: too long ago); NULL once httpd said that it issued it';
COMMENT ON COLUMN pubsubpull.request.cause IS
  'The request that this one was caused by: it changed something, a subscriber was sent that, and wrote back';

DO $$ BEGIN
  IF to_regtype('pubsubpull.unattributed') IS NULL THEN
    CREATE TYPE pubsubpull.unattributed AS ENUM ('malformed', 'unsigned', 'forged', 'expired', 'unknown', 'prepared');
  END IF;
END $$;
COMMENT ON TYPE pubsubpull.unattributed IS
  'Why a change has no request although its session named one: the setting is no envelope; PubSubPullKey is set and its signature is missing, wrong or too old; httpd never issued the id; the comment is that of a named prepared statement, written when it was prepared';

-- How many that were. Whoever logs such changes adds a row, in his transaction and without waiting for anybody; now and then rows are added up.
CREATE TABLE IF NOT EXISTS pubsubpull.unattributed_count (
  reason  pubsubpull.unattributed NOT NULL,
  changes bigint NOT NULL
);
COMMENT ON TABLE pubsubpull.unattributed_count IS 'Changes that were logged as unattributed, by reason: the sum of these rows';

CREATE OR REPLACE FUNCTION pubsubpull.count_unattributed(reason pubsubpull.unattributed, changes bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO pubsubpull.unattributed_count (reason, changes) VALUES (count_unattributed.reason, count_unattributed.changes);
END $$;
COMMENT ON FUNCTION pubsubpull.count_unattributed(pubsubpull.unattributed, bigint) IS 'Counts changes that are logged as unattributed.';

CREATE OR REPLACE FUNCTION pubsubpull.add_up_unattributed() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF (SELECT count(*) FROM (SELECT FROM pubsubpull.unattributed_count LIMIT 100) c) = 100 THEN
    WITH taken AS (
      DELETE FROM pubsubpull.unattributed_count u WHERE u.ctid = ANY (ARRAY(SELECT c.ctid FROM pubsubpull.unattributed_count c LIMIT 10000 FOR UPDATE SKIP LOCKED))
      RETURNING u.reason, u.changes)
    INSERT INTO pubsubpull.unattributed_count (reason, changes) SELECT t.reason, sum(t.changes) FROM taken t GROUP BY t.reason;
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.add_up_unattributed() IS 'Makes few rows of many in the count of unattributed changes; called about once a second.';

-- The id at the front of an envelope, or NULL when the text is not an envelope of ours.
CREATE OR REPLACE FUNCTION pubsubpull.envelope_id(envelope text) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN envelope LIKE '{"id":"________-____-____-____-____________"%' AND translate(substr(envelope, 8, 36), '0123456789abcdef', '') = '----'
              THEN substr(envelope, 8, 36)::uuid END
$$;
COMMENT ON FUNCTION pubsubpull.envelope_id(text) IS
  'The id of the request that an envelope describes; NULL when the text does not begin as an envelope does.';

-- PubSubPullKey: the keys as HMAC (RFC 2104) needs them, XORed with its two constants. Whoever reads them can sign: nobody but the
-- owner of the schema has a right on this table. Triggers run as that owner.
CREATE TABLE IF NOT EXISTS pubsubpull.key (
  inner_block bytea PRIMARY KEY,
  outer_block bytea NOT NULL,
  ttl         interval NOT NULL
);
CREATE TABLE IF NOT EXISTS pubsubpull.key_holder (
  holder      uuid NOT NULL,
  inner_block bytea NOT NULL,
  said_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (holder, inner_block)
);
COMMENT ON TABLE pubsubpull.key IS 'Keys that envelopes are signed with (PubSubPullKey); while there is one, only signed envelopes are believed';
COMMENT ON TABLE pubsubpull.key_holder IS 'Which httpd server (its notifier''s id) said that it has a key, and when it last did';

CREATE OR REPLACE FUNCTION pubsubpull.hmac_block(key bytea, pad int) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  block bytea := CASE WHEN octet_length(key) > 64 THEN sha256(key) ELSE key END;
BEGIN
  block := block || decode(repeat('00', 64 - octet_length(block)), 'hex');
  FOR i IN 0 .. 63 LOOP
    block := set_byte(block, i, get_byte(block, i) # pad);
  END LOOP;
  RETURN block;
END $$;
COMMENT ON FUNCTION pubsubpull.hmac_block(bytea, int) IS 'A key, as long as a block of SHA-256, XORed with a byte: 54 for the inner hash of HMAC, 92 for the outer.';

-- Servers of one database can have different keys, as while a key is replaced on one after the other. What a server does not say any more
-- is forgotten at once, what a server said that is gone after ten minutes, but the last key never by time: whoever could stop
-- httpd for long enough could forge then.
CREATE OR REPLACE FUNCTION pubsubpull.set_keys(notifier uuid, previous uuid, keys text[], seconds int) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  given_up boolean;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('pubsubpull.key'));
  INSERT INTO pubsubpull.key AS q (inner_block, outer_block, ttl)
  SELECT pubsubpull.hmac_block(decode(k, 'hex'), 54), pubsubpull.hmac_block(decode(k, 'hex'), 92), seconds * interval '1 second' FROM unnest(keys) k
  ON CONFLICT (inner_block) DO UPDATE SET ttl = excluded.ttl WHERE q.ttl <> excluded.ttl;
  INSERT INTO pubsubpull.key_holder AS h (holder, inner_block)
  SELECT notifier, pubsubpull.hmac_block(decode(k, 'hex'), 54) FROM unnest(keys) k
  ON CONFLICT (holder, inner_block) DO UPDATE SET said_at = clock_timestamp();
  DELETE FROM pubsubpull.key_holder h
  WHERE h.holder = previous OR h.holder = notifier AND h.inner_block <> ALL (ARRAY(SELECT pubsubpull.hmac_block(decode(k, 'hex'), 54) FROM unnest(keys) k))
     OR cardinality(keys) > 0 AND h.said_at < clock_timestamp() - interval '10 minutes';
  given_up := FOUND;
  IF given_up OR cardinality(keys) > 0 THEN
    DELETE FROM pubsubpull.key q WHERE NOT EXISTS (SELECT FROM pubsubpull.key_holder h WHERE h.inner_block = q.inner_block);
  END IF;
  RETURN (SELECT count(*) FROM pubsubpull.key);
END $$;
COMMENT ON FUNCTION pubsubpull.set_keys(uuid, uuid, text[], int) IS
  'An httpd server says which keys (hexadecimal) it signs with and for how many seconds a signature holds; previous: the notifier before this one, whose word does not count any more. Returns how many keys are known.';

CREATE OR REPLACE FUNCTION pubsubpull.forget_keys() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM pubsubpull.key_holder;
  DELETE FROM pubsubpull.key;
$$;
COMMENT ON FUNCTION pubsubpull.forget_keys() IS 'Forgets all keys: envelopes are believed without a signature until a server says its keys again.';

-- The request's row goes into the writer's transaction. Two sessions of one request may do this at once; a unique index would
-- make the second wait for the first to commit, which may never happen if the service uses both. So only the holder of
-- the lock writes; httpd writes the row at the end of the request if it is missing then.
DROP FUNCTION IF EXISTS pubsubpull.see_request(text); -- took less once
CREATE OR REPLACE FUNCTION pubsubpull.see_request(request_id uuid, envelope text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- A SELECT here would be a conflict for serializable transactions.
  IF NOT pg_try_advisory_xact_lock(hashtextextended(request_id::text, 0)) THEN
    RETURN true;
  END IF;
  INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, headers, cause, claimed)
  SELECT request_id, e.method, e.host, e.path, e.query, e."user", e.remote, e.agent, coalesce(e.started, clock_timestamp()), e.headers, e.cause,
         CASE WHEN envelope IS NULL THEN clock_timestamp() END
  FROM jsonb_to_record(coalesce(envelope, '{}')::jsonb) AS e(method text, host text, path text, query text, "user" text, remote text,
                                                             agent text, started timestamptz, headers jsonb, cause uuid)
  ON CONFLICT (id) DO NOTHING;
  PERFORM set_config('pubsubpull.seen', request_id::text, true);
  RETURN true;
EXCEPTION
  WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN -- garbage in the setting must not break the service's own statement
    RETURN false;
  WHEN unique_violation OR serialization_failure THEN -- written by another session, invisible to this snapshot
    RETURN true;
END $$;
COMMENT ON FUNCTION pubsubpull.see_request(uuid, text) IS
  'Writes the row of a request if there is none, from its envelope or, where that is NULL, with the id only, to be completed by httpd. False when the envelope is none. Never waits, never fails.';

-- The identity of the request that the current statement belongs to: the setting, else application_name, else the comment
-- at the end of the statement (sqlcommenter). Nothing is guessed. A signature is verified for each statement: where could the verdict be
-- kept that the session cannot write to? Two hashes cost less than a look into a table. What counts is the age when the transaction
-- began; the time is that in the id. The setting "seen" only spares work: a session that sets it itself hides nothing, as httpd
-- writes the row later.
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_proc f WHERE f.pronamespace = 'pubsubpull'::regnamespace AND f.proname = 'attribute' AND cardinality(f.proallargtypes) = 2) THEN
    DROP FUNCTION pubsubpull.attribute(); -- gave less back once
  END IF;
END $$;
-- Trigger functions call it, with the search_path that is set for them: to set it again takes longer than a hash. Bytes, as left and right
-- of a text count its characters.
CREATE OR REPLACE FUNCTION pubsubpull.attribute(OUT request uuid, OUT channel pubsubpull.channel, OUT unattributed pubsubpull.unattributed)
LANGUAGE plpgsql AS $$
DECLARE
  envelope text := current_setting('pubsubpull.request', true);
  sealed bytea;
  size int; -- of what is signed
  k record;
  name text;
BEGIN
  IF envelope <> '' THEN
    IF envelope LIKE '{"id":"________-____-____-____-____________"%' THEN
      FOR k IN SELECT q.inner_block, q.outer_block, q.ttl FROM pubsubpull.key q LOOP -- an aggregate would be planned anew each time
        sealed := convert_to(envelope, getdatabaseencoding());
        size := octet_length(sealed) - 80;
        unattributed := CASE
          WHEN substr(sealed, size + 1, 14) <> ',"signature":"' OR substr(sealed, size + 79) <> '"}' THEN 'unsigned'::pubsubpull.unattributed
          WHEN substr(sealed, size + 15, 64) <> convert_to(encode(sha256(k.outer_block || sha256(k.inner_block || substr(sealed, 1, size))), 'hex'), getdatabaseencoding()) THEN 'forged'
          WHEN abs(extract(epoch FROM now()) - ('x' || substr(envelope, 8, 8) || substr(envelope, 17, 4))::bit(48)::bigint / 1000) > extract(epoch FROM k.ttl) THEN 'expired' END;
        EXIT WHEN unattributed IS DISTINCT FROM 'forged';
      END LOOP;
    END IF;
    IF sealed IS NOT NULL AND unattributed IS NULL THEN
      request := substr(envelope, 8, 36)::uuid; -- httpd signed it
    ELSE
      request := pubsubpull.envelope_id(envelope);
    END IF;
    IF request IS NULL THEN
      unattributed := 'malformed';
      RETURN;
    END IF;
    IF unattributed IS NULL AND current_setting('pubsubpull.seen', true) IS DISTINCT FROM request::text AND NOT pubsubpull.see_request(request, envelope) THEN
      unattributed := 'malformed';
    END IF;
    IF unattributed IS NULL THEN
      channel := 'setting';
    ELSE
      request := NULL;
    END IF;
    RETURN;
  END IF;
  name := current_setting('application_name');
  IF name ~ '^psp:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    request := substr(name, 5)::uuid;
    channel := 'application_name';
  ELSE
    name := substring(right(current_query(), 2000) FROM -- some clients double the percent sign
      E'/\\*[^*]*tracestate=''(?:[^''*]*(?:,|%2[Cc])(?:\\s|%20)*)?psp%{1,2}3[Dd]([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?![0-9A-Za-z-])[^''*]*''[^*]*\\*/\\s*;?\\s*$');
    IF name IS NOT NULL AND EXISTS (SELECT FROM pg_prepared_statements p WHERE NOT p.from_sql AND p.statement = current_query()) THEN
      unattributed := 'prepared'; -- whichever request it was prepared in, it is not known whether it is this one
    ELSIF name IS NOT NULL THEN
      request := name::uuid;
      channel := 'comment';
    END IF;
  END IF;
  IF request IS NOT NULL AND current_setting('pubsubpull.seen', true) IS DISTINCT FROM request::text THEN
    PERFORM pubsubpull.see_request(request, NULL);
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.attribute() IS
  'The request that the current statement belongs to and by which channel that is known; both NULL when it is not known, and why, if the session named one that is not believed.';

-- A session can name any id. That httpd never issued it shows when httpd says nothing of it: requests end, and then their records come.
-- Should one come later all the same, record_requests takes this back.
CREATE OR REPLACE FUNCTION pubsubpull.judge_claims(age interval DEFAULT '10 minutes') RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  ids uuid[];
  changes bigint;
BEGIN
  WITH late AS (
    SELECT q.id FROM pubsubpull.request q WHERE q.claimed < clock_timestamp() - age ORDER BY q.claimed LIMIT 1000 FOR UPDATE SKIP LOCKED),
  judged AS (
    UPDATE pubsubpull.request q SET claimed = 'infinity' FROM late WHERE q.id = late.id RETURNING q.id)
  SELECT array_agg(j.id) INTO ids FROM judged j;
  IF ids IS NOT NULL THEN
    UPDATE pubsubpull.change c SET unattributed = 'unknown' WHERE c.request = ANY (ids) AND c.unattributed IS NULL;
    GET DIAGNOSTICS changes = ROW_COUNT;
    IF changes > 0 THEN
      PERFORM pubsubpull.count_unattributed('unknown', changes);
    END IF;
  END IF;
  RETURN coalesce(cardinality(ids), 0);
END $$;
COMMENT ON FUNCTION pubsubpull.judge_claims(interval) IS
  'Marks changes as unattributed whose request was named by its id only, longer ago than age, and of which httpd never said that it issued it. Returns how many requests that were.';

-- Ends of requests that could not be written yet: the change they caused is not committed, or may still come.
CREATE TABLE IF NOT EXISTS pubsubpull.request_late (
  record jsonb NOT NULL,
  tries  int NOT NULL DEFAULT 1,
  try_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS request_late_try_at ON pubsubpull.request_late (try_at);
COMMENT ON TABLE pubsubpull.request_late IS 'Ends of requests that are waiting for the row they complete';

CREATE OR REPLACE FUNCTION pubsubpull.forget_user("user" text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  gone bigint;
  late bigint;
BEGIN
  DELETE FROM pubsubpull.request q WHERE q."user" = forget_user."user";
  GET DIAGNOSTICS gone = ROW_COUNT;
  DELETE FROM pubsubpull.request_late l WHERE l.record->>'user' = forget_user."user";
  GET DIAGNOSTICS late = ROW_COUNT;
  RETURN gone + late;
END $$;
COMMENT ON FUNCTION pubsubpull.forget_user(text) IS
  'Removes all requests of one user and leaves the changes they made, which keep no more than the request''s id. Returns how many requests that were.';

DO $$ BEGIN
  IF to_regclass('pubsubpull.request_reads') IS NULL THEN
    CREATE INDEX request_reads ON pubsubpull.request (started) WHERE status IS NULL AND (method IS NULL OR method = ANY ('{GET,HEAD,OPTIONS}'));
  END IF;
END $$;
CREATE OR REPLACE FUNCTION pubsubpull.awaits_reads() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN -- not in SQL: that is planned anew for each call
  RETURN EXISTS (SELECT FROM pubsubpull.request q WHERE q.started > now() - interval '1 day' AND q.status IS NULL AND (q.method IS NULL OR q.method = ANY ('{GET,HEAD,OPTIONS}')));
END $$;
COMMENT ON FUNCTION pubsubpull.awaits_reads() IS 'Whether a request that should only have read changed something and is not completed; if not, httpd need not send those.';

DROP FUNCTION IF EXISTS pubsubpull.record_requests(jsonb, int); -- took jsonb once
CREATE OR REPLACE FUNCTION pubsubpull.record_requests(records json, tries int DEFAULT 0) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET lock_timeout = 0 AS $$
DECLARE
  careful boolean := tries > 0;
  written uuid[];
BEGIN
  IF EXISTS (SELECT FROM pubsubpull.request q WHERE q.claimed = 'infinity') THEN
    UPDATE pubsubpull.change c SET unattributed = NULL
    WHERE c.unattributed = 'unknown' AND c.request = ANY (ARRAY(
      SELECT q.id FROM pubsubpull.request q WHERE q.claimed = 'infinity'
        AND q.id IN (SELECT e.id FROM json_to_recordset(records) AS e(id uuid))));
  END IF;
  -- Most only read, and have no row. They are inserted as if that were certain, which costs a third less; if one has a row all the same that
  -- is not seen here, everything is done again carefully. A writer whose row is not committed is waited for 10 ms, so that it is not we whom a
  -- deadlock is noticed by. NOT IN hashes its list; a join of these would be planned for few rows and take quadratic time. The settings are for
  -- plans that a session made while the table was empty: they must not scan it for ever.
  LOOP
    BEGIN
      PERFORM set_config('lock_timeout', CASE WHEN careful THEN '0' ELSE '10ms' END, true);
      WITH e AS MATERIALIZED (
        SELECT * FROM json_to_recordset(records) AS e(id uuid, method text, host text, path text, query text, "user" text, remote text,
          agent text, started timestamptz, headers jsonb, cause uuid, status int, bytes bigint, duration bigint, mode int)
      ), awaited AS MATERIALIZED ( -- reads that changed something; their rows began when they did, or later
        SELECT q.id FROM pubsubpull.request q
        WHERE q.started >= (SELECT min(e.started) FROM e) AND q.status IS NULL AND (q.method IS NULL OR q.method = ANY ('{GET,HEAD,OPTIONS}'))
      ), plain AS (
        INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, headers, cause, status, bytes, duration)
        SELECT e.id, e.method, e.host, e.path, e.query, e."user", e.remote, e.agent, e.started, e.headers, e.cause, e.status, e.bytes,
               e.duration * interval '1 microsecond'
        FROM e WHERE NOT careful AND e.mode = 2 AND e.method = ANY ('{GET,HEAD,OPTIONS}') AND e.id NOT IN (SELECT a.id FROM awaited a)
        RETURNING id
      ), r AS MATERIALIZED (
        SELECT e.* FROM e
        WHERE careful OR NOT (e.mode = 2 AND coalesce(e.method = ANY ('{GET,HEAD,OPTIONS}'), false)) OR e.id IN (SELECT a.id FROM awaited a)
      ), completed AS ( -- what httpd says counts, also where the session's own word was there before
        UPDATE pubsubpull.request q
        SET method = r.method, host = r.host, path = r.path, query = r.query, "user" = r."user", remote = r.remote, agent = r.agent,
            started = r.started, headers = r.headers, cause = r.cause, status = r.status, bytes = r.bytes, duration = r.duration * interval '1 microsecond',
            claimed = NULL
        FROM r WHERE q.id = r.id RETURNING q.id
      ), missing AS MATERIALIZED (
        SELECT r.*, r.mode = 2 OR tries > 0 AND EXISTS (SELECT FROM pubsubpull.change c WHERE c.request = r.id) AS wanted
        FROM r WHERE r.id NOT IN (SELECT c.id FROM completed c)
      ), inserted AS (
        INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, headers, cause, status, bytes, duration)
        SELECT m.id, m.method, m.host, m.path, m.query, m."user", m.remote, m.agent, m.started, m.headers, m.cause, m.status, m.bytes,
               m.duration * interval '1 microsecond'
        FROM missing m WHERE m.wanted AND pg_try_advisory_xact_lock(hashtextextended(m.id::text, 0))
        ON CONFLICT (id) DO NOTHING RETURNING id
      ), late AS (
        INSERT INTO pubsubpull.request_late (record, tries, try_at)
        SELECT to_jsonb(m), tries + 1, clock_timestamp() + interval '1 second' * 8 ^ tries
        FROM missing m
        WHERE m.id NOT IN (SELECT i.id FROM inserted i)
          AND (m.wanted OR (tries < 3 AND m.method NOT IN ('GET', 'HEAD', 'OPTIONS', 'TRACE')))
      )
      SELECT ARRAY(SELECT f.id FROM plain f UNION ALL SELECT c.id FROM completed c UNION ALL SELECT i.id FROM inserted i) INTO written;
      EXIT;
    EXCEPTION WHEN unique_violation OR lock_not_available THEN
      IF careful THEN
        RAISE;
      END IF;
      careful := true;
    END;
  END LOOP;
  IF EXISTS (SELECT FROM pubsubpull.subscription s WHERE s.requests IS NOT NULL) THEN
    PERFORM pubsubpull.log_calls(written);
  END IF;
  RETURN cardinality(written);
END $$;
COMMENT ON FUNCTION pubsubpull.record_requests(json, int) IS
  'Completes requests with status, bytes and duration (microseconds). records: array of envelopes with these members and mode: 1 = only if it changed something, 2 = write it anyway. Returns how many rows were written. Waits for a writer no longer than 10 ms.';

-- The same where all only read and are to be written anyway. Most have no row: that is tried, by a statement that does nothing else.
CREATE OR REPLACE FUNCTION pubsubpull.record_reads(records json) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET lock_timeout = '10ms' AS $$
DECLARE
  written int;
BEGIN
  IF EXISTS (SELECT FROM pubsubpull.request q WHERE q.started > now() - interval '1 day' AND q.status IS NULL AND (q.method IS NULL OR q.method = ANY ('{GET,HEAD,OPTIONS}')))
     OR EXISTS (SELECT FROM pubsubpull.request q WHERE q.claimed = 'infinity')
     OR EXISTS (SELECT FROM pubsubpull.subscription s WHERE s.requests IS NOT NULL) THEN
    RETURN pubsubpull.record_requests(records);
  END IF;
  INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, headers, cause, status, bytes, duration)
  SELECT e.id, e.method, e.host, e.path, e.query, e."user", e.remote, e.agent, e.started, e.headers, e.cause, e.status, e.bytes, e.duration * interval '1 microsecond'
  FROM json_to_recordset(records) AS e(id uuid, method text, host text, path text, query text, "user" text, remote text,
    agent text, started timestamptz, headers jsonb, cause uuid, status int, bytes bigint, duration bigint);
  GET DIAGNOSTICS written = ROW_COUNT;
  RETURN written;
EXCEPTION WHEN unique_violation OR lock_not_available THEN
  RETURN pubsubpull.record_requests(records);
END $$;
COMMENT ON FUNCTION pubsubpull.record_reads(json) IS 'record_requests for requests that hardly ever change anything, all of mode 2.';

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
  PERFORM pubsubpull.judge_claims(), pubsubpull.add_up_unattributed();
  RETURN written;
END $$;
COMMENT ON FUNCTION pubsubpull.record_late() IS 'Tries again what record_requests could not write, judges what nobody wrote, and adds up how much is unattributed; called about once a second.';
