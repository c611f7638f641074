# SPDX-License-Identifier: Apache-2.0
# http2.t: many requests on one connection: what becomes of one is not what becomes of the others.
use PspTest;

my $ca = PspTest::Secure::Authority->new('authority');
my $psp = PspTest->up(config => "PubSubPullCallbackCAFile $ca->{cert}");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $h2 = PspTest::Secure->start(certificate => $ca->issue);
my $h1 = PspTest::Secure->start(certificate => $ca->issue, http1 => 1);
my @as = (user => 'billing');
my $url = '/pubsubpull/subscriptions';
my %retry = (retry => { first => 1, max => 1 });
$psp->publish('public.t', 'id int PRIMARY KEY, v text');
$psp->publish('public.mute', 'id int PRIMARY KEY');
$psp->publish('public.odd', 'id int PRIMARY KEY, v text');

sub connections { my %seen; $seen{ $_->{conn} }++ for @_; return scalar keys %seen }
sub failures { return @{ $httpd->get("$url/$_[0]/failures/", @as)->json->{failures} } }

# A connection that goes mute: takes ten seconds to be found out, in the background
my $mute = PspTest::Secure->start(certificate => $ca->issue);
$psp->subscribe('mute', { callback => $mute->url('/{id}'), table => 'public.mute', timeout => 2, %retry });
$pg->sql('INSERT INTO mute VALUES (1)');
$mute->wait_for(1, 30);
$psp->subscribe('silent', { callback => $mute->url('/mute'), table => 'public.mute', timeout => 1, retry => { first => 900 } });
$pg->sql('INSERT INTO mute VALUES (2)');
my $muted = ($mute->wait_for(1, 30, qr{^/mute}))[0];
my $since = time;

# Multiplexing, and keep-alive where there is none
for ([h2 => $h2, '2.0'], [h1 => $h1, '1.1']) {
    my ($name, $receiver, $version) = @$_;
    $psp->subscribe($name, { callback => $receiver->url('/slow/{id}'), table => 'public.t', concurrency => 8 });
}
$pg->sql(q{INSERT INTO t SELECT g, 'é' FROM generate_series(1, 200) g});
for ([$h2, '2.0'], [$h1, '1.1']) {
    my ($receiver, $version) = @$_;
    my @put = $receiver->wait_for(200, 30);
    is_deeply([sort { $a <=> $b } map { $_->json->{new}{id} } @put], [1 .. 200], "over HTTP/$version every change arrives once");
    is(scalar(grep { $_->header('x-version') ne $version } @put), 0, "with HTTP/$version");
    cmp_ok(connections(@put), '<=', 8, 'on as few connections as there are requests at a time');
    cmp_ok((sort { $b <=> $a } map { $_->{in_flight} } @put)[0], '>', 4, 'which they share or fill');
}
my @late = (sort { $a->{time} <=> $b->{time} } $h2->requests)[100 .. 199];
is(connections(@late), 1, 'HTTP/2 needs one only once it is known');
$pg->sql(q{INSERT INTO t VALUES (1000, repeat('x', 3000000))});
is(length(($h2->wait_for(201, 30))[-1]->json->{new}{v}), 3_000_000, 'a large body passes through the windows');
$httpd->delete("$url/$_", @as) for qw(h1 h2);

# nginx answers before it has the body
my $dir = tmp_dir();
my ($certificate, $port) = ($ca->issue, free_port());
my $paths = join ' ', map { "${_}_temp_path $dir/$_;" } qw(client_body proxy fastcgi uwsgi scgi);
my $nginx = PspTest::Service->start(port => $port, cmd => ['/usr/sbin/nginx', '-p', $dir, '-c', spew("$dir/nginx.conf", <<"END"), '-g', 'daemon off;']);
worker_processes 1; error_log stderr; pid $dir/pid; events { worker_connections 256; }
http { access_log $dir/access.log; $paths keepalive_requests 100000;
  server { listen 127.0.0.1:$port ssl http2; ssl_certificate $certificate->{cert}; ssl_certificate_key $certificate->{key}; location / { return 204; } } }
