# SPDX-License-Identifier: Apache-2.0
# clients.t: clients of our resources that are slow, that send too much, or too deep, or that never come to an end: others are served,
# memory stays small, and no session of the database waits for them.
use PspTest;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);

for my $mpm (qw(event prefork)) {
    my $psp = PspTest->up(mpm => $mpm, config => "Timeout 4\n" . ($mpm eq 'prefork' ? "StartServers 40\n" : ''));
    my ($pg, $httpd) = ($psp->pg, $psp->httpd);
    $psp->publish('public.t', 'id int PRIMARY KEY, v jsonb');
    my $url = '/pubsubpull/subscriptions';
    my $head = "Host: h\r\nAuthorization: Basic " . encode_base64('billing:billing', '') . "\r\nContent-Type: application/json\r\n";
    my $document = to_json({ callback => 'http://127.0.0.1:9/{id}', table => 'public.t' });
    sub connected { my ($port) = @_; my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die $!; $s->autoflush(1); return $s }
    sub status { my ($s) = @_; my $answer = ''; while ($answer !~ /\r\n/) { sysread($s, $answer, 4096, length $answer) or last } return ($answer =~ m{^HTTP/1.1 (\d+)})[0] // 'closed' }
    my $memory = sub {
        my $most = 0;
        for my $pid (split ' ', `pgrep -P @{[$httpd->pid]}`) { my ($kb) = eval { slurp("/proc/$pid/status") } =~ /^VmHWM:\s+(\d+)/m; $most = $kb if ($kb // 0) > $most }
        return $most / 1024;
    };

    # Byte by byte, many at a time: in time or not at all; meanwhile no session is held and others are served
    my @slow = map { my $s = connected($httpd->port); print {$s} "PUT $url/slow$_ HTTP/1.1\r\n${head}Content-Length: " . length($document) . "\r\n\r\n"; $s } 1 .. 20;
    my $began = time;
    my $worst = 0;
    for my $byte (split //, substr $document, 0, 30) {
        print {$_} $byte for @slow[0 .. 9];    # the others say nothing
        my $start = time;
        $httpd->get('/pubsubpull/tables/', user => 'alice')->status == 200 or fail("others are not served");
        $worst = time - $start if time - $start > $worst;
        sleep 0.05;
    }
    is($pg->admin->sql(q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pubsubpull' AND state <> 'idle'}), 0, "$mpm: bodies that come byte by byte hold no session");
    cmp_ok($worst, '<', 1 * slow(), sprintf 'and nobody up (%.3f s)', $worst);
    print { $slow[0] } substr $document, 30;
    is(status($slow[0]), 201, 'who sends all of it in time is answered');
    my $half = 0;
    my $dripping = 1;
    local $SIG{PIPE} = 'IGNORE';
    while (time - $began < 12 * slow() && $dripping) {    # never silent for as long as Timeout, and yet too late
        $dripping = 0;
        for my $s (@slow[1 .. 9]) { $dripping++ if !IO::Select->new($s)->can_read(0) && print {$s} ' ' }
        sleep 0.2;
    }
    is(join(' ', map { status($_) } @slow[1 .. 9]), join(' ', (408) x 9), 'those who drip are told that it was too slow');
    my %rest = map { status($_) => 1 } @slow[10 .. 19];
    is(join(' ', sort keys %rest), '408', 'and so are those who said nothing');
    cmp_ok(time - $began, '<', 11 * slow(), 'after httpd\'s Timeout');

    # Large: with its length, in chunks, and when nobody asked for it
    my $before = $memory->();
    my $mega = 'x' x 1_000_000;
    my $large = connected($httpd->port);
    print {$large} "PUT $url/large HTTP/1.1\r\n${head}Content-Length: 1000000000\r\n\r\n", substr $mega, 0, 1000;
    is(status($large), 413, '1 GB is refused when it is announced');
    my $chunked = connected($httpd->port);
    print {$chunked} "PUT $url/large HTTP/1.1\r\n${head}Transfer-Encoding: chunked\r\n\r\n";
    my $sent = 0;
    for (1 .. 1000) {
        last if IO::Select->new($chunked)->can_read(0);
        last if !print {$chunked} sprintf("%x\r\n", length $mega), $mega, "\r\n";
        $sent++;
    }
    is(status($chunked), 413, 'and when it is not');
    cmp_ok($sent, '<', 100, "after $sent MB");
    my $unasked = connected($httpd->port);
    print {$unasked} "DELETE $url/large HTTP/1.1\r\n${head}Content-Length: 1000000000\r\n\r\n", substr $mega, 0, 1000;
    is(status($unasked), 404, 'one that goes with a DELETE is not waited for');
    cmp_ok($memory->() - $before, '<', 20, 'and none of it is in memory');

    # Deep and wide
    my %text = (arrays => '[' x 10_000 . ']' x 10_000, objects => '{"a":' x 10_000 . '1' . '}' x 10_000, open => '[' x 60_000, 'a member' => substr($document, 0, -1) . ',"headers":' . '{"a":' x 8000 . '1' . '}' x 8000 . '}',
        members => '{' . join(',', map { qq("m$_":1) } 1 .. 5000) . '}', digits => '{"timeout":' . '9' x 60_000 . '}', exponent => substr($document, 0, -1) . ',"timeout":1e100000}', keys => '{' . join(',', ('"a":1') x 9000) . '}',
        columns => substr($document, 0, -1) . ',"columns":[' . join(',', map { qq("c$_") } 1 .. 6000) . ']}',
        pattern => to_json({ callback => 'http://127.0.0.1:9/', requests => { path => [('/' . '**a' x 60) x 10] } }), template => to_json({ callback => 'http://127.0.0.1:9/' . '{id}' x 400, table => 'public.t' }));
    for my $name (sort keys %text) {
        my $start = time;
        my $answer = $httpd->request('PUT', "$url/deep", user => 'billing', body => $text{$name}, headers => ['Content-Type' => 'application/json'], timeout => 20);
        like($answer->status, $name =~ /pattern|template/ ? qr/^(?:201|200|422|413)$/ : qr/^4(?:00|13|22)$/, "$name: refused") or diag $answer->status, substr $answer->body, 0, 300;
        cmp_ok(time - $start, '<', 2 * slow(), '  soon');
        like($answer->header('Content-Type') // '', qr/json/, '  as a document');
    }
    $httpd->delete("$url/deep", user => 'billing');

    # A condition that is deep is taken, or not; if it cannot be asked its event is a failure, and others go on
    my $receiver = PspTest::Receiver->start;
    my $deep = $httpd->put("$url/deep", { callback => $receiver->url('/deep/{id}'), table => 'public.t', when => '!(' x 10_000 . '$.a == 1' . ')' x 10_000 }, user => 'billing');
    like($deep->status, qr/^(?:201|422)$/, 'a condition of 10,000 levels: ' . $deep->status) or diag $deep->body;
    $psp->subscribe('fine', { callback => $receiver->url('/fine/{id}'), table => 'public.t' });
    $pg->sql('INSERT INTO t VALUES (1, NULL)');
    ok(eval { $receiver->wait_for(1, 10, qr{^/fine}) }, 'others are sent what happens') or diag $@;
    $receiver->stop;
    is($httpd->get("$url/slow2", user => 'billing')->status, 404, 'nothing was made of what was refused');
    $httpd->expect_log(qr/PSP031\d.*54001|PSP031\d.*\b54/);
    $_->stop for $httpd, $pg;
}
finish;
