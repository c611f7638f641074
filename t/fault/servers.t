# SPDX-License-Identifier: Apache-2.0
# servers.t: several httpd servers on one database share the subscriptions, and take over from one that died or stood still.
use PspTest;

my $psp = PspTest->up;
my ($pg, $one) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->subscribe("s$_", { callback => $receiver->url("/s$_/{id}"), table => 'public.t' }) for 1 .. 11;

sub as_owner { return $pg->rows([user => 'pubsubpull'], @_) }

# How many subscriptions each notifier holds, largest first.
sub spread {
    return join ' ', map { $_->[0] } @{ as_owner('SELECT count(*) FROM pubsubpull.progress WHERE holder IS NOT NULL GROUP BY holder ORDER BY 1 DESC') };
}
sub epochs { return as_owner('SELECT sum(epoch) FROM pubsubpull.progress')->[0][0] }

# A writer in the background: every key gets n = 1, 2, 3 … in turn. Returns a function that stops it and says what the last n is.
sub writer {
    my ($keys) = @_;
    pipe my $out, my $in or die $!;
    my $pid = fork // die $!;
    if (!$pid) {
        close $out;
        my $go = 1;
        local $SIG{TERM} = sub { $go = 0 };
        my $dbh = $pg->dbh;
        my $n = 0;
        while ($go) {
            $n++;
            $dbh->do('INSERT INTO t SELECT g, ? FROM generate_series(1, ?::int) g ON CONFLICT (id) DO UPDATE SET n = excluded.n', undef, $n, $keys);
            sleep 0.02;
        }
        syswrite $in, "$n\n";
        require POSIX;
        POSIX::_exit(0);
    }
    close $in;
    return sub {
        kill TERM => $pid;
        my $n = <$out>;
        waitpid $pid, 0;
        return $n + 0;
    };
}

# What is wrong with the order of each path, and how many came more than once.
sub judge {
    my (%last, %seen, @wrong);
    my $repeated = 0;
    for my $put ($receiver->requests) {
        my ($path, $n) = ($put->path, $put->json->{new}{n});
        next if $seen{$path}{$n}++ && ++$repeated;
        push @wrong, sprintf '%s: %d after %d', $path, $n, $last{$path} // 0 if $n != ($last{$path} // 0) + 1;
        $last{$path} = $n;
    }
    return (join("\n", @wrong), $repeated);
}
sub arrived {
    my ($paths, $n) = @_;
    my %last;
    $last{ $_->path } = $_->json->{new}{n} for $receiver->requests;
    return $paths == grep { $_ == $n } values %last;
}

# Another server joins while changes flow
wait_until { spread() eq '11' } 5, 'the first to hold all';
my $stop = writer(5);
$receiver->wait_for(200, 20);
my $epochs = epochs();
my $two = PspTest::Httpd->start(pg => $pg);
wait_until { spread() eq '6 5' } 10, 'subscriptions to be spread over two';
is(epochs() - $epochs, 5, 'no more moved than had to');
my $three = PspTest::Httpd->start(pg => $pg);
wait_until { spread() eq '4 4 3' } 10, 'subscriptions to be spread over three';
$epochs = epochs();
sleep 2.2;    # two renewals of each: nothing may move any more, and there is nothing to wait for
is(epochs(), $epochs, 'and there they stay');
my $n = $stop->();
wait_until { arrived(55, $n) } 20, 'all changes';
my ($wrong, $repeated) = judge();
is($wrong, '', 'in order for each key');
is($repeated, 0, 'none twice');

# A server dies, with everything it has
$receiver->forget;
$pg->sql('UPDATE t SET n = 0');
$pg->sql('TRUNCATE t');
wait_until { 11 == grep { $_->json->{type} eq 'truncate' } $receiver->requests } 10, 'a clean slate';
$receiver->forget;
$three->kill_tree;
my $killed = time;
$pg->sql('INSERT INTO t VALUES (1, 1)');
$receiver->wait_for(11, 10);
cmp_ok(time - $killed, '<', 5, sprintf 'what a killed server held is taken over (%.1f s)', time - $killed);
($wrong, $repeated) = judge();
is($wrong, '', 'and nothing is lost');
is($repeated, 0, 'nor sent twice');
is(spread(), '6 5', 'the others share it');

# One that leaves in good order
$receiver->forget;
$two->stop;
my $stopped = time;
$pg->sql('UPDATE t SET n = 2');
$receiver->wait_for(11, 10);
cmp_ok(time - $stopped, '<', 3, sprintf 'what a stopped server held is taken over sooner (%.1f s)', time - $stopped);
is(spread(), '11', 'by the one that is left');

# A restart is no reason to move anything to another server and back
$two->launch;
wait_until { spread() eq '6 5' } 10, 'subscriptions to be spread over two';
my $holder = q{SELECT string_agg(subscription::text, ',' ORDER BY subscription) FROM pubsubpull.progress GROUP BY holder ORDER BY 1};
my $before = as_owner($holder);
$epochs = epochs();
$two->graceful;
$receiver->forget;
$pg->sql('UPDATE t SET n = 3');
$receiver->wait_for(11, 10);
is_deeply(as_owner($holder), $before, 'a graceful restart moves nothing between servers');
cmp_ok(epochs() - $epochs, '<=', 6, 'but to the next notifier of the same');

$_->expect_log(qr/AH00|pid \d+ exit signal/) for $one, $two, $three;
finish;
