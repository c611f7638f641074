# SPDX-License-Identifier: Apache-2.0
# failover.t: the primary dies and its standby is promoted: with a connection string that names both httpd goes on there by itself, and
# followers and receivers miss nothing that was replicated.
use PspTest;

my $primary = PspTest::Postgres->start(fsync => 1);
$primary->install_schema;
my $standby = $primary->standby;
my $both = sprintf 'host=%s,%s port=%d,%d dbname=app user=pubsubpull_httpd target_session_attrs=read-write connect_timeout=2', map { my $name = $_; map { $_->{$name} } $primary, $standby } qw(socket port);
my $service = PspTest::Receiver->start;
my $psp = PspTest->up(pg => $primary, database => $both, config => "<Location /svc/>\nPubSubPull On\nPubSubPullRecord all\nProxyPass @{[$service->url('/')]}\n</Location>\n");
my $httpd = $psp->httpd;
my $receiver = PspTest::Receiver->start;
my @alice = (user => 'alice');
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->subscribe('s', { callback => $receiver->url('/{id}'), table => 'public.t', retry => { first => 1, max => 1 } });

# Under way when it happens: a delivery that is tried again, a follower, a transaction that drew ids
$receiver->reply(path => '/1', status => 503);
$primary->sql('INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) g');
$receiver->wait_for(20, 10);
wait_until { $httpd->get('/pubsubpull/subscriptions/s', user => 'billing')->json->{pending} } 10, 'a failure';
my $next = $httpd->get('/pubsubpull/changes/', @alice)->json->{next};
my $open = $primary->dbh(AutoCommit => 0);
$open->do('INSERT INTO t SELECT g, 0 FROM generate_series(100, 110) g');
$primary->sql('UPDATE t SET n = 1 WHERE id = 2');
$receiver->wait_for(2, 10, qr{^/2$});
$primary->wait_for_standby($standby);
$primary->stop('immediate');
eval { $open->disconnect };
is($httpd->put('/svc/between', {})->status, 204, 'proxied requests do not notice');
$standby->admin->sql('SELECT pg_promote()');
my $start = time;
my $answer = wait_until { my $a = $httpd->get($next, @alice); $a->status == 200 && $a } 15, 'the follower';
cmp_ok(time - $start, '<', 5 * slow(), sprintf 'a follower goes on with its cursor, after %.1f s', time - $start);
is(join(' ', map { "$_->{key}{id}:$_->{new}{n}" } @{ $answer->json->{changes} }), '2:1', 'and gets what it had not got, once');
$next = $answer->json->{next};
$standby->sql('INSERT INTO t VALUES (100, 5), (200, 5)');
$receiver->reset;
ok(eval { $receiver->wait_for(1, 15, qr{^/$_$}) }, "change $_ on the new primary is sent") or diag $@ for 100, 200;
$psp->settled('s', 'what had failed');
is(($receiver->requests(qr{^/1$}))[-1]->json->{new}{n}, 0, 'as is what waited to be tried again');
is(scalar(() = $receiver->requests(qr{^/100$})), 1, 'and nothing of the transaction that was cut off');
is(join(' ', sort map { $_->{key}{id} } @{ $httpd->get($next, @alice)->json->{changes} }), '100 200', 'the follower sees the same');
wait_until { $standby->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path = '/svc/between' AND status = 204}) } 15, 'the record';
pass('what was requested between is recorded there');
my %sent;
$sent{ $_->path . ' ' . $_->json->{new}{n} }++ for $receiver->requests(qr{^/(?!1$)});
cmp_ok(scalar(grep { $_ > 1 } values %sent), '<=', 20, 'at most what was not yet written down there came twice');
is(scalar(grep { !$sent{"/$_ 0"} } 2 .. 20), 0, 'and nothing is missing');
$httpd->expect_log(qr/PSP041[012]|PSP03\d\d|PSP043\d|PSP044\d/);
finish;
