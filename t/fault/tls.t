# SPDX-License-Identifier: Apache-2.0
# tls.t: who a receiver must be, who we are to it, and what the files of both must be.
use PspTest;
use IO::Socket::INET;

my $ca    = PspTest::Secure::Authority->new('authority');
my $other = PspTest::Secure::Authority->new('another authority');
my ($us, $else) = ($ca->issue(name => 'us'), $ca->issue(name => 'else'));
chmod 0600, $us->{key} or die $!;
my $both = spew(tmp_dir() . '/both.pem', slurp($us->{cert}) . slurp($us->{key}));
my $ca_file = spew(tmp_dir() . '/ca.pem', slurp($other->{cert}));
my $psp = PspTest->up(config => "PubSubPullCallbackCAFile $ca_file\nPubSubPullCallbackCertificate $us->{cert} $us->{key}");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');

# configtest names the line
my $bad = PspTest::Httpd->start(pg => $pg, stopped => 1);
spew($bad->dir . '/stderr.log', '');
PspTest::Secure::Authority::openssl($ca->{dir}, qw(ec -in 1.key -aes128 -passout pass:x -out locked.key));
for (["PubSubPullCallbackCAFile $ca->{dir}/none", qr/cannot read .*none: /],
    ["PubSubPullCallbackCAFile $ca->{dir}", qr/wants a file .*which .* is not/],
    ["PubSubPullCallbackCAFile $us->{key}", qr/finds no certificate/],
    ['PubSubPullCallbackCAFile ' . spew("$ca->{dir}/cut.pem", substr(slurp($ca->{cert}), 0, 300) . "\n-----END CERTIFICATE-----\n"), qr/finds a broken certificate/],
    ["PubSubPullCallbackCertificate $us->{cert}", qr/finds no private key .* in \Q$us->{cert}\E/],
    ["PubSubPullCallbackCertificate $us->{cert} $else->{key}", qr/finds that the key in .* is not that of the certificate/],
    ["PubSubPullCallbackCertificate $us->{cert} $ca->{dir}/locked.key", qr/cannot use the key .* wants a passphrase/],
    ["<VirtualHost *:1>\nPubSubPullCallbackCertificate $both\n</VirtualHost>", qr/cannot occur within <VirtualHost>/]) {
    my ($config, $expected) = @$_;
    $bad->configure("# a line\n$config");
    my ($ok, $said) = $bad->configtest;
    ok(!$ok, "configtest refuses: $config");
    my ($directive) = $config =~ /(PubSubPull\w+)/;
    like($said, qr/line \d+ of .*httpd\.conf:\s*$directive $expected/s, 'and says where and why');
}
$bad->configure("PubSubPullCallbackCertificate $both\nPubSubPullCallbackCAFile $ca_file");
ok(($bad->configtest)[0], 'key and certificate may be in one file');

# Receivers that are not to be trusted, told apart
my $stalled = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 50, LocalPort => free_port()) or die $!;
my %receiver = (
    expired   => PspTest::Secure->start(certificate => $ca->issue(days => -1)),
    elsewhere => PspTest::Secure->start(certificate => $ca->issue(for => 'DNS:elsewhere.example,IP:127.0.0.2')),
    self      => PspTest::Secure->start(certificate => $ca->issue(self => 1)),
    unknown   => PspTest::Secure->start(certificate => PspTest::Secure::Authority->new('nobody')->issue),
    demanding => PspTest::Secure->start(certificate => $ca->issue, clients => $other),
    good      => PspTest::Secure->start(certificate => $ca->issue, clients => $ca));
my %callback = (map({ $_ => $receiver{$_}->url } keys %receiver),
    stalled => 'https://127.0.0.1:' . $stalled->sockport, plain => $httpd->url =~ s/^http/https/r);
$psp->publish('public.t', 'id int PRIMARY KEY');
$psp->subscribe($_, { callback => "$callback{$_}/{id}", table => 'public.t', timeout => 2, retry => { first => 1, max => 1 } }) for keys %callback;

sub error {
    my ($name) = @_;
    my ($failure) = @{ $httpd->get("$url/$name/failures/", @as)->json->{failures} };
    return $failure && $failure->{error};
}
$pg->sql('INSERT INTO t VALUES (1)');
wait_until { error('good') } 10, 'a failure';
like(error('good'), qr/certificate is not trusted/, 'only the authorities of the file count');

# The files are read again at a graceful restart, as root
spew($ca_file, slurp($other->{cert}) . slurp($ca->{cert}));
$httpd->graceful;
my ($put) = $receiver{good}->wait_for(1, 10);
is($put->header('x-client'), 'us', 'a receiver that is trusted, and knows us by our certificate');
is($put->header('x-version'), '2.0', 'over HTTP/2');
my %error = (
    expired   => qr/^the receiver's certificate is not trusted: .*expired/,
    elsewhere => qr/^the receiver's certificate is not trusted: .*does not match|^the receiver's certificate is not trusted: .*no alternative certificate subject name/,
    self      => qr/^the receiver's certificate is not trusted: .*self.signed certificate/,
    unknown   => qr/^the receiver's certificate is not trusted: .*unable to get local issuer/,
    demanding => qr/^closed after the TLS handshake/,
    plain     => qr/^no TLS connection: /,
    stalled   => qr/^no TLS handshake in time: /);
for my $name (sort keys %error) {
    eval { wait_until { (error($name) // q{}) =~ $error{$name} } 10, "the failure of $name"; 1 } or diag $@;
    like(error($name) // "none", $error{$name}, $name);
}
is(scalar(map { $receiver{$_}->requests } grep { $_ ne 'good' } keys %receiver), 0, 'none of these got a request');

# Without our certificate
$httpd->configure("PubSubPullCallbackCAFile $ca_file");
$httpd->graceful;
$pg->sql('INSERT INTO t VALUES (2)');
wait_until { error('good') } 10, 'a failure without certificate';
like(error('good'), qr/^closed after the TLS handshake|alert/, 'a certificate that is demanded and not given');
unlike($httpd->log, qr/BEGIN|PRIVATE/, 'no key in the log');
$httpd->expect_log(qr/PSP044\d/);
finish;
