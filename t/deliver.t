# SPDX-License-Identifier: Apache-2.0
# deliver.t: what a notification looks like on the wire, and what becomes of those that fail.
use PspTest;
use Digest::SHA qw(hmac_sha256);
use MIME::Base64 qw(encode_base64 decode_base64);

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, v text');
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
my @secrets = map { 'whsec_' . encode_base64(join('', map { chr int rand 256 } 1 .. 32), '') } 1 .. 2;

# Whether one of the signatures is that of the secret (Standard Webhooks 1.0)
sub signed {
    my ($put, $secret) = @_;
    my $text = join '.', $put->header('webhook-id'), $put->header('webhook-timestamp'), $put->body;
    my $expected = encode_base64(hmac_sha256($text, decode_base64(substr $secret, 6)), '');
    return scalar grep { $_ eq "v1,$expected" } split / /, $put->header('webhook-signature') // '';
}

# Signatures, own headers, rotation
my %document = (callback => $receiver->url('/s/{id}'), table => 'public.t', secret => $secrets[0], headers => { Authorization => 'Bearer hush', 'X-Team' => 'blue' });
my $answer = $httpd->put("$url/s", \%document, @as);
is($answer->status, 201, 'a subscription with a secret and headers') or diag $answer->body;
unlike($answer->body . $httpd->get("$url/s", @as)->body, qr/hush|whsec|blue/, 'which are never shown');
is_deeply([@{ $answer->json }{qw(secret headers)}], [JSON::PP::true(), ['X-Team', 'Authorization']], 'only that they are set');
is($httpd->put("$url/s", \%document, @as)->header('ETag'), $answer->header('ETag'), 'PUT is idempotent');
$pg->sql(q{INSERT INTO t VALUES (1, 'é')});
my ($put) = $receiver->wait_for(1);
is($put->header('Authorization') . $put->header('X-Team'), 'Bearer hushblue', 'own headers are sent');
ok(signed($put, $secrets[0]), 'the signature verifies');
$document{secret} = $secrets[1];
is($httpd->put("$url/s", \%document, @as)->status, 200, 'another secret');
# The notifier learns of it within a second; until then, and for a day after, the old secret verifies.
$pg->sql(q{INSERT INTO t VALUES (2, 'x')});
my $n = 2;
wait_until {
    ($put) = ($receiver->wait_for($n))[-1];
    my $both = signed($put, $secrets[0]) && signed($put, $secrets[1]);
    if (!$both) { $pg->sql(q{UPDATE t SET v = v || 'x' WHERE id = 2}); $n++ }
    $both;
} 10, 'both signatures';
ok(signed($put, $secrets[0]) && signed($put, $secrets[1]), 'for a while both sign');
is(scalar(grep { !signed($_, $secrets[0]) } $receiver->requests), 0, 'and the old one never stopped to');
for my $bad ('short', 'whsec_', 'whsec_AAAA', 'whsec_' . 'A' x 200, 'whsec_%%%') {
    is($httpd->put("$url/bad", { %document, secret => $bad }, @as)->status, 422, "no secret: $bad");
}
for my $bad ({ 'webhook-id' => 'x' }, { 'Content-Length' => '1' }, { "A\r\nB" => 'x' }, { A => "x\r\nB: y" }, { A => 1 }, { Host => 'h' }) {
    is($httpd->put("$url/bad", { %document, headers => $bad }, @as)->status, 422, 'no header of ours to set: ' . to_json($bad));
}
$httpd->delete("$url/s", @as);

