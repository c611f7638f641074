# SPDX-License-Identifier: Apache-2.0
# adapter_express.t: an Express service on pg with conf/backends/express, over http.
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $service = PspTest::Service->node(repo('t/services/node/items.js'),
    env => { $pg->env, ITEMS_ADAPTER => repo('conf/backends/express/pubsubpull.js') });
my $psp = PspTest->up(pg => $pg, config => <<"END");
<Location /express/>
    PubSubPull On
    Require valid-user
    ProxyPass @{[$service->url('/')]}
</Location>
END
PspTest::Channel::table($psp);
PspTest::Channel::check($psp, path => '/express', direct => $service->url);
finish;
