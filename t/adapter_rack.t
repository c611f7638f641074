# SPDX-License-Identifier: Apache-2.0
# adapter_rack.t: a Rack service on pg with conf/backends/rack under puma, over http.
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $service = PspTest::Service->start(
    cmd => ['puma', '--bind', 'tcp://127.0.0.1:{port}', '--threads', '8:8', '--environment', 'production', repo('t/services/items.ru')],
    cwd => tmp_dir(), env => { $pg->env, RUBYLIB => repo('conf/backends/rack') });
my $psp = PspTest->up(pg => $pg, config => <<"END");
<Location /rack/>
    PubSubPull On
    Require valid-user
    ProxyPass @{[$service->url('/')]}
</Location>
END
PspTest::Channel::table($psp);
PspTest::Channel::check($psp, path => '/rack', direct => $service->url);
finish;
