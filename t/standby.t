# SPDX-License-Identifier: Apache-2.0
# standby.t: rows and changes from a hot standby: cursors are good on both servers, nothing is missed or repeated, and lag is just lag.
use PspTest;
use POSIX ();

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $standby = $pg->standby;
my $psp = PspTest->up(pg => $pg, config => 'PubSubPullReadDatabase "' . $standby->conninfo(user => 'pubsubpull_httpd', socket => 1) . '"');
my $httpd = $psp->httpd;
my $tables = '/pubsubpull/tables';
my @as = (user => 'alice');

# Over HTTP: what is written goes to the primary, what is read comes from the standby
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$pg->wait_for_standby($standby);
$pg->sql('INSERT INTO t SELECT g, 0 FROM generate_series(1, 10) g');
$pg->wait_for_standby($standby);
my $page = $httpd->get("$tables/public.t/rows/", @as)->json;
is(scalar @{ $page->{rows} }, 10, 'rows from the standby');
sub ids { my ($url) = @_; return join ' ', map { $_->{key}{id} } @{ $httpd->get($url, @as)->json->{changes} } }
is(ids("$tables/public.t/changes/"), join(' ', 1 .. 10), 'and changes');
my $next = $page->{changes};
$standby->admin->sql('SELECT pg_wal_replay_pause()');
$pg->sql('INSERT INTO t VALUES (11, 0)');
is(ids($next), '', 'a standby that lags answers what it has');
my $ahead = $pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.cursor_encode(pubsubpull.now_position())');
my $answer = $httpd->get("$tables/public.t/changes/?since=$ahead", @as);
is($answer->status . ' ' . @{ $answer->json->{changes} }, '200 0', 'a cursor of the primary that is ahead of it is good');
like($answer->json->{next}, qr/since=\Q$ahead\E/, 'and stays what it is');
my ($middle) = json($pg->sql([user => 'pubsubpull'], q{SELECT body FROM pubsubpull.changes_get('http://h', 'public.t', NULL, NULL, NULL, '3', NULL, NULL, NULL, 'page', NULL)}))->{next} =~ /since=([^&]*)/;
$answer = $httpd->get("$tables/public.t/changes/?since=$middle", @as);
is($answer->status . ' ' . @{ $answer->json->{changes} } . ' ' . ($answer->json->{next} =~ /since=\Q$middle\E/), '200 0 1', 'so does one from inside a batch that the standby does not have');
$standby->admin->sql('SELECT pg_wal_replay_resume()');
$pg->wait_for_standby($standby);
is(ids($next), '11', 'then the rest');
is(ids("$tables/public.t/changes/?since=$middle"), join(' ', 4 .. 11), 'here, too');
my $stream = $httpd->get("$tables/public.t/rows/", @as, headers => [Accept => 'application/x-ndjson']);
is(scalar(() = $stream->body =~ /\n/g), 11, 'a stream from the standby');
my $child = fork // die $!;
if (!$child) {
    sleep 0.5;
    $pg->dbh->do('INSERT INTO t VALUES (12, 0)');
    POSIX::_exit(0);
}
is(ids($stream->link('changes') . '&wait=20'), '12', 'and waiting for what comes next');
waitpid $child, 0;

# Under churn, from one server to the other at random: every change once
my $end = time + 6;
my @writers = map {
    my $seed = $_;
    my $pid = fork // die $!;
    if (!$pid) {
        srand $seed;
        my $w = $pg->dbh;
        $w->do(q{SET lock_timeout = '50ms'});
        $w->{AutoCommit} = 0;
        while (time < $end) {
            eval {
                for (1 .. 1 + int rand 4) {
                    my $id = 100 + int rand 40;
                    rand() < 0.7 ? $w->do('INSERT INTO t VALUES (?, 0) ON CONFLICT (id) DO UPDATE SET n = t.n + 1', undef, $id) : $w->do('DELETE FROM t WHERE id = ?', undef, $id);
                    select undef, undef, undef, rand() < 0.02 ? 0.15 : 0.002;
                }
                rand() < 0.2 ? $w->rollback : $w->commit;
                1;
            } or $w->rollback;
        }
        POSIX::_exit(0);
    }
    $pid;
} 1 .. 4;
srand 7;
my ($since) = $pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.cursor_encode(pubsubpull.now_position())');
my $from = $pg->sql([user => 'pubsubpull'], 'SELECT max(id) FROM pubsubpull.change');
my (%seen, %of, $paused, $where);
sub step {
    my ($where, $limit) = @_;
    my $r = json(($where ? $standby : $pg)->sql([user => 'pubsubpull'], q{SELECT body FROM pubsubpull.changes_get('http://h', 'public.t', NULL, NULL, $1, $2, NULL, NULL, NULL, 'page', NULL)}, $since, $limit));
    $seen{ $_->{id} }++, $of{$where}++ for @{ $r->{changes} };
    ($since) = $r->{next} =~ /since=([^&]*)/;
    return $r->{more};
}
while (time < $end) {
    if (rand() < 0.01) { $standby->admin->sql('SELECT ' . (($paused = !$paused) ? 'pg_wal_replay_pause()' : 'pg_wal_replay_resume()')) }
    $where = !$where if rand() < 0.03;
    step($where ? 1 : 0, 1 + int rand 20);
    sleep 0.002;
}
waitpid $_, 0 for @writers;
$standby->admin->sql('SELECT pg_wal_replay_resume()');
$pg->wait_for_standby($standby);
1 while step(1, 1000);
is(step(0, 1000), JSON::PP::false(), 'the end');
my @logged = map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], 'SELECT id FROM pubsubpull.change WHERE id > $1 ORDER BY id', $from) };
is(scalar(grep { $seen{$_} > 1 } keys %seen), 0, 'no change twice');
is(scalar(grep { !$seen{$_} } @logged), 0, 'and none missed, of ' . @logged);
cmp_ok($of{$_} // 0, '>', 20, "many from the " . ($_ ? 'standby' : 'primary') . ": $of{$_}") for 0, 1;
$httpd->expect_log(qr/PSP031[234]/);
finish;
