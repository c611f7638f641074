# SPDX-License-Identifier: Apache-2.0
# line.t: what is parked in order with everything goes in order, each once it may, and without asking the database for each.
use PspTest;

my $receiver = PspTest::Receiver->start;
my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
my %retry = (retry => { first => 1, max => 1 });
$pg->admin->sql(q{ALTER SYSTEM SET track_functions = 'pl'});
$pg->admin->sql('SELECT pg_reload_conf()');

sub state_of { return $httpd->get("$url/$_[0]", @as)->json }
sub pending { return state_of($_[0])->{pending} }
sub settled {
    my ($name, $what) = @_;
    wait_until { my $s = state_of($name); $s->{pending} == 0 && $s->{lag}{changes} == 0 } 30, "$name: $what";
    return;
}
# Of a function, how often it was called
sub calls { return $pg->admin->sql('SELECT calls FROM pg_stat_user_functions WHERE funcname = $1', $_[0]) // 0 }
sub sent { my ($path, $of) = @_; return join ' ', map { $of->($_->json) } $receiver->requests($path) }

# A table without key: all changes go one after another
my $n = 400;
$psp->publish('public.k', 'v int');
$psp->subscribe('k', { callback => $receiver->url('/k'), table => 'public.k', concurrency => 4, %retry });
$receiver->reply(path => '/k', status => 500, times => 1, delay => 1);
$pg->sql('INSERT INTO k VALUES (0)');
$receiver->wait_for(1, 10, qr{^/k});
$pg->sql('INSERT INTO k SELECT generate_series(1, ?)', $n);
wait_until { pending('k') == $n + 1 } 10, 'all to be parked';
my $before = calls('notify_due');
settled('k', 'what was parked');
is(sent(qr{^/k}, sub { $_[0]{new}{v} }), join(' ', 0, 0 .. $n), 'a table without key: in order, and each once');
is((sort { $b <=> $a } map { $_->{in_flight} } $receiver->requests)[0], 1, 'one at a time');
wait_until { calls('notify_due') > $before } 10, 'statistics';
cmp_ok(calls('notify_due') - $before, '<', $n / 4, sprintf '%d calls for %d', calls('notify_due') - $before, $n);

$httpd->delete("$url/k", @as);

# One in the line fails: those behind it wait
$receiver->forget;
$psp->publish('public.b', 'id int PRIMARY KEY');
$pg->sql('INSERT INTO b SELECT generate_series(1, 20)');
$psp->subscribe('b', { callback => $receiver->url('/b/{id}'), table => 'public.b', %retry });
$receiver->reply(path => '/b/101', status => 500, times => 1, delay => 1);
$receiver->reply(path => '/b/107', status => 500, times => 2);
$pg->sql('UPDATE b SET id = 101 WHERE id = 1');
$receiver->wait_for(1, 10, qr{^/b/101});
$pg->sql("UPDATE b SET id = 100 + $_ WHERE id = $_") for 2 .. 20;
wait_until { pending('b') == 20 } 10, 'all to be parked';
settled('b', 'the failing one');
is(sent(qr{^/b}, sub { $_[0]{new}{id} - 100 }), join(' ', 1, 1 .. 7, 7, 7, 8 .. 20), 'one fails twice, and those behind it wait');
$httpd->delete("$url/b", @as);

# Barriers and keys: keys of which none has to wait go side by side, nothing passes a barrier
$receiver->forget;
$receiver->reset;
$psp->publish('public.t', 'id int PRIMARY KEY, v int');
$pg->sql('INSERT INTO t SELECT g, 0 FROM generate_series(1, 5) g');
$psp->subscribe('t', { callback => $receiver->url('/t'), table => 'public.t', concurrency => 8, %retry });
$receiver->reply(path => '/t', status => 500, times => 1, delay => 1);
$pg->sql('UPDATE t SET v = 1 WHERE id = 1');
$receiver->wait_for(1, 10, qr{^/t});
for my $round (1 .. 10) {
    $pg->sql('UPDATE t SET id = id + 1000 WHERE id = 5');
    $pg->sql('UPDATE t SET v = ? WHERE id < 5', 10 * $round);
    $pg->sql('UPDATE t SET v = ? WHERE id = 2', 10 * $round + 1);
    $pg->sql('UPDATE t SET id = id - 1000 WHERE id = 1005');
}
wait_until { pending('t') == 71 } 10, 'all to be parked';
$receiver->reply(path => '/t', delay => 0.02);
$before = calls('notify_due');
settled('t', 'all');
my @got = map { { %{ $_->json }, flying => $_->{in_flight} } } $receiver->requests(qr{^/t});
shift @got;    # the failure
is(scalar @got, 71, 'barriers and keys: all, once');
my @barriers = grep { $got[$_]{old}{id} != $got[$_]{new}{id} } 0 .. $#got;
is(join(' ', map { $got[$_]{id} } @barriers), join(' ', sort { $a <=> $b } map { $got[$_]{id} } @barriers), 'barriers in order');
is(scalar(grep { $got[$_]{flying} > 1 } @barriers), 0, 'and alone');
my (%last, @early);
for my $i (0 .. $#got) {
    my $key = $got[$i]{new}{id};
    push @early, $got[$i]{id} if $got[$i]{id} < ($last{$key} // 0) || grep { ($_ < $i) != ($got[$_]{id} < $got[$i]{id}) && $_ != $i } @barriers;
    $last{$key} = $got[$i]{id};
}
is("@early", '', 'nothing passes a barrier, nor another of its key');
cmp_ok((sort { $b <=> $a } map { $_->{flying} } @got)[0], '>', 1, 'keys side by side');
finish;
