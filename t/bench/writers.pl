# SPDX-License-Identifier: Apache-2.0
# writers.pl: commits per second of 64 writers on a published table, with a notifier that delivers, and with none, in turn: where
# processors are what limits, and where the disk is.
use strict;
use warnings;
use PspTest;
use Nginx;
use Table;

my $rounds  = 5;
my $seconds = $ENV{BENCH_SECONDS} // 5;
my $delay   = 20;                         # milliseconds that each flush takes longer, for the second line
my $nginx = Nginx->start('return 204;');
my $pg    = PspTest::Postgres->start(fsync => 1);
$pg->install_schema;
my $psp = PspTest->up(pg => $pg, config => 'LogLevel warn');
$psp->publish('public.t', 'id int PRIMARY KEY, name text, city text, n int');
$pg->sql(q{INSERT INTO t SELECT g, 'name', 'city', 0 FROM generate_series(1, 100000) g});
$psp->subscribe('s', { table => 'public.t', callback => $nginx->url('/{id}'), concurrency => 64 });
my $script = spew(tmp_dir() . '/update.sql', "\\set id random(1, 100000)\nUPDATE t SET n = n + 1 WHERE id = :id;\n");

# Commits a second, and how many there were
sub commits {
    my $out = qx{@{[PspTest::Postgres::bin_dir()]}/pgbench -n -h $pg->{socket} -p $pg->{port} -U service -f $script -c 64 -j 2 -T $seconds app 2>&1};
    $out =~ /actually processed: (\d+).*tps = ([\d.]+)/s or die $out;
    return ($2, $1);
}

sub sent {
    $psp->httpd->get('/pubsubpull/metrics', user => 'admin')->body =~ /^pubsubpull_events_sent_total (\d+)/m or die 'no metrics';
    return $1;
}

sub behind {
    my $s = $psp->httpd->get('/pubsubpull/subscriptions/s', user => 'billing')->json;
    return "$s->{lag}{changes} $s->{pending}";
}

# So many times in turn, and once more before that for warming up
sub rounds {
    my ($rounds) = @_;
    my (@with, @without, @meanwhile, @after);
    for my $round (0 .. $rounds) {
        my $before = sent();
        my ($tps, $count) = commits();
        my $sent = sent() - $before;
        my $ended = time;
        wait_until { behind() eq '0 0' } 60, 'all to be sent';
        push @with, $tps;
        push @meanwhile, $sent / $count * $tps;
        push @after, time - $ended;
        $psp->httpd->stop;
        push @without, (commits())[0];
        $psp->httpd->launch;
        wait_until { behind() eq '0 0' } 60, 'what was committed without it to be sent';    # the next round has its own to do
    }
    shift @$_ for \@with, \@without, \@meanwhile, \@after;
    return (sprintf('%.0f/s', Table::median(@with)), sprintf('without %.0f/s', Table::median(@without)),
        Table::median(map { $with[$_] / $without[$_] } 0 .. $rounds - 1),
        sprintf('  %.0f/s sent meanwhile; %.1f s after the last commit all were', Table::median(@meanwhile), Table::median(@after)));
}

my ($with, $without, $ratio, $note) = rounds($rounds);
Table::row('commits/s of 64 writers, notifier running', $with, $without, $ratio, '>=', 0.95);
Table::note($note);
$pg->admin->sql("ALTER SYSTEM SET $_") for "commit_delay = @{[1000 * $delay]}", 'commit_siblings = 0';
$pg->admin->sql('SELECT pg_reload_conf()');
($with, $without, $ratio, $note) = rounds(3);
Table::row("  each flush $delay ms longer (commit_delay), as on slow disks", $with, $without, $ratio, '>=', 0.95);
Table::note($note);
$psp->httpd->stop;
$nginx->stop;
$pg->stop;
1;
