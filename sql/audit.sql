-- SPDX-License-Identifier: Apache-2.0
-- audit.sql: who changed what and when: requests and what they changed; the history of a row is in pull.sql.

CREATE OR REPLACE FUNCTION pubsubpull.requests_get(base text, "user" text, method text, path text, status_class text, since text, "limit" text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET TimeZone = 'UTC' AS $$
DECLARE
  most int := pubsubpull.parse_limit("limit", 100, 1000);
  page text;
  last_id uuid;
  n int;
BEGIN
  IF since IS NOT NULL AND since !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    PERFORM pubsubpull.problem(400, 'bad-cursor', 'since must come from the "next" URL of an earlier page.');
  ELSIF status_class !~ '^[1-5](xx|[0-9]{2})$' THEN
    PERFORM pubsubpull.problem(400, 'bad-status', 'status must be a number such as 404 or a class such as 5xx.');
  END IF;
  -- Ids are UUIDv7: newest first is the order of the primary key.
  SELECT string_agg(concat(left(pubsubpull.request_json(r.id), -1), ',"url":', to_json(base || '/requests/' || r.id), '}'), ',' ORDER BY r.id DESC),
         (array_agg(r.id ORDER BY r.id))[1], count(*)
  INTO page, last_id, n
  FROM (SELECT q.id FROM pubsubpull.request q
        WHERE (since IS NULL OR q.id < since::uuid) AND (requests_get."user" IS NULL OR q."user" = requests_get."user")
          AND (requests_get.method IS NULL OR q.method = requests_get.method) AND (requests_get.path IS NULL OR starts_with(q.path, requests_get.path))
          AND (status_class IS NULL OR q.status::text = status_class OR q.status / 100 || 'xx' = status_class)
        ORDER BY q.id DESC LIMIT most) r;
  IF n = most THEN
    next := concat(base, '/requests/?since=', last_id, '&limit=', most, '&user=' || pubsubpull.percent_encode("user"), '&method=' || pubsubpull.percent_encode(method),
                   '&path=' || pubsubpull.percent_encode(path), '&status=' || status_class);
  END IF;
  status := 200;
  body := concat('{"requests":[', page, '],"next":', coalesce(to_json(next)::text, 'null'), '}');
END $$;
COMMENT ON FUNCTION pubsubpull.requests_get(text, text, text, text, text, text, text) IS 'GET /requests/: recorded requests, newest first; path is a prefix.';

CREATE OR REPLACE FUNCTION pubsubpull.request_get(base text, id text,
  OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET TimeZone = 'UTC' AS $$
DECLARE
  request_id uuid;
  tables int[] := pubsubpull.all_tables();
  head text;
  page text;
BEGIN
  IF request_get.id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    request_id := request_get.id::uuid;
    head := pubsubpull.request_json(request_id);
  END IF;
  SELECT string_agg(concat(pubsubpull.change_json(c.id, c.type, c.at, c.key, c.old, c.new, c.request, c.channel, t.name_json, t.url, t.key, t.plain), '}'), ',' ORDER BY c.id) INTO page
  FROM pubsubpull.change c JOIN pubsubpull.shown_tables(tables, base) t ON t.id = c.table_id WHERE c.request = request_id;
  IF head IS NULL AND page IS NULL THEN
    PERFORM pubsubpull.problem(404, 'no-such-request', format('No request %s is recorded.', request_get.id));
  END IF;
  status := 200;
  body := concat(left(coalesce(head, concat('{"id":"', request_id, '"}')), -1), ',"changes":[', page, ']}');
  etag := md5(body);
END $$;
COMMENT ON FUNCTION pubsubpull.request_get(text, text) IS 'GET /requests/{id}: one request with all changes it made.';
