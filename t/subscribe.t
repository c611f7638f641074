# SPDX-License-Identifier: Apache-2.0
# subscribe.t: subscription documents: what is accepted, refused and shown, and whose they are.
use PspTest;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
$psp->publish('public.t', 'id int PRIMARY KEY, city text, secret text', { exclude => ['secret'] });
my $url  = '/pubsubpull/subscriptions';
my %good = (callback => 'http://127.0.0.1:9/{id}', table => 'public.t');

# Create, replace, repeat
my $answer = $httpd->put("$url/one", \%good, user => 'billing');
is($answer->status, 201, 'created') or diag $answer->body;
is($answer->header('Location'), $httpd->url("$url/one"), 'Location');
my $etag = $answer->header('ETag');
like($etag, qr/^"\w+"$/, 'ETag');
$answer = $httpd->put("$url/one", \%good, user => 'billing');
is($answer->status . $answer->header('ETag'), "200$etag", 'PUT is idempotent');
my $position = $answer->json->{position};
$pg->sql(q{INSERT INTO t VALUES (1, 'x', 's')});
is($httpd->get("$url/one", user => 'billing')->json->{state}, 'active', 'its state is shown');
$answer = $httpd->put("$url/one", { %good, on => ['update'] }, user => 'billing');
is($answer->status, 200, 'replaced');
isnt($answer->header('ETag'), $etag, 'with another ETag');

# Conditions
is($httpd->put("$url/one", \%good, user => 'billing', headers => ['If-Match' => $etag])->status, 412, 'If-Match of an old document');
is($httpd->put("$url/one", \%good, user => 'billing', headers => ['If-None-Match' => '*'])->status, 412, 'If-None-Match: * when there is one');
is($httpd->put("$url/one", \%good, user => 'billing', headers => ['If-Match' => $answer->header('ETag')])->status, 200, 'If-Match');
is($httpd->put("$url/two", \%good, user => 'billing', headers => ['If-Match' => '*'])->status, 412, 'If-Match when there is none');
is($httpd->put("$url/two", \%good, user => 'billing', headers => ['If-None-Match' => '*'])->status, 201, 'If-None-Match: * when there is none');

# Whose
is($httpd->get("$url/one", user => 'comms')->status, 404, "somebody else's is not found");
is($httpd->put("$url/one", \%good, user => 'comms')->status, 403, 'nor replaced');
is($httpd->delete("$url/one", user => 'comms')->status, 404, 'nor deleted');
is($httpd->put("$url/one/state", { state => 'paused' }, user => 'comms')->status, 404, 'nor paused');
is(scalar @{ $httpd->get("$url/", user => 'comms')->json->{subscriptions} }, 0, 'nor listed');
is(scalar @{ $httpd->get("$url/", user => 'billing')->json->{subscriptions} }, 2, 'but for who made it');
is(scalar @{ $httpd->get("$url/", user => 'admin')->json->{subscriptions} }, 2, 'and for an administrator');
is($httpd->get("$url/one", user => 'admin')->json->{owner}, 'billing', 'who sees whose it is');

# State and position
is($httpd->put("$url/one/state", { state => 'paused' }, user => 'billing')->json->{state}, 'paused', 'paused');
is($httpd->get("$url/one/state", user => 'billing')->json->{state}, 'paused', 'and it stays');
is($httpd->put("$url/one/state", { state => 'active' }, user => 'billing')->json->{state}, 'active', 'active again');
is($httpd->put("$url/one/state", { state => 'gone' }, user => 'billing')->status, 422, 'another state is refused');
is($httpd->put("$url/one/position", { since => 'now' }, user => 'billing')->status, 200, 'skip to now');
is($httpd->put("$url/one/position", { since => $position }, user => 'billing')->json->{since}, $position, 'back to a cursor');
is($httpd->put("$url/one/position", { since => 'yesterday' }, user => 'billing')->status, 400, 'no cursor');

# Refused, with what to do
my @refused = (
    [{}, qr/"callback" is missing/], [{ callback => 1 }, qr/"callback" must be a string/], [{ %good, callback => 'ftp://h/' }, qr/http/],
    [{ %good, callback => 'http://user:pw@h/' }, qr/user name/], [{ %good, callback => 'http://{id}.example/' }, qr/no variables/],
    [{ %good, callback => 'http://h{+id}/' }, qr/host/], [{ %good, callback => "http://h/\r\nX: y" }, qr/character/], [{ %good, callback => 'http://h/#x' }, qr/fragment/],
    [{ %good, callback => 'http://h/' . 'x' x 10_000 }, qr/2000/], [{ %good, callback => 'http://h/{id' }, qr/template/], [{ %good, callback => 'http://h/{nope}' }, qr/nope.*Known are \{id\}/],
    [{ %good, table => 'public.none' }, qr/no table/], [{ %good, table => undef }, qr/"table"/], [{ %good, on => ['create'] }, qr/"insert"/], [{ %good, on => "insert" }, qr/array of some/],
    [{ %good, columns => ['nope'] }, qr/nope/], [{ %good, columns => ['secret'] }, qr/excluded/], [{ %good, when => q{$.new ==} }, qr/jsonpath/], [{ %good, batch => 10 }, qr/variables of the key/],
    [{ %good, callback => "http://h/", batch => 10, delete => "DELETE" }, qr/"delete"/], [{ %good, rate => 0 }, qr/"rate"/], [{ %good, latest => "yes", batch => 0, on => [] }, qr/"batch".*"latest".*"on"/],
    [{ %good, timeout => 0 }, qr/1 to 300/], [{ %good, concurrency => 'many' }, qr/whole number/], [{ %good, retry => { first => 0, last => 1 } }, qr/"retry.first".*"retry.last"/],
    [{ %good, colour => 1, timeout => 'x', extra => 2 }, qr/"colour".*"extra".*"timeout"/]);
for my $case (@refused) {
    my ($document, $text) = @$case;
    $answer = $httpd->put("$url/bad", $document, user => 'billing');
    like($answer->status . ' ' . $answer->json->{detail}, qr/^4(?:04|22) .*$text/s, 'refused: ' . substr to_json($document), 0, 90);
}
is($httpd->get("$url/bad", user => 'billing')->status, 404, 'and nothing was made');
is($httpd->put("$url/" . 'n' x 200, \%good, user => 'billing')->status, 422, 'a name that is too long');
is($httpd->put("$url/a%20b", \%good, user => 'billing')->status, 422, 'or has other characters');

# Delete
is($httpd->delete("$url/one", user => 'billing')->status, 204, 'deleted');
is($httpd->delete("$url/one", user => 'billing')->status, 404, 'once');
$httpd->expect_log(qr/PSP04\d\d/);
finish;
