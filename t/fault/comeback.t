# SPDX-License-Identifier: Apache-2.0
# comeback.t: when a receiver comes back, what failed is sent at a bounded rate, and what is new does not wait for it.
use PspTest;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
$psp->publish('public.t', 'id int PRIMARY KEY, at float8');
$receiver->reply(match => '[^1357]$', status => 503);
$psp->subscribe('s', { callback => $receiver->url('/{id}'), table => 'public.t', retry => { first => 600, max => 600 } });
$pg->sql('INSERT INTO t SELECT g FROM generate_series(1, 16670) g');
my $failed = grep { !/[1357]$/ } 1 .. 16_670;    # 10,002
wait_until { $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.delivery WHERE attempts > 0') == $failed } 60, '10,000 failures';
my ($least, $most, $middle) = @{ $pg->rows([user => 'pubsubpull'], q{SELECT min(d), max(d), percentile_cont(0.5) WITHIN GROUP (ORDER BY d)
    FROM (SELECT extract(epoch FROM next_at - last_at)::float8 AS d FROM pubsubpull.delivery) d})->[0] };
ok($least < 100 && $most > 550 && $middle > 250 && $middle < 400, sprintf 'their next tries are spread over the pause (%.0f to %.0f s, half before %.0f s)', $least, $most, $middle);

# It comes back, and all are due at once
$receiver->reset;
$receiver->forget;
$pg->sql([user => 'pubsubpull'], 'DO $$ BEGIN PERFORM FROM pubsubpull.progress FOR UPDATE; UPDATE pubsubpull.delivery SET next_at = clock_timestamp() WHERE attempts > 0; END $$');
$receiver->wait_for(1, 10);
my $id = 100_000;
while ($pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.delivery')) {
    $pg->sql('INSERT INTO t VALUES (?, extract(epoch FROM clock_timestamp()))', $id++);
    sleep 0.01;
    last if $id > 103_000;
}
my $fresh = $id - 100_000;
my @fresh = $receiver->wait_for($fresh, 10, qr{^/10\d{4}$});
my @late = sort { $a <=> $b } map { $_->{time} - $_->json->{new}{at} } @fresh;
my $p99 = $late[0.99 * $#late];
cmp_ok($fresh, '>', 50, "$fresh changes were made meanwhile");
cmp_ok($p99, '<', 1, sprintf 'and arrived at once: %.3f s at p99', $p99);
my @again = grep { $_->path !~ m{^/10\d{4}$} } $receiver->requests;
is(scalar(keys %{ { map { $_->header('webhook-id') => 1 } @again } }), $failed, 'all that had failed arrived');
is(scalar @again, $failed, 'once');
cmp_ok((sort { $b <=> $a } map { $_->{in_flight} } $receiver->requests)[0], '<=', 8, 'never more at a time than concurrency says');
is($httpd->get("$url/s", @as)->json->{pending}, 0, 'none is left');
$httpd->expect_log(qr/PSP044\d/);
finish;
