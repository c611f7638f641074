# SPDX-License-Identifier: Apache-2.0
# roles.t: what each role of the database may do and what it may not: the service's role tries to read, change, forge and divert the
# log, the module's role is used for what is not its business, the owner of a table turns its triggers off.
use PspTest;
use File::Glob qw(bsd_glob);

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
sub owner { return $pg->sql([user => 'pubsubpull'], @_) }
sub owner_rows { return $pg->rows([user => 'pubsubpull'], @_) }
sub list { return join ' ', map { $_->[0] } @{ $_[0] } }
sub problem { my ($answer) = @_; my $type = eval { $answer->json->{type} } // ''; return $answer->status . ' ' . $type =~ s/.*[:\/#]//r }
sub refused {
    my ($as, $statement, $name, $pattern) = @_;
    my $done = eval { $pg->sql([user => $as], $statement); 1 };
    my $error = $@;
    eval { $pg->sql([user => $as], 'ROLLBACK') };
    return ok(!$done && $error =~ ($pattern // qr/permission denied|must be (?:owner|superuser|(?:a )?member)|must have admin option|insufficient privilege/i), $name) || diag($done ? 'done' : $error);
}
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->publish('public.other', 'id int PRIMARY KEY');
$pg->sql('CREATE TABLE parted (id int PRIMARY KEY, n int) PARTITION BY RANGE (id); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)');
$pg->publishable('parted_1');
$psp->publish('public.parted');
$pg->sql('INSERT INTO t VALUES (1, 1)');

# --- The roles ---

is(list($pg->rows(q{SELECT rolname FROM pg_roles WHERE rolname IN ('service', 'pubsubpull', 'pubsubpull_httpd', 'pubsubpull_publisher', 'administrator')
    AND (rolsuper OR rolreplication OR rolbypassrls OR rolcreatedb OR rolcreaterole AND rolname <> 'administrator')})), '', 'no role of these tests is mighty');
is(list($pg->rows(q{SELECT rolname FROM pg_roles WHERE rolname ~ '^pubsubpull' AND rolcanlogin})), 'pubsubpull_httpd', 'only httpd connects');
is(list($pg->rows(q{SELECT format('%s:%s', r.rolname, m.roleid::regrole) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname ~ '^(pubsubpull|service)'})), 'pubsubpull:pubsubpull_httpd', 'the owner may do what the module may, nobody else is a member of another');
wait_until { $pg->admin->sql(q{SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pubsubpull%'}) >= 3 } 10, 'sessions of httpd';
is(list($pg->admin->rows(q{SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name LIKE 'pubsubpull%'})), 'pubsubpull_httpd', 'its sessions are of that role');
is(list(owner_rows(q{SELECT DISTINCT pg_get_userbyid(o) FROM (SELECT relowner FROM pg_class WHERE relnamespace = 'pubsubpull'::regnamespace
    UNION SELECT proowner FROM pg_proc WHERE pronamespace = 'pubsubpull'::regnamespace AND proname NOT IN ('run_rows', 'read_page', 'run_key') UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'pubsubpull') x(o)})), 'pubsubpull', 'all of the schema belongs to its owner');
is(list(owner_rows(q{SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'pubsubpull'::regnamespace AND prosecdef
    AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)})), '', 'functions that run with its rights have a search_path of their own');

# What httpd calls is in its sources; these functions and what they need in the caller's name, nothing else, is for its role
my %called = map { $_ => 1 } qw(run_rows read_page run_key percent_encode);
for my $file (bsd_glob(repo('src/*/*.c'))) { my $text = slurp($file); $called{$1} = 1 while $text =~ /"SELECT (?:[\w, *]+ FROM )?pubsubpull\.(\w+)\(/g }
is(list(owner_rows(q{SELECT proname FROM pg_proc WHERE pronamespace = 'pubsubpull'::regnamespace AND prorettype <> 'trigger'::regtype
    AND has_function_privilege('pubsubpull_httpd', oid, 'EXECUTE') GROUP BY 1 ORDER BY proname COLLATE "C"})), join(' ', sort keys %called), 'the module\'s role may call what httpd calls');
is(list(owner_rows(q{SELECT proname FROM pg_proc WHERE pronamespace = 'pubsubpull'::regnamespace AND prorettype <> 'trigger'::regtype
    AND has_function_privilege('pubsubpull_publisher', oid, 'EXECUTE') ORDER BY 1})), 'publish unpublish', 'a publisher may publish');
for my $role (qw(pubsubpull_httpd pubsubpull_publisher service public)) {
    is(list(owner_rows(q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'pubsubpull'::regnamespace AND (relkind IN ('r', 'p', 'v')
        AND (has_any_column_privilege($1::name, oid, 'SELECT, INSERT, UPDATE, REFERENCES') OR has_table_privilege($1::name, oid, 'DELETE, TRUNCATE, TRIGGER'))
        OR relkind = 'S' AND has_sequence_privilege($1::name, oid, 'USAGE, SELECT, UPDATE'))}, $role)), '', "$role has no right on a table or sequence of the schema") if $role ne 'public';
}
my @module = ('pubsubpull_httpd');
refused(@module, 'SELECT * FROM pubsubpull.key', 'the module\'s role cannot read keys');
refused(@module, 'DELETE FROM pubsubpull.change', 'nor delete the log');
refused(@module, 'SELECT pubsubpull.forget_keys()', 'nor forget keys');
refused(@module, 'CREATE TABLE pubsubpull.x ()', 'nor make anything');
refused(@module, 'SET ROLE pubsubpull', 'nor become the owner');
refused(@module, 'UPDATE t SET n = 2', 'nor write to a published table');
refused(@module, 'CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION suppress_redundant_updates_trigger()', 'nor make triggers there');
refused(@module, 'CREATE TEMP TABLE mine (id int, n int); CREATE TRIGGER x BEFORE TRUNCATE ON mine EXECUTE FUNCTION pubsubpull.log_3_truncate(); INSERT INTO mine VALUES (9, 9); TRUNCATE mine',
    'nor use a trigger of the log elsewhere', qr/logs changes of public\.parted only|permission denied/);

# --- The service's role ---

for my $f (@{ owner_rows(q{SELECT format('pubsubpull.%I(%s)', p.proname, array_to_string(array_fill('NULL'::text, ARRAY[p.pronargs::int]), ', ')), p.prorettype = 'trigger'::regtype
        FROM pg_proc p WHERE p.pronamespace = 'pubsubpull'::regnamespace ORDER BY 1}) }) {
    my ($call, $trigger) = @$f;
    my $statement = $trigger ? "CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION $call" : "SELECT $call";
    eval { $pg->sql($statement); 1 } ? fail("the service cannot call $call") : $@ =~ /permission denied for schema pubsubpull/ || fail("$call: $@");
}
cmp_ok(owner(q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'pubsubpull'::regnamespace}), '>', 100, 'the service can call none of all functions');
is(list(owner_rows(q{SELECT proname FROM pg_proc WHERE pronamespace = 'pubsubpull'::regnamespace AND has_function_privilege('service', oid, 'EXECUTE') ORDER BY 1})),
    'log_3_row log_3_truncate', 'and could not, but for triggers of partitions, if it could name them');
for my $table (map { $_->[0] } @{ owner_rows(q{SELECT format('pubsubpull.%I', relname) FROM pg_class WHERE relnamespace = 'pubsubpull'::regnamespace AND relkind = 'r' ORDER BY 1}) }) {
    for my $statement ("SELECT FROM $table", "INSERT INTO $table DEFAULT VALUES", "DELETE FROM $table", "TRUNCATE $table", "BEGIN; LOCK TABLE $table", "COPY $table TO STDOUT", "DROP TABLE $table") {
        eval { $pg->sql($statement); 1 } ? fail($statement) : $@ =~ /permission denied for schema pubsubpull/ || fail("$statement: $@");
        $pg->sql('ROLLBACK');
    }
}
my $sequence = owner(q{SELECT 'pubsubpull.change_id'::regclass::oid});
my $session = $pg->admin->sql(q{SELECT min(pid) FROM pg_stat_activity WHERE usename = 'pubsubpull_httpd'});
refused('service', $_->[0], "the service cannot $_->[1]") for
    ["SELECT nextval($sequence)", 'draw ids of the log'], ["SELECT setval($sequence, 1)", 'set the log back'],
    ['CREATE TABLE heir () INHERITS (pubsubpull.change)', 'inherit from the log'], ['CREATE TABLE ref (id uuid REFERENCES pubsubpull.request)', 'refer to it'],
    ['CREATE VIEW spy AS SELECT * FROM pubsubpull.change', 'look at it through a view'], ['CREATE PUBLICATION p FOR TABLE pubsubpull.change', 'replicate it'],
    ['ALTER TABLE pubsubpull.change DISABLE TRIGGER ALL', 'alter it'], ['CREATE RULE r AS ON INSERT TO pubsubpull.change_0 DO INSTEAD NOTHING', 'put a rule before it'],
    ['CREATE TRIGGER x BEFORE INSERT ON pubsubpull.change_0 FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()', 'put a trigger before it'],
    ['ALTER FUNCTION pubsubpull.log_1_insert() RESET search_path', 'alter functions'], ['CREATE FUNCTION pubsubpull.now() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$', 'make functions there'],
    ['CREATE SCHEMA pubsubpull2 AUTHORIZATION pubsubpull', 'act for the owner'], ['SET ROLE pubsubpull', 'become the owner'], ['SET ROLE pubsubpull_httpd', 'become httpd'],
    ['GRANT pubsubpull TO service', 'join the owner'], ['SET session_replication_role = replica', 'have triggers passed by'],
    ["SELECT pg_cancel_backend($session)", 'cancel sessions of httpd'], ["SELECT pg_terminate_backend($session)", 'end them'];
is($pg->sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'pubsubpull_httpd' AND query <> '<insufficient privilege>'}), 0, 'nor see what they do');

# A service that writes to a table and does not own it
$pg->sql([user => 'administrator'], 'CREATE ROLE writer LOGIN');
$pg->sql('GRANT INSERT, UPDATE, DELETE, SELECT, TRUNCATE ON t, parted, parted_1 TO writer');
my $last = owner('SELECT max(id) FROM pubsubpull.change');
refused('writer', 'ALTER TABLE t DISABLE TRIGGER ALL', 'who does not own a table cannot turn its triggers off');
refused('writer', 'DROP TRIGGER pubsubpull_1_insert ON t', 'nor drop them');
for my $setting (qw(nested shut truncating seen request module)) {
    for my $value ('{0,1,2}', '1 1 1', owner(q{SELECT 'parted'::regclass::oid}), 'x') { $pg->sql([user => 'writer'], "SELECT set_config('pubsubpull.$setting', ?, false)", $value); eval { $pg->sql([user => 'writer'], 'INSERT INTO parted VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = parted.n + 1') } }
    $pg->sql([user => 'writer'], "SELECT set_config('pubsubpull.$setting', ?, false)", '') if $setting ne 'truncating';
}
$pg->sql([user => 'writer'], q{SELECT set_config('pubsubpull.truncating', ?, false)}, owner(q{SELECT 'parted'::regclass::oid}));
$pg->sql([user => 'writer'], 'TRUNCATE parted_1');
is(owner('SELECT type FROM pubsubpull.change ORDER BY id DESC LIMIT 1'), 'D', 'no setting hides the truncation of a partition');
$pg->sql([user => 'writer'], 'INSERT INTO parted VALUES (1, 1); TRUNCATE parted');
is(list(owner_rows('SELECT type FROM (SELECT id, type FROM pubsubpull.change ORDER BY id DESC LIMIT 2) c ORDER BY id')), 'I T', 'that of the whole table is one change');
is(owner('SELECT count(*) FROM pubsubpull.truncation'), 0, 'and leaves nothing behind');
is(owner(q{SELECT count(*) FROM pubsubpull.change c WHERE c.id > $1 AND c.table_id NOT IN (SELECT id FROM pubsubpull.published WHERE name = 'public.parted')}, $last), 0, 'nothing else was logged');

# Look-alikes of tables, functions and operators, with the same types, in front
$pg->sql($_) for 'CREATE SCHEMA evil', 'CREATE SCHEMA decoy',
    q{CREATE FUNCTION evil.run() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        DELETE FROM pubsubpull.change; RAISE LOG 'evil of % succeeds', current_user; RETURN true;
        EXCEPTION WHEN OTHERS THEN RAISE LOG 'evil of %: %', current_user, SQLERRM; RETURN true; END $$},
    'GRANT USAGE ON SCHEMA evil TO PUBLIC',
    q{CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.run() $$}, 'CREATE OPERATOR public.= (FUNCTION = evil.eq, LEFTARG = text, RIGHTARG = text)',
    q{CREATE FUNCTION evil.gt(varchar, varchar) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.run() $$}, 'CREATE OPERATOR public.> (FUNCTION = evil.gt, LEFTARG = varchar, RIGHTARG = varchar)',
    q{CREATE FUNCTION evil.eq(varchar, varchar) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.run() $$}, 'CREATE OPERATOR public.= (FUNCTION = evil.eq, LEFTARG = varchar, RIGHTARG = varchar)',
    q{CREATE FUNCTION evil.cat(text, text) RETURNS text LANGUAGE sql AS $$ SELECT evil.run()::text $$}, 'CREATE OPERATOR public.|| (FUNCTION = evil.cat, LEFTARG = text, RIGHTARG = text)',
    q{CREATE DOMAIN evil.word AS varchar CHECK (evil.run())};
$psp->publish('public.words', 'a varchar, b evil.word, c text, PRIMARY KEY (a, b, c)');
$pg->sql('SET search_path = pg_temp, evil, public');
$pg->sql($_) for q{CREATE TEMP TABLE change (id int); CREATE TEMP TABLE key (id int); CREATE TEMP TABLE truncation (xid int); CREATE TEMP TABLE pg_cast (oid int, castsource oid, casttarget oid, castfunc oid)};
$pg->sql(q{SET SESSION AUTHORIZATION DEFAULT});
$pg->sql(q{INSERT INTO public.words VALUES ('a', 'b', 'c'), ('d', 'e', 'f')});
$pg->sql(q{UPDATE public.words SET c = 'g' WHERE a OPERATOR(pg_catalog.=) 'd'});
is(list(owner_rows(q{SELECT concat(type, ':', key) FROM pubsubpull.change WHERE id > $1 AND table_id = (SELECT id FROM pubsubpull.published WHERE name = 'public.words') ORDER BY id}, $last)), 'I:a,b,c I:d,e,f U:d,e,g',
    'look-alikes in pg_temp and in front of the search_path divert nothing');
my $rows = '/pubsubpull/tables/public.words/rows/';
my @lines = (headers => [Accept => 'application/x-ndjson']);
is(scalar @{ $httpd->get("$rows?after=a,b,c", user => 'alice')->json->{rows} }, 1, 'nor when rows are pulled');
is($httpd->get("${rows}a,b,c", user => 'alice')->json->{c}, 'c', 'or one row');
like($httpd->get("$rows?after=a,b,c", user => 'alice', @lines)->body, qr/\A[^\n]*"g"[^\n]*\n\z/, 'or all as a stream');
is($httpd->get("${rows}a,b,c/changes/", user => 'alice')->status, 200, 'or its changes');
is(join(' ', $pg->log =~ /evil of (pubsubpull\w*)/g), '', 'no code of the service runs in all that with rights of others');

# Policies and views are code of the service: it runs, with the rights of the module's role, which has none on the log
$psp->publish('public.mine', 'id int PRIMARY KEY');
$pg->sql('RESET search_path; ALTER TABLE mine ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON mine USING (evil.run()); INSERT INTO mine VALUES (1)');
my $logged = owner('SELECT count(*) FROM pubsubpull.change');
is($httpd->get('/pubsubpull/tables/public.mine/rows/', user => 'alice')->status, 200, 'a table with a policy is pulled');
is($httpd->get('/pubsubpull/tables/public.mine/rows/1', user => 'alice')->status, 200, 'row by row, too');
is($httpd->get('/pubsubpull/tables/public.mine/rows/', user => 'alice', @lines)->status, 200, 'and as a stream');
is(join(' ', $pg->log =~ /evil of (pubsubpull\w*: [\w ]+)/g), join(' ', map { "pubsubpull_httpd: $_" } ('permission denied for table change') x 2, 'cannot execute DELETE in a read'),
    'its policy runs each time, as the module\'s role, and gets nothing done');
refused('pubsubpull', q{SELECT pubsubpull.run_rows(pubsubpull.rows_command(p, NULL, false, NULL), '{}', 10, false) FROM pubsubpull.published p WHERE p.name = 'public.mine'},
    'a subscription does not begin with rows that a policy hides', qr/would be affected by row-level security/);
is(owner('SELECT count(*) FROM pubsubpull.change'), $logged, 'the log is whole');

# What PostgreSQL runs of a table's owner while it plans and reads: by each way in which tables are read
my $receiver = PspTest::Receiver->start;
$pg->sql($_) for q{CREATE FUNCTION evil.one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.run(); RETURN 1; END $$}, 'CREATE TYPE evil.pair AS (w evil.word)',
    'CREATE TABLE indexed (p evil.pair PRIMARY KEY, CHECK (evil.one(2) = 1))', 'CREATE INDEX ON indexed ((evil.one(3)))', q{INSERT INTO indexed VALUES (ROW('x'))},
    'CREATE INDEX ON parted_1 ((evil.one(4)))', 'INSERT INTO parted VALUES (1, 1)';
$psp->publish('public.indexed');
$psp->subscribe('indexed', { table => 'public.indexed', callback => $receiver->url('/indexed'), since => 'beginning' });
is(($receiver->wait_for(1))[0]->json->{new}{p}{w}, 'x', 'a subscription begins with rows of a table with expressions');
is($httpd->get("/pubsubpull/tables/public.indexed/rows/(x)$_", user => 'alice')->status, 200, "its rows$_ are read") for '', '/changes/';
$pg->sql('TRUNCATE parted_1');
is(owner('SELECT type FROM pubsubpull.change ORDER BY id DESC LIMIT 1'), 'D', 'a partition is truncated');
$pg->sql('ALTER TABLE parted_1 ENABLE ROW LEVEL SECURITY; INSERT INTO parted VALUES (1, 1)');
refused('service', 'TRUNCATE parted_1', 'not one whose rows a policy hides from the log', qr/would be affected by row-level security/);
cmp_ok(scalar(() = $pg->log =~ /evil of pubsubpull_httpd/g), '>=', 6, 'all that runs code of the owner');
is(join(' ', $pg->log =~ /evil of pubsubpull: .*|evil of \w+ succeeds/g), '', 'but never with the rights of the owner of the log');

# --- Who may read is the decision of the table's owner ---

$pg->sql('REVOKE SELECT ON t FROM pubsubpull_httpd');
for my $way (['rows/'], ['rows/1'], ['rows/', @lines]) {
    my ($path, @headers) = @$way;
    my $answer = $httpd->get("/pubsubpull/tables/public.t/$path", user => 'alice', @headers);
    is(problem($answer), '403 missing-privilege', "without SELECT there is no $path") or diag $answer->body;
    like($answer->json->{detail}, qr/GRANT SELECT ON (?:public\.)?t TO pubsubpull_httpd;/, 'and what its owner can say is said');
}
$pg->sql('GRANT SELECT ON t TO pubsubpull_httpd');

# --- Who publishes ---

$pg->sql([user => 'administrator'], 'GRANT pubsubpull_publisher TO writer, service');
refused('writer', q{SELECT pubsubpull.publish('public.t', '{"exclude": ["n"]}')}, 'a publisher cannot publish tables of others', qr/does not own public\.t/);
refused('writer', q{SELECT pubsubpull.unpublish('public.t')}, 'nor stop it', qr/does not own public\.t/);
refused('writer', 'SELECT * FROM pubsubpull.change', 'nor read the log');
$pg->sql('CREATE TABLE fresh (id int PRIMARY KEY)');
refused('service', q{SELECT pubsubpull.publish('public.fresh')}, 'before the rights are there, publishing says which', qr/GRANT SELECT ON public\.fresh TO pubsubpull_httpd; GRANT TRIGGER ON public\.fresh TO pubsubpull;/);
$pg->publishable('fresh');
is($pg->sql(q{SELECT pubsubpull.publish('public.fresh')}), 1, 'the owner of a table publishes it by SQL');
is($pg->sql(q{SELECT pubsubpull.unpublish('public.fresh')}), 1, 'and stops it');
$pg->sql([user => 'administrator'], 'REVOKE pubsubpull_publisher FROM writer, service');

# --- The owner of a table turns its triggers off ---

my $table = '/pubsubpull/tables/public.t';
my $since = $httpd->get("$table/changes/?since=now", user => 'alice')->json->{next};
is($httpd->get($table, user => 'alice')->json->{warning}, undef, 'a table that is logged has no warning');
$pg->sql('ALTER TABLE t DISABLE TRIGGER pubsubpull_1_update; UPDATE t SET n = 5');
like($httpd->get($table, user => 'alice')->json->{warning}, qr/public\.t are not logged/, 'its owner can disable a trigger; the table says so');
$httpd->restart;    # or it would be seen within a minute
$httpd->wait_for_log(qr/PSP0105: changes of public\.t are not logged/, 15);
pass('and so does the log of httpd');
$pg->sql('DROP TRIGGER pubsubpull_1_insert ON t');
is($httpd->put($table, {}, user => 'admin')->json->{warning}, undef, 'publishing it again mends it');
$pg->sql('UPDATE t SET n = 6; INSERT INTO t VALUES (2, 2)');
is(problem($httpd->get($since, user => 'alice')), '410 not-published-then', 'who followed it is told that changes are missing');
is(list(owner_rows(q{SELECT type FROM (SELECT id, type FROM pubsubpull.change ORDER BY id DESC LIMIT 2) c ORDER BY id})), 'U I', 'and all is logged');

# --- roles.sql ---

my $before = $pg->admin->rows(q{SELECT rolname, oid FROM pg_roles ORDER BY 1});
$pg->roles;
is_deeply($pg->admin->rows(q{SELECT rolname, oid FROM pg_roles ORDER BY 1}), $before, 'roles.sql can be run again');
$pg->admin->sql('REASSIGN OWNED BY pubsubpull TO postgres');    # as if a superuser had installed it
ok(!eval { $pg->admin->psql(['-f', repo('sql/install.sql')]); 1 }, 'a schema of a superuser is not upgraded');
like($@, qr/must not belong to a superuser.*Run sql\/roles\.sql first/s, 'and why is said');
$pg->admin->psql(['-f', repo('sql/roles.sql')]);
$pg->install_schema;
is(list(owner_rows(q{SELECT DISTINCT pg_get_userbyid(o) FROM (SELECT relowner FROM pg_class WHERE relnamespace = 'pubsubpull'::regnamespace
    UNION SELECT proowner FROM pg_proc WHERE pronamespace = 'pubsubpull'::regnamespace AND proname NOT IN ('run_rows', 'read_page', 'run_key') UNION SELECT typowner FROM pg_type WHERE typnamespace = 'pubsubpull'::regnamespace
    UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'pubsubpull') x(o)})), 'pubsubpull', 'roles.sql gives all of it to the owner');
$pg->sql('INSERT INTO t VALUES (3, 3)');
is(owner('SELECT key FROM pubsubpull.change ORDER BY id DESC LIMIT 1'), 3, 'which logs on');
ok(!eval { $pg->psql(['-v', 'module=postgres', '-f', repo('sql/roles.sql')], user => 'administrator'); 1 }, 'a superuser is refused as the module\'s role');
like($@, qr/more rights than the module may have/, 'and why is said');

# A role without rights is told apart from a schema that is missing
$pg->sql([user => 'pubsubpull'], 'REVOKE USAGE ON SCHEMA pubsubpull FROM pubsubpull_httpd');
my $answer = wait_until { my $a = $httpd->get('/pubsubpull/tables/', user => 'alice'); problem($a) eq '403 database-forbidden' && $a } 10, 'resources to say that rights are missing';
like($answer->json->{detail}, qr/roles\.sql/, 'rights that are missing are told, with what gives them');
$pg->roles;
wait_until { $httpd->get('/pubsubpull/tables/', user => 'alice')->status == 200 } 10, 'resources with their rights';
pass('and are given');

# Other names, in another database
my @names = map { ('-v', $_) } 'owner=log owner', 'module=Web', 'publisher=pub';
$pg->admin(db => 'postgres')->sql('CREATE DATABASE second OWNER service');
$pg->admin(db => 'second')->sql('GRANT CREATE ON DATABASE second TO administrator');
$pg->psql([@names, '-f', repo("sql/$_.sql")], user => 'administrator', db => 'second') for qw(roles install install);
is($pg->sql([user => 'Web', db => 'second'], q{SELECT status FROM pubsubpull.tables_get('http://h')}), 200, 'roles may have other names');
ok(!eval { $pg->sql([user => 'pubsubpull_httpd', db => 'second'], q{SELECT pubsubpull.tables_get('http://h')}); 1 }, 'and those of another database have no rights there');

$httpd->expect_log(qr/PSP0105|PSP0464: .*permission denied|PSP041\d|PSP043\d|PSP03\d\d/);
finish;
