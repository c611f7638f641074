# SPDX-License-Identifier: Apache-2.0
# durable.t: no record of a request is lost: not under load, not with a killed notifier, not while the database is away.
use PspTest;

my $service = PspTest::Receiver->start;
my $spool = tmp_dir() . '/spool';
sub config {
    my (%o) = @_;
    return join "\n", 'PubSubPull On', 'PubSubPullRecord all', 'PubSubPullCapture X-Long', defined $o{size} ? "PubSubPullSpool $spool $o{size}" : '',
        "<Location /pubsubpull>\nPubSubPull Off\n</Location>", "<Location /svc/>\nProxyPass @{[$service->url('/')]}\n</Location>",
        "<Location /must/>\nPubSubPullRequired On\nProxyPass @{[$service->url('/')]}\n</Location>", '';
}
for my $wrong ('512K', 'lots', '1Q', '10', '-1') {
    my $idle = PspTest::Httpd->start(stopped => 1, unwatched => 1, database => 'host=/nowhere', config => "PubSubPullSpool /tmp $wrong\n");
    spew($idle->dir . '/stderr.log', '');
    my ($good, $said) = $idle->configtest;
    ok(!$good && $said =~ /1M at least/, "a size of $wrong is refused") or diag $said;
}
my $psp = PspTest->up(config => config(size => '64M'));
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my @owner = (stat $spool)[2, 4];
is($owner[0] & 0777, 0700, 'the directory is made for the notifier alone');
is($owner[1], scalar getpwnam 'www-data', 'and belongs to its user') if $> == 0;

# Requests as fast as they go: many processes, each in batches on one connection. All have the path.
sub load {
    my ($path, $processes, $rounds, $each, %o) = @_;
    my $header = $o{long} ? 'X-Long: ' . ('x' x $o{long}) . "\r\n" : '';
    my @pids;
    for my $process (1 .. $processes) {
        my $pid = fork // die $!;
        push @pids, $pid;
        next if $pid;
        require POSIX;
        for my $round (1 .. $rounds) {
            my $bytes = join '', map { "GET $path HTTP/1.1\r\nHost: h\r\n$header" . ($_ == $each ? "Connection: close\r\n" : '') . "\r\n" } 1 .. $each;
            my $answer = raw_http($httpd->port, $bytes, timeout => 60);
            my $n = () = $answer =~ m{HTTP/1\.1 \d{3} }g;
            POSIX::_exit(1) if $n != $each;
        }
        POSIX::_exit(0);
    }
    my $failed = 0;
    for my $pid (@pids) { waitpid $pid, 0; $failed ||= $? }
    is($failed, 0, "$path: all requests are answered");
    return $processes * $rounds * $each;
}
sub count { my ($path) = @_; return $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request WHERE path = $1 AND status IS NOT NULL', $path) }
sub all_recorded {
    my ($path, $n, $what) = @_;
    eval { wait_until { count($path) >= $n } 30, 'all records' };
    is(count($path), $n, $what);
    return;
}
sub spooled { my $bytes = 0; $bytes += -s $_ for glob "$spool/requests-*"; return $bytes }
sub lock_requests {
    my $dbh = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);
    $dbh->do('LOCK TABLE pubsubpull.request IN EXCLUSIVE MODE');
    return $dbh;
}

# Killed with records that were not written yet
my $lock = lock_requests();
my $n = load('/killed', 2, 1, 100);
my $pid = $httpd->notifier_pid;
wait_until { $pg->admin->sql(q{SELECT count(*) FROM pg_stat_activity WHERE query ~ 'record_(requests|reads)' AND wait_event_type = 'Lock'}) } 10, 'the notifier to wait for the database';
kill KILL => $pid;
wait_until { my ($new) = $httpd->notifier_pids; $new && $new != $pid } 10, 'another notifier';
is(spooled(), 0, 'the ring held them');
$lock->rollback;
all_recorded('/killed', $n, 'a killed notifier loses nothing');

# Full load, and a database that does not keep up
$lock = lock_requests();
my $slow = fork // die $!;
if (!$slow) { sleep 1.5; $lock->{InactiveDestroy} = 0; $lock->rollback; require POSIX; POSIX::_exit(0) }
$lock->{InactiveDestroy} = 1;
undef $lock;
$n = load('/load', 4, 20, 300);
waitpid $slow, 0;
all_recorded('/load', $n, "$n requests under full load, all recorded");

# The database away
$pg->stop('immediate');
$n = load('/away', 4, 5, 100);
wait_until { spooled() > 0 } 10, 'records on disk';
is(scalar(grep { (stat)[2] & 077 } glob "$spool/requests-*"), 0, 'that nobody else reads');
$httpd->wait_for_log(qr/PSP0427/, 5);
my $size = wait_until { my $before = spooled(); sleep 0.3; spooled() == $before && $before } 10, 'all of them';
kill KILL => $httpd->notifier_pid;
$httpd->wait_for_log(qr/PSP0425/, 10);
is($httpd->put('/must/x', {})->status, 204, 'with a spool requests that have to be recorded are taken');
$n += load('/away', 2, 1, 100);
$httpd->stop;    # everything, with the database still away
cmp_ok(spooled(), '>', $size, 'what came until the end is on disk');
my ($newest) = reverse sort glob "$spool/requests-*";
open my $torn, '>>', $newest or die $!;
print $torn '{"id":"01900000-0000-7000-8000-0000000000';
close $torn;
$pg->launch;
$httpd->launch;
all_recorded('/away', $n, 'all are recorded when the database is back');
is($pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path = '/must/x'}), 1, 'that one, too');
$httpd->wait_for_log(qr/PSP0426/, 10);
is(join(' ', glob "$spool/requests-*"), '', 'and nothing is left on disk');

