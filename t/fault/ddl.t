# SPDX-License-Identifier: Apache-2.0
# ddl.t: tables that are followed are renamed, altered, dropped, and the whole schema of the log is, under a running httpd and with
# deliveries that wait to be tried again: what can arrive does, the rest is said, others go on.
use PspTest;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
my %retry = (retry => { first => 1, max => 1 });
my @tables = qw(kept renamed retyped dropped moved);
for my $table (@tables) {
    $psp->publish("public.$table", 'id int PRIMARY KEY, v int');
    $psp->subscribe($table, { callback => $receiver->url("/$table/{id}"), table => "public.$table", %retry });
}
sub document { return $httpd->get("$url/$_[0]", @as)->json }
sub parked { my ($n) = @_; return wait_until { $n == grep { document($_)->{pending} } @tables } 20, "failures of $n subscriptions" }
sub arrives { my ($name, $path, $what) = @_; return ok(eval { $receiver->wait_for(1, 15, qr{^$path$}) }, $what) || diag $@, explain document($name) }
sub other { my ($id, $what) = @_; $pg->sql('INSERT INTO kept VALUES (?, 0)', $id); return arrives('kept', "/kept/$id", "$what: others go on") }

# With one delivery of each parked
$receiver->reply(match => '/1$', status => 503);
$pg->sql("INSERT INTO $_ VALUES (1, 1)") for @tables;
parked(5);
$pg->sql($_) for 'ALTER TABLE renamed RENAME TO called_otherwise', 'ALTER TABLE retyped ALTER v TYPE text USING v || $$!$$', 'ALTER TABLE retyped ADD extra int DEFAULT 7',
    'DROP TABLE dropped', 'CREATE SCHEMA elsewhere', 'ALTER TABLE moved SET SCHEMA elsewhere';
$pg->sql('INSERT INTO called_otherwise VALUES (2, 2)');
$pg->sql(q{INSERT INTO retyped VALUES (2, 'two')});
$pg->sql('INSERT INTO elsewhere.moved VALUES (2, 2)');
arrives('renamed', '/renamed/2', 'a table that was renamed is followed on');
arrives('retyped', '/retyped/2', 'one whose column has another type');
arrives('moved', '/moved/2', 'one in another schema');
is_deeply(($receiver->requests(qr{^/retyped/2}))[0]->json->{new}, { id => 2, v => 'two', extra => 7 }, 'with the columns as they are now');
is(($receiver->requests(qr{^/renamed/2}))[0]->json->{table}, 'public.called_otherwise', 'under its name of now');
other(10, 'altered and dropped');
$receiver->reset;
for my $table (@tables) { arrives($table, "/$table/1", "$table: what had failed before is sent") }
is_deeply(($receiver->requests(qr{^/retyped/1}))[-1]->json->{new}, { id => 1, v => 1 }, 'as it was when it was changed');
$psp->settled($_) for @tables;
is($httpd->get("/pubsubpull/tables/public.$_", user => 'alice')->status, 404, "public.$_ is no more") for qw(renamed dropped);
is($httpd->get('/pubsubpull/tables/public.called_otherwise/rows/', user => 'alice')->status, 200, 'the new name is');
is($httpd->get('/pubsubpull/tables/', user => 'alice')->status, 200, 'and the list of tables can be read');
is(document('dropped')->{state}, 'active', 'who follows what was dropped waits');

# A column that a subscription names
$psp->publish('public.named', 'id int PRIMARY KEY, a int, b int');
$psp->subscribe('named', { callback => $receiver->url('/named/{id}'), table => 'public.named', columns => ['id', 'a'], %retry });
$pg->sql('ALTER TABLE named DROP a');
$pg->sql('INSERT INTO named VALUES (1, 5)');
arrives('named', '/named/1', 'a column that a subscription names is dropped: it is sent without');
is_deeply(($receiver->requests(qr{^/named/1}))[0]->json->{new}, { id => 1 }, 'and without others');

# The owner of a table takes back the right to read it
$psp->publish('public.shut', 'id int PRIMARY KEY');
$pg->sql('INSERT INTO shut SELECT generate_series(1, 100)');
$pg->sql('REVOKE ALL ON shut FROM pubsubpull, pubsubpull_httpd');
my $answer = $httpd->put("$url/shut", { callback => $receiver->url('/shut/{id}'), table => 'public.shut', since => 'beginning', %retry }, @as);
is($answer->status, 201, 'somebody subscribes to rows that may not be read');
other(12, 'rows that may not be read');
like(document('shut')->{warning}, qr/GRANT SELECT ON (?:public\.)?shut TO pubsubpull_httpd/, 'and its document says what to do');
$pg->publishable('shut');
ok(eval { $receiver->wait_for(100, 15, qr{^/shut/}) }, 'then they come') or diag $@;
wait_until { !defined document('shut')->{warning} } 10, 'no warning';

# The schema goes, with deliveries that wait, and is installed again
$receiver->reply(match => '^/kept/13$', status => 503);
$pg->sql('INSERT INTO kept VALUES (13, 0)');
wait_until { document('kept')->{pending} } 10, 'a failure';
$pg->sql([user => 'pubsubpull'], 'SET lock_timeout = $$5s$$');
$pg->sql([user => 'pubsubpull'], 'DROP SCHEMA pubsubpull CASCADE');
$httpd->wait_for_log(qr/PSP0414/, 15);
pass('a schema that was dropped is missed');
$answer = $httpd->get('/pubsubpull/tables/', user => 'alice');
is($answer->status, 503, 'resources say so');
like($answer->json->{detail}, qr/install\.sql/, 'and what mends it');
ok(eval { $pg->sql('INSERT INTO kept VALUES (14, 0)'); 1 }, 'the service writes to its tables') or diag $@;
my $pid = $httpd->notifier_pid;
$pg->roles;
$pg->install_schema;
wait_until { $httpd->get('/pubsubpull/tables/', user => 'alice')->status == 200 } 15, 'the new schema';
$receiver->reset;
$psp->publish('public.kept');
$psp->subscribe('anew', { callback => $receiver->url('/anew/{id}'), table => 'public.kept', %retry });
$pg->sql('INSERT INTO kept VALUES (15, 0)');
arrives('anew', '/anew/15', 'installed again it works as from the first');
is(scalar(() = $receiver->requests(qr{^/kept/1[45]})), 0, 'and nothing of before is sent');
is($httpd->notifier_pid, $pid, 'by the same notifier');
$httpd->expect_log(qr/PSP0304|PSP030[12]|PSP031\d|PSP041[456]|PSP043\d|PSP044\d|PSP042\d/);
finish;
