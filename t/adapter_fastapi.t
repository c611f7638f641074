# SPDX-License-Identifier: Apache-2.0
# adapter_fastapi.t: a FastAPI service on asyncpg with conf/backends/asyncpg, over http.
use PspTest;
use PspTest::Channels;

my $channels = PspTest::Channels->up(['fastapi']);
$channels->check;

my $answer = $channels->psp->httpd->post('/fastapi/items/later?name=later', {}, user => 'bob');
is($answer->status, 201, 'a task for after the response');
my $request;
wait_until { $request = $channels->pg->sql([user => 'pubsubpull'], q{SELECT request FROM pubsubpull.change WHERE new->>'name' = 'later'}) } 5, 'its change';
is($request, $answer->header('X-Request-Id'), 'belongs to the request');
finish;
