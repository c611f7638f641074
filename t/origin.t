# SPDX-License-Identifier: Apache-2.0
# origin.t: what django-pubsubpull promises, for a Django service behind the proxy; and that under load every change carries the
# request that caused it.
use PspTest;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $service = PspTest::Service->customers($pg, threads => 16);
my $psp = PspTest->up(pg => $pg, config => <<"END");
<Location /customers/>
    PubSubPull On
    Require valid-user
    ProxyPass @{[$service->url('/customers/')]}
</Location>
END
my $httpd = $psp->httpd;
$psp->publish('public.customers_customer');
my $table = '/pubsubpull/tables/public.customers_customer';
my $receiver = PspTest::Receiver->start;

# Follows a URL until there is no more; returns the changes and where to go on.
sub follow {
    my ($url) = @_;
    my @changes;
    while (1) {
        my $page = $httpd->get($url, user => 'alice')->json;
        push @changes, @{ $page->{changes} };
        $url = $page->{next};
        return ($url, @changes) if !$page->{more};
    }
}

my ($here) = follow("$table/changes/?limit=4");
is((follow($here))[1], undef, 'an empty table can be followed');
my $first = $httpd->get("$table/rows/", user => 'alice')->json;
is_deeply($first->{rows}, [], 'and pulled');

# Without a request
$pg->sql(q{INSERT INTO customers_customer (name, email, city, country, notes) VALUES ('n', 'n@x', 'Oslo', 'NO', '')});
my ($next, @changes) = follow($here);
is(scalar @changes, 1, 'one change');
is($changes[0]{type}, 'insert', 'an insert');
is($changes[0]{request}, undef, 'without a request its request is null');
is($changes[0]{old}, undef, 'old is null on insert');
is($changes[0]{new}{city}, 'Oslo', 'new is the whole row');
is_deeply([sort keys %{ $changes[0]{new} }], [qw(city country email id name notes)], 'with all columns');

