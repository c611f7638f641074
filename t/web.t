# SPDX-License-Identifier: Apache-2.0
# web.t: the resources, their methods and their errors, over HTTP.
use PspTest;
use utf8;

my $psp = PspTest->up(config => "AllowEncodedSlashes NoDecode\n<Location /open/pubsubpull>\n    SetHandler pubsubpull\n    Require all granted\n</Location>\n"
        . "<Location /anonymous>\n    SetHandler pubsubpull\n    Require all granted\n    PubSubPullAnonymous On\n</Location>\n"
        . "<Location /pubsubpull/tables/public.payroll>\n    Require user admin\n</Location>\n");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $root = '/pubsubpull';
my @alice = (user => 'alice');

sub problem_is {
    my ($answer, $status, $type, $detail, $name) = @_;
    subtest $name => sub {
        is($answer->status, $status, 'status') or diag $answer->body;
        is($answer->header('Content-Type'), 'application/problem+json', 'content type');
        my $p = json($answer->body);
        is($p->{status}, $status, 'status in the document');
        like($p->{type}, qr/\Q$type\E$/, 'type');
        like($p->{detail}, $detail, 'detail');
        ok($p->{title}, 'title');
    };
    return;
}

# The root and its links
my $answer = $httpd->get("$root/", @alice);
is($answer->status, 200, 'the root document');
is($answer->header('Content-Type'), 'application/json', 'is JSON');
my $links = $answer->json;
is($links->{$_}, $httpd->url("$root/$_/"), "links to $_") for qw(tables changes requests subscriptions);
for my $name (qw(tables changes requests subscriptions)) {
    is($httpd->get($links->{$name}, @alice)->status, 200, "$name answers");
}
is($httpd->get("$root/", @alice, headers => [Accept => 'text/html'])->status, 406, 'nothing but JSON to be had');

