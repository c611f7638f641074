# SPDX-License-Identifier: Apache-2.0
# settings.t: what an administrator of the database may have set for our role, or for all: timeouts, formats, encodings, paths, plans. And
# another password, while httpd runs.
use PspTest;

my $pg = PspTest::Postgres->start;
my @ours = (q{statement_timeout = '50ms'}, q{lock_timeout = '50ms'}, q{idle_in_transaction_session_timeout = '100ms'}, q{idle_session_timeout = '300ms'},
    q{client_encoding = 'LATIN1'}, q{search_path = 'nowhere'}, q{default_transaction_isolation = 'repeatable read'}, q{client_min_messages = 'debug5'});
my @all = (q{DateStyle = 'German, DMY'}, q{TimeZone = 'Asia/Kathmandu'}, q{IntervalStyle = 'sql_standard'}, q{bytea_output = 'escape'},
    q{extra_float_digits = 0}, q{standard_conforming_strings = off}, q{backslash_quote = on}, q{escape_string_warning = off}, q{xmloption = 'document'},
    q{lc_messages = 'C'}, q{lc_monetary = 'C'}, q{row_security = on}, q{default_transaction_deferrable = on},
    q{enable_indexscan = off}, q{enable_indexonlyscan = off}, q{plan_cache_mode = 'force_generic_plan'}, q{array_nulls = off}, q{quote_all_identifiers = on},
    q{transform_null_equals = on}, q{work_mem = '64kB'}, q{from_collapse_limit = 1}, q{join_collapse_limit = 1}, q{synchronous_commit = 'off'});
$pg->admin->sql("ALTER ROLE pubsubpull_httpd SET $_") for @ours, @all;
$pg->admin->sql("ALTER ROLE service SET $_") for grep { !/TimeZone/ } @all;    # times in the log are written in that of the service
$pg->install_schema;

# The password comes from a program, and changes
my $conninfo = $pg->conninfo(user => 'pubsubpull_httpd', socket => 1);
my $vault = tmp_dir() . '/vault';
sub password_is { my ($password) = @_; spew($vault, "#!/bin/sh\necho '$conninfo password=$password'\n"); chmod 0755, $vault or die $!; return }
my $hba = "$pg->{dir}/pg_hba.conf";
spew($hba, "local app pubsubpull_httpd scram-sha-256\n" . slurp($hba));
$pg->admin->sql(q{ALTER ROLE pubsubpull_httpd PASSWORD 's3cret-one'});
$pg->admin->sql('SELECT pg_reload_conf()');
password_is('s3cret-one');

my $service = PspTest::Receiver->start;
my $psp = PspTest->up(pg => $pg, database => "exec:$vault", config => "<Location /svc/>\nPubSubPull On\nPubSubPullRecord all\nProxyPass @{[$service->url('/')]}\n</Location>\n");
my $httpd = $psp->httpd;
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, at timestamptz, d date, i interval, b bytea, f float8, v text');
$psp->subscribe('s', { callback => $receiver->url('/s/{id}'), table => 'public.t', retry => { first => 1, max => 1 } });
my $values = q{'2026-02-03 04:05:06.789+00', '2026-02-03', '1 day 2 hours', E'\\\\x00ff5c', 0.1::float8 + 0.2, E'\u00e9\\\\' || chr(128512)};
my %wanted = (id => 1, at => '2026-02-03T04:05:06.789+00:00', d => '2026-02-03', i => '1 day 02:00:00', b => '\x00ff5c', f => 0.1 + 0.2, v => "\x{e9}\\\x{1f600}");
$pg->sql("INSERT INTO t VALUES (1, $values)");
my ($put) = $receiver->wait_for(1, 15, qr{^/s/1$});
is_deeply($put->json->{new}, \%wanted, 'what is sent does not depend on settings');
my $rows = '/pubsubpull/tables/public.t/rows/';
my @alice = (user => 'alice');
is_deeply($httpd->get($rows, @alice)->json->{rows}, [\%wanted], 'nor what is pulled');
is_deeply($httpd->get("${rows}1", @alice)->json, \%wanted, 'row by row');
is_deeply(json($httpd->get($rows, @alice, headers => [Accept => 'application/x-ndjson'])->body), \%wanted, 'as a stream');
is_deeply($httpd->get("${rows}1/changes/", @alice)->json->{changes}[0]{new}, \%wanted, 'or as a change');

