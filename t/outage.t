# SPDX-License-Identifier: Apache-2.0
# outage.t: a receiver or a table that is out of order delays its own changes only, and is found when it is back.
use PspTest;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, v text');
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');

# All that waited was given up; what comes later must arrive all the same
$receiver->reply(match => '^/a', status => 500);
$psp->subscribe('a', { callback => $receiver->url('/a/{id}'), table => 'public.t', retry => { first => 1, max => 1, for => 1 } });
$pg->sql(q{INSERT INTO t SELECT g FROM generate_series(1, 8) g});
wait_until { $httpd->get("$url/a", @as)->json->{failed} == 8 } 40, 'eight failures';
$receiver->reset;
$receiver->forget;
$pg->sql(q{INSERT INTO t VALUES (100)});
is(($receiver->wait_for(1, 15, qr{^/a}))[0]->path, '/a/100', 'after an outage in which everything was given up deliveries go on');
$httpd->delete("$url/a", @as);

# What waits is due in minutes; fresh changes must not wait for that
$receiver->reply(match => '^/b', status => 500);
$psp->subscribe('b', { callback => $receiver->url('/b/{id}'), table => 'public.t', retry => { first => 900, max => 3600 } });
$pg->sql(q{INSERT INTO t SELECT g FROM generate_series(201, 206) g});
$receiver->wait_for(6, 15, qr{^/b});
$receiver->reset;
$receiver->forget;
$pg->sql(q{INSERT INTO t VALUES (300)});
ok((grep { $_->path eq '/b/300' } $receiver->wait_for(1, 20, qr{^/b/300})), 'fresh changes find out that a receiver is back');
$httpd->delete("$url/b", @as);

# A table that somebody alters for long: its rows cannot be read, and nobody else waits for that
$psp->publish('public.u', 'id int PRIMARY KEY');
$pg->sql('INSERT INTO u VALUES (1)');
$psp->subscribe('c', { callback => $receiver->url('/c/{id}'), table => 'public.t' });
my $alter = $pg->dbh(AutoCommit => 0);
$alter->do('ALTER TABLE u ADD extra int');
$pg->sql([user => 'pubsubpull'], q{SELECT set_config('lock_timeout', '2s', false)});
my $answer = $httpd->put("$url/d", { callback => $receiver->url('/d/{id}'), table => 'public.u', since => 'beginning' }, @as);
is($answer->status, 201, 'somebody subscribes to a table that is locked') or diag $answer->body;
$pg->sql(q{INSERT INTO t VALUES (400)});
is(($receiver->wait_for(1, 5, qr{^/c}))[0]->path, '/c/400', 'others are served meanwhile');
$pg->sql(q{INSERT INTO t VALUES (401)});
$receiver->wait_for(2, 5, qr{^/c});
$alter->commit;
is(($receiver->wait_for(1, 10, qr{^/d}))[0]->json->{type}, 'row', 'and its rows come when the lock is gone');

# A page of large values stays small in the notifier's memory
my $pid = $httpd->notifier_pid;
kill STOP => $pid;
$pg->sql(q{INSERT INTO t SELECT g, repeat('x', 1000000) FROM generate_series(1000, 1099) g});
kill CONT => $pid;
$receiver->wait_for(102, 60, qr{^/c});
my ($peak) = slurp("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m;
cmp_ok($peak, '<', 150_000 * ($ENV{PSP_PRELOAD} ? 3 : 1), "100 MB of changes pass through $peak kB");
$httpd->expect_log(qr/PSP044\d/);
finish;