END
$psp->publish('public.early', 'id int PRIMARY KEY, v text');
my @early = map { "early_$_" } 1 .. 5;
$psp->subscribe($_, { callback => "https://127.0.0.1:$port/{id}", table => 'public.early' }) for @early;
$pg->sql(q{INSERT INTO early SELECT g, repeat('y', 300) FROM generate_series(1, 300) g});
my $early = time;
wait_until { !(grep { $_->{lag}{changes} || $_->{pending} } map { $httpd->get("$url/$_", @as)->json } @early) && 1500 <= (() = slurp("$dir/access.log") =~ /\n/g) } 30, 'all that was answered early';
cmp_ok(time - $early, '<', 10, sprintf 'an answer that does not wait for the body ends the request (%.1f s)', time - $early);
is(scalar(() = slurp("$dir/access.log") =~ m{"PUT /\d+ HTTP/2\.0" 204}g), 1500, 'and each was sent once');
$httpd->delete("$url/$_", @as) for @early;

# One request that goes wrong, beside others on the same connection that go well
$psp->subscribe($_, { callback => $h2->url("/$_/{id}"), table => 'public.odd', timeout => 2, retry => { first => 1, max => 2 } }) for qw(reset die early endless);
$psp->subscribe('fine', { callback => $h2->url('/slow/{id}'), table => 'public.odd', retry => { first => 900 } });
$psp->subscribe('goaway', { callback => $h2->url('/goaway/{id}'), table => 'public.odd', %retry });
$pg->sql(q{INSERT INTO odd VALUES (1, 'x')});
$h2->wait_for(1, 30, qr{^/$_/}) for qw(reset die early endless goaway);
$pg->sql(q{INSERT INTO odd SELECT g, 'x' FROM generate_series(2, 40) g});
$h2->wait_for(40, 30, qr{^/goaway});
wait_until { my %seen; $seen{ $_->path }++ for $h2->requests(qr{^/slow/\d+$}); keys %seen >= 40 } 10, 'all that were fine';
is(scalar failures('goaway'), 0, 'a receiver that closes connections after each answer is no failure');
ok(eval { wait_until { $httpd->get("$url/endless", @as)->json->{pending} == 0 } 20, 'it to be done'; 1 }, 'a body without end is cut off: 200 is 200');
wait_until { failures('reset') && failures('die') && (failures('early'))[0] && (failures('early'))[0]{error} !~ /not closed cleanly/ } 20, 'failures'; # early may have been lost with die's connection first
like((failures('reset'))[0]{error}, qr/HTTP\/2 stream \d+ was not closed cleanly/, 'a stream that was reset');
is((failures('die'))[0]{status}, undef, 'a connection that breaks');
like((failures('early'))[0]{error}, qr/headers did not end|stream ended without an answer/, '103 without end');

# Back to the mute connection: it is found out after ten seconds, and until then each change that goes there is sent again elsewhere
my ($lost, $id) = (0, 3);
for (my $elsewhere = 0; !$elsewhere && $id < 20; $id++) {
    $pg->sql('INSERT INTO mute VALUES (?)', $id);
    my ($first) = $mute->wait_for(1, 30, qr{^/$id$});
    $elsewhere = $first->{conn} ne $muted->{conn} && time - $since > 11;
    $lost++ if $first->{conn} eq $muted->{conn};
    wait_until { grep { $_->{conn} ne $muted->{conn} } $mute->requests(qr{^/$id$}) } 10, "change $id on another connection";
}
cmp_ok($lost, '>', 0, 'a connection that says nothing more is used');
cmp_ok($id, '<', 20, "and left after a time ($lost were sent twice)");
$httpd->expect_log(qr/PSP044\d/);
finish;
