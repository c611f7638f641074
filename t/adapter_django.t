# SPDX-License-Identifier: Apache-2.0
# adapter_django.t: conf/backends/django sets pubsubpull.request for a request's statements, and for no others.
use PspTest;

my $pg = PspTest::Postgres->start;

sub probe {
    my (%o) = @_;
    return PspTest::Service->wsgi('django_probe', path => [repo('t/lib'), repo('conf/backends/django')],
        env => { $pg->env, %{ $o{env} // {} } }, workers => 1, threads => $o{threads} // 1);
}

sub ask {
    my ($service, $view, $envelope) = @_;
    my $answer = http('GET', $service->url("/$view"),
        headers => defined $envelope ? ['PubSubPull-Request' => $envelope] : []);
    return $answer->status == 200 ? $answer->json : { seen => [$answer->status] };
}

for my $mode ('autocommit', 'ATOMIC_REQUESTS') {
    subtest $mode => sub {
        # One thread: all requests use one and the same session.
        my $service = probe(env => { PROBE_ATOMIC_REQUESTS => $mode eq 'autocommit' ? '' : 1 });
        my %times = (plain => 2, atomic => 2, twice => 2, rollback => 4, savepoint => 4, nothing => 0, broken => 2);
        delete $times{broken} if $mode ne 'autocommit';    # such a request fails as a whole
        my $backend = ask($service, 'plain')->{backend};
        for my $view (sort keys %times) {
            my $envelope = qq({"id":"$view","path":"/it's \\"quoted\\" \\\\ %s \$1"});
            is_deeply(ask($service, $view, $envelope)->{seen}, [($envelope) x $times{$view}], "$view: seen");
            is_deeply(ask($service, 'behind')->{seen}, ['', ''], "$view: gone afterwards");
            is_deeply(ask($service, $view)->{seen}, [('') x $times{$view}], "$view: no header, no request");
            is(ask($service, 'plain')->{backend}, $backend, "$view: the session stayed open") if $view ne 'broken';
            $backend = ask($service, 'plain')->{backend};
        }
        is_deeply(ask($service, 'failure', '{"id":"f"}')->{seen}, [500], 'a view that raises');
        is_deeply(ask($service, 'behind')->{seen}, ['', ''], 'leaves nothing');
        is_deeply(ask($service, 'job', '{"id":"j"}')->{seen}, ['', '{"id":"j"}', ''],
            'a job has a request only if it says so');
        like($service->log_text, qr/on purpose|RuntimeError|Booting/, 'it was the probe that answered');
    };
}

subtest 'many at once' => sub {
    my $service = probe(threads => 20);
    my (@children, %wrong);
    for my $child (1 .. 20) {
        pipe my $in, my $out or die "pipe: $!";
        my $pid = fork // die "fork: $!";
        if (!$pid) {
            my $wrong = 0;
            for my $n (1 .. 50) {
                my $envelope = qq({"id":"$child-$n"});
                my $view = (qw(plain atomic rollback savepoint))[$n % 4];
                my $seen = eval { ask($service, $view, $n % 5 ? $envelope : undef)->{seen} } // ['none'];
                $wrong++ if !@$seen || grep { $_ ne ($n % 5 ? $envelope : '') } @$seen;
            }
            print {$out} "$wrong\n";
            close $out;
            POSIX::_exit(0);
        }
        close $out;
        push @children, [$pid, $in];
    }
    my $wrong = 0;
    for my $child (@children) {
        my $line = readline $child->[1];
        $wrong += $line // 50;
        waitpid $child->[0], 0;
    }
    is($wrong, 0, '1000 requests from 20 clients each saw their own');
};

finish;
