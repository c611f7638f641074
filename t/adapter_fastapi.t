# SPDX-License-Identifier: Apache-2.0
# adapter_fastapi.t: a FastAPI service on asyncpg with conf/backends/asyncpg, over http.
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $service = PspTest::Service->start(
    cmd => ['/usr/bin/python3', '-m', 'uvicorn', '--port', '{port}', '--no-access-log', 'fastapi_items:app'],
    env => { $pg->env, PYTHONDONTWRITEBYTECODE => 1, PYTHONPATH => join ':', repo('t/services'), repo('conf/backends/asyncpg') });
my $psp = PspTest->up(pg => $pg, config => <<"END");
<Location /fastapi/>
    PubSubPull On
    Require valid-user
    ProxyPass @{[$service->url('/')]}
</Location>
END
PspTest::Channel::table($psp);
PspTest::Channel::check($psp, path => '/fastapi', direct => $service->url);

my $answer = $psp->httpd->post('/fastapi/items/later?name=later', {}, user => 'bob');
is($answer->status, 201, 'a task for after the response');
my $request;
wait_until { $request = $pg->sql([user => 'pubsubpull'], q{SELECT request FROM pubsubpull.change WHERE new->>'name' = 'later'}) } 5, 'its change';
is($request, $answer->header('X-Request-Id'), 'belongs to the request');
finish;
