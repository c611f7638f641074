# SPDX-License-Identifier: Apache-2.0
# retry.t: when a failed notification is tried again, what is known of it meanwhile, and a start from existing rows that is cut off.
use PspTest;
use POSIX ();

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, v int');
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
my $id = 0;

# Seconds between the first try, answered so, and the second
sub pause {
    my ($max, %answer) = @_;
    my $path = '/p' . ++$id;
    $receiver->reply(match => "^$path", times => 1, %answer);
    $psp->subscribe("p$id", { callback => $receiver->url("$path/{id}"), table => 'public.t', retry => { first => 1, max => $max } });
    $pg->sql('INSERT INTO t VALUES (?, 0)', $id);
    my ($first, $second) = $receiver->wait_for(2, 20, qr{^$path/});
    $httpd->delete("$url/p$id", @as);
    is($second->header('webhook-id'), $first->header('webhook-id'), "$path: the same webhook-id");
    return $second->{time} - $first->{time};
}
my $seconds = pause(20, status => 503, headers => { 'Retry-After' => 3 });
cmp_ok($seconds, '>=', 2.9, "Retry-After in seconds is obeyed: $seconds");
$seconds = pause(20, status => 429, headers => { 'Retry-After' => POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time + 4)) });
cmp_ok($seconds, '>=', 2.5, "and as a date: $seconds");
$seconds = pause(2, status => 503, headers => { 'Retry-After' => 86400 });
cmp_ok($seconds, '<', 6, "but not beyond the longest pause of the subscription: $seconds");
$seconds = pause(2, status => 503, headers => { 'Retry-After' => 'soon, -1' });
cmp_ok($seconds, '<', 6, "nonsense is passed over: $seconds");

# What is known while it fails
$receiver->reply(match => '^/f', status => 418, body => 'teapot ' . 'x' x 5000);
$psp->subscribe('f', { callback => $receiver->url('/f/{id}'), table => 'public.t', retry => { first => 60, max => 60 } });
$pg->sql('INSERT INTO t VALUES (1000, 0)');
wait_until { @{ $httpd->get("$url/f/failures/", @as)->json->{failures} } } 10, 'a failure';
my $document = $httpd->get("$url/f", @as)->json;
ok($document->{failing_since}, 'since when it fails is on the subscription');
like($document->{last_error}, qr/answered 418: teapot x/, 'and what is failing');
my ($failure) = @{ $httpd->get("$url/f/failures/", @as)->json->{failures} };
is("@$failure{qw(status state attempts)}", '418 pending 1', 'the failure has status, state, attempts');
like($failure->{error}, qr/teapot x{500}/, 'the beginning of the answer');
cmp_ok(length $failure->{error}, '<=', 2100, 'no more than that');
ok(!(grep { !$failure->{$_} } qw(first_at last_at next_at)), 'and its times');
$httpd->delete("$url/f", @as);

# since: beginning, with a slow receiver, writers, a kill of the notifier in the middle: the copy is the table; others are not held up
$pg->sql('TRUNCATE t');
$pg->sql('INSERT INTO t SELECT n, 0 FROM generate_series(1, 3000) n');
$psp->subscribe('quick', { callback => $receiver->url('/quick/{id}'), table => 'public.t', on => ['update'] });
$receiver->reply(match => '^/copy', delay => 0.01);
$psp->subscribe('copy', { callback => $receiver->url('/copy/{id}'), table => 'public.t', since => 'beginning', concurrency => 16 });
$receiver->wait_for(500, 20, qr{^/copy});
$pg->sql('UPDATE t SET v = 1 WHERE id % 50 = 0');
$pg->sql('DELETE FROM t WHERE id % 100 = 1');
$pg->sql('INSERT INTO t SELECT n, 2 FROM generate_series(3001, 3050) n');
$receiver->wait_for(60, 5, qr{^/quick});
cmp_ok(scalar($receiver->requests(qr{^/copy})), '<', 3000, 'another subscription is not held up meanwhile');
kill 'KILL', $httpd->notifier_pid;
$pg->sql('UPDATE t SET v = v + 5 WHERE id % 70 = 0');
$psp->settled('copy', 'the copy', within => 60);
my %copy;
for my $put ($receiver->requests(qr{^/copy})) {
    my $event = $put->json;
    if ($event->{new}) { $copy{ $event->{key}{id} } = $event->{new}{v} }
    else               { delete $copy{ $event->{key}{id} } }
}
my %table = map { $_->[0] => $_->[1] } @{ $pg->rows('SELECT id, v FROM t') };
is_deeply(\%copy, \%table, 'what arrived makes the table');
$httpd->expect_log(qr/PSP0403/);
finish;
