# SPDX-License-Identifier: Apache-2.0
# interop.t: what others' libraries make of our notifications: Standard Webhooks verifies them, CloudEvents reads them.
use PspTest;
use MIME::Base64 qw(encode_base64);

# `make test` has fetched the libraries; a run by hand does it here.
if (!$ENV{PSP_BUILT}) {
    delete @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};
    my $output = qx{cd '@{[repo()]}' && make -s build/interop/installed 2>&1};
    is($?, 0, 'libraries are there') or diag $output;
}

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
my @as = (user => 'billing');
my %secrets = map { $_ => 'whsec_' . encode_base64(join('', map { chr int rand 256 } 1 .. 32), '') } qw(old new stranger);
$psp->publish('public.customer', 'id int PRIMARY KEY, name text');

# What the libraries say of a request as it was received
sub judge {
    my ($put, %o) = @_;
    my %headers = map { lc $_->[0] => $_->[1] } @{ json($put->{headers}) };
    my $in = spew(tmp_dir() . '/request', to_json({ secrets => \%secrets, headers => { %headers, %{ $o{headers} // {} } }, body => encode_base64($o{body} // $put->body, '') }));
    my $out = qx{cd '@{[repo()]}' && NODE_PATH=build/interop/node_modules node t/interop/check.js <'$in' 2>&1};
    return eval { json($out) } // die "check.js: $out";
}

# Signatures
my %document = (callback => $receiver->url('/{id}'), table => 'public.customer', secret => $secrets{old});
$psp->subscribe('signed', \%document);
$pg->sql(q{INSERT INTO customer VALUES (1, 'Zoë "Ω" \\ 日本')});
my ($put) = $receiver->wait_for(1);
my $said = judge($put);
is(ref $said->{verified}{old} && $said->{verified}{old}{new}{name}, 'Zoë "Ω" \\ 日本', 'standardwebhooks verifies a notification');
like($said->{verified}{$_}, qr/No matching signature/, "but not with the secret $_") for qw(new stranger);
like(judge($put, body => $put->body =~ s/"id": ?1/"id": 2/r)->{verified}{old}, qr/No matching signature/, 'nor one whose body was changed');
like(judge($put, headers => { 'webhook-id' => 'psp_1_2' })->{verified}{old}, qr/No matching signature/, 'nor under another id');
like(judge($put, headers => { 'webhook-timestamp' => $put->header('webhook-timestamp') - 3600 })->{verified}{old}, qr/too old/, 'nor an old one');

# Rotation: for a day both
$psp->subscribe('signed', { %document, secret => $secrets{new} });
my $n = 1;
wait_until {
    $pg->sql('INSERT INTO customer VALUES (?, $$x$$)', ++$n);
    $put = ($receiver->wait_for($n))[-1];
    $put->header('webhook-signature') =~ / /;
} 10, 'two signatures';
$said = judge($put);
is(ref $said->{verified}{$_}, 'HASH', "after the change of secrets the $_ one verifies") for qw(old new);
like($said->{verified}{stranger}, qr/No matching signature/, 'and no other');

# CloudEvents
$receiver->forget;
$psp->subscribe('events', { callback => $receiver->url('/events'), table => 'public.customer', format => 'cloudevents', secret => $secrets{new} });
$httpd->delete('/pubsubpull/subscriptions/signed', @as);
$receiver->forget;
$pg->sql(q{INSERT INTO customer VALUES (100, 'é')});
$pg->sql(q{UPDATE customer SET name = 'f' WHERE id = 100});
$pg->sql(q{DELETE FROM customer WHERE id = 100});
$pg->sql(q{TRUNCATE customer});
my @puts = $receiver->wait_for(4, 10, qr{^/events});
my @types = qw(insert update delete truncate);
for my $i (0 .. $#types) {
    $said = judge($puts[$i]);
    my $event = $said->{event} // {};
    is($said->{invalid}, undef, "cloudevents reads and validates $types[$i]");
    is("$event->{specversion} $event->{type}", "1.0 pubsubpull.$types[$i]", 'its type');
    is($event->{id}, $puts[$i]->header('webhook-id'), 'its id');
    like($event->{source}, qr{^http://.*/tables/public\.customer$}, 'its source');
    is($event->{data}{type}, $types[$i], 'and its data');
    is(ref $said->{verified}{new}, 'HASH', 'signed all the same');
}
is(judge($puts[0])->{event}{subject}, '100', 'the key is the subject');
finish;
