# SPDX-License-Identifier: Apache-2.0
# log.t: the log of changes is complete and exact, however a change is made. SQL only.
use PspTest;
use utf8;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
sub table {
    my ($name, $columns, $options) = @_;
    $pg->sql("CREATE TABLE $name $columns");
    $pg->publishable($name);
    ok(admin('SELECT pubsubpull.publish($1::regclass, $2::jsonb)', $name, $options // '{}'), "$name is published");
    return;
}

# What was logged for a table since the last look: "type key old_key old new" a line.
my %seen;
sub logged {
    my ($name) = @_;
    my $rows = $pg->rows([user => 'pubsubpull'],
        'SELECT c.id, concat_ws(\' \', c.type, c.key, \'<\' || c.old_key, c.old, \'>\', c.new) FROM pubsubpull.change c
         JOIN pubsubpull.published p ON p.id = c.table_id WHERE p.relation = $1::regclass AND c.id > $2 ORDER BY c.id', $name, $seen{$name} // 0);
    $seen{$name} = $rows->[-1][0] if @$rows;
    return [map { $_->[1] } @$rows];
}

sub refused {
    my ($statement, $state, $text, $name) = @_;
    eval { admin($statement) };
    like($@, $text, $name);
    return;
}

table('plain', '(id int PRIMARY KEY, v text)');
$pg->sql(q{INSERT INTO plain VALUES (1, 'a'), (2, NULL)});
is_deeply(logged('plain'), ['I 1 > {"id":1,"v":"a"}', 'I 2 > {"id":2,"v":null}'], 'INSERT: old is null, new the whole row');
$pg->sql(q{UPDATE plain SET v = 'b' WHERE id = 1});
is_deeply(logged('plain'), ['U 1 {"id":1,"v":"a"} > {"id":1,"v":"b"}'], 'UPDATE of one row');
$pg->sql(q{UPDATE plain SET v = v || id});
is_deeply([sort @{ logged('plain') }], ['U 1 {"id":1,"v":"b"} > {"id":1,"v":"b1"}', 'U 2 {"id":2,"v":null} > {"id":2,"v":null}'], 'UPDATE of several');
$pg->sql(q{UPDATE plain SET v = 'x' WHERE id = 99});
is_deeply(logged('plain'), [], 'UPDATE of none');
$pg->sql('ALTER TABLE plain DROP CONSTRAINT plain_pkey, ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED');
$pg->sql(q{UPDATE plain SET id = 3 - id});
is_deeply([sort @{ logged('plain') }],
    ['U 1 <2 {"id":2,"v":null} > {"id":1,"v":null}', 'U 2 <1 {"id":1,"v":"b1"} > {"id":2,"v":"b1"}'], 'keys that change places');
$pg->sql(q{INSERT INTO plain VALUES (5, 'five')});
logged('plain');
$pg->sql(q{DELETE FROM plain WHERE id = 5});
is_deeply(logged('plain'), ['D 5 {"id":5,"v":"five"} >'], 'DELETE: new is null');
$pg->sql(q{TRUNCATE plain});
is_deeply(logged('plain'), ['T >'], 'TRUNCATE: one event');
$pg->admin->psql(['-c', q{COPY plain FROM PROGRAM 'printf "7\tseven\n8\teight\n"'}]);
is_deeply(logged('plain'), ['I 7 > {"id":7,"v":"seven"}', 'I 8 > {"id":8,"v":"eight"}'], 'COPY');

table('upsert', '(id int PRIMARY KEY, v text)');
$pg->sql(q{INSERT INTO upsert VALUES (1, 'a')});
$pg->sql(q{INSERT INTO upsert VALUES (1, 'b'), (2, 'c') ON CONFLICT (id) DO UPDATE SET v = excluded.v});
$pg->sql(q{INSERT INTO upsert VALUES (1, 'z') ON CONFLICT DO NOTHING});
is_deeply([sort @{ logged('upsert') }],
    ['I 1 > {"id":1,"v":"a"}', 'I 2 > {"id":2,"v":"c"}', 'U 1 {"id":1,"v":"a"} > {"id":1,"v":"b"}'], 'INSERT ON CONFLICT');
$pg->sql(q{MERGE INTO upsert u USING (VALUES (1), (2), (3)) AS m(i) ON u.id = m.i WHEN MATCHED AND i = 1 THEN DELETE
           WHEN MATCHED THEN UPDATE SET v = 'm' WHEN NOT MATCHED THEN INSERT VALUES (i, 'new')});
is_deeply([sort @{ logged('upsert') }],
    ['D 1 {"id":1,"v":"b"} >', 'I 3 > {"id":3,"v":"new"}', 'U 2 {"id":2,"v":"c"} > {"id":2,"v":"m"}'], 'MERGE');
$pg->sql(q{WITH a AS (INSERT INTO upsert VALUES (10, 'cte') RETURNING id), b AS (DELETE FROM upsert WHERE id = 3) SELECT count(*) FROM a});
is_deeply([sort @{ logged('upsert') }], ['D 3 {"id":3,"v":"new"} >', 'I 10 > {"id":10,"v":"cte"}'], 'WITH that changes rows');

# Transactions
my $dbh = $pg->dbh;
$dbh->begin_work;
$dbh->do(q{INSERT INTO plain VALUES (20, 'kept')});
$dbh->do('SAVEPOINT s');
$dbh->do(q{INSERT INTO plain VALUES (21, 'gone')});
$dbh->do('ROLLBACK TO s');
$dbh->commit;
$dbh->begin_work;
$dbh->do(q{INSERT INTO plain VALUES (22, 'gone')});
$dbh->rollback;
is_deeply(logged('plain'), ['I 20 > {"id":20,"v":"kept"}'], 'nothing from rolled back transactions and savepoints');

# Shapes of tables
table('keyless', '(a int, b text)');
$pg->sql(q{INSERT INTO keyless VALUES (1, 'x'), (1, 'x')});
$pg->sql(q{UPDATE keyless SET a = 2});
$pg->sql(q{DELETE FROM keyless});
is(scalar @{ logged('keyless') }, 6, 'a table without a key is logged');

table('"Odd ""Table"', q{("Key, 1" text, k2 timestamptz, "new" int, "request" int, n int, o int, PRIMARY KEY ("Key, 1", k2))}, undef);
$pg->sql(q{SET TimeZone = 'Asia/Tokyo'});
$pg->sql(q{INSERT INTO "Odd ""Table" VALUES ('a,b/é%', '2026-01-01 00:00+00', 1, 2, 3, 4)});
$pg->sql(q{UPDATE "Odd ""Table" SET n = 5});
$pg->sql(q{RESET TimeZone});
my $odd = logged('"Odd ""Table"');
like($odd->[0], qr{^I a%2Cb%2F%C3%A9%25,2026-01-01%2000%3A00%3A00%2B00 > \{"Key, 1":"a,b/é%","k2":"2026-01-01T00:00:00\+00:00","new":1,"request":2,"n":3,"o":4\}$},
    'quoted names; the key does not depend on the session');
like($odd->[1], qr{^U a%2Cb%2F%C3%A9%25,}, 'and stays the same');

$pg->sql(q{CREATE TYPE mood AS ENUM ('ok'); CREATE DOMAIN posint AS int CHECK (VALUE > 0); CREATE TYPE pair AS (a int, b text)});
table('types', q{(id uuid PRIMARY KEY, a int[], b bytea, c float8, d numeric, e interval, f json, g jsonb, h mood, i posint, j pair, k int4range,
    l inet, m xml, n tsvector, o money, p bit(3), q point, r date, s time, t timestamptz[], u hstore_like, gen int GENERATED ALWAYS AS (i + 1) STORED)} =~ s/ u hstore_like,//r);
$pg->sql(q{SET bytea_output = 'escape'; SET extra_float_digits = 0; SET IntervalStyle = 'sql_standard'; SET DateStyle = 'German'});
$pg->sql(q{INSERT INTO types VALUES ('01900000-0000-7000-8000-000000000001', '{1,NULL}', '\x00ff', 0.1::float8 + 0.2, 'NaN', '1 day 2 hours', '{"a": 1,  "a": 2}', '{"b": [1]}', 'ok', 4,
    (1, 'x'), '[1,5)', '::1', '<a/>', 'a b', '1.5', B'101', '(1,2)', '2026-02-03', '10:11', '{2026-01-01 00:00+00}')});
$pg->sql(q{RESET ALL});
my ($types) = @{ logged('types') };
like($types, qr{"b":"\\\\x00ff","c":0\.30000000000000004,"d":"NaN","e":"1 day 02:00:00","f":\{"a": 1,  "a": 2\}.*"r":"2026-02-03".*"gen":5}, 'every type, independent of the session');

# Partitions: rows are seen whichever table the statement names, also of partitions that are added later.
table('parted', '(id int PRIMARY KEY, v text) PARTITION BY RANGE (id)');
$pg->sql('CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20)');
$pg->sql(q{INSERT INTO parted VALUES (1, 'a'), (11, 'b')});
$pg->sql(q{INSERT INTO parted_1 VALUES (2, 'direct')});
$pg->sql(q{UPDATE parted SET id = 12 WHERE id = 1});
$pg->sql(q{UPDATE parted SET v = 'c' WHERE id = 11});
is_deeply(logged('parted'), ['I 1 > {"id":1,"v":"a"}', 'I 11 > {"id":11,"v":"b"}', 'I 2 > {"id":2,"v":"direct"}', 'D 1 {"id":1,"v":"a"} >', 'I 12 > {"id":12,"v":"a"}',
    'U 11 {"id":11,"v":"b"} > {"id":11,"v":"c"}'], 'partitions; a row that moves to another partition is a delete and an insert');
refused(q{SELECT pubsubpull.publish('parted')}, 'PS403', qr/GRANT TRIGGER ON public\.parted_1, public\.parted_2 TO pubsubpull;/, 'partitions need the privilege too');
$pg->publishable('parted_1', 'parted_2');
admin(q{SELECT pubsubpull.publish('parted')});
$pg->sql('TRUNCATE parted_1');
is_deeply(logged('parted'), ['D 2 {"v": "direct", "id": 2} >'], 'TRUNCATE of one partition: its rows');
$pg->sql('TRUNCATE parted');
is_deeply(logged('parted'), ['T >'], 'TRUNCATE of the whole');

# Foreign keys
table('parent', '(id int PRIMARY KEY)');
table('child', '(id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)');
$pg->sql('INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 1), (2, 1)');
logged('child');
$pg->sql('UPDATE parent SET id = 2; DELETE FROM parent');
is_deeply([map { substr $_, 0, 3 } @{ logged('child') }], ['U 1', 'U 2', 'D 1', 'D 2'], 'cascades');

# A trigger of the service that changes the row again is logged after the statement that fired it.
table('nested', '(id int PRIMARY KEY, n int)');
$pg->sql(q{CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE nested SET n = n + 100 WHERE id = NEW.id AND n < 300; RETURN NULL; END'});
$pg->sql('CREATE TRIGGER aaa AFTER INSERT OR UPDATE ON nested FOR EACH ROW EXECUTE FUNCTION again()');
$pg->sql('INSERT INTO nested VALUES (1, 1), (2, 250)');
my @nested = @{ logged('nested') };
is_deeply([grep { /^. 1/ } @nested], ['I 1 > {"id":1,"n":1}', 'U 1 {"id":1,"n":1} > {"id":1,"n":101}', 'U 1 {"id":1,"n":101} > {"id":1,"n":201}', 'U 1 {"id":1,"n":201} > {"id":1,"n":301}'],
    'changes made by triggers of the service come in order') or diag explain \@nested;
is_deeply([grep { /^. 2/ } @nested], ['I 2 > {"id":2,"n":250}', 'U 2 {"id":2,"n":250} > {"id":2,"n":350}'], 'for each row');

$pg->sql(q{INSERT INTO nested VALUES (5, 500)});
logged('nested');
$pg->sql(q{INSERT INTO nested VALUES (3, 1) ON CONFLICT (id) DO UPDATE SET n = excluded.n});
is((logged('nested'))->[0], 'I 3 > {"id":3,"n":1}', 'also for ON CONFLICT, whose two triggers both fire');
$pg->sql('CREATE TABLE orders (id int PRIMARY KEY)');
table('stock', '(id int PRIMARY KEY, n int)');
$pg->sql('INSERT INTO stock SELECT g, 0 FROM generate_series(1, 3000) g');
$pg->sql(q{CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE stock SET n = n + 1 WHERE id = NEW.id; RETURN NULL; END'});
$pg->sql('CREATE TRIGGER take AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION take()');
my $before = time;
$pg->sql('INSERT INTO orders SELECT g FROM generate_series(1, 3000) g');
cmp_ok(time - $before, '<', 10, 'thousands of nested statements take no quadratic time');

# Options
table('secretive', '(id int PRIMARY KEY, password text, city text)', '{"exclude":["password"]}');
$pg->sql(q{INSERT INTO secretive VALUES (1, 'hush', 'Oslo')});
$pg->sql(q{ALTER TABLE secretive RENAME password TO pwd});
$pg->sql(q{UPDATE secretive SET pwd = 'hush2'});
$pg->sql(q{ALTER TABLE secretive ADD extra int});
$pg->sql(q{UPDATE secretive SET extra = 1});
unlike(join("\n", @{ logged('secretive') }), qr/hush|pwd|password/, 'excluded columns never enter the log, also when renamed');
is(admin(q{SELECT new->>'extra' FROM pubsubpull.change ORDER BY id DESC LIMIT 1}), 1, 'columns added later do');
table('quiet', '(id int PRIMARY KEY, v text)', '{"skip_unchanged":true}');
$pg->sql(q{INSERT INTO quiet VALUES (1, 'a'), (2, 'b')});
$pg->sql(q{UPDATE quiet SET v = v}); $pg->sql(q{UPDATE quiet SET v = 'a'}); $pg->sql(q{UPDATE quiet SET v = 'z' WHERE id = 2});
is_deeply([map { substr $_, 0, 3 } @{ logged('quiet') }], ['I 1', 'I 2', 'U 2', 'U 2'], 'skip_unchanged leaves out updates that change nothing');

# Bulk: many rows, after a plan was made for few
$pg->sql(q{INSERT INTO upsert SELECT g, 'bulk' FROM generate_series(1000, 20999) g});
my $start = time;
$pg->sql(q{UPDATE upsert SET v = v || id, id = id + 100000 WHERE id >= 1000});
cmp_ok(time - $start, '<', 20, '20,000 rows in one UPDATE take no quadratic time');
is(admin(q{SELECT count(*) FROM pubsubpull.change c JOIN pubsubpull.published p ON p.id = c.table_id WHERE p.name = 'public.upsert' AND c.type = 'U'
           AND (c.old->>'id')::int + 100000 = (c.new->>'id')::int AND c.key = c.new->>'id' AND c.old_key = c.old->>'id'}), 20000, 'old and new are paired, also when the key changed');

# Unpublish and publish again
ok(admin(q{SELECT pubsubpull.unpublish('plain')}), 'unpublish');
$pg->sql(q{INSERT INTO plain VALUES (30, 'unseen')});
is_deeply(logged('plain'), [], 'nothing is logged any more');
is($pg->sql(q{SELECT count(*) FROM pg_trigger WHERE tgrelid = 'plain'::regclass AND NOT tgisinternal}), 0, 'and no trigger is left');
ok(admin(q{SELECT pubsubpull.publish('plain')}), 'published again');
is(admin(q{SELECT pubsubpull.publish('plain')})  // 'f', 0, 'publish is idempotent');
$pg->sql(q{INSERT INTO plain VALUES (31, 'seen')});
is_deeply(logged('plain'), ['I 31 > {"id":31,"v":"seen"}'], 'the same log goes on');

# A child table makes the parent be logged row by row: publishing again must not log twice
table('ancestor', '(id int PRIMARY KEY)');
$pg->sql('CREATE TABLE descendant () INHERITS (ancestor)');
admin(q{SELECT pubsubpull.publish('ancestor')});
$pg->sql('INSERT INTO ancestor VALUES (1)');
is(scalar @{ logged('ancestor') }, 1, 'once, after the way of logging changed');
table('"100%"', '(id char(5) PRIMARY KEY) PARTITION BY LIST (id)');
$pg->sql(q{CREATE TABLE p100 PARTITION OF "100%" DEFAULT; INSERT INTO "100%" VALUES ('abcde'), ('abcdf')});
is_deeply(json(admin(q{SELECT body FROM pubsubpull.rows_get('', 'public."100%"', '10', NULL, 'abcde', NULL, NULL, NULL)}))->{rows}, [{ id => 'abcdf' }], 'a key of type char(n), a name with %');

# Refusals say what to do
$pg->sql('CREATE TABLE private (id int PRIMARY KEY)');
refused(q{SELECT pubsubpull.publish('private')}, 'PS403', qr/GRANT SELECT ON public\.private TO pubsubpull_httpd; GRANT TRIGGER ON public\.private TO pubsubpull;/, 'missing privileges');
$pg->sql('CREATE VIEW a_view AS SELECT 1 AS id');
refused(q{SELECT pubsubpull.publish('a_view')}, 'PS422', qr/may not publish public\.a_view/, 'a view');
refused(q{SELECT pubsubpull.publish('plain', '{"exclude":["id"]}')}, 'PS422', qr/key cannot be excluded/, 'the key excluded');
refused(q{SELECT pubsubpull.publish('plain', '{"exclude":["nope"]}')}, 'PS422', qr/"nope"/, 'an unknown column');
refused(q{SELECT pubsubpull.publish('plain', '{"hide":1}')}, 'PS422', qr/"hide" is not known here/, 'an unknown option');
refused(q{SELECT pubsubpull.publish('keyless', '{"key":["a"]}')}, 'PS422', qr/unique index/, 'a key that is not unique');

done_testing;
