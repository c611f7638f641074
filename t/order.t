# SPDX-License-Identifier: Apache-2.0
# order.t: who has to wait for whom when deliveries fail, and that nobody waits for ever.
use PspTest;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, v int');
$pg->sql('INSERT INTO t VALUES (1, 0), (2, 0), (3, 0)');
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
my %retry = (retry => { first => 1, max => 1 });

# Committed after a barrier but with a lower id, it waits behind the barrier in the notifier and not in the database
$psp->subscribe('l', { callback => $receiver->url('/l/{id}'), table => 'public.t', %retry });
$receiver->reply(path => '/l/1', status => 500, times => 1, delay => 1);
my $late = $pg->dbh(AutoCommit => 0);
$late->do('UPDATE t SET v = 1 WHERE id = 3');
$pg->sql('UPDATE t SET v = 1 WHERE id = 1');
$receiver->wait_for(1);
$pg->sql('UPDATE t SET id = 20 WHERE id = 2');
sleep 0.2;    # until it was read: the notifier reads every 48 ms
$late->commit;
$psp->settled('l', 'a change that was committed late');
is(join(' ', sort map { $_->path } $receiver->requests), '/l/1 /l/1 /l/20 /l/3', 'what is parked behind a failure gets its turn though nothing in the database stands before it');
$httpd->delete("$url/l", @as);
$pg->sql('UPDATE t SET id = 2 WHERE id = 20');

# Something before a barrier fails after the barrier had its turn
$receiver->forget;
$psp->subscribe('o', { callback => $receiver->url('/o/{id}'), table => 'public.t', %retry });
$receiver->reply(path => '/o/1', status => 500, times => 1);
$receiver->reply(path => '/o/2', status => 500, times => 1, delay => 3);
$pg->sql('UPDATE t SET v = 40 WHERE id = 2');
$pg->sql('UPDATE t SET v = 40 WHERE id = 1');
$receiver->wait_for(2, 10, qr{^/o});
wait_until { $httpd->get("$url/o", @as)->json->{pending} == 1 } 5, 'a failure';
$pg->sql('TRUNCATE t');
$psp->settled('o', 'TRUNCATE');
is(join(' ', map { $_->path } $receiver->requests), '/o/2 /o/1 /o/1 /o/2 /o/', 'TRUNCATE waits for it');
$httpd->delete("$url/o", @as);
$pg->sql('INSERT INTO t VALUES (1, 0), (2, 0)');

# What was parked when it was read, and was sent since, is not sent again by the next notifier, who reads it once more
$receiver->forget;
$psp->subscribe('k', { callback => $receiver->url('/k/{id}'), table => 'public.t', %retry });
$receiver->reply(path => '/k/2', hang => 1, times => 1);
$receiver->reply(path => '/k/1', status => 500, times => 1);
$pg->sql('UPDATE t SET v = 50 WHERE id = 2');
$pg->sql('UPDATE t SET v = 51 WHERE id = 1');
wait_until { $httpd->get("$url/k", @as)->json->{pending} == 1 } 5, 'a failure';
$pg->sql("UPDATE t SET v = $_ WHERE id = 1") for 52, 53;
$receiver->wait_for(4, 10, qr{^/k/1});
wait_until { $httpd->get("$url/k", @as)->json->{pending} == 0 } 5, 'all but the one that hangs';
kill KILL => $httpd->notifier_pid;
$receiver->wait_for(2, 10, qr{^/k/2});
$psp->settled('k', 'the rest');
is(join(' ', map { $_->json->{new}{v} } $receiver->requests(qr{^/k/1})), '51 51 52 53', 'what was parked and then sent is not sent again after a kill');
$httpd->delete("$url/k", @as);

# A barrier that has its turn waits for what only the notifier knew that was killed
$receiver->forget;
$psp->subscribe('q', { callback => $receiver->url('/q/{id}'), table => 'public.t', %retry });
$receiver->reply(path => '/q/2', hang => 1, times => 1);
$receiver->reply(path => '/q/1', status => 500, times => 1);
$pg->sql('UPDATE t SET v = 55 WHERE id = 2');
$pg->sql('UPDATE t SET v = 55 WHERE id = 1');
wait_until { $httpd->get("$url/q", @as)->json->{pending} == 1 } 5, 'a failure';
$pg->sql('TRUNCATE t');
$receiver->wait_for(2, 10, qr{^/q/1});
wait_until { $httpd->get("$url/q", @as)->json->{pending} == 1 } 5, 'TRUNCATE to have its turn';
kill KILL => $httpd->notifier_pid;
$psp->settled('q', 'TRUNCATE after the kill');
is(join(' ', map { $_->path } ($receiver->requests)[-2, -1]), '/q/2 /q/', 'TRUNCATE comes after what has to be sent again');
$httpd->delete("$url/q", @as);
$pg->sql('INSERT INTO t VALUES (1, 0), (2, 0)');

# Failures of one key that are to be tried again go one after another
$psp->subscribe('f', { callback => $receiver->url('/f/{id}'), table => 'public.t', retry => { first => 1, max => 1, for => 0 } });
$receiver->reply(path => '/f/1', status => 500, times => 2);
for my $n (1, 2) {
    $pg->sql('UPDATE t SET v = ? WHERE id = 1', 60 + $n);
    wait_until { $httpd->get("$url/f", @as)->json->{failed} == $n } 10, "$n failures";
}
$receiver->forget;
$receiver->reply(path => '/f/1', delay => 0.5, times => 1);
$httpd->put("$url/f/failures/", { state => 'pending' }, @as);
$receiver->wait_for(1);
sleep 0.2;
is(scalar $receiver->requests, 1, 'a failure that is tried again has those after it wait');
$psp->settled('f', 'the second');
is(join(' ', map { $_->json->{new}{v} } $receiver->requests), '61 62', 'in order');
$httpd->expect_log(qr/PSP0403/);
finish;
