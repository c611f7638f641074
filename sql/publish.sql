-- SPDX-License-Identifier: Apache-2.0
-- publish.sql: which tables are published, and their resource.

CREATE OR REPLACE FUNCTION pubsubpull.key_of(relation oid) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((SELECT array_agg(a.attname::text ORDER BY k.n)
    FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = relation AND i.indisprimary AND k.n <= i.indnkeyatts), '{}')
$$;
COMMENT ON FUNCTION pubsubpull.key_of(oid) IS 'Names of the primary key''s columns in its order; empty when there is none.';

CREATE OR REPLACE FUNCTION pubsubpull.is_unique(relation oid, key text[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT FROM pg_index i
    WHERE i.indrelid = relation AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      AND (SELECT array_agg(a.attname::text ORDER BY a.attname) = ARRAY(SELECT k FROM unnest(key) k ORDER BY k)
           FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) n JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = n))
    AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = ANY (key) AND NOT a.attnotnull)
$$;
COMMENT ON FUNCTION pubsubpull.is_unique(oid, text[]) IS 'Whether a unique index covers exactly these columns and all are NOT NULL.';

CREATE OR REPLACE FUNCTION pubsubpull.text_list(value jsonb) RETURNS text[]
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
  SELECT ARRAY(SELECT e FROM jsonb_array_elements_text(value) WITH ORDINALITY AS x(e, n) ORDER BY n)
$$;
COMMENT ON FUNCTION pubsubpull.text_list(jsonb) IS 'A JSON array of strings as an array; NULL when absent.';

CREATE OR REPLACE FUNCTION pubsubpull.check_columns(relation oid, columns text[], member text) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  unknown text;
BEGIN
  SELECT string_agg(to_json(c)::text, ', ') INTO unknown FROM unnest(columns) c
  WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped);
  IF unknown IS NOT NULL THEN
    PERFORM pubsubpull.problem(422, 'unknown-column', format('%s names %s, which %s does not have.', to_json(member), unknown, pubsubpull.table_name(relation)));
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_columns(oid, text[], text) IS 'Problem 422 unless the table has all these columns.';

