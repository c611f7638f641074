# SPDX-License-Identifier: Apache-2.0
# values.t: values that cannot be told, or are too large to be sent: what concerns them is seen to fail, and others flow.
use PspTest;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
my @as = (user => 'billing');
sub failures { my ($name) = @_; return @{ $httpd->get("/pubsubpull/subscriptions/$name/failures/", @as)->json->{failures} } }
$psp->publish('public.t', 'id int PRIMARY KEY, v text, j json, b bytea');
my %retry = (retry => { first => 600 });
$psp->subscribe('all',     { callback => $receiver->url('/all/{id}'), table => 'public.t', %retry });
$psp->subscribe('when',    { callback => $receiver->url('/when/{id}'), table => 'public.t', when => '$.new.j.x == 1', %retry });
$psp->subscribe('columns', { callback => $receiver->url('/columns/{id}'), table => 'public.t', columns => ['id', 'j'], %retry });

$pg->sql(q{INSERT INTO t VALUES (1, E'\x01\x1f\u007f\u2028\U0001F600', '{"x": 1}', '\x00ff80c0')});
$pg->sql(q{INSERT INTO t VALUES (2, NULL, '{"x": "\u0000"}', NULL)});
$pg->sql(q{INSERT INTO t VALUES (3, repeat('x', 100000000), '{"x": 1}', NULL)});
$pg->sql(q{INSERT INTO t VALUES (4, 'small', '{"x": 1}', NULL)});
for my $name (qw(all when columns)) {
    ok(eval { $receiver->wait_for(1, 30, qr{^/$name/4$}); 1 }, "$name: what comes after a value of 100 MB arrives") or diag $@;
}
my ($first) = $receiver->requests(qr{^/all/1$});
is($first->json->{new}{v}, "\x01\x1f\x7f\x{2028}\x{1f600}", 'control characters and all of Unicode arrive');
is($first->json->{new}{b}, '\x00ff80c0', 'and bytes of any value');
wait_until { failures('all') && failures('when') > 1 } 10, 'the failures';
is(join(' ', map { "$_->{key}: $_->{error}" } failures('all')), '3: the notification cannot be made: it is larger than 32 MB: leave out what is large with "columns" in the subscription, or with "exclude" of the table',
    'that of 100 MB is a failure that says what to do');
like(join(' ', map { "$_->{key}: $_->{error}" } sort { $a->{key} <=> $b->{key} } failures('when')), qr/^2: "when" failed: .*3: .*larger than 32 MB/, 'a condition that cannot be asked, too');
is(join(' ', map { "$_->{key}: $_->{error}" } failures('columns')), '2: the notification cannot be made: unsupported Unicode escape sequence', 'who leaves it out has no failure');
is($_->json->{new}{j}{x}, 1, 'and the rest of the row') for $receiver->requests(qr{^/columns/3$});
is(scalar(grep { $_->path =~ m{/3$} } $receiver->requests), 1, 'the large one was sent to nobody else');
my ($peak) = slurp('/proc/' . $httpd->notifier_pid . '/status') =~ /^VmHWM:\s+(\d+) kB/m;
cmp_ok($peak, '<', 150_000 * slow(), "the notifier had $peak kB at most");
$httpd->expect_log(qr/PSP044\d/);
finish;
