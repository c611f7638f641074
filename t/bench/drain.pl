# SPDX-License-Identifier: Apache-2.0
# drain.pl: changes per second that the notifier sends of a backlog, signed, one by one and in batches, against a bare loop of
# libcurl to the same nginx, in turn.
use strict;
use warnings;
use PspTest;
use Nginx;
use Table;

my $changes = $ENV{BENCH_CHANGES} // 200_000;
my $rounds  = $ENV{BENCH_ROUNDS}  // 3;
my $nginx   = Nginx->start('return 204;', 'client_max_body_size 8m;');
my $psp     = PspTest->up(config => 'LogLevel warn');
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
$psp->publish('public.t', 'id int PRIMARY KEY, name text, city text, n int');

my $bare = build_dir() . '/bare';
my $flags = qx{pkg-config --cflags --libs libcurl};
chomp $flags;
system("cc -O2 -o '$bare' '@{[repo('t/bench/bare.c')]}' $flags") == 0 or die 'bare.c does not compile';
my %secret = (secret => 'whsec_' . 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw' );

# Changes per second until the subscription has sent all of them
sub ours {
    my ($since, %document) = @_;
    my $start = time;
    $psp->subscribe('drain', { table => 'public.t', since => $since, concurrency => 64, on => ['insert'], %secret, %document });
    wait_until {
        $pg->rows([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.subscription s JOIN pubsubpull.progress g ON g.subscription = s.id
            WHERE (g."position").upto IS NULL AND (g."position").since_id >= (SELECT max(id) FROM pubsubpull.change WHERE type = \'I\')')->[0][0];
    } 300, 'the backlog to be sent';
    my $seconds = time - $start;
    $httpd->delete('/pubsubpull/subscriptions/drain', user => 'billing');
    return $changes / $seconds;
}

sub theirs {
    my ($count, $body) = @_;
    my $start = time;
    system($bare, $nginx->url('/t/100000'), $count, 64, $body) == 0 or die 'the bare loop failed';
    return $count / (time - $start);
}

my (@single, @batch, @bare, @bare_batch);
for my $round (1 .. $rounds) {
    $pg->sql('TRUNCATE t');
    my $since = $pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.cursor_encode(pubsubpull.now_position())');
    $pg->sql(q{INSERT INTO t SELECT g, 'name ' || g, 'city ' || g % 100, g FROM generate_series(1, ?) g}, $changes);
    $pg->admin->sql('VACUUM ANALYZE');
    my $body = substr $pg->sql([user => 'pubsubpull'], q{SELECT body FROM pubsubpull.changes_get('http://127.0.0.1/pubsubpull', NULL, NULL, NULL, $1, '1', NULL, NULL, NULL, 'page', NULL)}, $since), 0, 500;
    push @single,     ours($since, callback => $nginx->url('/t/{id}'));
    push @bare,       theirs($changes, $body);
    push @batch,      ours($since, callback => $nginx->url('/t'), batch => 100);
    push @bare_batch, 100 * theirs($changes / 100, $body x 100);
}
sub ratio { my ($x, $y) = @_; return Table::median(map { $x->[$_] / $y->[$_] } 0 .. $rounds - 1) }
my $bare_text = sprintf 'bare libcurl %.0f/s', Table::median(@bare);
Table::row("changes/s draining $changes, signed", sprintf('%.0f/s', Table::median(@single)), $bare_text, ratio(\@single, \@bare), '>=', 0.35);
Table::row('  the same with "batch": 100', sprintf('%.0f/s', Table::median(@batch)), $bare_text, ratio(\@batch, \@bare), '>=', 0.35);
Table::note(sprintf '  bare libcurl with 100 changes in a PUT: %.0f changes/s; the default of pg_net, documented: 200/s', Table::median(@bare_batch));
$httpd->stop;
$nginx->stop;
$pg->stop;
1;
