# SPDX-License-Identifier: Apache-2.0
# adapter_proxies.t: each type of proxy carries the identity and nothing that a client sends in its name: uwsgi and scgi
# (uWSGI), ajp, h2c. For http and fcgi it is asked by the tests of most services and of PHP.
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my %port = map { $_ => free_port() } qw(uwsgi scgi);
my %env = ($pg->env, PYTHONDONTWRITEBYTECODE => 1, PYTHONPATH => join ':', repo('t/services'), repo('conf/backends/sqlalchemy'));
my $uwsgi = PspTest::Service->start(env => \%env, cwd => '/',
    cmd => [qw(uwsgi --plugin python3 --module flask_items:app --master --lazy-apps --processes 1 --threads 16 --die-on-term),
        '--http-socket' => '127.0.0.1:{port}', '--socket' => "127.0.0.1:$port{uwsgi}", '--scgi-socket' => "127.0.0.1:$port{scgi}"]);
my $ajp = PspTest::Service->start(cmd => ['/usr/bin/python3', repo('t/services/ajp.py'), '{port}', 'flask_items:app'], env => \%env);
my $h2c = PspTest::Service->node(repo('t/services/node/h2c.js'),
    env => { $pg->env, ITEMS_ADAPTER => repo('conf/backends/express/pubsubpull.js') });
@port{qw(ajp h2c)} = ($ajp->port, $h2c->port);

my @types = sort keys %port;
my $psp = PspTest->up(pg => $pg, load => [qw(http2 proxy_http2)], config => join '', 'SetEnvIf Request_URI ^/scgi/ proxy-scgi-pathinfo', map { <<"END" } @types);

<Location /$_/>
    PubSubPull On
    Require valid-user
    ProxyPass $_://127.0.0.1:$port{$_}/
</Location>
END
PspTest::Channel::table($psp);
for my $type (@types) {
    subtest $type => sub {
        PspTest::Channel::check($psp, path => "/$type", direct => $uwsgi->url, seconds => 1, clients => 6,
            $type eq 'h2c' ? (only => ['items']) : ());
    };
}
finish;