# A spool that is full
$httpd->configure(config(size => '1M'));
$httpd->graceful;
wait_until { $httpd->put('/must/y', {})->status == 204 } 10, 'requests to be taken';
$pg->stop('immediate');
$n = load('/full', 2, 5, 100, long => 1500);
$n += load('/full', 1, 1, 100, long => 1500) while $n < 2000 || spooled() == 0;
cmp_ok(spooled(), '<=', 1024 * 1024, 'the spool keeps its size');
wait_until { $httpd->put('/must/until', {})->status == 503 } 10, 'what has to be recorded to be refused';
my $answer = $httpd->put('/must/full', {});
is($answer->header('Content-Type'), 'application/problem+json', 'as a problem');
is($answer->json->{type}, 'urn:pubsubpull:problem:not-recorded', 'of its own type');
cmp_ok($answer->header('Retry-After'), '>', 0, 'to be tried again later');
is($httpd->get('/must/full')->status, 204, 'who only reads is served');
is($httpd->put('/svc/full', {})->status, 204, 'and who need not be recorded');
$pg->launch;
all_recorded('/full', $n, 'what did not fit on disk was kept in memory');
wait_until { $httpd->put('/must/z', {})->status == 204 } 10, 'requests to be taken again';
is((grep { $_->path eq '/full' && $_->{method} eq 'PUT' } $service->requests), 1, 'what was refused did not reach the service');

# Without a spool, and without a notifier
$httpd->configure(config());
$httpd->graceful;
wait_until { $httpd->put('/must/z', {})->status == 204 } 10, 'the notifier to be there';
$pid = $httpd->notifier_pid;
kill STOP => $pid;
wait_until { $httpd->delete('/must/z')->status == 503 } 15, 'a notifier that hangs to be noticed';
kill CONT => $pid;
wait_until { $httpd->delete('/must/z')->status == 204 } 10, 'it to be back';
$pg->stop('immediate');
wait_until { $httpd->post('/must/z', {})->status == 503 } 10, 'the database to be missed';
$pg->launch;
wait_until { $httpd->post('/must/z', {})->status == 204 } 15, 'it to be back';

# Graceful stop while requests are under way
$service->reply(match => '^/slow', status => 200, delay => 1.5);
my @clients = map { my $i = $_; my $p = fork // die $!; if (!$p) { $httpd->get("/svc/slow-$i"); require POSIX; POSIX::_exit(0) } $p } 1 .. 5;
$service->wait_for(5, 10, qr{^/slow});
$pid = $httpd->notifier_pid;
$httpd->stop('WINCH');
waitpid $_, 0 for @clients;
is($pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path LIKE '/svc/slow-%' AND status = 200}), 5, 'requests that ended during a graceful stop are recorded');

# httpd ends while the database is slow, and while it is away
$httpd->launch;
wait_until { $httpd->put('/must/z', {})->status == 204 } 10, 'the notifier to be there';
$lock = lock_requests();
$n = load('/ends', 2, 1, 100);
wait_until { $pg->admin->sql(q{SELECT count(*) FROM pg_stat_activity WHERE query ~ 'record_(requests|reads)' AND wait_event_type = 'Lock'}) } 10, 'the notifier to wait for the database';
$slow = fork // die $!;
if (!$slow) {    # the notifier is told to leave when it is the last one
    my ($notifier) = $httpd->notifier_pids;
    wait_until { `pgrep -P @{[$httpd->pid]}` eq "$notifier\n" } 10, 'the workers to be gone';
    sleep 0.6;
    $lock->{InactiveDestroy} = 0;
    $lock->rollback;
    require POSIX;
    POSIX::_exit(0);
}
$lock->{InactiveDestroy} = 1;
undef $lock;
$httpd->stop;
waitpid $slow, 0;
is(count('/ends'), $n, 'the notifier waits a moment for the database when httpd ends');
$httpd->launch;
wait_until { $httpd->put('/must/z', {})->status == 204 } 10, 'the notifier to be there';
$pg->stop('immediate');
wait_until { $httpd->post('/must/z', {})->status == 503 } 10, 'the database to be missed';
$n = load('/lost', 2, 1, 100);
$httpd->stop;
my ($lost) = $httpd->log =~ /PSP0335: (\d+) records/;
cmp_ok($lost // 0, '>=', $n, 'what is lost when httpd ends is counted');
cmp_ok($lost // 0, '<', $n + 20, 'and nothing else');
$pg->launch;
$httpd->expect_log(qr/PSP0335|PSP0403|PSP0410|PSP0427|PSP0412|AH\d+|PSP042[01]/);
unlike($httpd->log, qr/PSP0420|PSP0102|PSP0421/, 'no record was dropped or refused');
finish;
