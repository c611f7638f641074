-- SPDX-License-Identifier: Apache-2.0
-- web.sql: what the resources share: problems, percent-encoding, options, the root document.

CREATE OR REPLACE FUNCTION pubsubpull.schema_version() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 4';
COMMENT ON FUNCTION pubsubpull.schema_version() IS
  'Version of this schema; the module compares it with the one it speaks.';

-- roles.sql makes the module's role, rights.sql lets it call this.
CREATE OR REPLACE FUNCTION pubsubpull.module_roles() RETURNS SETOF name
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT r.rolname FROM pg_proc p CROSS JOIN LATERAL aclexplode(p.proacl) a JOIN pg_roles r ON r.oid = a.grantee
  WHERE p.oid = 'pubsubpull.schema_version()'::regprocedure AND a.privilege_type = 'EXECUTE' AND a.grantee <> p.proowner
$$;
COMMENT ON FUNCTION pubsubpull.module_roles() IS 'The roles, beside the owner, that httpd servers connect as.';

-- In a function that runs with the owner's rights, who called it.
CREATE OR REPLACE FUNCTION pubsubpull.caller() RETURNS name
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(nullif(current_setting('role'), 'none'), session_user)::name
$$;
COMMENT ON FUNCTION pubsubpull.caller() IS 'The role that the session has outside of functions.';

CREATE OR REPLACE FUNCTION pubsubpull.problem(status int, slug text, detail text, hint text DEFAULT NULL)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF hint IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'PS' || status, MESSAGE = detail, CONSTRAINT = slug;
  END IF;
  RAISE EXCEPTION USING ERRCODE = 'PS' || status, MESSAGE = detail, CONSTRAINT = slug, HINT = hint;
END $$;
COMMENT ON FUNCTION pubsubpull.problem(int, text, text, text) IS
  'Raises a problem (RFC 9457): SQLSTATE PS + HTTP status, message = detail, constraint = slug of the type.';

