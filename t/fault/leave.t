# SPDX-License-Identifier: Apache-2.0
# leave.t: httpd stops gracefully while requests drain, and its log is rotated: what ends late is recorded, the notifier leaves last,
# and it writes to the new file.
use PspTest;
use POSIX ();

for my $mpm (qw(event prefork)) {
    my $backend = PspTest::Receiver->start;
    my $receiver = PspTest::Receiver->start;
    my $psp = PspTest->up(mpm => $mpm, pg => { fsync => 1 }, config => <<"END");
<Location /svc/>
    PubSubPull On
    PubSubPullRecord all
    ProxyPass @{[$backend->url('/')]}
</Location>
END
    my ($pg, $httpd) = ($psp->pg, $psp->httpd);
    $psp->publish('public.t', 'id int PRIMARY KEY');
    $psp->subscribe('s', { table => 'public.t', callback => $receiver->url('/{id}') });

    # A log that was moved away: the old file until the graceful restart, the new one from then on
    $receiver->reply(match => '^/gone', status => 410);
    $psp->subscribe('gone', { table => 'public.t', callback => $receiver->url('/gone/{id}') });
    rename "$httpd->{dir}/error.log", "$httpd->{dir}/error.log.1" or die $!;
    kill USR1 => $httpd->pid;
    wait_until { $httpd->log =~ /resuming normal operations/ } 20, 'the graceful restart';
    $httpd->expect_log(qr/PSP0442|AH00\d\d\d/);
    $pg->sql(q{INSERT INTO t VALUES (1)});
    my $now = $httpd->notifier_pid;
    $httpd->wait_for_log(qr{pid $now\b.*PSP0442}, 20);
    pass("$mpm: after a rotation the notifier writes to the new file");
    my @open = map { readlink } glob '/proc/' . $httpd->notifier_pid . '/fd/*';
    is(scalar(grep { /error\.log\.1/ } @open), 0, 'and has left the old one');
    $receiver->wait_for(1, 10, qr{^/1$});

    # Slow requests are under way when httpd is told to stop gracefully
    $backend->reply(match => '^/slow', status => 200, delay => 2);
    my @clients;
    my $dir = tmp_dir();
    for my $n (1 .. 8) {
        my $pid = fork // die $!;
        push(@clients, $pid), next if $pid;
        my $answer = $httpd->put("/svc/slow/$n", {});
        spew("$dir/$n", join ' ', $answer->status, $answer->header('X-Request-Id') // 'none');
        POSIX::_exit(0);
    }
    $backend->wait_for(8, 10, qr{^/slow});
    my ($pid, $notifier) = ($httpd->pid, $httpd->notifier_pid);
    kill WINCH => $pid;
    wait_until { !PspTest::Util::listening($httpd->port) } 5, 'httpd to close its door';
    ok(kill(0 => $notifier), 'while requests drain the notifier stays');
    $pg->sql('INSERT INTO t VALUES (2)');
    ok(eval { $receiver->wait_for(1, 5, qr{^/2$}) }, 'and delivers') or diag $@;
    waitpid $_, 0 for @clients;
    $httpd->ended;
    my %ended = map { (split ' ', slurp("$dir/$_"))[1, 0] } 1 .. 8;
    is(join(' ', sort values %ended), join(' ', (200) x 8), 'all were answered');
    my %recorded = map { @$_ } @{ $pg->rows([user => 'pubsubpull'], q{SELECT id, status FROM pubsubpull.request WHERE path LIKE '/svc/slow/%'}) };
    is_deeply(\%recorded, \%ended, 'and all are recorded, with their status');

    # The notifier dies, and before anybody sees that, httpd is told to stop: what it had yet to take is recorded all the same
    $httpd->launch;
    $httpd->put('/svc/warm', {});
    wait_until { $pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path = '/svc/warm' AND status IS NOT NULL}) } 10, 'the notifier at work';
    $notifier = $httpd->notifier_pid;
    kill STOP => $notifier;
    my @ids = map { $httpd->put("/svc/last/$_", {})->header('X-Request-Id') } 1 .. 8;
    kill KILL => $notifier;
    $httpd->stop;
    is_deeply([sort map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], q{SELECT id FROM pubsubpull.request WHERE path LIKE '/svc/last/%' AND status IS NOT NULL}) }],
        [sort @ids], 'what ended after the notifier died, right before httpd, is recorded');
    $_->stop for $receiver, $backend, $pg;
}
finish;
