# SPDX-License-Identifier: Apache-2.0
# idle.pl: what the notifier and its database sessions cost while nothing happens: 1,000 subscriptions on 100 tables.
use strict;
use warnings;
use POSIX ();
use PspTest;
use Table;

my $subscriptions = $ENV{BENCH_SUBSCRIPTIONS} // 1000;
my $seconds       = $ENV{BENCH_SECONDS}       // 20;
my $psp           = PspTest->up(config => 'LogLevel warn');
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
for my $n (0 .. 99) {
    $pg->sql("CREATE TABLE t$n (id int PRIMARY KEY, name text)");
    $pg->publishable("t$n");
    $pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.publish($1)', "public.t$n");
}
my $receiver = PspTest::Receiver->start;
$pg->sql([user => 'pubsubpull'], q{SELECT pubsubpull.subscribe('s' || g, jsonb_build_object('table', 'public.t' || g % 100, 'callback', $1 || g || '/{id}'))
    FROM generate_series(1, $2::int) g}, $receiver->url('/'), $subscriptions);
wait_until {
    $subscriptions == $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.progress WHERE holder IS NOT NULL')
} 30, 'all subscriptions to be served';
$pg->sql("INSERT INTO t$_ VALUES (1, 'one')") for 0 .. 99;
$receiver->wait_for($subscriptions, 60);
$pg->admin->sql('VACUUM ANALYZE');
sleep 3;

sub ticks {
    my ($pid) = @_;
    my $stat = slurp("/proc/$pid/stat");
    my ($user, $system) = (split ' ', $stat =~ s/.*\) //r)[11, 12];
    return $user + $system;
}
my %pid = (notifier => $httpd->notifier_pid);
$pid{ $_->[0] } = $_->[1] for @{ $pg->admin->rows(q{SELECT application_name, pid FROM pg_stat_activity WHERE application_name LIKE 'pubsubpull %'}) };
keys %pid == 3 or die 'the notifier has not two sessions';
my %before = map { $_ => ticks($pid{$_}) } keys %pid;
my $start = time;
sleep $seconds;
my $elapsed = time - $start;
my %cpu = map { $_ => (ticks($pid{$_}) - $before{$_}) * 100 / POSIX::sysconf(POSIX::_SC_CLK_TCK()) / $elapsed } keys %pid;
my $total = 0;
$total += $_ for values %cpu;
printf STDERR "# idle: %s\n", join ', ', map { sprintf '%s %.2f %%', $_, $cpu{$_} } sort keys %cpu;
Table::row("idle with $subscriptions subscriptions on 100 tables", sprintf('%.2f %% of a core', $total), 'the aim', $total, '<=', 2);
$httpd->stop;
$pg->stop;
1;