-- Every byte outside RFC 3986''s unreserved characters becomes %XX; most values have none.
CREATE OR REPLACE FUNCTION pubsubpull.percent_encode(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF value !~ '[^A-Za-z0-9._~-]' THEN
    RETURN value;
  END IF;
  RETURN (SELECT string_agg(CASE WHEN ch ~ '^[A-Za-z0-9._~-]$' THEN ch
                   ELSE regexp_replace(upper(encode(convert_to(ch, 'UTF8'), 'hex')), '(..)', E'%\\1', 'g') END, '' ORDER BY n)
          FROM regexp_split_to_table(value, '') WITH ORDINALITY AS s(ch, n));
END $$;
COMMENT ON FUNCTION pubsubpull.percent_encode(text) IS
  'Percent-encodes all but the unreserved characters (RFC 3986, 2.3), as UTF-8.';

CREATE OR REPLACE FUNCTION pubsubpull.percent_decode(value text) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF position('%' IN value) = 0 THEN
    RETURN value;
  END IF;
  IF value ~ '%(?![0-9A-Fa-f]{2})' OR value ~ '%00' THEN
    PERFORM pubsubpull.problem(400, 'bad-encoding', format('%L is not percent-encoded text.', value));
  END IF;
  RETURN convert_from((SELECT string_agg(CASE WHEN part[1] LIKE E'\\%__' THEN decode(substr(part[1], 2), 'hex')
                                 ELSE convert_to(part[1], 'UTF8') END, ''::bytea ORDER BY n)
                       FROM regexp_matches(value, '%[0-9A-Fa-f]{2}|[^%]+', 'g') WITH ORDINALITY AS m(part, n)), 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
  PERFORM pubsubpull.problem(400, 'bad-encoding', 'A percent-encoded part of the URL is not valid UTF-8.');
END $$;
COMMENT ON FUNCTION pubsubpull.percent_decode(text) IS
  'Inverse of percent_encode; raises problem 400 on broken escapes, %00 or bytes that are not UTF-8.';

CREATE OR REPLACE FUNCTION pubsubpull.parse_object(body text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  document jsonb;
BEGIN
  BEGIN
    document := coalesce(nullif(body, ''), '{}')::jsonb;
  EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
    PERFORM pubsubpull.problem(400, 'bad-json', 'The body is not JSON: ' || SQLERRM || '.');
  END;
  IF jsonb_typeof(document) <> 'object' THEN
    PERFORM pubsubpull.problem(422, 'bad-document', 'The body must be a JSON object.');
  END IF;
  RETURN document;
END $$;
COMMENT ON FUNCTION pubsubpull.parse_object(text) IS 'A request body as a JSON object; problem 400 or 422 otherwise. An empty body is {}.';

-- What a member may hold, in words for people; NULL when the value fits. Kinds: text, text[] (array of strings), flag, object,
-- "1..300" (a whole number), "0.1..9" (any number), "a|b" (one of these strings), "a|b[]" (an array of some of them), "~regex words" (a
-- string that matches, or an array of such; the words say what it is), "#regex words" (a number will do as well).
CREATE OR REPLACE FUNCTION pubsubpull.member_problem(value jsonb, kind text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE
    WHEN kind = 'text' THEN CASE WHEN jsonb_typeof(value) <> 'string' THEN 'must be a string' END
    WHEN kind = 'flag' THEN CASE WHEN jsonb_typeof(value) <> 'boolean' THEN 'must be true or false' END
    WHEN kind = 'object' THEN CASE WHEN jsonb_typeof(value) <> 'object' THEN 'must be an object' END
    WHEN kind = 'text[]' THEN CASE WHEN jsonb_typeof(value) <> 'array' OR jsonb_path_exists(value, '$[*] ? (@.type() != "string")', '{}', true)
                                   THEN 'must be an array of strings' END
    WHEN kind ~ '^[~#]' THEN CASE
      WHEN jsonb_array_length(v.list) BETWEEN 1 AND 100 AND NOT EXISTS (SELECT FROM jsonb_array_elements(v.list) e
             WHERE jsonb_typeof(e) <> 'string' AND NOT (jsonb_typeof(e) = 'number' AND kind LIKE '#%') OR e #>> '{}' !~ substr(split_part(kind, ' ', 1), 2)) THEN NULL
      ELSE concat('must be ', substr(kind, strpos(kind, ' ') + 1), ', or an array of such') END
    WHEN kind LIKE '%[]' THEN CASE WHEN jsonb_typeof(value) = 'array' AND value <> '[]' AND value <@ to_jsonb(string_to_array(left(kind, -2), '|')) THEN NULL
                                   ELSE 'must be an array of some of "' || replace(left(kind, -2), '|', '", "') || '"' END
    WHEN kind LIKE '%..%' THEN CASE
      WHEN jsonb_typeof(value) = 'number' AND (value::text)::numeric BETWEEN split_part(kind, '..', 1)::numeric AND split_part(kind, '..', 2)::numeric
           AND (kind LIKE '%.%..%' OR (value::text)::numeric % 1 = 0) THEN NULL
      ELSE format('must be a %snumber from %s to %s', CASE WHEN kind LIKE '%.%..%' THEN '' ELSE 'whole ' END, split_part(kind, '..', 1), split_part(kind, '..', 2)) END
    ELSE CASE WHEN jsonb_typeof(value) <> 'string' OR value #>> '{}' <> ALL (string_to_array(kind, '|'))
              THEN 'must be one of "' || replace(kind, '|', '", "') || '"' END
  END
  FROM (SELECT CASE WHEN jsonb_typeof(value) = 'array' THEN value ELSE jsonb_build_array(value) END) v(list)
$$;
COMMENT ON FUNCTION pubsubpull.member_problem(jsonb, text) IS 'Why a value is not of a kind, or NULL.';

-- Members of members are named with a dot. A member that is null is as good as absent.
CREATE OR REPLACE FUNCTION pubsubpull.member_problems(document jsonb, kinds jsonb, inside text DEFAULT '') RETURNS SETOF text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  m record;
BEGIN
  FOR m IN SELECT d.key, d.value, kinds->d.key AS kind FROM jsonb_each(document) d WHERE d.value <> 'null' OR NOT kinds ? d.key ORDER BY d.key LOOP
    IF m.kind IS NULL THEN
      RETURN NEXT format('%s is not known here', to_json(inside || m.key));
    ELSIF jsonb_typeof(m.kind) = 'object' AND jsonb_typeof(m.value) = 'object' THEN
      RETURN QUERY SELECT pubsubpull.member_problems(m.value, m.kind, inside || m.key || '.');
    ELSIF pubsubpull.member_problem(m.value, CASE WHEN jsonb_typeof(m.kind) = 'object' THEN 'object' ELSE m.kind #>> '{}' END) IS NOT NULL THEN
      RETURN NEXT format('%s %s', to_json(inside || m.key), pubsubpull.member_problem(m.value, CASE WHEN jsonb_typeof(m.kind) = 'object' THEN 'object' ELSE m.kind #>> '{}' END));
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION pubsubpull.member_problems(jsonb, jsonb, text) IS
  'What is wrong with the members of a document, a line each: those that are not known or of another kind than kinds says. A kind is as in member_problem, or an object of kinds.';

DROP FUNCTION IF EXISTS pubsubpull.check_members(jsonb, jsonb, text); -- looked into one level only once
CREATE OR REPLACE FUNCTION pubsubpull.check_members(document jsonb, kinds jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  problems text := (SELECT string_agg(p, '; ') FROM pubsubpull.member_problems(document, kinds) p);
BEGIN
  IF problems IS NOT NULL THEN
    PERFORM pubsubpull.problem(422, 'bad-member', problems || '.',
                               'Known members: ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(kinds) k) || '.');
  END IF;
  RETURN coalesce((SELECT jsonb_object_agg(d.key, CASE WHEN jsonb_typeof(d.value) = 'object' AND jsonb_typeof(kinds->d.key) = 'object' THEN jsonb_strip_nulls(d.value) ELSE d.value END)
                   FROM jsonb_each(document) d WHERE d.value <> 'null'), '{}');
END $$;
COMMENT ON FUNCTION pubsubpull.check_members(jsonb, jsonb) IS
  'The document without members that are null, or problem 422 that names every member which is not known or of another kind than kinds says.';

CREATE OR REPLACE FUNCTION pubsubpull.parse_limit(value text, standard int DEFAULT 1000, most int DEFAULT 10000) RETURNS int
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF value IS NULL THEN
    RETURN standard;
  END IF;
  IF value !~ '^[0-9]{1,9}$' OR value::int < 1 OR value::int > most THEN
    PERFORM pubsubpull.problem(400, 'bad-limit', format('limit is %L; it must be a whole number from 1 to %s.', value, most));
  END IF;
  RETURN value::int;
END $$;
COMMENT ON FUNCTION pubsubpull.parse_limit(text, int, int) IS 'The query parameter limit as a number, or problem 400.';

CREATE OR REPLACE FUNCTION pubsubpull.root_get(base text, OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
BEGIN
  status := 200;
  body := json_build_object('module', 'mod_pubsubpull', 'schema_version', pubsubpull.schema_version(),
    'tables', base || '/tables/', 'changes', base || '/changes/', 'requests', base || '/requests/',
    'subscriptions', base || '/subscriptions/', 'metrics', base || '/metrics',
    'retention', (SELECT extract(epoch FROM l.retention)::bigint FROM pubsubpull.log l), 'dropped_until', (SELECT l.floor_at FROM pubsubpull.log l))::text;
END $$;
COMMENT ON FUNCTION pubsubpull.root_get(text) IS 'GET /: links to everything, and how long changes are kept (seconds; null: for ever).';