CREATE OR REPLACE FUNCTION pubsubpull.missing_grants(relations oid[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  WITH reader AS (SELECT r AS role FROM pubsubpull.module_roles() r UNION SELECT current_user WHERE NOT EXISTS (SELECT FROM pubsubpull.module_roles())),
  wanted AS (
    SELECT c.oid, r.role, 'SELECT' AS right FROM pg_class c CROSS JOIN reader r WHERE c.oid = ANY (relations)
    UNION ALL SELECT c.oid, current_user, 'TRIGGER' FROM pg_class c WHERE c.oid = ANY (relations) AND c.relkind IN ('r', 'p')),
  missing AS (
    SELECT w.right, w.role, string_agg(pubsubpull.table_name(w.oid), ', ' ORDER BY array_position(relations, w.oid)) AS names
    FROM wanted w WHERE NOT has_table_privilege(w.role, w.oid, w.right) GROUP BY 1, 2)
  SELECT string_agg(format('GRANT %s ON %s TO %I;', m.right, m.names, m.role), ' ' ORDER BY m.right, m.role) FROM missing m
$$;
COMMENT ON FUNCTION pubsubpull.missing_grants(oid[]) IS
  'What the owners of these tables, the first one and its partitions, have to run so that they can be published; NULL: nothing. The owner of this schema makes triggers, the module''s role reads.';

CREATE OR REPLACE FUNCTION pubsubpull.check_publishable(relation regclass) RETURNS pg_class
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  c pg_class;
  name text := pubsubpull.table_name(relation);
  missing text;
BEGIN
  SELECT * INTO c FROM pg_class WHERE oid = relation;
  IF c.relkind NOT IN ('r', 'p', 'v', 'm') THEN
    PERFORM pubsubpull.problem(422, 'not-a-table', format('%s is neither a table nor a view.', name), 'Publish the tables behind it.');
  ELSIF c.relpersistence = 't' THEN
    PERFORM pubsubpull.problem(422, 'not-a-table', format('%s is temporary; only permanent tables can be published.', name));
  ELSIF c.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'pubsubpull'::regnamespace) THEN
    PERFORM pubsubpull.problem(403, 'not-publishable', format('%s belongs to the system and cannot be published.', name));
  END IF;
  missing := pubsubpull.missing_grants(ARRAY[relation] || ARRAY(SELECT t.relid FROM pg_partition_tree(relation) t WHERE t.relid <> relation)::oid[]);
  IF missing IS NOT NULL THEN
    PERFORM pubsubpull.problem(403, 'missing-privilege', format('The module may not publish %s yet.', name), 'Its owner can allow it: ' || missing);
  END IF;
  RETURN c;
END $$;
COMMENT ON FUNCTION pubsubpull.check_publishable(regclass) IS 'The table''s pg_class row, or the problem why it cannot be published.';

-- Over HTTP it is httpd that says who may publish. By SQL it is for owners of tables, and for members of this schema's owner.
CREATE OR REPLACE FUNCTION pubsubpull.check_publisher(relation regclass) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT pg_has_role(pubsubpull.caller(), current_user, 'USAGE') AND pubsubpull.caller() NOT IN (SELECT pubsubpull.module_roles())
     AND NOT (SELECT pg_has_role(pubsubpull.caller(), c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = relation) THEN
    PERFORM pubsubpull.problem(403, 'not-owner', format('The role %s does not own %s.', pubsubpull.caller(), pubsubpull.table_name(relation)), 'Its owner can publish it, or not publish it any more.');
  END IF;
END $$;
COMMENT ON FUNCTION pubsubpull.check_publisher(regclass) IS 'Problem 403 unless the caller owns the table, is httpd, or has the rights of this schema''s owner.';

CREATE OR REPLACE FUNCTION pubsubpull.is_logged(p pubsubpull.published) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.relation AND c.relkind IN ('v', 'm'));
END $$;
COMMENT ON FUNCTION pubsubpull.is_logged(pubsubpull.published) IS 'Whether changes are logged: of tables they are, of views only the rows can be pulled.';

-- The owner of a table can disable or drop its triggers.
CREATE OR REPLACE FUNCTION pubsubpull.silent(p pubsubpull.published) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT string_agg(DISTINCT pubsubpull.table_name(r.relid), ', ')
  FROM (SELECT p.relation::oid UNION SELECT t.relid FROM pg_partition_tree(p.relation) t) r(relid)
  CROSS JOIN LATERAL unnest(CASE WHEN NOT p.row_level THEN '{insert,update,delete,truncate}' WHEN r.relid = p.relation THEN '{row,truncate}' ELSE '{row}' END::text[]) e(event)
  WHERE p.unpublished_at IS NULL AND pubsubpull.is_logged(p)
    AND NOT EXISTS (SELECT FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid -- all of one snapshot: it may be published anew at this moment
                    WHERE g.tgrelid = r.relid AND g.tgenabled IN ('O', 'A') AND f.pronamespace = 'pubsubpull'::regnamespace AND f.proname = format('log_%s_%s', p.id, e.event))
$$;
COMMENT ON FUNCTION pubsubpull.silent(pubsubpull.published) IS 'Names of the published table, or those of its partitions, that lack a trigger or have one disabled; NULL: all is logged.';

CREATE OR REPLACE FUNCTION pubsubpull.publish(relation regclass, options jsonb DEFAULT '{}') RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET client_min_messages = warning AS $$
DECLARE
  c pg_class := pubsubpull.check_publishable(relation);
  document jsonb := pubsubpull.check_members(options, '{"exclude": "text[]", "key": "text[]", "skip_unchanged": "flag"}');
  hidden text[] := coalesce(pubsubpull.text_list(document->'exclude'), '{}');
  names text[] := coalesce(pubsubpull.text_list(document->'key'), pubsubpull.key_of(relation));
  p pubsubpull.published;
  created boolean;
  mended boolean;
  event text;
BEGIN
  PERFORM pubsubpull.check_publisher(relation), pubsubpull.check_casts(), pubsubpull.check_columns(relation, hidden, 'exclude'), pubsubpull.check_columns(relation, names, 'key');
  IF names && hidden THEN
    PERFORM pubsubpull.problem(422, 'bad-member', 'A column of the key cannot be excluded: followers know rows by it.');
  ELSIF c.relkind IN ('v', 'm') AND names = '{}' THEN
    PERFORM pubsubpull.problem(422, 'no-key', format('%s is a view and needs "key": […], columns that are never NULL and tell its rows apart.', pubsubpull.table_name(relation)));
  ELSIF document ? 'key' AND c.relkind IN ('r', 'p') AND NOT pubsubpull.is_unique(relation, names) THEN
    PERFORM pubsubpull.problem(422, 'bad-member', format('"key" needs a unique index on exactly (%s), all NOT NULL.', array_to_string(names, ', ')));
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('pubsubpull.published'), relation::oid::int);
  SELECT * INTO p FROM pubsubpull.published q WHERE q.relation = publish.relation;
  created := NOT FOUND OR p.unpublished_at IS NOT NULL;
  mended := NOT created AND pubsubpull.silent(p) IS NOT NULL; -- nobody knows what was changed since
  IF p.id IS NULL THEN
    INSERT INTO pubsubpull.published AS q (relation, name, key, exclude, options, row_level) VALUES (relation, '', '{}', '{}', '{}', false) RETURNING * INTO p;
  END IF;
  UPDATE pubsubpull.published q
  SET name = pubsubpull.table_name(publish.relation), key = names, options = document, unpublished_at = NULL,
      published_at = CASE WHEN created THEN now() ELSE q.published_at END,
      whole_since = CASE WHEN created OR mended THEN pg_current_xact_id() ELSE q.whole_since END, interrupted = q.interrupted OR q.unpublished_at IS NOT NULL OR mended,
      exclude = ARRAY(SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = publish.relation AND a.attname = ANY (hidden) ORDER BY 1),
      row_level = c.relkind = 'p' OR c.relispartition OR c.relhassubclass
                  OR EXISTS (SELECT FROM pg_inherits i WHERE publish.relation IN (i.inhrelid, i.inhparent))
  WHERE q.id = p.id RETURNING * INTO p;
  IF NOT pubsubpull.is_logged(p) THEN
    RETURN created;
  END IF;
  FOREACH event IN ARRAY CASE WHEN mended THEN ARRAY['insert', 'update', 'delete', 'truncate', 'row'] WHEN p.row_level THEN ARRAY['insert', 'update', 'delete'] ELSE ARRAY['row'] END LOOP
    EXECUTE format('DROP FUNCTION IF EXISTS pubsubpull.%I() CASCADE', format('log_%s_%s', p.id, event)); -- of the other way of logging, if it changed
  END LOOP;
  PERFORM pubsubpull.create_functions(p), pubsubpull.create_triggers(p), pubsubpull.disable_interrupted(p.id);
  RETURN created;
