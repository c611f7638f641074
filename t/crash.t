# SPDX-License-Identifier: Apache-2.0
# crash.t: after a crash PostgreSQL gives out numbers anew that it had given out before: nobody may take these for seen.
use PspTest;

my $psp = PspTest->up(pg => { fsync => 1, config => "wal_writer_delay = 10s\nwal_writer_flush_after = 0\n" });
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, v int');
$psp->subscribe('s', { callback => $receiver->url('/{id}'), table => 'public.t' });
my $next = '/pubsubpull/changes/?since=now';
my %pulled;

# One page; the transaction that is under way has drawn ids, which are in no WAL that was flushed.
sub pull {
    my $page = wait_until { my $answer = $httpd->get($next, user => 'auditor'); $answer->status == 200 && $answer } 30, 'a page';
    $pulled{ $_->{key}{id} }++ for @{ $page->json->{changes} };
    ($next) = $page->json->{next} =~ m{^http://[^/]*(/.*)};
    return $page->json->{more} || @{ $page->json->{changes} };
}

pull();
for my $n (1 .. 3) {
    $pg->sql('INSERT INTO t VALUES (?, 0)', 10 * $n);
    wait_until { grep { $_->json->{key}{id} == 10 * $n } $receiver->requests } 20, 'the notifier to be there';
    my $lost = $pg->dbh(AutoCommit => 0);
    $lost->do('INSERT INTO t SELECT g, 0 FROM generate_series(1000, 1099) g');
    sleep 0.1;    # the notifier reads every 48 ms
    pull();
    $pg->restart('immediate');
    eval { $lost->disconnect };
    $pg->sql('INSERT INTO t VALUES (?, 0)', 10 * $n + $_) for 1 .. 9;
    1 while pull();
    $psp->settled('s');
}
my @rows = map { $_->[0] } @{ $pg->rows('SELECT id FROM t ORDER BY id') };
my %arrived = map { $_->json->{key}{id} => 1 } $receiver->requests;
is(join(' ', grep { !$arrived{$_} } @rows), '', 'what was committed after a crash arrives');
is(join(' ', grep { ($pulled{$_} // 0) != 1 } @rows), '', 'and is pulled once');
$httpd->expect_log(qr/PSP0[34]\d\d/);
finish;
