# SPDX-License-Identifier: Apache-2.0
# sqlstate.t: what the database may refuse the notifier and the resources, each provoked: serialization failure, deadlock, cancelled,
# read-only, ended, too many connections. What passes is tried again; what lasts is in the log; nothing is lost.
use PspTest;

my $psp = PspTest->up(pg => { config => "deadlock_timeout = 300ms\nlog_line_prefix = '%m [%p] %e %q%u@%d %a '\n" });
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->subscribe("s$_", { callback => $receiver->url("/s$_/{id}"), table => 'public.t' }) for 1 .. 4;
my @as = ([user => 'pubsubpull']);
my $n  = 0;

# Three changes of each of five keys for four subscriptions. Returns how many PUTs there must be in all.
sub change {
    for (1 .. 3) { $n++; $pg->sql('INSERT INTO t SELECT g, $1 FROM generate_series(1, 5) g ON CONFLICT (id) DO UPDATE SET n = excluded.n', $n) }
    return;
}
sub all_there {
    my ($what, $seconds) = @_;
    my %last;
    my $ok = eval { wait_until { %last = map { $_->path => $_->json->{new}{n} } $receiver->requests; 20 == grep { $_ == $n } values %last } $seconds // 10; 1 };
    my (%at, @wrong);
    for my $put ($receiver->requests) {
        my ($path, $number) = ($put->path, $put->json->{new}{n});
        push @wrong, "$path: $number after $at{$path}" if $number > ($at{$path} //= 0) + 1;
        $at{$path} = $number if $number > $at{$path};
    }
    push @wrong, 'not all arrived: ' . to_json(\%last) if !$ok;
    return is(join("\n", @wrong), '', "$what: every change arrives, in order");
}
sub states { my ($state) = @_; my $count = () = $pg->log =~ /\] \Q$state\E [^\n]* pubsubpull (?:notifier|records) ERROR/g; return $count }
sub saving { return $pg->admin->sql(q{SELECT pid FROM pg_stat_activity WHERE query ~ 'notify_save' AND wait_event_type = 'Lock' LIMIT 1}) }
sub end_sessions { return $pg->kill_backend(q{application_name IN ('pubsubpull notifier', 'pubsubpull records')}) }
sub as_role { my ($what) = @_; $pg->admin->sql("ALTER ROLE pubsubpull_httpd $what"); end_sessions(); return }
# What resources answer to one who reads, and to one who writes
sub resources {
    return map { my $type = eval { $_->json->{type} } // ''; $_->status . ($type ? ' ' . $type =~ s/.*://r : '') . ($_->status == 503 && !$_->header('Retry-After') ? ' without Retry-After' : '') }
        $httpd->get('/pubsubpull/tables/', user => 'alice'), $httpd->put('/pubsubpull/subscriptions/s1/state', { state => 'active' }, user => 'billing');
}
sub log_count { my ($pattern) = @_; my $count = () = $httpd->log =~ /$pattern/g; return $count }
change();
all_there('undisturbed');

# 57014: cancelled while a result is being saved
my $lock = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);
for (1 .. 5) {
    $lock->do('SELECT FROM pubsubpull.progress FOR UPDATE');
    change();
    my $pid = wait_until { saving() } 5, 'a result to wait';
    $pg->admin->sql('SELECT pg_cancel_backend($1)', $pid);
    wait_until { states('57014') >= $_ } 5, 'the call to be cancelled';
    $lock->rollback;
}
all_there('57014');

# 40P01: a deadlock between the saving of results and somebody who locks the other way round
my ($low, $high) = @{ $pg->rows(@as, 'SELECT min(subscription), max(subscription) FROM pubsubpull.progress')->[0] };
for (1 .. 3) {
    $lock->do('SELECT FROM pubsubpull.progress WHERE subscription = $1 FOR UPDATE', {}, $high);
    change();
    wait_until { saving() } 5, 'a result to wait';
    eval { $lock->do('SELECT FROM pubsubpull.progress WHERE subscription = $1 FOR UPDATE', {}, $low) };
    $lock->rollback;
}
cmp_ok(states('40P01'), '>', 0, 'there were deadlocks');
all_there('40P01');

# 40001: everything is serializable, and others write what the notifier writes
as_role(q{SET default_transaction_isolation = 'serializable'});
for (1 .. 5) {
    $lock->do('UPDATE pubsubpull.progress SET last_error = NULL');
    change();
    wait_until { saving() } 5, 'a result to wait';
    $lock->commit;
}
cmp_ok(states('40001'), '>', 0, 'there were serialization failures');
all_there('40001');
as_role('RESET default_transaction_isolation');

# Resources: a call that waits for a lock is cancelled, or its session ended
for my $way (['pg_cancel_backend', '503 database-timeout'], ['pg_terminate_backend', '200']) {
    my ($function, $expected) = @$way;
    my $ender = fork // die $!;
    if (!$ender) {
        require POSIX;
        my ($admin, $locker) = ($pg->admin->dbh, $pg->dbh(user => 'pubsubpull', AutoCommit => 0));
        $locker->do('LOCK TABLE pubsubpull.subscription');
        my $ended = eval {
            wait_until { $admin->selectrow_array(qq{SELECT count($function(pid)) FROM pg_stat_activity WHERE application_name = 'pubsubpull' AND wait_event_type = 'Lock'}) } 5, 'a call to wait';
        };
        $locker->rollback;
        POSIX::_exit(!$ended);
    }
    wait_until { $pg->admin->sql(q{SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock' AND relation = 'pubsubpull.subscription'::regclass}) } 5, 'the lock';
    is((resources())[1], $expected, "$function: what a resource answers");
    waitpid $ender, 0;
    is($?, 0, '  a call was ended') or diag $?;
    is((resources())[1], '200', '  the next call is answered');
}

# 57P01: ended by the administrator
for (1 .. 5) {
    change();
    end_sessions();
    sleep 0.1;
}
all_there('57P01');
unlike($httpd->log, qr/PSP043[0-35]/, 'what passes is nobody\'s trouble');

# 25006: read-only
as_role('SET default_transaction_read_only = on');
change();
$httpd->wait_for_log(qr/PSP0435: .*25006/, 10);
pass('25006: read-only is said in the log');
$pg->kill_backend(q{application_name = 'pubsubpull'});
is(join(', ', resources()), '200, 503 database-read-only', 'who reads is served meanwhile, who writes is told why not');
as_role('RESET default_transaction_read_only');
$pg->kill_backend(q{application_name = 'pubsubpull'});
all_there('25006', 15);
$httpd->wait_for_log(qr/PSP0436/, 5);
pass('and that it is over');

# 53300: no connections left, for both sessions and for one
for my $limit (0, 1) {
    my ($lost, $back) = (log_count('PSP0410: .*too many connections'), log_count('PSP0411'));
    $lock->disconnect;
    $pg->{dbh} = {};
    $pg->kill_backend(q{usename = 'pubsubpull_httpd'}) if $limit;
    as_role("CONNECTION LIMIT $limit");
    change();
    wait_until { log_count('PSP0410: .*too many connections') > $lost } 10, 'the log to say so';
    pass("53300 with $limit connections is said in the log");
    if (!$limit) {
        $pg->kill_backend(q{application_name = 'pubsubpull'});
        is(join(', ', resources()), '503 database-unavailable, 503 database-unavailable', 'resources say so, too, and when to try again');
    }
    $pg->admin->sql('ALTER ROLE pubsubpull_httpd CONNECTION LIMIT -1');
    all_there('53300', 15);
    is(join(', ', resources()), '200, 200', 'resources are back') if !$limit;
    wait_until { log_count('PSP0411') > $back } 10, 'the log to say that it is over';
    pass('and that it is over');
}
$httpd->expect_log(qr/PSP041[01]|PSP0435|PSP03\d\d/);
finish;
