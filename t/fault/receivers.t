# SPDX-License-Identifier: Apache-2.0
# receivers.t: receivers that hang, that are slow, that never stop talking, that do not listen, that send elsewhere.
use PspTest;
use IO::Compress::Gzip qw(gzip);
use IO::Select;
use IO::Socket::INET;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my ($receiver, $hung, $deaf) = map { PspTest::Receiver->start } 1 .. 3;
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
$psp->publish("public.$_", 'id int PRIMARY KEY, v text, at float8') for qw(t slow odd large);
my $pid = $httpd->notifier_pid;

sub memory { my ($field) = @_; my ($kb) = slurp("/proc/$pid/status") =~ /^$field:\s+(\d+) kB/m; return $kb / 1024 }
sub peak_from_now { spew("/proc/$pid/clear_refs", '5'); return memory('VmHWM') }
sub failure { my ($f) = @{ $httpd->get("$url/$_[0]/failures/", @as)->json->{failures} }; return $f }
sub document { return $httpd->get("$url/$_[0]", @as)->json }

# 5,000 changes for a receiver that accepts and never answers; one that answers does not wait for it
$hung->signal('STOP');
$psp->subscribe('hung', { callback => $hung->url('/{id}'), table => 'public.t', concurrency => 64 });
$psp->subscribe('fine', { callback => $receiver->url('/fine/{id}'), table => 'public.t' });
$pg->sql('INSERT INTO t VALUES (0)');
$receiver->wait_for(1, 10, qr{^/fine});
$pg->sql('INSERT INTO t SELECT g FROM generate_series(1, 5000) g');
$receiver->wait_for(5001, 15, qr{^/fine});
$receiver->forget;
for my $id (10_001 .. 10_200) {
    $pg->sql('INSERT INTO t VALUES (?, NULL, extract(epoch FROM clock_timestamp()))', $id);
    sleep 0.005;
}
my @late = sort { $a <=> $b } map { $_->{time} - $_->json->{new}{at} } $receiver->wait_for(200, 10, qr{^/fine});
cmp_ok($late[197], '<', 1, sprintf 'a receiver that never answers delays nobody else: %.3f s at p99', $late[197]);
$httpd->delete("$url/$_", @as) for qw(hung fine);
$hung->signal('CONT');

# What lasts longer than the timeout waits in the queue, not on the wire
$receiver->reply(match => '^/slow', status => 204, delay => 0.002);
$psp->subscribe('slow', { callback => $receiver->url('/slow/{id}'), table => 'public.slow', timeout => 1, concurrency => 8 });
$pg->sql('INSERT INTO slow SELECT g FROM generate_series(1, 12000) g');
my @slow = $receiver->wait_for(12_000, 30, qr{^/slow});
cmp_ok($slow[-1]{time} - $slow[0]{time}, '>', 1.5, sprintf 'a backlog of 12,000 takes %.1f s', $slow[-1]{time} - $slow[0]{time});
is(scalar(keys %{ { map { $_->header('webhook-id') => 1 } @slow } }), @slow, 'with a timeout of 1 s, and none was sent twice');
cmp_ok((sort { $b <=> $a } map { $_->{in_flight} } @slow)[0], '<=', 8, 'nor more at a time than concurrency says');
is(document('slow')->{failing_since}, undef, 'and none failed');

# Answers without end, a compressed bomb, redirects
my $trap = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => free_port(), Listen => 10) or die $!;
gzip(\('x' x 50_000_000), \my $bomb, -Level => 9) or die;
my $ok = "HTTP/1.1 200 OK\r\n";
my %rule = (
    body     => [raw => "${ok}Content-Length: 1000000000000\r\n\r\n", endless => 'x' x 10_000],
    chunks   => [raw => "${ok}Transfer-Encoding: chunked\r\n\r\n", endless => "3e8\r\n" . 'x' x 1000 . "\r\n"],
    bomb     => [raw => "${ok}Content-Encoding: gzip\r\nContent-Length: " . length($bomb) . "\r\n\r\n$bomb"],
    trailers => [raw => "${ok}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", endless => 'X-Trailer: ' . 'x' x 1000 . "\r\n"],
    headers  => [raw => $ok, endless => 'X-Header: ' . 'x' x 1000 . "\r\n"],
    line     => [raw => "${ok}X-Header: ", endless => 'x' x 10_000],
    continue => [raw => '', endless => "HTTP/1.1 100 Continue\r\n\r\n"],
    hints    => [raw => '', endless => "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"],
    noise    => [raw => '', endless => "noise\0"],
    loop     => [status => 307, headers => { Location => '/loop' }],
    inside   => [status => 302, headers => { Location => 'http://127.0.0.1:' . $trap->sockport . '/' }],
    file     => [status => 301, headers => { Location => 'file:///etc/passwd' }]);
for my $name (sort keys %rule) {
    $receiver->reply(path => "/$name", @{ $rule{$name} });
    $psp->subscribe($name, { callback => $receiver->url("/$name"), table => 'public.odd', timeout => 5, retry => { first => 900 } });
}
my $before = peak_from_now();
my $start = time;
$pg->sql('INSERT INTO odd VALUES (1)');
for my $name (qw(body chunks bomb trailers)) {
    $receiver->wait_for(1, 10, qr{^/$name$});
    wait_until { my $d = document($name); !$d->{pending} && !$d->{lag}{changes} } 10, "$name to be done with";
    pass("$name: 200 is 200, and the rest is cut off");
}
my %error = ((map { $_ => qr/headers did not end/ } qw(headers line continue hints)), noise => qr/HTTP\/0\.9/, (map { $_ => qr/the receiver answered 30[127]/ } qw(loop inside file)));
for my $name (sort keys %error) {
    wait_until { failure($name) } 10, "the failure of $name";
    like(failure($name)->{error}, $error{$name}, "$name: a failure");
    is(scalar(() = $receiver->requests(qr{^/$name$})), 1, 'after one request');
}
cmp_ok(time - $start, '<', 4, 'all before the timeout');
cmp_ok(memory('VmHWM') - $before, '<', 10, sprintf 'memory stays flat all the time (%.1f MB more)', memory('VmHWM') - $before);
ok(!IO::Select->new($trap)->can_read(0), 'no redirect was followed');
$httpd->delete("$url/$_", @as) for keys %rule;

# 20 MB for a receiver that does not read
$deaf->signal('STOP');
$psp->subscribe('deaf', { callback => $deaf->url('/{id}'), table => 'public.large', timeout => 2, retry => { first => 900 } });
$before = peak_from_now();
$pg->sql(q{INSERT INTO large SELECT g, repeat('x', 20000000) FROM generate_series(1, 12) g});
wait_until { failure('deaf') } 20, 'the failure of the deaf receiver';
like(failure('deaf')->{error}, qr/^no answer in time/, 'a receiver that does not read 20 MB has its time');
cmp_ok(memory('VmHWM') - $before, '<', slow() > 1 ? 400 : 150, sprintf 'and of 240 MB no more than %.0f MB are in memory at a time', memory('VmHWM') - $before);
is(scalar($httpd->notifier_pids) && $httpd->notifier_pid, $pid, 'by the same notifier throughout');
$httpd->expect_log(qr/PSP044\d/);
finish;
