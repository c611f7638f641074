# SPDX-License-Identifier: Apache-2.0
# schema.t: a schema that is missing or of another version is said once and httpd serves on; installing again is an upgrade; the
# service's role can neither read, change nor forge the log.
use PspTest;

my $receiver = PspTest::Receiver->start;
my $psp = PspTest->up(schema => 0, config => "<Location /svc/>\nPubSubPull On\nProxyPass @{[$receiver->url('/')]}\n</Location>\n");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
my $command = qr/psql -v ON_ERROR_STOP=1 -f \S*roles\.sql -f \S*install\.sql/;

# Missing
my $answer = $httpd->get('/pubsubpull/tables/', user => 'alice');
is($answer->status, 503, 'without the schema resources answer 503');
like($answer->json->{detail}, $command, 'with the command that mends it');
is($httpd->get('/svc/')->status, 204, 'and httpd serves on');
$httpd->wait_for_log(qr/PSP0414.*$command/, 10);
pass('the notifier says so, too');
sleep 2;    # long enough for a second time
is(scalar(() = $httpd->log =~ /PSP0414/g), 1, 'once');
$pg->install_schema;
wait_until { $httpd->get('/pubsubpull/tables/', user => 'alice')->status == 200 } 10, 'resources after the schema was installed';
$httpd->wait_for_log(qr/PSP0416/, 15);
pass('all works once it is installed');

# Installed again, on a live installation: nothing is lost
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->subscribe('s', { callback => $receiver->url('/s/{id}'), table => 'public.t' });
my $writer = fork // die $!;
if (!$writer) {
    my $dbh = $pg->dbh;
    $dbh->do('INSERT INTO t VALUES ($1, $1)', undef, $_) for 1 .. 500;
    require POSIX;
    POSIX::_exit(0);
}
$pg->install_schema for 1 .. 5;
waitpid $writer, 0;
is($?, 0, 'writers go on while it is installed again');
is(admin('SELECT count(*) FROM pubsubpull.change'), 500, 'every change is logged');
wait_until { 500 == (() = $receiver->requests(qr{^/s/})) } 20, 'all deliveries';
pass('and delivered');

# Upgraded by somebody with a newer module, while this httpd runs
sub version { my ($n) = @_; return admin("CREATE OR REPLACE FUNCTION pubsubpull.schema_version() RETURNS int LANGUAGE sql AS 'SELECT $n'") }
my $ours = admin('SELECT pubsubpull.schema_version()');
version(99);
$answer = wait_until { my $a = $httpd->get('/pubsubpull/tables/', user => 'alice'); $a->status == 503 && $a } 20, 'resources to notice';
like($answer->json->{detail}, qr/version 99.*installs the module of that version/, 'a newer version is not spoken, and what to do is said');
$httpd->wait_for_log(qr/PSP0415.*99.*install the module of that version/, 20);
pass('the notifier says so, too');
is($httpd->get('/svc/')->status, 204, 'httpd serves on');
ok(!eval { $pg->install_schema; 1 }, 'files that are older than the schema do not install');
like($@, qr/newer than these files.*Nothing was changed/s, 'and say why');
is(admin('SELECT pubsubpull.schema_version()'), 99, 'nothing is changed');

# Older
version(0);
$httpd->restart;
$answer = $httpd->get('/pubsubpull/tables/', user => 'alice');
is($answer->status, 503, 'an older version is not spoken');
like($answer->json->{detail}, qr/version 0.*$command/, 'and the command that mends it is said');
$httpd->wait_for_log(qr/PSP0415.*version 0.*$command/, 10);
is($httpd->get('/svc/')->status, 204, 'httpd serves on');
$pg->install_schema;
is(admin('SELECT pubsubpull.schema_version()'), $ours, 'installing upgrades it');
wait_until { $httpd->get('/pubsubpull/tables/', user => 'alice')->status == 200 } 15, 'resources after the upgrade';
pass('which mends it');

# The service's role owns its tables and has no right on ours
sub denied {
    my ($statement, $name) = @_;
    eval { $pg->sql($statement) };
    like($@, qr/permission denied/, $name);
    return;
}
denied('SELECT * FROM pubsubpull.change', 'the log cannot be read');
denied(q{INSERT INTO pubsubpull.change (table_id, type) VALUES (1, 'I')}, 'nor written');
denied('DELETE FROM pubsubpull.change', 'nor deleted');
denied('SELECT pubsubpull.publish(\'t\')', 'functions cannot be called');
denied('CREATE TRIGGER forged AFTER INSERT ON t REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION pubsubpull.log_1_insert()', 'nor used in a trigger');
my $before = admin('SELECT max(id) FROM pubsubpull.change');
$pg->sql(q{SET search_path = pg_temp, public});
$pg->sql('CREATE TEMP TABLE change (LIKE t); CREATE TEMP TABLE request (id uuid)');
$pg->sql(q{CREATE FUNCTION pg_temp.row_to_json(anyelement) RETURNS json LANGUAGE sql AS $$ SELECT '{"forged":true}'::json $$});
$pg->sql(q{CREATE FUNCTION public.row_to_json(t) RETURNS json LANGUAGE sql AS $$ SELECT '{"forged":true}'::json $$});
$pg->sql('INSERT INTO public.t VALUES (1000, 1)');
$pg->sql('RESET search_path');
is(admin('SELECT new FROM pubsubpull.change WHERE id > $1', $before), '{"id":1000,"n":1}', 'pg_temp and look-alike functions divert nothing');
$pg->sql(q{CREATE TYPE evil AS ENUM ('a')});
$pg->sql(q{CREATE FUNCTION evil(evil) RETURNS json LANGUAGE plpgsql AS $$ BEGIN DELETE FROM pubsubpull.change; RETURN '1'; END $$});
$pg->sql(q{ALTER TABLE t ADD e evil; CREATE CAST (evil AS json) WITH FUNCTION evil(evil)});
my $logged = admin('SELECT count(*) FROM pubsubpull.change');
ok(!eval { $pg->sql(q{INSERT INTO public.t VALUES (1001, 1, 'a')}); 1 }, 'a cast of the service does not run with the rights of the log');
like($@, qr/CAST \(public\.evil AS json\).*rights of the log/, 'and the error says why');
is(admin('SELECT count(*) FROM pubsubpull.change'), $logged, 'the log is whole');
$pg->sql('DROP CAST (evil AS json); ALTER TABLE t DROP e');
for my $forged ('x', '{', '{}', '{"id":1}', '{"id":"nonsense-and-more-than-thirty-six-characters"}', '{"id":"01900000-0000-7000-8000-0000000000zz"}',
    '{"id":"01900000-0000-7000-8000-000000000001"', '{"id":"01900000-0000-7000-8000-000000000001","started":"never"}', "\x01\xff") {
    $pg->sql(q{SELECT set_config('pubsubpull.request', $1, false)}, $forged);
    $before = admin('SELECT max(id) FROM pubsubpull.change');
    ok(eval { $pg->sql('UPDATE t SET n = n + 1 WHERE id = 1000'); 1 }, "nonsense in the setting breaks nothing: $forged") or diag $@;
    is(admin('SELECT request FROM pubsubpull.change WHERE id > $1', $before), undef, 'and is no request');
}
$httpd->expect_log(qr/PSP0304|PSP041[456]|PSP0301|PSP0335/);
finish;
