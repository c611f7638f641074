# SPDX-License-Identifier: Apache-2.0
# Channel.pm: does each change that a service makes carry the request that caused it? The same questions for every service.
#
# A service has these resources, written as its users would write them, on the table of `table` below (t/services):
#   POST /items?name=N         one row named N: 201
#   POST /items/twice?name=N   two rows, each in a transaction of its own: 201
#   POST /items/undone?name=N  one row that is rolled back, then another one: 201
#   POST /items/failed?name=N  one row, then the handler dies before it commits: 500
#   GET  /session              what the setting is in a session as the service gets it: text
package PspTest::Channel;
use strict;
use warnings;
use HTTP::Tiny;
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Test::More;
use Time::HiRes qw(time);
use PspTest::Client qw(http);
use PspTest::Util qw(tmp_dir slurp wait_until);

my %rows = (items => 1, 'items/twice' => 2, 'items/undone' => 1, 'items/failed' => 0);
my @users = (qw(alice bob billing comms auditor), map { "user$_" } 6 .. 50);
my $forged = '01a20a04-dead-7000-8000-0123456789ab';
my $envelope = qq({"id":"$forged","method":"POST","path":"/forged","user":"mallory"});
my $agent = q{a \\ "b" 'c' %20 %s $1 ?; -c x=y  /*d*/};

# What clients may try; each must leave exactly our identity.
my @attempts = (
    ['PubSubPull-Request' => $envelope, 'PubSubPull-Request' => $envelope],
    ['PUBSUBPULL_REQUEST' => $envelope],
    ['pubsubpull_Request' => $envelope],
    ['PubSubPull.Request' => $envelope],
    ['X-Request-Id' => $forged, 'x_request_id' => $forged],
    ['traceparent' => '00-01a20a04dead700080000123456789ab-0123456789abcdef-01', 'tracestate' => "psp=$forged"],
    ['TRACESTATE' => "other=1,psp=$forged"],
    ['PGOPTIONS' => "-c pubsubpull.request=$envelope", 'PubSubPull-Request-Id' => $forged],
    ['Connection' => 'close, PubSubPull-Request'],
    ['Connection' => 'close, pubsubpull-request, X-Request-Id, traceparent, tracestate'],
    ['User-Agent' => $agent],
);

# table($psp): makes and publishes the table that services write to.
sub table {
    my ($psp) = @_;
    $psp->publish('public.item', 'id serial PRIMARY KEY, name text NOT NULL');
    return;
}

# check($psp, path => '/flask', …): path is where httpd serves the service, direct its own URL.
#   channel => how the trigger knows the request, default 'setting'; clients, seconds: of the load;
#   only => [names of resources]: those that the service has; stateless => 1: it has no resource /session.
sub check {
    my ($psp, %o) = @_;
    my $self = of($psp, %o);
    my $before = last_change($psp);
    $self->in_turn;
    $self->forged;
    $self->direct if $o{direct};
    $self->load($self);
    $self->direct if $o{direct};
    $self->judge($before);
    return;
}

# together($psp, [{path => …}, …], clients => n, seconds => n): clients that ask now this service, now that one.
sub together {
    my ($psp, $services, %o) = @_;
    my $self = of($psp, path => '', %o);
    my $before = last_change($psp);
    $self->load(map { of($psp, %$_) } @$services);
    $self->judge($before);
    my %seen;
    $seen{ (split / /)[4] }++ for @{ $self->{sent} };
    is(scalar(keys %seen), scalar(@$services), 'through every channel') or diag explain \%seen;
    note("$_: $seen{$_} requests") for sort keys %seen;
    return;
}

sub of {
    my ($psp, %o) = @_;
    return bless { psp => $psp, channel => 'setting', clients => 8, seconds => 3, sent => [],
        only => [sort keys %rows], %o, url => $psp->httpd->url($o{path}) }, __PACKAGE__;
}

sub last_change { my ($psp) = @_; return $psp->pg->sql([user => 'pubsubpull'], 'SELECT coalesce(max(id), 0) FROM pubsubpull.change') }

# Several users in turn on one connection of httpd's, and so on few sessions of the service's.
sub in_turn {
    my ($self) = @_;
    my $client = HTTP::Tiny->new(keep_alive => 1, timeout => 60);
    for my $n (0 .. 3 * @{ $self->{only} } - 1) {
        my $resource = $self->{only}[$n % @{ $self->{only} }];
        my ($line, $bad) = $self->send($client, $resource, "turn-$n", $users[$n % 2]);
        is($bad, undef, "$resource as $users[$n % 2]") or return;
        push @{ $self->{sent} }, $line;
    }
    return;
}

sub forged {
    my ($self) = @_;
    my $n = 0;
    for my $headers (@attempts) {
        my $name = 'forged-' . $n++;
        my $answer = http('POST', "$self->{url}/items?name=$name", user => 'alice', headers => $headers, body => '');
        is($answer->status, 201, "a client sends @$headers") or diag $answer->body;
        push @{ $self->{sent} }, $self->line('items', $name, 'alice', $answer->header('X-Request-Id'));
    }
    return;
}