# DELETE, CloudEvents
$psp->subscribe('d', { callback => $receiver->url('/d/{id}'), table => 'public.t', delete => 'DELETE', secret => $secrets[0] });
$psp->subscribe('c', { callback => $receiver->url('/c'), table => 'public.t', format => 'cloudevents' });
$pg->sql(q{UPDATE t SET v = 'y' WHERE id = 2});
$pg->sql(q{DELETE FROM t WHERE id = 2});
my @d = $receiver->wait_for(2, 10, qr{^/d});
is_deeply([map { "$_->{method} " . $_->path } @d], ['PUT /d/2', 'DELETE /d/2'], 'a delete as DELETE');
is($d[1]->body, '', 'without a body');
ok(signed($d[1], $secrets[0]), 'signed');
my @c = $receiver->wait_for(2, 10, qr{^/c});
is($c[0]->header('Content-Type'), 'application/cloudevents+json', 'CloudEvents');
my $event = $c[0]->json;
is_deeply([@$event{qw(specversion type subject datacontenttype)}], ['1.0', 'pubsubpull.update', '2', 'application/json'], 'their attributes');
is($event->{id}, $c[0]->header('webhook-id'), 'the same id');
is($event->{data}{new}{v}, 'y', 'and the event inside');
$httpd->delete("$url/$_", @as) for qw(c d);

# Columns without the key; what is paused is not lost
$pg->sql('CREATE TABLE named (name text PRIMARY KEY, v int)');
$psp->publish('public.named');
$psp->subscribe('p', { callback => $receiver->url('/p/{name}'), table => 'public.named', columns => ['v'] });
$httpd->put("$url/p/state", { state => 'paused' }, @as);
$pg->sql(q{INSERT INTO named VALUES ('a b', 1)});
$httpd->put("$url/p/state", { state => 'active' }, @as);
my ($named) = $receiver->wait_for(1, 10, qr{^/p});
is_deeply([@{ $named->json }{qw(key new)}], [{ name => 'a b' }, { v => 1 }], 'the key is known without its column; what came while paused comes later');
is($named->path, '/p/a%20b', 'at its URL');

# Given up, tried again, discarded
$receiver->reply(match => '^/f', status => 500, body => 'out of order');
$psp->subscribe('f', { callback => $receiver->url('/f/{id}'), table => 'public.t', retry => { first => 1, max => 1, for => 1 } });
$pg->sql(q{INSERT INTO t VALUES (10, 'a'), (11, 'b')});
wait_until { 2 == grep { $_->{state} eq 'failed' } @{ $httpd->get("$url/f/failures/", @as)->json->{failures} } } 20, 'two failures';
my $failures = $httpd->get("$url/f/failures/", @as)->json->{failures};
is($failures->[0]{status} . $failures->[0]{key}, '50010', 'a failure has the status and the key');
like($failures->[0]{error}, qr/500.*out of order/, 'and what the receiver said');
cmp_ok($failures->[0]{attempts}, '>=', 2, 'and how often it was tried');
my $shown = $httpd->get("$url/f", @as)->json;
is($shown->{failed}, 2, 'the subscription says how many');
$receiver->reset;
$receiver->forget;
is($httpd->put($failures->[0]{url}, { state => 'pending' }, @as)->status, 200, 'try one again');
is(($receiver->wait_for(1, 10, qr{^/f}))[0]->path, '/f/10', 'it arrives');
wait_until { 1 == @{ $httpd->get("$url/f/failures/", @as)->json->{failures} } } 10, 'one failure';
is($httpd->put($failures->[0]{url}, { state => 'pending' }, @as)->status, 404, 'it is no failure any more');
is($httpd->delete("$url/f/failures/", @as)->status, 204, 'discard all');
is(scalar @{ $httpd->get("$url/f/failures/", @as)->json->{failures} }, 0, 'none is left');
is($httpd->get("$url/f/failures/", user => 'comms')->status, 404, "somebody else's failures are not found");

# 410 disables
$receiver->reply(match => '^/f', status => 410);
$pg->sql(q{INSERT INTO t VALUES (12, 'c')});
wait_until { $httpd->get("$url/f/state", @as)->json->{state} eq 'disabled' } 10, 'the subscription to be disabled';
like($httpd->get("$url/f/state", @as)->json->{reason}, qr/410/, 'with the reason');
$receiver->reset;
$receiver->forget;
is($httpd->put("$url/f/state", { state => 'active' }, @as)->json->{state}, 'active', 'activated again');
is(($receiver->wait_for(1, 15, qr{^/f}))[0]->path, '/f/12', 'it goes on where it was');
$httpd->expect_log(qr/PSP044\d/);
finish;
