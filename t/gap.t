# SPDX-License-Identifier: Apache-2.0
# gap.t: a subscription whose table was not published for a time is told, as one that lost its place, instead of going on over the gap.
use PspTest;

my $receiver = PspTest::Receiver->start;
my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
$psp->publish("public.$_", 'id int PRIMARY KEY') for qw(t other);
sub subscription { my ($name, $what, $document) = @_; return $httpd->put("/pubsubpull/subscriptions/$name$what", $document, user => 'alice') }
for ([follows => 't'], [waits => 't'], [elsewhere => 'other']) {
    my ($name, $table) = @$_;
    is(subscription($name, '', { table => "public.$table", callback => $receiver->url("/$name/{id}") })->status, 201, "$name is subscribed");
}
sub document { my ($name) = @_; return $httpd->get("/pubsubpull/subscriptions/$name", user => 'alice')->json }

$pg->sql('INSERT INTO t VALUES (1)');
$receiver->wait_for(1, 10, qr{^/follows/1});
$receiver->wait_for(1, 10, qr{^/waits/1});
is(subscription('waits', '/state', { state => 'paused' })->status, 200, 'one is paused');
my $old = document('follows')->{position};
is($httpd->delete('/pubsubpull/tables/public.t', user => 'alice')->status, 204, 'the table is not published any more');
$pg->sql('INSERT INTO t VALUES (2)');
is(document('follows')->{state}, 'active', 'nothing is wrong yet');
is($httpd->put('/pubsubpull/tables/public.t', {}, user => 'alice')->status, 201, 'and it is again');
$pg->sql('INSERT INTO t VALUES (3); INSERT INTO other VALUES (1)');
$receiver->wait_for(1, 10, qr{^/elsewhere/1});
for my $name (qw(follows waits)) {
    my $document = document($name);
    is($document->{state}, 'disabled', "$name is disabled");
    like($document->{$_}, qr/lost its place.*not published for a time.*"since": "now"/, "its $_ says why, and how to start again") for qw(reason warning);
    my $refused = subscription($name, '/state', { state => 'active' });
    is($refused->status, 409, 'it cannot just go on');
    like($refused->json->{detail}, qr/not published for a time/, 'as the problem says');
}
is(document('elsewhere')->{state}, 'active', 'others are not concerned');
is(document('elsewhere')->{warning}, undef, 'nor warned');
is(subscription('follows', '/position', { since => $old })->status, 410, 'a cursor from before is no place to start');
$httpd->restart;    # it looks at the start, and once a minute
$httpd->wait_for_log(qr/PSP0120: subscription $_ lost its place/, 20) for qw(follows waits);
pass('the log names them');

is(subscription('follows', '/position', { since => 'beginning' })->status, 200, 'it starts again');
is(subscription('follows', '/state', { state => 'active' })->status, 200, 'and goes on');
$receiver->wait_for(1, 10, qr{^/follows/$_}) for 2, 3;
$pg->sql('INSERT INTO t VALUES (4)');
$receiver->wait_for(1, 10, qr{^/follows/4});
is(document('follows')->{warning}, undef, 'without a warning');
is($httpd->put('/pubsubpull/tables/public.t', { skip_unchanged => \1 }, user => 'alice')->status, 200, 'other options');
is(document('follows')->{state}, 'active', 'are no gap');
$httpd->expect_log(qr/PSP0120/);
finish;