# Methods
$answer = $httpd->request('POST', "$root/tables/", @alice, json => {});
problem_is($answer, 405, 'method-not-allowed', qr/GET/, 'POST');
like($answer->header('Allow'), qr/GET/, 'Allow');
unlike($answer->header('Allow'), qr/PUT/, 'only what the resource knows');
is($httpd->request('PATCH', "$root/subscriptions/x", @alice, json => {})->status, 405, 'PATCH');
like($httpd->request('PATCH', "$root/subscriptions/x", @alice, json => {})->header('Allow'), qr/PUT.*DELETE|DELETE.*PUT/, 'Allow of a subscription');
$answer = $httpd->head("$root/tables/", @alice);
is($answer->status . length($answer->body), '2000', 'HEAD has no body');
cmp_ok($answer->header('Content-Length') // 1, '>', 0, 'but what GET would say');

# Publish
$pg->sql('CREATE TABLE customer (id int PRIMARY KEY, name text, city text, secret text)');
problem_is($httpd->get("$root/tables/public.customer", @alice), 404, 'not-published', qr/PUT/, 'a table that is not published');
problem_is($httpd->put("$root/tables/public.customer", {}, @alice), 403, 'missing-privilege', qr/GRANT TRIGGER ON public\.customer TO pubsubpull;/, 'no privilege to publish');
$pg->publishable('customer');
$answer = $httpd->put("$root/tables/public.customer", { exclude => ['secret'] }, @alice);
is($answer->status, 201, 'PUT publishes') or diag $answer->body;
is($answer->header('Location'), $httpd->url("$root/tables/public.customer"), 'Location');
is_deeply($answer->json->{key}, ['id'], 'its key');
is_deeply([map { $_->{name} } @{ $answer->json->{columns} }], [qw(id name city)], 'its columns without those excluded');
is($httpd->put("$root/tables/public.customer", { exclude => ['secret'] }, @alice)->status, 200, 'PUT again is 200');
is_deeply([map { $_->{table} } @{ $httpd->get("$root/tables/", @alice)->json->{tables} }], ['public.customer'], 'it is listed');
problem_is($httpd->put("$root/tables/public.customer", { hide => 1, more => 2 }, @alice), 422, 'bad-member', qr/"hide" is not known here; "more" is not/, 'unknown members are named');
problem_is($httpd->put("$root/tables/public.nothing", {}, @alice), 404, 'no-such-table', qr/public\.nothing/, 'no such table');
problem_is($httpd->request('PUT', "$root/tables/public.customer", @alice, body => '{"exclude":', headers => ['Content-Type' => 'application/json']),
    400, 'bad-json', qr/JSON/, 'broken JSON');
problem_is($httpd->request('PUT', "$root/tables/public.customer", @alice, body => 'a=1', headers => ['Content-Type' => 'application/x-www-form-urlencoded']),
    415, 'not-json', qr/application\/json/, 'another content type');
problem_is($httpd->request('PUT', "$root/tables/public.customer", @alice, body => ' ' x 70000, headers => ['Content-Type' => 'application/json']),
    413, 'too-large', qr/65536|64/, 'a body that is too large');
is($pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.published'), 1, 'and nothing was changed by all that');

# Other spellings of a name, and the rules that protect a table under any of them
$answer = $httpd->get("$root/tables/customer", @alice);
is($answer->status, 200, 'a bare name is looked up');
is($answer->header('Content-Location'), $httpd->url("$root/tables/public.customer"), 'and answered with its URL');
$pg->sql('CREATE TABLE payroll (id int PRIMARY KEY, amount int)');
$pg->publishable('payroll');
is($httpd->put("$root/tables/public.payroll", {}, user => 'admin')->status, 201, 'admin publishes payroll');
$pg->sql('INSERT INTO payroll VALUES (1, 100)');
for my $name ('public.payroll', 'payroll', 'PAYROLL', 'public.PayRoll', '%70ublic.payroll', 'public.%70ayroll', '%22public%22.payroll', './public.payroll', 'x/../public.payroll') {
    for my $path ('', '/rows/', '/changes/', '/rows/1') {
        my $status = $httpd->get("$root/tables/$name$path", @alice)->status;
        cmp_ok($status, '>=', 400, "alice may not read $name$path ($status)");
    }
}
is($httpd->get("$root/tables/payroll/rows/", user => 'admin')->status, 200, 'admin may, under a bare name, too');
unlike($httpd->get("$root/changes/", @alice)->body, qr/payroll/, 'nor are its changes among all changes');
like($httpd->get("$root/changes/", user => 'admin')->body, qr/payroll/, 'but for admin');
problem_is($httpd->put("$root/subscriptions/spy", { callback => 'http://127.0.0.1:9/', table => 'payroll' }, @alice), 403, 'forbidden', qr/may not/, 'nor subscribed to');

# Who may write
problem_is($httpd->put('/open/pubsubpull/tables/public.customer', {}), 403, 'authorization-required', qr/PubSubPullAnonymous/, 'PUT without a user is refused');
problem_is($httpd->delete('/open/pubsubpull/tables/public.customer'), 403, 'authorization-required', qr/Require/, 'DELETE, too');
is($httpd->get('/open/pubsubpull/tables/')->status, 200, 'GET is as httpd says');
is($httpd->put('/anonymous/tables/public.customer', { exclude => ['secret'] })->status, 200, 'unless PubSubPullAnonymous is on');
is($httpd->get("$root/")->status, 401, 'Require is the rule book');

# Rows
$pg->sql(q{INSERT INTO customer SELECT g, 'n' || g, 'c', 's' FROM generate_series(1, 25) g});
my @rows;
my $url = "$root/tables/public.customer/rows/?limit=10";
my $first;
while ($url) {
    $answer = $httpd->get($url, @alice);
    $first //= $answer->json->{changes};
    is($answer->json->{changes}, $first, 'the same "changes" on each page');
    push @rows, @{ $answer->json->{rows} };
    $url = $answer->json->{next};
    is($answer->link('next'), $url, 'Link: rel=next') if $url;
}
is_deeply([map { $_->{id} } @rows], [1 .. 25], 'all rows in pages');
ok(!(grep { exists $_->{secret} } @rows), 'without the excluded column');
is_deeply([map { $_->{id} } @{ $httpd->get("$root/tables/public.customer/rows/?order=desc&limit=3", @alice)->json->{rows} }], [25, 24, 23], 'the other way round');
$answer = $httpd->get("$root/tables/public.customer/rows/7", @alice);
is_deeply($answer->json, { id => 7, name => 'n7', city => 'c' }, 'one row');
is($httpd->get("$root/tables/public.customer/rows/7", @alice, headers => ['If-None-Match' => $answer->header('ETag')])->status, 304, 'ETag');
problem_is($httpd->get("$root/tables/public.customer/rows/99", @alice), 404, 'no-such-row', qr/99/, 'no such row');
problem_is($httpd->get("$root/tables/public.customer/rows/x", @alice), 400, 'bad-key', qr/x/, 'a key that does not fit');
problem_is($httpd->get("$root/tables/public.customer/rows/1,2", @alice), 400, 'bad-key', qr/\(id\)/, 'too many values');
problem_is($httpd->get("$root/tables/public.customer/rows/?limit=0", @alice), 400, 'bad-limit', qr/1 to 10000/, 'a bad limit');
problem_is($httpd->get("$root/tables/public.customer/rows/?lmit=3", @alice), 400, 'bad-query', qr/lmit.*limit/s, 'an unknown parameter');
$pg->sql('CREATE TABLE keyless (a int)');
$pg->publishable('keyless');
$httpd->put("$root/tables/public.keyless", {}, @alice);
problem_is($httpd->get("$root/tables/public.keyless/rows/", @alice), 409, 'no-key', qr/"key"/, 'a table without a key cannot be pulled');
is($httpd->get("$root/tables/public.keyless/changes/", @alice)->status, 200, 'but followed');

$pg->sql(q{CREATE TABLE "Ödd, ""Name" ("a/b" text, "c,d" int, PRIMARY KEY ("a/b", "c,d"))});
$pg->publishable(q{"Ödd, ""Name"});
my $odd = "$root/tables/public.%22%C3%96dd%2C%20%22%22Name%22";
is($httpd->put($odd, {}, @alice)->status, 201, 'a quoted name') or diag $httpd->put($odd, {}, @alice)->body;
$pg->sql(q{INSERT INTO "Ödd, ""Name" VALUES ('x/y, é?%', 5)});
my ($change) = @{ $httpd->get("$odd/changes/", @alice)->json->{changes} };
is_deeply($change->{key}, { 'a/b' => 'x/y, é?%', 'c,d' => 5 }, 'its key in the change');
is_deeply($httpd->get($change->{url}, @alice)->json, { 'a/b' => 'x/y, é?%', 'c,d' => 5 }, 'and its URL is found') or diag $change->{url};

# Paths
problem_is($httpd->get("$root/nothing/", @alice), 404, 'no-such-resource', qr/./, 'no such resource');
is($httpd->get("$root/tables", @alice)->status, 308, 'a missing slash is mended');
problem_is($httpd->get("$root/requests/nonsense", @alice), 404, 'no-such-request', qr/nonsense/, 'no such request');

# Unpublish
is($httpd->delete("$root/tables/public.customer", @alice)->status, 204, 'DELETE stops publishing');
problem_is($httpd->get("$root/tables/public.customer/rows/", @alice), 404, 'not-published', qr/PUT/, 'its rows are gone');
is(scalar @{ $httpd->get("$root/tables/public.customer/changes/", @alice)->json->{changes} }, 25, 'its log stays');

# The database away, and back
$pg->stop('fast');
$answer = $httpd->get("$root/tables/", @alice);
problem_is($answer, 503, 'database-unavailable', qr/./, 'without the database');
like($answer->header('Retry-After'), qr/^\d+$/, 'Retry-After');
$pg->launch;
wait_until { $httpd->get("$root/tables/", @alice)->status == 200 } 20, 'an answer after the database is back';
pass('and all is well when it is back');

$httpd->expect_log(qr/PSP0[2345]\d\d/, qr/AH01631: user alice: authorization failure for "\/pubsubpull\/tables\/public\.payroll/);
finish;
