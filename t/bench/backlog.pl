# SPDX-License-Identifier: Apache-2.0
# backlog.pl: a backlog of 1,000,000 changes: resident memory of the notifier throughout, its speed at the end against that at the start.
use strict;
use warnings;
use PspTest;
use Nginx;
use Table;

my $changes = $ENV{BENCH_BACKLOG} // 1_000_000;
my $nginx = Nginx->start('return 204;');
my $psp = PspTest->up(config => 'LogLevel warn');
my $pg  = $psp->pg;
$psp->publish('public.t', 'id int PRIMARY KEY, name text, city text, n int');
my $since = $pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.cursor_encode(pubsubpull.now_position())');
$pg->sql(q{INSERT INTO t SELECT g, 'name ' || g, 'city ' || g % 100, g FROM generate_series(1, ?) g}, $changes);
$pg->admin->sql('VACUUM ANALYZE');
$psp->subscribe('s', { table => 'public.t', since => $since, callback => $nginx->url('/{id}'), concurrency => 64 });
my ($most, @at) = (0);
while (1) {
    my ($rss) = slurp('/proc/' . $psp->httpd->notifier_pid . '/status') =~ /^VmRSS:\s+(\d+)/m;
    $most = $rss if $rss > $most;
    my $left = $pg->sql([user => 'pubsubpull'], 'SELECT (SELECT max(id) FROM pubsubpull.change) - greatest((g."position").since_id, (g."position").after_id) FROM pubsubpull.progress g');
    push @at, [time, $changes - $left];
    last if $left <= 0;
    sleep 0.2;
}
# Changes per second between two shares of the backlog
sub speed {
    my ($from, $to) = map { $_ * $changes } @_;
    my ($first) = grep { $_->[1] >= $from } @at;
    my ($last)  = grep { $_->[1] >= $to } @at;
    return ($last->[1] - $first->[1]) / ($last->[0] - $first->[0]);
}
my ($start, $end) = (speed(0.02, 0.12), speed(0.88, 0.98));
Table::row("resident memory of the notifier, backlog of $changes", sprintf('%.0f MiB', $most / 1024), '64 MiB', $most / 1024 / 64, '<=', 1);
Table::row('  its speed at the end', sprintf('%.0f/s', $end), sprintf('at the start %.0f/s', $start), $end / $start, '>=', 0.9);
$psp->httpd->stop;
$nginx->stop;
$pg->stop;
1;
