# SPDX-License-Identifier: Apache-2.0
# adapter_otel.t: an Express service on pg that OpenTelemetry instruments and that knows nothing of mod_pubsubpull: by the comment.
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $service = PspTest::Service->node(repo('t/services/node/items.js'), require => [repo('conf/backends/otel/tracing.js')], env => { $pg->env });
my $psp = PspTest->up(pg => $pg, config => <<"END");
<Location /otel/>
    PubSubPull On
    PubSubPullRecord all
    Require valid-user
    ProxyPass @{[$service->url('/')]}
</Location>
END
PspTest::Channel::table($psp);
PspTest::Channel::check($psp, path => '/otel', direct => $service->url, channel => 'comment');
finish;
