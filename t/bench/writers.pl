# SPDX-License-Identifier: Apache-2.0
# writers.pl: commits per second of 64 writers on a published table, with a notifier that delivers, and with none, in turn.
use strict;
use warnings;
use PspTest;
use Nginx;
use Table;

my $rounds  = 5;
my $seconds = $ENV{BENCH_SECONDS} // 5;
my $nginx = Nginx->start('return 204;');
my $pg    = PspTest::Postgres->start(fsync => 1);
$pg->install_schema;
my $psp = PspTest->up(pg => $pg, config => 'LogLevel warn');
$psp->publish('public.t', 'id int PRIMARY KEY, name text, city text, n int');
$pg->sql(q{INSERT INTO t SELECT g, 'name', 'city', 0 FROM generate_series(1, 100000) g});
$psp->subscribe('s', { table => 'public.t', callback => $nginx->url('/{id}'), concurrency => 64 });
my $script = spew(tmp_dir() . '/update.sql', "\\set id random(1, 100000)\nUPDATE t SET n = n + 1 WHERE id = :id;\n");

sub commits {
    my $out = qx{@{[PspTest::Postgres::bin_dir()]}/pgbench -n -h $pg->{socket} -p $pg->{port} -U service -f $script -c 64 -j 2 -T $seconds app 2>&1};
    $out =~ /tps = ([\d.]+)/ or die $out;
    return $1;
}
my (@with, @without);
for my $round (0 .. $rounds) {
    push @with, commits();
    $psp->httpd->stop;
    push @without, commits();
    $psp->httpd->launch;
}
shift @with, shift @without;    # for warming up
Table::row('commits/s of 64 writers, notifier running', sprintf('%.0f/s', Table::median(@with)), sprintf('without %.0f/s', Table::median(@without)),
    Table::median(map { $with[$_] / $without[$_] } 0 .. $rounds - 1), '>=', 0.95);
$psp->httpd->stop;
$nginx->stop;
$pg->stop;
1;
