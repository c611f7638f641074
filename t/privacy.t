# SPDX-License-Identifier: Apache-2.0
# privacy.t: what is not to be kept of a request reaches neither the envelope nor the database, and a user can be forgotten.
use PspTest;

my $service = PspTest::Receiver->start;
my $psp = PspTest->up(config => <<"END");
PubSubPull On
PubSubPullRecord all
PubSubPullCapture Referer X-Tenant
PubSubPullRedact Token
<Location /svc/>
    PubSubPullRedact "pass word" %6bey
    AuthType Basic
    Require valid-user
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /pubsubpull>
    PubSubPull Off
</Location>
END
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
my $n = 0;
sub envelope {
    my ($query, @headers) = @_;
    $httpd->get("/svc/$query", user => 'alice', headers => [@headers, Cookie => 'session=s3cret']);
    return (($service->wait_for(++$n, 5))[-1])->header('PubSubPull-Request');
}
for my $case (
    ['?token=s3cret',                      'token=REDACTED'],
    ['?a=1&TOKEN=s3cret&b=2',              'a=1&TOKEN=REDACTED&b=2'],
    ['?%74oken=s3cret;a=1',                '%74oken=REDACTED;a=1'],
    ['?pass+word=s3cret&pass%20word=x=s3cret', 'pass+word=REDACTED&pass%20word=REDACTED'],
    ['?token=&token&=&&a',                 'token=REDACTED&token&=&&a'],
    ['?tokens=kept&atoken=kept&a=token=kept', 'tokens=kept&atoken=kept&a=token=kept'],
    ['?%zz=1&token=s3cret',                '%zz=1&token=REDACTED'],
    ['?',                                  ''])
{
    my $envelope = envelope($case->[0], Referer => "http://x/y$case->[0]");
    is(json($envelope)->{query}, $case->[1], "$case->[0]");
    is(json($envelope)->{headers}{referer}, "http://x/y?$case->[1]", '  and in the Referer');
    unlike($envelope, qr/s3cret/, '  nothing of it, nor of cookies and credentials');
    is((($service->requests)[-1])->path, "/$case->[0]" =~ s/\?$//r, '  the service gets it as it was sent') if $case->[0] ne '?';
}
my @refused = map { my $name = $_; map { [$name, $_] } $name, lc $name, uc $name } qw(Authorization Cookie Proxy-Authorization);
for my $case (@refused) {
    my $idle = PspTest::Httpd->start(stopped => 1, unwatched => 1, database => 'host=/nowhere', config => "PubSubPullCapture $case->[1]\n");
    spew($idle->dir . '/stderr.log', '');
    ok(!($idle->configtest)[0], "$case->[1] cannot be captured");
}

# Forgotten
$psp->publish('public.t', 'id serial PRIMARY KEY');
$httpd->get('/svc/x', user => $_) for qw(bob alice bob);
wait_until { admin(q{SELECT count(*) FROM pubsubpull.request WHERE "user" IS NOT NULL AND status IS NOT NULL}) == $n + 3 } 10, 'all requests';
is(admin(q{SELECT count(*) FROM pubsubpull.request WHERE to_json(request)::text ~ 's3cret'}), 0, 'no secret in the database');
my $id = admin(q{SELECT id FROM pubsubpull.request WHERE "user" = 'bob' LIMIT 1});
$pg->sql(q{SELECT set_config('pubsubpull.request', $1, false)}, qq({"id":"$id"}));
$pg->sql('INSERT INTO t DEFAULT VALUES');
is(admin(q{SELECT pubsubpull.forget_user('bob')}), 2, 'two requests are forgotten');
is(admin(q{SELECT pubsubpull.forget_user('bob')}), 0, 'once');
is(admin(q{SELECT count(*) FROM pubsubpull.request WHERE to_json(request)::text ~ 'bob'}), 0, 'nothing is left of them');
is(admin(q{SELECT count(*) FROM pubsubpull.request WHERE "user" = 'alice'}), $n + 1, 'others stay');
my $change = $httpd->get('/pubsubpull/changes/', user => 'alice')->json->{changes}[0];
is_deeply($change->{request}, { id => $id }, 'the change stays, with the id of its request');

# Any byte of a user's name, of path and query
$httpd->configure(<<"END");
PubSubPull On
PubSubPullRecord all
PubSubPullUser "%{unescape:%{QUERY_STRING}}"
<Location /any/>
    ProxyPass @{[$service->url('/')]}
</Location>
END
$httpd->graceful;
$pg->sql(q{SELECT set_config('pubsubpull.request', '', false)});
for my $from (map { $_ * 32 } 0 .. 7) {
    my @bytes = grep { $_ } $from .. $from + 31;
    my $encoded = join '', map { sprintf '%%%02X', $_ } @bytes;
    my $count = () = $service->requests(qr/%/);
    my $query = $encoded =~ s{%2F}{/}r;    # httpd's expression leaves that one as it is
    $httpd->get('/any/' . ($encoded =~ s/%2F/%252F/r) . "?$query");
    my $request = ($service->wait_for($count + 1, 5, qr/%/))[-1] // last;
    my $envelope = $request->header('PubSubPull-Request');
    my $text = join '', map { $_ < 0x80 ? chr : "\x{fffd}" } @bytes;
    is(json($envelope)->{user}, $text, "bytes from $from as a user");
    $pg->sql(q{SELECT set_config('pubsubpull.request', $1, false)}, $envelope);
    $pg->sql('INSERT INTO t DEFAULT VALUES');
    my $row = $pg->rows([user => 'pubsubpull'], q{SELECT r."user", r.query FROM pubsubpull.change c JOIN pubsubpull.request r ON r.id = c.request ORDER BY c.id DESC LIMIT 1})->[0];
    is_deeply($row, [$text, $query], '  and in the database');
}
$httpd->expect_log(qr/AH\d+/);
finish;