# Past httpd, at the service itself: nothing is left of the requests before.
sub direct {
    my ($self) = @_;
    for my $n (1 .. 5) {
        my $answer = http('POST', "$self->{direct}/items?name=direct", body => '');
        is($answer->status, 201, 'a request that does not come through httpd') or diag $answer->body;
        $self->{direct_rows}++;
        is(http('GET', "$self->{direct}/session")->body, '', 'a session without a request has no identity')
            if !$self->{stateless};
    }
    return;
}

sub line {
    my ($self, $resource, $name, $user, $id) = @_;
    return join ' ', $resource, $name, $user, $id // 'none', $self->{path}, $self->{channel};
}

# Clients of many users at once; each writes down which id it was told for which name.
sub load {
    my ($self, @services) = @_;
    my $dir = tmp_dir();
    my $until = time + $self->{seconds};
    my @pids;
    for my $n (1 .. $self->{clients}) {
        my $pid = fork // die "fork: $!";
        if (!$pid) {
            my $client = HTTP::Tiny->new(keep_alive => 1, timeout => 60);
            open my $log, '>', "$dir/$n" or POSIX::_exit(1);
            srand $n;
            for (my $i = 0; time < $until; $i++) {
                my $one = $services[rand @services];
                my ($line, $bad) = $one->send($client, $one->{only}[rand @{ $one->{only} }], "load-$n-$i", $users[rand @users]);
                print {$log} $bad ? "bad $bad\n" : "$line\n";
            }
            close $log;
            POSIX::_exit(0);
        }
        push @pids, $pid;
    }
    waitpid $_, 0 for @pids;
    my @lines = map { split /\n/, slurp("$dir/$_") } 1 .. $self->{clients};
    is((grep { /^bad/ } @lines)[0], undef, 'no request fails');
    cmp_ok(scalar @lines, '>=', 2 * $self->{clients}, "$self->{clients} clients at once made " . @lines . ' requests');
    push @{ $self->{sent} }, grep { !/^bad/ } @lines;
    return;
}

# One request; (a line for judge, undef) or (undef, what is wrong).
sub send {
    my ($self, $client, $resource, $name, $user) = @_;
    my $answer;
    for (1 .. 5) {    # httpd may close an idle connection at any time, also when its workers are all busy (RFC 9112, 9.3.1)
        $answer = $client->post("$self->{url}/$resource?name=$name",
            { headers => { Authorization => 'Basic ' . encode_base64("$user:$user", '') } });
        last if $answer->{status} != 599 || $answer->{content} !~ /Unexpected end of stream/;
    }
    return (undef, "$self->{path} $resource: $answer->{status} $answer->{content}" =~ s/\n/ /gr)
        if $answer->{status} != ($rows{$resource} ? 201 : 500);
    return ($self->line($resource, $name, $user, $answer->{headers}{'x-request-id'}), undef);
}

# Every change carries the id that the client was told, its user, and the channel; there are as many as there should be.
sub judge {
    my ($self, $before) = @_;
    my $pg = $self->{psp}->pg;
    my %changes;
    wait_until {    # where only the id goes with the change httpd writes the request, when it has ended
        !$pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.change c WHERE c.id > $1 AND c.request IS NOT NULL
            AND NOT EXISTS (SELECT FROM pubsubpull.request r WHERE r.id = c.request AND r.claimed IS NULL)}, $before)
    } 20, 'the requests of all changes to be recorded';
    push @{ $changes{ $_->[0] } }, [@$_[1 .. 4]] for @{ $pg->rows([user => 'pubsubpull'],
        q{SELECT c.new->>'name', c.request, r."user", c.channel, r.agent
          FROM pubsubpull.change c LEFT JOIN pubsubpull.request r ON r.id = c.request WHERE c.id > $1}, $before) };
    my ($crossed, $n, @example) = (0, 0);
    for my $line (@{ $self->{sent} }) {
        my ($resource, $name, $user, $id, undef, $channel) = split / /, $line;
        my @found = @{ delete $changes{$name} // [] };
        my $wrong = grep { ($_->[0] // '') ne $id || ($_->[1] // '') ne $user || ($_->[2] // '') ne $channel } @found;
        $wrong++ if @found != $rows{$resource};
        $crossed++ if $wrong;
        push @example, [$line, @found] if $wrong && @example < 3;
        $n++;
        is($found[0][3], $agent, 'the request is recorded with all its bytes') if $name eq "forged-$#attempts";
    }
    is($crossed, 0, "each of $n requests has its own changes, known as they should be") or diag explain \@example;
    my @direct = @{ delete $changes{direct} // [] };
    is(scalar @direct, $self->{direct_rows} // 0, 'changes that did not come through httpd');
    is(scalar(grep { defined $_->[0] } @direct), 0, 'have no request');
    is(join(' ', sort keys %changes), '', 'there are no other changes');
    is($pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE id = $1 OR "user" = 'mallory'}, $forged), 0,
        'what clients forged is not in the log');
    return;
}

1;
