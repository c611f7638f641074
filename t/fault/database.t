# SPDX-License-Identifier: Apache-2.0
# database.t: PostgreSQL is not there when httpd starts, and is restarted under idle and under busy connections: proxied requests
# never notice, and everything works again by itself.
use PspTest;
use POSIX ();

for my $mpm (qw(event prefork)) {
    my $backend = PspTest::Receiver->start;
    $backend->reply(status => 200, body => 'served');
    my $receiver = PspTest::Receiver->start;
    my $pg = PspTest::Postgres->start(fsync => 1);
    $pg->install_schema;
    $pg->sql('CREATE TABLE t (id int PRIMARY KEY, n int)');
    $pg->publishable('public.t');
    $pg->stop;

    # Not there at the start
    my $httpd = PspTest::Httpd->start(mpm => $mpm, pg => $pg, config => <<"END");
<Location /svc/>
    PubSubPull On
    PubSubPullRecord all
    ProxyPass @{[$backend->url('/')]}
</Location>
END
    $httpd->expect_log(qr/PSP031\d|PSP041\d/);
    is($httpd->put('/svc/first', {})->body, 'served', "$mpm: without a database httpd starts and proxies");
    my $answer = $httpd->get('/pubsubpull/tables/', user => 'alice');
    is($answer->status, 503, 'our own resources answer 503');
    like($answer->header('Retry-After') // '', qr/^\d+$/, 'and when to try again');
    $pg->launch;
    $answer = wait_until { my $a = $httpd->get('/pubsubpull/tables/', user => 'alice'); $a->status == 200 && $a } 10, 'the resources';
    is($httpd->put('/pubsubpull/tables/public.t', {}, user => 'admin')->status, 201, 'once it is up everything works, without a restart');
    $answer = $httpd->put('/pubsubpull/subscriptions/s', { table => 'public.t', callback => $receiver->url('/{id}') }, user => 'billing');
    is($answer->status, 201, 'subscribing, too') or diag $answer->body;
    $pg->sql('INSERT INTO t VALUES (0, 0)');
    ok(scalar($receiver->wait_for(1, 10)), 'and notifications');
    wait_until { $pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path = '/svc/first'}) } 10, 'the record of the first request';
    pass('what was requested meanwhile is recorded');

    # Restarted under connections that are idle, and that are busy
    for my $load (0, 8) {
        my (@pids, $dir);
        $dir = tmp_dir();
        for my $n (1 .. $load) {
            my $pid = fork // die $!;
            push(@pids, $pid), next if $pid;
            open my $out, '>', "$dir/$n" or POSIX::_exit(1);
            until (-e "$dir/stop") {
                print {$out} 'proxied ', $httpd->put("/svc/$n", {})->status, "\n";
                print {$out} 'ours ', $httpd->get('/pubsubpull/tables/public.t/rows/', user => 'alice')->status, "\n";
            }
            close $out;
            POSIX::_exit(0);
        }
        for my $how (qw(fast immediate)) {
            my @now = map { $httpd->get('/pubsubpull/tables/', user => 'alice')->status } 1 .. 8;
            is("@now", join(' ', (200) x 8), "$load clients: served before a restart ($how)");
            $pg->restart($how);
            my $start = time;
            wait_until { $httpd->get('/pubsubpull/tables/', user => 'alice')->status == 200 } 10, 'the resources';
            cmp_ok(time - $start, '<', 3 * slow(), sprintf 'and %.1f s after it', time - $start);
            my $id = 1 + $pg->sql('SELECT max(id) FROM t');
            $pg->sql('INSERT INTO t VALUES ($1, 0)', $id);
            ok(eval { $receiver->wait_for(1, 10, qr{^/$id$}) }, 'as are subscribers') or diag $@;
        }
        spew("$dir/stop", '');
        waitpid $_, 0 for @pids;
        my %seen;
        for my $n (1 .. $load) { $seen{$_}++ for split /\n/, slurp("$dir/$n") }
        is(join(' ', grep { /^proxied/ } sort keys %seen), $load ? 'proxied 200' : '', 'proxied requests never noticed');
        is(join(' ', grep { /^ours/ && !/ (200|503)$/ } sort keys %seen), '', 'our resources said 503 at most') or diag explain \%seen;
    }
    is(scalar($httpd->notifier_pids), 1, 'there is one notifier');
    $_->stop for $httpd, $receiver, $backend, $pg;
}
finish;
