# SPDX-License-Identifier: Apache-2.0
# adapter_flask.t: a Flask service on SQLAlchemy with conf/backends/sqlalchemy, over http.
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my %service = (path => [repo('t/services'), repo('conf/backends/sqlalchemy')], workers => 1, threads => 8);
my $service = PspTest::Service->wsgi('flask_items:app', env => { $pg->env }, %service);
my $psp = PspTest->up(pg => $pg, config => <<"END");
<Location /flask/>
    PubSubPull On
    Require valid-user
    ProxyPass @{[$service->url('/')]}
</Location>
END
PspTest::Channel::table($psp);
PspTest::Channel::check($psp, path => '/flask', direct => $service->url);
finish;
