# SPDX-License-Identifier: Apache-2.0
# doubt.t: sessions of the notifier are ended in the middle of COMMIT, so that it cannot know what holds: its leases, its claims on what
# is to be tried again, its results. Nothing is lost, and nothing is sent twice.
use PspTest;

my $psp = PspTest->up(pg => { fsync => 1, config => "wal_level = replica\nmax_wal_senders = 2\n" });
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->subscribe('s', { callback => $receiver->url('/{id}'), table => 'public.t', timeout => 1, retry => { first => 1, max => 1 } });
$pg->sql('SET synchronous_commit = local');    # the service does not wait
my ($n, $sent) = (0, 0);
sub change { $n++; $pg->sql('INSERT INTO t SELECT g, $1 FROM generate_series(1, 6) g ON CONFLICT (id) DO UPDATE SET n = excluded.n', $n); $sent += 6; return }
change();
$receiver->wait_for($sent, 10);

# COMMIT is done here and waits for a standby that there is not; who is ended then has committed and is never told
sub standby { my ($name) = @_; $pg->admin->dbh->do($_) for "ALTER SYSTEM SET synchronous_standby_names = '$name'", 'SELECT pg_reload_conf()'; return }
my %ended = map { $_ => 0 } my @calls = qw(notify_save notify_due notify_lease);
my $failures = 0;
my $admin = $pg->admin->dbh;
$admin->do('SET synchronous_commit = local');
for my $wanted (qw(notify_save notify_lease), @calls) {
    if ($wanted eq 'notify_due') {
        $receiver->reply(path => '/1', status => 500, times => 1);
        $failures++;
        change();
        wait_until { $httpd->get('/pubsubpull/subscriptions/s', user => 'billing')->json->{pending} } 10, 'a failure';
    }
    standby('nobody');
    change() if $wanted eq 'notify_save';
    kill KILL => $httpd->notifier_pid if $wanted eq 'notify_lease';    # the next one takes the lease
    for (my $call = ''; $call ne $wanted;) {
        my $waiting = wait_until {
            $admin->selectrow_arrayref(q{SELECT pid, substring(query from 'notify_\w+') FROM pg_stat_activity WHERE application_name LIKE 'pubsubpull %' AND wait_event = 'SyncRep'})
        } 10, 'a COMMIT to wait';
        (my $pid, $call) = @$waiting;
        $admin->do('SELECT pg_terminate_backend(?)', undef, $pid);
        wait_until { !$admin->selectrow_array('SELECT count(*) FROM pg_stat_activity WHERE pid = ?', undef, $pid) } 5, 'its end';
        $ended{$call}++;
    }
    standby('');
    $psp->settled('s');
}
note explain \%ended;
cmp_ok($ended{$_}, '>', 0, "COMMITs of $_ were in doubt") for @calls;
my (%seen, @wrong);
for my $put ($receiver->requests) {
    my ($path, $number) = ($put->path, $put->json->{new}{n});
    push @wrong, "$path: $number after $seen{$path}" if defined $seen{$path} && $number != $seen{$path} && $number != $seen{$path} + 1;
    $seen{$path} = $number;
}
is(join("\n", @wrong), '', 'every change arrived, in order');
is(scalar(() = $receiver->requests), $sent + $failures, 'none twice but those that failed');
is($pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.delivery'), 0, 'nothing is left to be tried');
$httpd->expect_log(qr/PSP04(?:03|1[01]|3\d|4[01])/);
finish;
