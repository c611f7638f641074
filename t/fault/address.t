# SPDX-License-Identifier: Apache-2.0
# address.t: where notifications may not go, however it is spelled, whatever a name means and whatever the environment says.
use PspTest;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::IP;

my $dns = PspTest::Dns->start;
my ($trap, $proxy) = map { IO::Socket::INET->new(LocalAddr => $_ ? '127.0.0.1' : '0.0.0.0', LocalPort => free_port(), Listen => 100) or die $! } 0, 1;
my $trap6 = IO::Socket::IP->new(LocalAddr => '::', LocalPort => $trap->sockport, V6Only => 1, Listen => 100) or die $!;
my %env = map { ($_ => 'http://127.0.0.1:' . $proxy->sockport) } qw(http_proxy HTTP_PROXY https_proxy HTTPS_PROXY ALL_PROXY all_proxy);

# One address of loopback may be reached, and no other
my $psp = PspTest->up(allow => '127.0.0.9', mounts => $dns->mounts, env => { %env, no_proxy => '', NO_PROXY => undef });
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $good = PspTest::Receiver->start(address => '127.0.0.9');
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
my $denied = qr/^no notification may be sent to the callback's address/;
$psp->publish('public.t', 'id int PRIMARY KEY');

sub subscribe {
    my ($name, $callback) = @_;
    return $httpd->put("$url/$name", { callback => $callback, table => 'public.t', timeout => 2, retry => { first => 1, max => 1 } }, @as);
}
sub error {
    my ($name) = @_;
    my ($failure) = @{ $httpd->get("$url/$name/failures/", @as)->json->{failures} };
    return $failure && $failure->{error};
}

# Spellings of what is denied; the trap listens on all of the host's addresses
my %spelling = (short => '127.1', number => '2130706433', hex => '0x7f.1', octal => '0177.0.0.1', zero => '0.0.0.0', nil => '0',
    metadata => '169.254.169.254', private => '10.0.0.1', mapped => '[::ffff:127.0.0.1]', mapped_hex => '[::ffff:7f00:1]',
    compatible => '[::127.0.0.1]', any6 => '[::]', loop6 => '[::1]', nat64 => '[64:ff9b::7f00:1]', sixtofour => '[2002:7f00:1::]', localhost => 'localhost',
    name => 'loop.test', name6 => 'loop6.test', dot => 'loop.test.');
$dns->name('loop.test', ['127.0.0.1']);
$dns->name('loop6.test', ['::1']);
is(subscribe($_, "http://$spelling{$_}:" . $trap->sockport . '/{id}')->status, 201, "subscribed: $_") for sort keys %spelling;

# Names with an address that may be reached and one that may not, and one that changes its meaning
$dns->name('mixed.test', ['127.0.0.1', '127.0.0.9', '::1']);
$dns->name('turning.test', ['127.0.0.9'], ['127.0.0.1']);
$dns->name('gone.test', ['127.0.0.1'], ['127.0.0.9']);
is(subscribe($_, "http://$_.test:" . $good->port . '/' . "$_/{id}")->status, 201, "subscribed: $_") for qw(mixed turning gone);
$pg->sql('INSERT INTO t VALUES (1)');
for my $name (sort keys %spelling) {
    wait_until { error($name) } 10, "the failure of $name";
    like(error($name), $denied, "$name: $spelling{$name} is not connected to");
}
is(($good->wait_for(1, 10, qr{^/mixed}))[0]->path, '/mixed/1', 'of mixed addresses the one that is allowed is taken');
is(($good->wait_for(1, 10, qr{^/turning}))[0]->path, '/turning/1', 'a name that means an allowed address first');
is(($good->wait_for(1, 10, qr{^/gone}))[0]->path, '/gone/1', 'and one that means it later');
ok(!IO::Select->new($trap, $trap6)->can_read(0), 'nobody came to an address that is denied');
ok(!IO::Select->new($proxy)->can_read(0), 'nor to a proxy that the environment names');

# The connection is closed, the name is looked up again when it has been forgotten: the address counts, every time
$httpd->graceful;
$dns->name('turning.test', ['127.0.0.1']);
$pg->sql('INSERT INTO t VALUES (2)');
wait_until { (error('turning') // '') =~ $denied } 10, 'the failure of the name that turned';
pass('a name that means another address now');

# What no callback may be: refused when subscribing, and when somebody wrote it into the table
my %wrong = (
    file => 'file:///etc/passwd', gopher => 'gopher://127.0.0.9/x', user => 'http://u:p@127.0.0.9/', crlf => "http://127.0.0.9/\r\nX: y", unix => 'http+unix://%2Frun%2Fx/',
    long => 'http://127.0.0.9/' . 'x' x 10_000, host => 'http://{id}/', backslash => 'http://127.0.0.9\\@127.0.0.1/', none => 'http:///x');
for my $name (sort keys %wrong) {
    is(subscribe("wrong_$name", $wrong{$name})->status, 422, "refused when subscribing: $name");
    subscribe("wrong_$name", $good->url("/wrong/$name"));
    $pg->sql([user => 'pubsubpull'], q{UPDATE pubsubpull.subscription SET callback = ?, version = version + 1 WHERE name = ?}, $wrong{$name}, "wrong_$name");
}
$pg->sql([user => 'pubsubpull'], q{SELECT nextval('pubsubpull.generation')});
$httpd->restart;
$pg->sql('INSERT INTO t VALUES (3)');
for my $name (sort keys %wrong) {
    wait_until { error("wrong_$name") } 10, "the failure of wrong_$name";
    like(error("wrong_$name"), qr/^the (?:host of the )?callback /, "refused when sending: $name");
}
is(scalar(() = $good->requests(qr{^/wrong})), 0, 'none of them was sent');
ok(!IO::Select->new($trap, $trap6, $proxy)->can_read(0), 'and still nobody came');
$httpd->expect_log(qr/PSP044\d/);
finish;
