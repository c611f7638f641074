# SPDX-License-Identifier: Apache-2.0
# follow.t: copies kept over HTTP, in four ways, are the table: under churn, restarts of httpd and of PostgreSQL, and a new beginning.
use PspTest;
use POSIX ();

my $seconds = $ENV{PSP_CHURN} // 8;
my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
$psp->publish('public.t', 'a int, b text, n int NOT NULL DEFAULT 0, at timestamptz NOT NULL DEFAULT clock_timestamp(), price numeric, j json, PRIMARY KEY (a, b)');
$pg->sql(q{INSERT INTO t SELECT g, 'ä,/' || g % 3, 0, now(), g / 8.0, '{"x":  1}' FROM generate_series(1, 2000) g});

my $dir = tmp_dir();
my $url = $httpd->url('/pubsubpull/tables/public.t');
my @ways = qw(pages lines poll events);
my %follower = map { $_ => spawn(cmd => ['/usr/bin/python3', '-B', repo('t/lib/follower.py'), $url, $_, 'alice', "$dir/$_"], log => "$dir/$_.log") } @ways;

# Writers: rollbacks, savepoints, changed keys, truncation, transactions that stay open, and a server that goes away
my $end = time + $seconds;
sub churn {
    my ($w) = @_;
    for (1 .. 1 + int rand 4) {
        my ($a, $b, $what) = (int rand 60, 'ä,/' . int rand 3, int rand 14);
        $w->do('SAVEPOINT s') if $what == 0;
        if    ($what < 6)  { $w->do('INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT (a, b) DO UPDATE SET n = t.n + 1, at = clock_timestamp(), price = t.n / 4.0', undef, $a, $b) }
        elsif ($what < 8)  { $w->do(q{UPDATE t SET n = n + 1, j = '[1, 2]' WHERE a BETWEEN ? AND ? + 3}, undef, $a, $a) }
        elsif ($what < 10) { $w->do('DELETE FROM t WHERE a = ?', undef, $a) }
        elsif ($what < 12) { $w->do('UPDATE t SET a = a + 100 WHERE (a, b) = (?, ?) AND NOT EXISTS (SELECT FROM t WHERE (a, b) = (? + 100, ?))', undef, $a, $b, $a, $b) }
        elsif ($what < 13) { select undef, undef, undef, rand() < 0.05 ? 1 : rand 0.02 }
        elsif (rand() < 0.02) { $w->do('TRUNCATE t') }
        $w->do('ROLLBACK TO s') if $what == 0;
    }
    rand() < 0.2 ? $w->rollback : $w->commit;
    return;
}
my @writers = map {
    my $seed = $_;
    my $pid = fork // die $!;
    if (!$pid) {
        srand $seed;
        my $w;
        while (time < $end) {
            eval {
                if (!$w || !$w->ping) {
                    $w = $pg->dbh;
                    $w->do(q{SET lock_timeout = '50ms'});
                    $w->{AutoCommit} = 0;
                }
                churn($w);
                1;
            } or eval { $w->rollback };
            select undef, undef, undef, 0.005;
        }
        POSIX::_exit(0);
    }
    $pid;
} 1 .. 8;
sub until_part { my ($part) = @_; wait_until { time > $end - $seconds * (1 - $part) } $seconds + 5, "$part of the time"; return }
until_part(0.25);
$httpd->restart;
until_part(0.5);
$pg->restart('fast');
until_part(0.65);
$httpd->graceful;
until_part(0.8);
$pg->sql([user => 'pubsubpull'], q{SELECT pubsubpull.unpublish('t')});    # a gap: who follows has to start again
$pg->sql(q{UPDATE t SET n = -1 WHERE a < 10});
$pg->sql([user => 'pubsubpull'], q{SELECT pubsubpull.publish('t')});
waitpid $_, 0 for @writers;
cmp_ok($pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.change'), '>', 500, 'there was churn: ' . $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.change'));

my $same = q{WITH c AS (SELECT r FROM jsonb_array_elements($1::jsonb) r), t AS (SELECT to_jsonb(t) FROM t) SELECT concat(
    (SELECT count(*) FROM t), ' rows, ', (SELECT count(*) FROM (TABLE c EXCEPT ALL TABLE t) x), ' too many, ', (SELECT count(*) FROM (TABLE t EXCEPT ALL TABLE c) x), ' missing')};
my $rows = $pg->sql('SELECT count(*) FROM t');
for my $way (@ways) {
    kill TERM => $follower{$way};
    eval { wait_until { !alive($follower{$way}) } 20, $way; 1 } or diag $@, slurp("$dir/$way.log");
    is(eval { $pg->sql($same, slurp("$dir/$way")) } // $@, "$rows rows, 0 too many, 0 missing", "the copy kept by $way is the table") or diag slurp("$dir/$way.log");
}

$httpd->expect_log(qr/PSP031[0-4]|PSP030[12]|PSP033[01]|PSP041\d|PSP043\d/);
finish;
