# SPDX-License-Identifier: Apache-2.0
# adapter_cgi.t: CGI programs on psql and on DBD::Pg need no change.
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my %env = $pg->env;
my $psp = PspTest->up(pg => $pg, config => join "\n", map({ "SetEnv $_ $env{$_}" } sort keys %env), <<'END');
<Location /cgi-bin/>
    PubSubPull On
    Require valid-user
</Location>
END
PspTest::Channel::table($psp);
for my $name (qw(items-psql.cgi items-dbd.cgi)) {
    my $path = $psp->httpd->cgi($name, slurp(repo("t/services/$name")));
    subtest $name => sub { PspTest::Channel::check($psp, path => $path) };
}
finish;