END $$;
COMMENT ON FUNCTION pubsubpull.publish(regclass, jsonb) IS
  'Publishes a table: from now on every change of its rows is logged. options: exclude (columns that never enter the log), key (columns of a unique index, default: the primary key), skip_unchanged (leave out updates that change nothing). Calling it again changes the options. Of a view the rows can be pulled, by the key given, and nothing is logged. Returns true when the table was not published before. Needs TRIGGER on the table for the owner of this schema, and SELECT for the module''s role.';

CREATE OR REPLACE FUNCTION pubsubpull.unpublish(relation regclass) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET client_min_messages = warning AS $$
DECLARE
  p pubsubpull.published;
  event text;
BEGIN
  PERFORM pubsubpull.check_publisher(relation);
  UPDATE pubsubpull.published q SET unpublished_at = now()
  WHERE q.relation = unpublish.relation AND q.unpublished_at IS NULL RETURNING * INTO p;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete', 'truncate', 'row'] LOOP
    -- The triggers go with their function: dropping a trigger by name would need to own the table.
    EXECUTE format('DROP FUNCTION IF EXISTS pubsubpull.%I() CASCADE', format('log_%s_%s', p.id, event));
  END LOOP;
  RETURN true;
END $$;
COMMENT ON FUNCTION pubsubpull.unpublish(regclass) IS
  'Stops logging a table; what is logged stays. Returns whether it was published.';


