# SPDX-License-Identifier: Apache-2.0
# clock.t: a server's clock is an hour off, and is set while it runs: leases and retries use the database's time.
use PspTest;
use POSIX qw(strftime);

my ($faketime) = glob '/usr/lib/*/faketime/libfaketime.so.1';
ok($faketime, 'libfaketime is there') or BAIL_OUT('install libfaketime');
my $psp = PspTest->up;
my ($pg, $one) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->subscribe("s$_", { callback => $receiver->url("/s$_/{id}"), table => 'public.t', retry => { first => 1, max => 1 } }) for 1 .. 6;

my $clock = spew(tmp_dir() . '/clock', "+3600\n");
chmod 0644, $clock;
my $two = PspTest::Httpd->start(
    pg  => $pg,
    env => { LD_PRELOAD => $faketime, FAKETIME_TIMESTAMP_FILE => $clock, FAKETIME_NO_CACHE => 1, FAKETIME_DONT_FAKE_MONOTONIC => 1, FAKETIME_DISABLE_SHM => 1 });
my @as = ([user => 'pubsubpull']);
my $spread = 'SELECT count(*) FROM pubsubpull.progress WHERE holder IS NOT NULL GROUP BY holder ORDER BY 1 DESC';
wait_until { '3 3' eq join ' ', map { $_->[0] } @{ $pg->rows(@as, $spread) } } 10, 'both servers to have their share';
my $epochs = $pg->sql(@as, 'SELECT sum(epoch) FROM pubsubpull.progress');

my $now = 0;
for my $offset (3600, -3600, 0) {
    spew($clock, sprintf "%+d\n", $offset);
    like($two->get('/server-status')->body, qr/Current Time: \w+, @{[strftime('%d-%b-%Y %H:', localtime(time + $offset))]}/, "the second server's clock is $offset s off");
    $now++;
    $receiver->forget;
    $receiver->reply(match => '/1$', status => 500, times => 6);
    my $start = time;
    $pg->sql('INSERT INTO t VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET n = excluded.n', $now);
    my @puts = $receiver->wait_for(12, 15);
    my @late = grep { $_ > 5 * slow() } map { $_->{time} - $start } @puts;
    is(scalar @late, 0, 'failed deliveries of both servers are tried again within seconds');
    is($pg->sql(@as, 'SELECT count(*) FROM pubsubpull.delivery WHERE next_at > now() + interval $$1 minute$$'), 0, 'nothing is put off by the wrong hour');
}
is($pg->sql(@as, 'SELECT count(*) FROM pubsubpull.notifier WHERE alive_until > now() + interval $$10 seconds$$'), 0, 'leases end in time');
is($pg->sql(@as, 'SELECT sum(epoch) FROM pubsubpull.progress'), $epochs, 'and nobody takes from a server with another clock');
my $killed = time;
$two->kill_tree;
$receiver->forget;
$pg->sql('UPDATE t SET n = 9');
$receiver->wait_for(6, 10);
cmp_ok(time - $killed, '<', 5, 'or keeps too long what it had');
finish;
