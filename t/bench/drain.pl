# SPDX-License-Identifier: Apache-2.0
# drain.pl: PUTs per second that the notifier makes of a backlog, against a bare loop of libcurl to the same nginx, in turn.
use strict;
use warnings;
use PspTest;
use Nginx;
use Table;

my $changes = $ENV{BENCH_CHANGES} // 200_000;
my $rounds  = $ENV{BENCH_ROUNDS}  // 3;
my $nginx   = Nginx->start('return 204;');
my $psp     = PspTest->up(config => 'LogLevel warn');
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
$psp->publish('public.t', 'id int PRIMARY KEY, name text, city text, n int');

my $bare = build_dir() . '/bare';
my $flags = qx{pkg-config --cflags --libs libcurl};
chomp $flags;
system("cc -O2 -o '$bare' '@{[repo('t/bench/bare.c')]}' $flags") == 0 or die 'bare.c does not compile';

my (@ours, @theirs);
for my $round (1 .. $rounds) {
    $pg->sql('TRUNCATE t');
    my $since = $pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.cursor_encode(pubsubpull.now_position())');
    $pg->sql(q{INSERT INTO t SELECT g, 'name ' || g, 'city ' || g % 100, g FROM generate_series(1, ?) g}, $changes);
    $pg->sql([user => 'postgres'], 'VACUUM ANALYZE');
    my $start = time;
    $psp->subscribe('drain', { callback => $nginx->url('/t/{id}'), table => 'public.t', since => $since, concurrency => 64, on => ['insert'] });
    my $last;
    wait_until {
        $last = $pg->rows([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.subscription s JOIN pubsubpull.progress g ON g.subscription = s.id
            WHERE (g."position").upto IS NULL AND (g."position").since_id >= (SELECT max(id) FROM pubsubpull.change WHERE type = \'I\')')->[0][0];
    } 300, 'the backlog to be sent';
    push @ours, $changes / (time - $start);
    $httpd->delete('/pubsubpull/subscriptions/drain', user => 'billing');
    my $body = $pg->sql([user => 'pubsubpull'], q{SELECT body FROM pubsubpull.changes_get('http://127.0.0.1/pubsubpull', NULL, NULL, NULL, $1, '1', NULL, NULL, NULL, 'page', NULL)}, $since);
    $start = time;
    system($bare, $nginx->url('/t/100000'), $changes, 64, substr $body, 0, 500) == 0 or die 'the bare loop failed';
    push @theirs, $changes / (time - $start);
}
Table::row('PUTs/s draining 200,000 changes to one nginx', sprintf('%.0f/s', Table::median(@ours)), sprintf('bare libcurl %.0f/s', Table::median(@theirs)),
    Table::median(map { $ours[$_] / $theirs[$_] } 0 .. $rounds - 1), '>=', 0.35);
$httpd->stop;
$nginx->stop;
$pg->stop;
1;
