# SPDX-License-Identifier: Apache-2.0
# record.t: each request's identity reaches the service and nothing that a client sends under its names does; what is recorded at the end.
use PspTest;
use utf8;

my $id = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;

for my $mpm (qw(event prefork)) {
    my $service = PspTest::Receiver->start;
    my $psp = PspTest->up(mpm => $mpm, load => ['reqtimeout'], config => <<"END");
PubSubPull On
PubSubPullRecord all
PubSubPullCapture X-Tenant
RequestReadTimeout header=1
<Location /svc/>
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /secure/>
    Require valid-user
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /off/>
    PubSubPull Off
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /unrecorded/>
    PubSubPullRecord off
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /changes/>
    PubSubPullRecord changes
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /cgi-bin/reads>
    PubSubPullRecord changes
</Location>
<Location /cgi-bin/insert>
    Require valid-user
</Location>
ErrorDocument 404 /cgi-bin/error
<Location /pubsubpull>
    PubSubPull Off
</Location>
END
    my ($pg, $httpd) = ($psp->pg, $psp->httpd);
    my $seen = sub { my ($n) = scalar(() = $service->requests); my $answer = $httpd->request(@_); my ($got) = ($service->wait_for($n + 1, 5))[$n]; return ($answer, $got) };

    # What the service gets
    my ($answer, $got) = $seen->('GET', '/secure/a%20b?x=1', headers => ['User-Agent' => 'tests', 'X-Tenant' => 'blue'], user => 'alice');
    my $envelope = json($got->header('PubSubPull-Request'));
    like($envelope->{id}, qr/^$id$/, "$mpm: the id is a UUIDv7");
    is($got->header('X-Request-Id'), $envelope->{id}, 'X-Request-Id');
    is($got->header('tracestate'), "psp=$envelope->{id}", 'tracestate');
    like($got->header('traceparent'), qr/^00-@{[$envelope->{id} =~ s{-}{}gr]}-[0-9a-f]{16}-01$/, 'traceparent');
    is_deeply({ map { $_ => $envelope->{$_} } qw(method path query user remote agent) },
        { method => 'GET', path => '/secure/a%20b', query => 'x=1', user => 'alice', remote => '127.0.0.1', agent => 'tests' }, 'the envelope');
    is_deeply($envelope->{headers}, { 'x-tenant' => 'blue' }, 'captured headers, never credentials');
    is($answer->header('X-Request-Id'), $envelope->{id}, 'the client gets the id');

    # What clients send under our names
    my @forged = (
        ['PubSubPull-Request', '{"id":"forged"}'], ['pubsubpull-request', 'forged'], ['PUBSUBPULL_REQUEST', 'forged'], ['PubSubPull_Request', 'forged'],
        ['X-Request-Id', 'forged'], ['x_request_id', 'forged'], ['X-REQUEST-ID', 'forged'], ['traceparent', '00-forged'], ['Traceparent', 'forged'],
        ['tracestate', 'psp=forged'], ['TraceState', 'psp=forged,other=1'], ['PubSubPull-Other', 'forged'], ['Connection', 'close, PubSubPull-Request'],
        ['Connection', 'X-Request-Id, traceparent , close'], ['Connection', 'close,pubsubpull-request,PUBSUBPULL_REQUEST']);
    for my $pair (@forged) {
        my (undef, $g) = $seen->('GET', '/svc/', headers => [@$pair, @$pair]);
        my $e = json($g->header('PubSubPull-Request') // '{}');
        my $clean = $g->{headers} !~ /forged|"other/i && ($e->{id} // '') =~ /^$id$/ && ($g->header('X-Request-Id') // '') eq $e->{id} && ($g->header('traceparent') // '') =~ /^00-/
            && ($g->header('tracestate') // '') eq "psp=$e->{id}";
        ok($clean, "forged: $pair->[0]: $pair->[1]") or diag $g->{headers};
    }

    # Where it is off
    (undef, $got) = $seen->('GET', '/off/', headers => ['X-Request-Id' => 'mine']);
    is($got->header('X-Request-Id'), 'mine', 'where it is off nothing is touched');
    is($got->header('PubSubPull-Request'), undef, 'and nothing added');
    (undef, $got) = $seen->('GET', '/off/', headers => ['PubSubPull-Request' => 'forged', 'pubsubpull_request' => 'forged']);
    unlike($got->{headers}, qr/forged/, 'but nobody passes for us there either');
    (undef, $got) = $seen->('GET', '/unrecorded/', headers => ['PubSubPull-Request' => 'forged']);
    is($got->header('PubSubPull-Request'), undef, 'record off: forgeries are removed, nothing is carried');

    # The response says the id once
    $service->reply(path => '/own', headers => { 'X-Request-Id' => 'the-service' }, status => 200, body => 'x');
    ($answer) = $seen->('GET', '/svc/own');
    my $raw = raw_http($httpd->port, "GET /svc/own HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    is(scalar(() = $raw =~ /^X-Request-Id:/mig), 1, 'X-Request-Id once in the response');
    like($raw, qr/^X-Request-Id: $id\r$/mi, 'and it is ours');

    # CGI: no change in the program
    $psp->publish('public.guest', 'id serial PRIMARY KEY, name text');
    my %env = $pg->env;
    my $cgi = $httpd->cgi('insert', "#!/bin/sh\n" . join('', map { "export $_='$env{$_}'\n" } grep { defined $env{$_} } sort keys %env)
            . "printf 'Content-Type: text/plain\\n\\n'\nif [ -n \"\$PUBSUBPULL_REQUEST\" ]; then echo env; fi\n"
            . "psql -X -q -c \"INSERT INTO guest (name) VALUES ('\$REQUEST_METHOD')\" 2>&1\necho \"id=\$PUBSUBPULL_REQUEST_ID\"\n");
    $answer = $httpd->post("$cgi?a=b", {}, user => 'bob', headers => ['User-Agent' => q{back\\slash "quote" 'single' ; -c x=y  two}]);
    my ($cgi_id) = $answer->body =~ /^id=($id)$/m;
    ok($cgi_id, 'a CGI program has the variables') or diag $answer->body;
    my $row = $pg->rows([user => 'pubsubpull'], 'SELECT c.request, c.channel, r."user", r.agent, r.path FROM pubsubpull.change c JOIN pubsubpull.request r ON r.id = c.request ORDER BY c.id DESC LIMIT 1')->[0];
    is_deeply($row, [$cgi_id, 'setting', 'bob', q{back\\slash "quote" 'single' ; -c x=y  two}, $cgi], 'and its psql session the setting, through PGOPTIONS');

    # Any byte
    my $count = sub { $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.change WHERE request IS NOT NULL') };
    my $before = $count->();
    my $bytes = 0;
    for my $from (map { $_ * 32 } 0 .. 7) {
        my $chunk = join '', map { chr } grep { $_ && $_ != 10 && $_ != 13 } $from .. $from + 31;
        my $encoded = join '', map { sprintf '%%%02X', ord } split //, $chunk;
        (my $header = $from ? $chunk : "\t") =~ s/\x7f//;    # httpd refuses other control characters there
        my $body = $httpd->get("$cgi?q=$encoded", user => 'alice', headers => ['User-Agent' => $header, 'X-Tenant' => $header])->body;
        like($body, qr/^id=$id$/m, "bytes from $from");
        $bytes++;
    }
    is($count->() - $before, $bytes, 'any byte is recorded, and the SQL of the service works');

    # Completion
    my $record = sub {
        my ($request_id) = @_;
        my $found;
        wait_until { $found = $pg->rows([user => 'pubsubpull'], 'SELECT method, path, "user", status, bytes, duration > interval \'0\' FROM pubsubpull.request WHERE id = $1 AND status IS NOT NULL', $request_id)->[0] } 10, 'a record';
        return $found;
    };
    $service->reply(path => '/big', status => 200, body => 'x' x 5000);
    ($answer) = $seen->('GET', '/secure/big', user => 'alice');
    is_deeply($record->($answer->header('X-Request-Id')), ['GET', '/secure/big', 'alice', 200, 5000, 1], 'status, bytes and duration');
    $answer = $httpd->get('/secure/x');
    is($answer->status, 401, 'refused before it reached the service');
    my $refused;
    wait_until { $refused = $pg->rows([user => 'pubsubpull'], q{SELECT status, count(*) OVER () FROM pubsubpull.request WHERE path = '/secure/x'})->[0] } 10, 'the record of a refusal';
    is_deeply($refused, [401, 1], 'is recorded, once');
    $httpd->cgi('error', "#!/bin/sh\nprintf 'Status: 404\\nContent-Type: text/plain\\n\\n%s %s' \"\$PUBSUBPULL_REQUEST_ID\" \"\$REDIRECT_STATUS\"\n");
    $answer = $httpd->get('/no/such/thing');
    is($answer->status, 404, 'an ErrorDocument');
    like($answer->body, qr/^$id 404/, 'has the identity of the request');
    is_deeply([@{ $record->((split / /, $answer->body)[0]) }[0 .. 3]], ['GET', '/no/such/thing', undef, 404], 'one record, with the path the client asked for');
    is($pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path IN ('/no/such/thing', '/cgi-bin/error')}), 1, 'and only one');

    # Record changes: those that changed something
    $seen->('GET', '/changes/nothing');
    $seen->('POST', '/changes/nothing', body => '');
    ($answer) = $seen->('GET', '/svc/last');
    $record->($answer->header('X-Request-Id'));
    is($pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE path = '/changes/nothing'}), 0, 'with "changes" those that changed nothing are not kept');

    $httpd->cgi('reads', slurp($httpd->dir . '/cgi-bin/insert'));
    $answer = $httpd->get('/cgi-bin/reads');
    ($cgi_id) = $answer->body =~ /^id=($id)$/m;
    is_deeply([@{ $record->($cgi_id) }[0 .. 3]], ['GET', '/cgi-bin/reads', undef, 200], 'those that did are, also where they should only have read');

    # Garbage, most of which ends before any of our hooks
    my $g = 0;
    my @garbage = map { s/GARBAGE/'garbage-' . ++$g/er } "GARBAGE\r\n\r\n", "GET /GARBAGE HTTP/9.9\r\n\r\n", 'GET /GARBAGE' . 'x' x 9000 . " HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /GARBAGE HTTP/1.1\r\nHost: h\r\nBad Header\r\n\r\n", "\r\n\r\n\r\n", "GET http:// HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 GARBAGE\r\n\r\n",
        "POST /svc/GARBAGE HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: nonsense\r\n\r\n", "PUT /svc/GARBAGE HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 2\r\n\r\n",
        "GET /GARBAGE HTTP/1.1\r\nHost: h\r\nX-Half: ";
    raw_http($httpd->port, $_, timeout => 2 / slow()) for @garbage;    # half a header: until httpd says 408
    ($answer) = $seen->('GET', '/svc/alive');
    is($answer->status, 204, 'garbage on the wire crashes nothing');
    $record->($answer->header('X-Request-Id'));
    is_deeply($pg->rows([user => 'pubsubpull'], q{SELECT path, count(*) FROM pubsubpull.request WHERE path ~ 'garbage' GROUP BY 1 HAVING count(*) > 1}), [], 'and nothing of it is recorded twice');
    $httpd->expect_log(qr/AH\d+/);
    $httpd->stop;
    $pg->stop;
    $service->stop;
}
finish;
