# SPDX-License-Identifier: Apache-2.0
# notifier.t: the notifier is killed, aborts, exits as it should not; httpd is reloaded. httpd serves on, and nothing is lost.
use PspTest;

my $library = tmp_dir() . '/preload.so';
system('cc', '-shared', '-fPIC', '-O1', '-o', $library, repo('t/fault/preload.c')) == 0 or die 'preload.c does not compile';
my $fault = spew("$library.fault", '');
chmod 0644, $fault;

my ($psp, $pg, $httpd, $receiver, $pid, $start, $took);
my $n = 0;

sub running { my ($pid) = @_; return -e "/proc/$pid" && slurp("/proc/$pid/stat") !~ /^\d+ \(.*\) Z/ }
sub gone_after { my ($pid, $start) = @_; wait_until { !eval { running($pid) } } 5, 'a process to end'; return time - $start }
sub next_pid { my ($old) = @_; return wait_until { my ($new) = grep { $_ != $old } $httpd->notifier_pids; $new } 5, 'another notifier' }
sub delivers {
    my ($what, $seconds) = @_;
    $n++;
    $pg->sql('INSERT INTO t VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET n = excluded.n', $n);
    return ok(eval { wait_until { grep { $_->path eq '/s/1' && $_->json->{new}{n} == $n } $receiver->requests } $seconds // 5, 'the change'; 1 }, $what);
}
sub hanging { $receiver->wait_for(1, 5, qr{^/s/2$}); $receiver->forget; return }

sub killed {
    my ($mpm) = @_;
    delivers("$mpm: a change arrives");

    # Killed, then a reload
    $pid = $httpd->notifier_pid;
    $start = time;
    kill KILL => $pid;
    my $new = next_pid($pid);
    cmp_ok(time - $start, '<', 1.5 * slow(), sprintf 'killed: another one after %.0f ms', 1000 * (time - $start));
    delivers('which delivers');
    $httpd->graceful;
    my $after = next_pid($new);
    ok(!running($new), 'a reload replaces it');
    delivers('and deliveries go on');
    kill KILL => $after;
    $httpd->graceful;
    $pid = wait_until { my @pids = $httpd->notifier_pids; @pids == 1 && $pids[0] != $after ? $pids[0] : 0 } 2, 'one notifier';
    delivers('also when it was killed just before the reload');
    return;
}

sub refused {
    # It aborts at every start
    spew($fault, 'abort');
    my $deaths = () = $httpd->log =~ /PSP0403/g;
    kill KILL => $pid;
    wait_until { (() = $httpd->log =~ /PSP0403/g) >= $deaths + 3 } 10, 'three notifiers to die';
    my $before = () = $httpd->log =~ /PSP0403/g;
    my $until = time + 3;
    my $served = 0;
    while (time < $until) { $served++ if $httpd->get('/pubsubpull/', user => 'alice')->status == 200; sleep 0.05 }
    cmp_ok($served, '>', 20, 'httpd serves while the notifier aborts at every start');
    cmp_ok((() = $httpd->log =~ /PSP0403/g) - $before, '<=', 1, 'and does not start one after the other');
    spew($fault, '');
    delivers('when it can run again it does, by itself', 20);

    # No process is to be had for it
    $httpd->graceful;    # earlier deaths are forgotten
    $pid = $httpd->notifier_pid;
    spew($fault, 'fork');
    kill KILL => $pid;
    $httpd->wait_for_log(qr/PSP0402: .*Resource temporarily unavailable|\(11\).*PSP0402/, 5);
    is($httpd->get('/server-status')->status, 200, 'httpd serves when no process can be made for the notifier');
    is($httpd->get('/pubsubpull/', user => 'alice')->status, 200, 'and so do resources');
    $pg->sql('INSERT INTO t VALUES (3, 0)');
    spew($fault, '');
    ok(eval { $receiver->wait_for(1, 20, qr{^/s/3$}); 1 }, 'it is started when there is one, and what happened meanwhile arrives') or diag $@;
    $pid = $httpd->notifier_pid;
    $httpd->graceful;    # earlier deaths are forgotten
    $pid = next_pid($pid);
    return;
}

sub ended {
    # How soon it goes when it is told to, whatever is on the wire; and when httpd is told to reload
    $receiver->reply(path => '/s/2', hang => 1);
    $pg->sql('INSERT INTO t VALUES (2, 0)');
    hanging();
    kill TERM => $pid;
    $took = gone_after($pid, time);
    if ($took > 0.2) {    # the machine may have been busy: once more
        $pid = next_pid($pid);
        hanging();
        kill TERM => $pid;
        $took = gone_after($pid, time);
    }
    cmp_ok($took, '<', 0.2 * slow(), sprintf 'it is gone %.0f ms after its SIGTERM, with a request on the wire', 1000 * $took);
    $pid = next_pid($pid);
    hanging();
    kill USR1 => $httpd->pid;
    $took = gone_after($pid, time);
    cmp_ok($took, '<', 0.5 * slow(), sprintf 'and %.0f ms after httpd was told to reload', 1000 * $took);
    $pid = next_pid($pid);
    hanging();
    $receiver->reset;
    delivers('another key arrives all the same');

    # It exits with the code that tells httpd to end
    for my $how (qw(_exit exit)) {
        spew($fault, $how);
        $httpd->graceful;
        $pid = next_pid($pid);
        delivers('a new one works');    # so that it has its signal handlers
        kill USR2 => $pid;
        $pid = next_pid($pid);
        is($httpd->get('/pubsubpull/', user => 'alice')->status, 200, "httpd survives $how(15) of the notifier");
        spew($fault, '');
        delivers('and the next one delivers');
    }
    return;
}

for my $mpm (qw(event prefork)) {
    $psp = PspTest->up(mpm => $mpm, env => { LD_PRELOAD => $library, PSP_FAULT => $fault });
    ($pg, $httpd) = ($psp->pg, $psp->httpd);
    $receiver = PspTest::Receiver->start;
    $psp->publish('public.t', 'id int PRIMARY KEY, n int');
    $psp->subscribe('s', { callback => $receiver->url('/s/{id}'), table => 'public.t' });
    killed($mpm);
    refused() if $mpm eq 'event';    # that is the parent's business, which is the same
    ended();
    is(scalar($httpd->notifier_pids), 1, 'there is one notifier');
    $httpd->expect_log(qr/PSP040[23]|AH00052|AH00051|AH00045/, qr/exit signal Abort/, qr/exit signal Bad system call/);
    $_->stop for $httpd, $receiver, $pg;
}
finish;