CREATE OR REPLACE FUNCTION pubsubpull.parse_name(name text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN parse_ident(name);
EXCEPTION WHEN data_exception THEN
  RETURN '{}';
END $$;
COMMENT ON FUNCTION pubsubpull.parse_name(text) IS 'A qualified SQL name as its parts; empty when it is none.';

-- Only the canonical name is acted on, because access rules in httpd are written for it: any other spelling is answered with
-- problem 308, whose message is the canonical name, and the module asks again under that name if the user may.
CREATE OR REPLACE FUNCTION pubsubpull.find_table(name text) RETURNS regclass
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  parts text[] := pubsubpull.parse_name(name);
  matches oid[];
  canonical text;
BEGIN
  IF cardinality(parts) = 2 THEN
    matches := ARRAY(SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = parts[1] AND c.relname = parts[2] AND c.relkind IN ('r', 'p', 'v', 'm', 'f'));
  ELSIF cardinality(parts) = 1 THEN
    matches := ARRAY(SELECT q.relation FROM pubsubpull.published q JOIN pg_class c ON c.oid = q.relation
                   WHERE c.relname = parts[1] AND q.unpublished_at IS NULL);
    IF matches = '{}' THEN
      matches := ARRAY(SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = 'public' AND c.relname = parts[1] AND c.relkind IN ('r', 'p', 'v', 'm', 'f'));
    END IF;
  END IF;
  IF cardinality(matches) > 1 THEN
    PERFORM pubsubpull.problem(409, 'ambiguous-table', format('More than one published table is called %s.', name), 'Write schema.table.');
  ELSIF matches IS NULL OR matches = '{}' THEN
    PERFORM pubsubpull.problem(404, 'no-such-table', format('There is no table %s in this database.', name), 'Tables are named schema.table.');
  END IF;
  canonical := CASE WHEN cardinality(parts) = 2 THEN format('%I.%I', parts[1], parts[2]) ELSE pubsubpull.table_name(matches[1]) END;
  IF canonical <> name THEN
    PERFORM pubsubpull.problem(308, 'other-name', canonical);
  END IF;
  RETURN matches[1]::regclass;
END $$;
COMMENT ON FUNCTION pubsubpull.find_table(text) IS
  'The table that a URL names by its canonical name schema.table; problem 308 with that name for any other spelling, 404 for none.';

CREATE OR REPLACE FUNCTION pubsubpull.find_published(name text) RETURNS pubsubpull.published
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p pubsubpull.published;
  target regclass;
BEGIN
  target := pubsubpull.find_table(name);
  SELECT * INTO p FROM pubsubpull.published q WHERE q.relation = target AND q.unpublished_at IS NULL;
  IF NOT FOUND THEN
    PERFORM pubsubpull.problem(404, 'not-published', format('%s is not published.', name), 'PUT this table''s URL to publish it.');
  END IF;
  RETURN p;
END $$;
COMMENT ON FUNCTION pubsubpull.find_published(text) IS 'The published table of this canonical name; problem 308 or 404 otherwise.';

CREATE OR REPLACE FUNCTION pubsubpull.published_names() RETURNS TABLE (name text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('%I.%I', n.nspname, c.relname) FROM pubsubpull.published p JOIN pg_class c ON c.oid = p.relation
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.unpublished_at IS NULL ORDER BY 1
$$;
COMMENT ON FUNCTION pubsubpull.published_names() IS 'Canonical names of all published tables.';

CREATE OR REPLACE FUNCTION pubsubpull.table_url(base text, name text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT base || '/tables/' || pubsubpull.percent_encode(name) $$;
COMMENT ON FUNCTION pubsubpull.table_url(text, text) IS 'URL of a table''s document.';

CREATE OR REPLACE FUNCTION pubsubpull.table_document(base text, p pubsubpull.published) RETURNS json
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT json_build_object('table', t.name, 'url', t.url, 'key', p.key, 'exclude', pubsubpull.excluded_names(p),
    'skip_unchanged', coalesce((p.options->>'skip_unchanged')::boolean, false), 'published_at', p.published_at,
    'columns', (SELECT json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'null', NOT a.attnotnull) ORDER BY a.attnum)
                FROM pg_attribute a WHERE a.attrelid = p.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attnum <> ALL (p.exclude)),
    'logged', pubsubpull.is_logged(p),
    'warning', 'Changes of ' || pubsubpull.silent(p) || ' are not logged: triggers are disabled or gone. PUT makes them anew; what was changed meanwhile is missing in the log.',
    'rows', t.url || '/rows/', 'changes', CASE WHEN pubsubpull.is_logged(p) THEN t.url || '/changes/' END)
  FROM (SELECT n.name, pubsubpull.table_url(base, n.name) AS url FROM (SELECT pubsubpull.table_name(p.relation) AS name) n) t
$$;
COMMENT ON FUNCTION pubsubpull.table_document(text, pubsubpull.published) IS 'The JSON document of a published table.';

CREATE OR REPLACE FUNCTION pubsubpull.tables_get(base text, OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT 200, d.body, md5(d.body), NULL, NULL FROM (
    SELECT json_build_object('tables', coalesce((SELECT json_agg(json_build_object('table', n.name, 'url', pubsubpull.table_url(base, n.name)))
                                                 FROM pubsubpull.published_names() n), '[]'))::text AS body) d
$$;
COMMENT ON FUNCTION pubsubpull.tables_get(text) IS 'GET /tables/: published tables.';

CREATE OR REPLACE FUNCTION pubsubpull.table_get(base text, name text, OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT 200, d.body, md5(d.body), NULL, NULL
  FROM (SELECT pubsubpull.table_document(base, pubsubpull.find_published(name))::text AS body) d
$$;
COMMENT ON FUNCTION pubsubpull.table_get(text, text) IS 'GET /tables/{t}: columns, key, options, links.';

CREATE OR REPLACE FUNCTION pubsubpull.table_put(base text, name text, document text, OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  relation regclass := pubsubpull.find_table(name);
BEGIN
  status := CASE WHEN pubsubpull.publish(relation, pubsubpull.parse_object(document)) THEN 201 ELSE 200 END;
  body := pubsubpull.table_document(base, pubsubpull.find_published(name));
  etag := md5(body);
  location := pubsubpull.table_url(base, name);
END $$;
COMMENT ON FUNCTION pubsubpull.table_put(text, text, text) IS 'PUT /tables/{t}: publish.';

CREATE OR REPLACE FUNCTION pubsubpull.table_delete(base text, name text, OUT status int, OUT body text, OUT etag text, OUT next text, OUT location text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pubsubpull.unpublish((pubsubpull.find_published(name)).relation);
  status := 204;
END $$;
COMMENT ON FUNCTION pubsubpull.table_delete(text, text) IS 'DELETE /tables/{t}: stop publishing; the log stays.';
