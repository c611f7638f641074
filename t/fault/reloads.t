# SPDX-License-Identifier: Apache-2.0
# reloads.t: graceful restarts, one after the other, while there are changes and requests.
use PspTest;
use POSIX ();

sub descriptors { my ($pid) = @_; my @files = glob "/proc/$pid/fd/*"; return scalar @files }

# A process beside this one; returns what to call to end it.
sub beside {
    my ($work) = @_;
    my $pid = fork // die $!;
    if (!$pid) {
        my $go = 1;
        local $SIG{TERM} = sub { $go = 0 };
        eval { $work->() while $go; 1 } or print STDERR "# beside: $@";
        POSIX::_exit($go);
    }
    return sub { kill TERM => $pid; waitpid $pid, 0; return $? };
}

for my $mpm (qw(event prefork)) {
    my $psp = PspTest->up(mpm => $mpm);
    my ($pg, $httpd) = ($psp->pg, $psp->httpd);
    my $receiver = PspTest::Receiver->start;
    $psp->publish('public.t', 'id int PRIMARY KEY, n int');
    $psp->subscribe('s', { callback => $receiver->url('/s/{id}'), table => 'public.t' });
    my ($dbh, $n);
    my $writer = beside(sub {
        $dbh //= $pg->dbh;
        $dbh->do('INSERT INTO t SELECT g, $1 FROM generate_series(1, 10) g ON CONFLICT (id) DO UPDATE SET n = excluded.n', {}, ++$n);
        sleep 0.02;
    });
    my $client = beside(sub { $httpd->get('/pubsubpull/tables/', user => 'alice'); sleep 0.01 });

    my ($first, $pid, @counts) = (0, 0);
    for my $round (1 .. 50) {
        $httpd->graceful;
        $pid = wait_until { my @now = $httpd->notifier_pids; @now == 1 && $now[0] != $pid && $now[0] } 5, 'one notifier';
        my $seen = () = $receiver->requests;
        $receiver->wait_for($seen + 10, 10);    # so that it is at work
        push @counts, join ' ', descriptors($httpd->pid), descriptors($pid);
    }
    my @early = split ' ', $counts[2];
    my @late  = split ' ', $counts[-1];
    is($writer->() | $client->(), 0, "$mpm: changes and requests went on during 50 graceful restarts");
    is(scalar($httpd->notifier_pids), 1, 'there is one notifier');
    is($late[0], $early[0], "httpd's parent has as many open files as after the third ($late[0])");
    cmp_ok($late[1], '<=', $early[1] + 3, "and so has the notifier, but for connections to receivers ($early[1], $late[1])");
    my $last = $pg->sql('SELECT max(n) FROM t');
    my %at;
    wait_until { %at = map { $_->path => $_->json->{new}{n} } $receiver->requests; 10 == grep { $_ == $last } values %at } 20, 'all changes';
    my (%highest, @wrong);
    my $repeated = 0;
    for my $put ($receiver->requests) {
        my ($path, $number) = ($put->path, $put->json->{new}{n});
        push @wrong, "$path: $number after $highest{$path}" if $number > ($highest{$path} //= 0) + 1;
        if   ($number > $highest{$path}) { $highest{$path} = $number }
        else                             { $repeated++ }
    }
    is(join("\n", @wrong), '', "every change arrived, in order (10 keys, $last of each)");
    cmp_ok($repeated, '<', 50 * 10, "what was on the wire at most came twice ($repeated)");
    $httpd->expect_log(qr/AH00\d\d\d/);
    $_->stop for $httpd, $receiver, $pg;
}
finish;