# With one
$psp->subscribe('copy', { callback => $receiver->url('/copy/{id}'), table => 'public.customers_customer' });
my $answer = $httpd->post('/customers/', { name => 'Ann', email => 'ann@example.org', city => 'Rome', country => 'IT' }, user => 'alice');
is($answer->status, 201, 'a customer is made through the proxy') or diag $answer->body;
my $request_id = $answer->header('X-Request-Id');
like($request_id, qr/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/, 'X-Request-Id is a UUIDv7');
($next, @changes) = follow($next);
is(scalar @changes, 1, 'one change');
is($changes[0]{request}{id}, $request_id, 'tied to its request');
is($changes[0]{request}{user}, 'alice', 'with its user');
is($changes[0]{request}{method} . ' ' . $changes[0]{request}{path}, 'POST /customers/', 'its method and path');
is($changes[0]{channel}, 'setting', 'known by the setting');
wait_until { ($httpd->get("/pubsubpull/requests/$request_id", user => 'alice')->json->{status} // 0) == 201 } 10, 'the request to be completed';
my $request = $httpd->get("/pubsubpull/requests/$request_id", user => 'alice')->json;
cmp_ok($request->{bytes}, '>', 0, 'bytes');
cmp_ok($request->{duration}, '>', 0, 'duration');
is($request->{changes}[0]{new}{email}, 'ann@example.org', 'a request shows what it changed');

# The notification
my ($put) = $receiver->wait_for(1, 10);
my $id = $changes[0]{key}{id};
is($put->{method} . ' ' . $put->path, "PUT /copy/$id", 'a change is notified by PUT');
is($put->json->{url}, $httpd->url("$table/rows/$id"), 'with the URL of the row');
is($httpd->get($put->json->{url}, user => 'alice')->json->{name}, 'Ann', 'which answers');
is($put->json->{request}{id}, $request_id, 'and the request');
is($put->json->{type} . $put->json->{new}{city}, 'insertRome', 'and the change');

# 11 rows, then 11 more, then one more: each exactly once
sub make { my ($n) = @_; $pg->sql(q{INSERT INTO customers_customer (name, email, city, country, notes) SELECT 'x', gen_random_uuid() || '@x', 'c', 'd', '' FROM generate_series(1, ?)}, $n); return }
my %seen;
for my $n (11, 11, 1) {
    make($n);
    ($next, @changes) = follow($next);
    is(scalar @changes, $n, "$n more rows are pulled");
    ok(!(grep { $seen{ $_->{id} }++ } @changes), 'each once');
}
my @rows;
for (my $url = "$table/rows/?limit=10"; $url;) {
    my $page = $httpd->get($url, user => 'alice')->json;
    push @rows, @{ $page->{rows} };
    $url = $page->{next};
}
is(scalar @rows, 25, 'all rows in pages of ten');
($next, @changes) = follow($first->{changes});
is(scalar @changes, 25, 'and followed from before the first');

# 200 clients at once; each change must carry the id that its client received
$receiver->reply(status => 204);
my $seconds = $ENV{PSP_LOAD_SECONDS} // 30;
my @users = qw(alice bob billing comms auditor);
my @pids;
my $dir = tmp_dir();
for my $client (1 .. 20) {    # 20 processes with ten connections each
    my $pid = fork // die $!;
    if (!$pid) {
        require IO::Socket::INET;
        require MIME::Base64;
        my $until = time + $seconds;
        my (@sockets, @pending, $out);
        open my $log, '>', "$dir/$client" or die $!;
        my $n = 0;
        my ($send, $receive);
        $send = sub {
            my ($i, $again) = @_;
            my $user = $users[($client + $i) % @users];
            my $name = $again // "c$client-$i-" . $n++;
            my $body = to_json({ name => $name, email => "$name\@$user.example.org", city => $user, country => 'X' });
            my $auth = MIME::Base64::encode_base64("$user:$user", '');
            my $socket = $sockets[$i] //= IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->port);
            print $socket "POST /customers/ HTTP/1.1\r\nHost: h\r\nAuthorization: Basic $auth\r\nX-Request-Id: forged\r\nContent-Type: application/json\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
            $pending[$i] = [$name, $user];
        };
        $receive = sub {
            my ($i) = @_;
            my ($head, $socket) = ('', $sockets[$i]);
            while ($head !~ /\r\n\r\n/) { sysread($socket, $head, 65536, length $head) or last }
            if ($head eq '') {    # httpd may close an idle connection at any time (RFC 9112, 9.3.1): once more on another
                delete $sockets[$i];
                $send->($i, $pending[$i][0]);
                return $receive->($i);
            }
            my ($length) = $head =~ /^Content-Length: (\d+)/mi;
            my ($body) = $head =~ /\r\n\r\n(.*)/s;
            while (length($body // '') < ($length // 0)) { sysread($socket, $body, 65536, length $body) or last }
            my ($status) = $head =~ m{^HTTP/1.1 (\d+)};
            my ($request) = $head =~ /^X-Request-Id: (\S+)/mi;
            print $log join(' ', $status // 'none', $request // 'none', @{ $pending[$i] }), "\n";
        };
        $send->($_) for 0 .. 9;
        while (time < $until) { for my $i (0 .. 9) { $receive->($i); $send->($i) } }
        $receive->($_) for 0 .. 9;
        close $log;
        require POSIX;
        POSIX::_exit(0);
    }
    push @pids, $pid;
}
waitpid $_, 0 for @pids;
my %by_name = map { $_->[0] => [@$_[1, 2]] } @{ $pg->rows([user => 'pubsubpull'],
        q{SELECT c.new->>'name', c.request, r."user" FROM pubsubpull.change c LEFT JOIN pubsubpull.request r ON r.id = c.request WHERE c.new->>'name' LIKE 'c%'}) };
my ($n, $errors, $crossed) = (0, 0, 0);
for my $client (1 .. 20) {
    for my $line (split /\n/, slurp("$dir/$client")) {
        my ($status, $request, $name, $user) = split / /, $line;
        $n++;
        $errors++ if $status ne '201';
        $crossed++ if ($by_name{$name}[0] // '') ne $request || ($by_name{$name}[1] // '') ne $user;
    }
}
cmp_ok($n, '>', 200, "200 clients made $n requests");
is($errors, 0, 'no errors') or diag join '', map { slurp("$dir/$_") =~ /^((?!201).*
)/m ? $1 : '' } 1 .. 20;
is($crossed, 0, 'no change carries the request or user of another');
wait_until { $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request WHERE status IS NULL') == 0 } 20, 'all requests to be completed';
pass('and all requests are completed');
finish;
