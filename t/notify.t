# SPDX-License-Identifier: Apache-2.0
# notify.t: what the notifier owes its subscribers: every change, in order per key, whatever is killed meanwhile.
use PspTest;

for my $mpm (qw(event prefork)) {
    my $psp = PspTest->up(mpm => $mpm, pg => { fsync => 1 });    # or a crash of the server would lose what it said is committed
    my ($pg, $httpd) = ($psp->pg, $psp->httpd);
    my $receiver = PspTest::Receiver->start;
    $psp->publish('public.t', 'id int PRIMARY KEY, n int, v text');

    # Order and selection
    $psp->subscribe('all', { callback => $receiver->url('/all/{id}'), table => 'public.t', since => 'now' });
    $psp->subscribe('some', { callback => $receiver->url('/some'), table => 't', on => ['update'], columns => ['id', 'n'], when => '$.new.n > 1' });
    $pg->sql(q{INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b')});
    $pg->sql(q{UPDATE t SET v = 'c'});
    $pg->sql(q{UPDATE t SET n = n + 1 WHERE id = 2});
    $pg->sql(q{DELETE FROM t WHERE id = 1});
    $pg->sql(q{TRUNCATE t});
    my @all = $receiver->wait_for(7, 10, qr{^/all});
    is_deeply([map { $_->json->{type} } grep { $_->path eq '/all/1' } @all], [qw(insert update delete)], "$mpm: changes of a key in order");
    is_deeply([map { $_->json->{type} } grep { $_->path eq '/all/2' } @all], [qw(insert update update)], 'of another key, too');
    is($all[-1]->json->{type} . $all[-1]->path, 'truncate/all/', 'TRUNCATE after all of them');
    my @some = $receiver->wait_for(1, 10, qr{^/some});
    is(scalar @some, 1, 'on, columns and when select');
    is_deeply($some[0]->json->{new}, { id => 2, n => 3 }, 'and only the columns wanted are sent');
    my $sample = $all[0];
    like($sample->header('webhook-id'), qr/./, 'webhook-id');
    like($sample->header('webhook-timestamp'), qr/^\d+$/, 'webhook-timestamp');
    is($sample->header('PubSubPull-Subscription'), 'all', 'the name of the subscription');
    is($sample->header('Content-Type'), 'application/json', 'JSON');

    # A receiver that fails: its key waits, others do not; webhook-id stays
    $receiver->forget;
    $pg->sql(q{INSERT INTO t SELECT g, 0, '' FROM generate_series(1, 5) g});
    $receiver->wait_for(5, 10, qr{^/all});
    $receiver->forget;
    $receiver->reply(path => '/all/3', status => 500, times => 2);
    $pg->sql(q{UPDATE t SET n = 1 WHERE id = 3});
    $pg->sql(q{UPDATE t SET n = 2 WHERE id = 3});
    $pg->sql(q{UPDATE t SET n = 1 WHERE id = 4});
    wait_until { 5 == (() = $receiver->requests(qr{^/all})) } 20, 'the retries';
    my @three = grep { $_->path eq '/all/3' } $receiver->requests(qr{^/all});
    my @four  = grep { $_->path eq '/all/4' } $receiver->requests(qr{^/all});
    is_deeply([map { $_->json->{new}{n} } @three], [1, 1, 1, 2], 'a failed delivery is tried again before the next of its key');
    is(scalar(keys %{ { map { $_->header('webhook-id') => 1 } @three } }), 2, 'under the same webhook-id');
    cmp_ok($four[0]{time}, '<', $three[2]{time}, 'and other keys go on');

    # Two transactions that commit in the opposite order of their ids, and one that stays open
    $receiver->forget;
    my ($a, $b, $open) = map { $pg->dbh(AutoCommit => 0) } 1 .. 3;
    $open->do(q{INSERT INTO t VALUES (99, 0, 'open')});
    my $elsewhere = $pg->admin(db => 'postgres')->dbh(AutoCommit => 0);
    $elsewhere->do('CREATE TEMP TABLE elsewhere AS SELECT pg_current_xact_id()');
    $a->do(q{INSERT INTO t VALUES (10, 0, 'first')});
    $b->do(q{INSERT INTO t VALUES (11, 0, 'second')});
    $b->commit;
    $receiver->wait_for(1, 10, qr{^/all/11});
    $a->commit;
    $receiver->wait_for(1, 10, qr{^/all/10});
    $pg->sql(q{INSERT INTO t VALUES (12, 0, '')});
    $receiver->wait_for(1, 10, qr{^/all/12});
    pass('transactions that commit in the opposite order are both notified, and open ones, here and in another database, delay nobody');
    $elsewhere->rollback;
    $elsewhere->disconnect;
    $open->commit;
    $receiver->wait_for(1, 10, qr{^/all/99});
    is(scalar(() = $receiver->requests(qr{^/all})), 4, 'each once');

    # since: beginning
    my $rows = $pg->sql('SELECT count(*) FROM t');
    $psp->subscribe('copy', { callback => $receiver->url('/copy/{id}'), table => 'public.t', since => 'beginning' });
    my @copy = $receiver->wait_for($rows, 10, qr{^/copy});
    is(scalar(grep { $_->json->{type} eq 'row' } @copy), $rows, 'beginning: every existing row first');
    $pg->sql(q{UPDATE t SET v = 'new' WHERE id = 1});
    is(($receiver->wait_for($rows + 1, 10, qr{^/copy}))[-1]->json->{type}, 'update', 'then changes');

    # Killed, restarted, without a database: 10,000 changes, every one arrives, in order per key
    $httpd->delete("/pubsubpull/subscriptions/$_", user => 'billing') for qw(some copy);
    $receiver->forget;
    my $writer = fork // die $!;
    if (!$writer) {
        my $dbh = $pg->dbh(PrintError => 0);
        for my $n (1 .. 200) {
            my $done = 0;
            until ($done) {    # the database restarts meanwhile; n makes it known whether a commit succeeded
                $done = eval {
                    $dbh = $pg->dbh if !$dbh || !$dbh->ping;
                    $dbh->do(q{INSERT INTO t SELECT g, ?, '' FROM generate_series(1000, 1049) g ON CONFLICT (id) DO UPDATE SET n = excluded.n WHERE t.n < excluded.n}, undef, $n);
                    1;
                };
                select undef, undef, undef, 0.1 if !$done;
            }
        }
        require POSIX;
        POSIX::_exit(0);
    }
    wait_until { 1000 <= (() = $receiver->requests(qr{^/all/1})) } 30, 'a thousand deliveries';
    my $pid = $httpd->notifier_pid;
    kill KILL => $pid;
    wait_until { my $new = eval { $httpd->notifier_pid }; $new && $new != $pid } 3, 'another notifier';
    pass('the notifier is started again');
    wait_until { 3000 <= (() = $receiver->requests(qr{^/all/1})) } 60, 'three thousand deliveries';
    $httpd->graceful;
    wait_until { 5000 <= (() = $receiver->requests(qr{^/all/1})) } 60, 'five thousand deliveries';
    $pg->restart('immediate');
    waitpid $writer, 0;
    my $last = sub {
        my %last;
        $last{ $_->path } = $_->json->{new}{n} for $receiver->requests(qr{^/all/1});
        return scalar grep { $_ == 200 } values %last;
    };
    wait_until { 10_000 <= (() = $receiver->requests(qr{^/all/1})) && $last->() == 50 } 120, 'all deliveries';
    my (%first, $disorder);
    for my $put ($receiver->requests(qr{^/all/1})) {
        my ($key, $n) = ($put->path, $put->json->{new}{n});
        my $highest = $first{$key} // 0;
        if ($n > $highest) {
            $disorder .= "$key: $n after $highest\n" if $n != $highest + 1;
            $first{$key} = $n;
        }
    }
    is($disorder // '', '', 'every change arrived, in order for each key');
    my $repeated = scalar(() = $receiver->requests(qr{^/all/1})) - 10_000;
    cmp_ok($repeated, '<', 1_500 * slow(), "at most what was in flight came twice ($repeated)");
    is(scalar($httpd->notifier_pids), 1, 'one notifier');
    $httpd->expect_log(qr/PSP0[2345]\d\d|pid \d+ exit signal|AH00/);
    $httpd->stop;
    $pg->stop;
}
finish;