# The service's sessions, in which the triggers run, have them, too
$psp->publish('public.k', 'a text, b timestamptz, n int, PRIMARY KEY (a, b)');
$pg->sql(q{CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE k SET n = n + 100 WHERE a = NEW.a AND n < 100; RETURN NULL; END'});
$pg->sql('CREATE TRIGGER aaa AFTER INSERT ON k FOR EACH ROW EXECUTE FUNCTION again()');
$pg->sql(q{INSERT INTO k VALUES ('x,y/%', '2026-02-03 00:00+00', 1) /*tracestate='psp%3D01900000-0000-7000-8000-000000000001'*/});
is_deeply($pg->rows([user => 'pubsubpull'], q{SELECT c.type, c.key, c.channel FROM pubsubpull.change c JOIN pubsubpull.published p ON p.id = c.table_id WHERE p.name = 'public.k' ORDER BY c.id}),
    [map { [$_, 'x%2Cy%2F%25,2026-02-03%2000%3A00%3A00%2B00', 'comment'] } qw(I U)], 'keys, order and comments in the log are the same');

# Time passes between calls, a call takes its time, something fails and is tried again
$receiver->reply(path => '/s/2', status => 500, times => 2);
$pg->sql("INSERT INTO t VALUES (2, $values)");
$receiver->wait_for(3, 15, qr{^/s/2$});
$psp->settled('s');
sleep 0.5;    # longer than sessions may be idle
is($httpd->get($rows, @alice)->status, 200, 'sessions that were ended while they were idle are missed by nobody');
$pg->sql("INSERT INTO t VALUES (3, $values)");
ok(eval { $receiver->wait_for(1, 10, qr{^/s/3$}) }, 'nor by who waits for changes') or diag $@;
is($httpd->put('/svc/x', {})->status, 204, 'a proxied request');
wait_until { $pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path = '/svc/x' AND status = 204}) } 10, 'its record';
my $next = $httpd->get('/pubsubpull/changes/?since=now', @alice)->json->{next};
my $writer = fork // die $!;
if (!$writer) { sleep 1; $pg->dbh->do("INSERT INTO t VALUES (4, $values)"); require POSIX; POSIX::_exit(0) }
is($httpd->get("$next&wait=10", @alice)->json->{changes}[0]{key}{id}, 4, 'and who waits for longer than that hears of it');
waitpid $writer, 0;
unlike($httpd->log, qr/PSP043[0-35]/, 'no call fails for good');

# Another password: sessions that there are stay, new ones are refused until httpd knows it
$pg->admin->sql(q{ALTER ROLE pubsubpull_httpd PASSWORD 's3cret-two'});
$pg->kill_backend(q{usename = 'pubsubpull_httpd'});
$httpd->wait_for_log(qr/PSP0410: .*password authentication failed/, 15);
is($httpd->get($rows, @alice)->status, 503, 'with the old password resources answer 503');
$pg->sql("INSERT INTO t VALUES (5, $values)");
is($httpd->put('/svc/y', {})->status, 204, 'proxied requests do not notice');
password_is('s3cret-two');
$httpd->graceful;
wait_until { $httpd->get($rows, @alice)->status == 200 } 10, 'resources with the new password';
ok(eval { $receiver->wait_for(1, 10, qr{^/s/5$}) }, 'after a graceful restart what waited is sent') or diag $@;
wait_until { $pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path = '/svc/y' AND status = 204}) } 10, 'the record';
unlike($httpd->output, qr/s3cret/, 'no password is in the log');
$httpd->expect_log(qr/PSP041[01]|PSP031\d|PSP030\d/);
finish;
