# SPDX-License-Identifier: Apache-2.0
# calls.t: API calls as events: which are sent, once each, with every row they changed, however they end and are written down.
use PspTest;

my $pg = PspTest::Postgres->start(fsync => 1);
$pg->install_schema;
my $service = PspTest::Service->wsgi('sql_wsgi', path => [repo('t/services')], env => { $pg->env, SQL_URL => 'http://127.0.0.1:9/' });
my $config = <<"END";
<Location "/svc/">
    PubSubPull On
    Require valid-user
    ProxyPass "@{[$service->url('/svc/')]}"
</Location>
<Location "/svc/all/">
    PubSubPullRecord all
</Location>
<Location "/pubsubpull/tables/public.secret">
    Require user admin
</Location>
<Location "/pubsubpull/requests/">
    Require user billing comms admin
</Location>
PubSubPullRedact token
END
my $psp = PspTest->up(pg => $pg, config => $config);
my $httpd = $psp->httpd;
my $receiver = PspTest::Receiver->start;
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
$psp->publish('public.t', 'id int PRIMARY KEY, v int, hidden text', { exclude => ['hidden'] });
$psp->publish('public.u', 'id int PRIMARY KEY');
$psp->publish('public.secret', 'id int PRIMARY KEY');

# A call of the service, which does this SQL; the id that httpd gave it
sub call {
    my ($path, $sql, %o) = @_;
    my $answer = $httpd->request($o{method} // 'POST', $path, user => 'alice', body => $sql, %o);
    return $answer->header('X-Request-Id') // die $answer->status;
}
sub recorded { my ($id) = @_; return wait_until { admin('SELECT count(*) FROM pubsubpull.request WHERE id = ? AND status IS NOT NULL', $id) } 5, "the end of $id" }

# Refused, all of it named
for my $case (
    [{ method => 'post', paths => '/', status => '6xx', user => 7, host => [] }, qr/"requests.host" must be.*"requests.method" must be a method.*"requests.paths" is not known.*"requests.status" must be a status such as 404 or 5xx.*"requests.user"/],
    ['x', qr/"requests" must be an object/], [{ path => 'users' }, qr{"requests.path" must be a path such as /users/\*}], [{ status => [200, 'x'] }, qr/"requests.status"/],
    [{ path => [map { '/' . 'x*' x 20 . $_ } 1 .. 99] }, qr/"requests.path" is longer than 2000/],
    [{}, qr/"columns" does not go.*"on" needs "table".*"latest".*"delete"/, columns => ['id'], on => ['insert'], latest => json('true'), delete => 'DELETE'],
    [{}, qr/\{name\}.*Known are \{id\}/, callback => 'http://h/{name}'], [{}, qr/\{table\}/, callback => 'http://h/{table}'], [{}, qr/variables of the key/, callback => 'http://h/{id}', batch => 2])
{
    my ($requests, $text, @more) = @$case;
    my $answer = $httpd->put("$url/bad", { callback => $receiver->url('/bad'), requests => $requests, @more }, @as);
    like($answer->status . ' ' . $answer->json->{detail} . ($answer->json->{hint} // ''), qr/^422 .*$text/s, 'refused: ' . substr to_json([$requests, @more]), 0, 80);
}
is($httpd->put("$url/bad", { callback => $receiver->url('/bad'), requests => {} }, user => 'alice')->status, 403, 'who may not GET requests cannot have them sent');
is($httpd->put("$url/bad", { callback => $receiver->url('/bad'), requests => {}, table => 'public.secret' }, @as)->status, 403, 'nor calls that changed a table that is not theirs');
is(admin('SELECT count(*) FROM pubsubpull.change WHERE table_id = 0'), 0, 'nothing was logged');
my $before = call('/svc/users/', 'INSERT INTO t VALUES (100, 0)');
wait_until { admin('SELECT count(*) FROM pubsubpull.request WHERE id = $1 AND status IS NOT NULL', $before) } 10, 'the end of a call from before';

# One call, one PUT, after it ended, with every row, but those of tables that the subscriber may not GET
my $made = $psp->subscribe('mail', { callback => $receiver->url('/mail/{id}'), requests => { method => ['POST'], path => '/svc/users/*', status => '2xx' }, secret => 'whsec_' . 'MDEy' x 8 })->json;
is(to_json($made->{tables}), '["public.t","public.u"]', 'tables that will be shown');
is(to_json($made->{requests}), to_json({ method => ['POST'], path => '/svc/users/*', status => '2xx' }), 'and the document as it was PUT');
my $id = call('/svc/users/?token=abc&a=1', q{INSERT INTO t VALUES (1, 5, 'nobody'); UPDATE t SET v = 6 WHERE id = 1; INSERT INTO u VALUES (1); INSERT INTO secret VALUES (1)});
call('/svc/users/', q{INSERT INTO t VALUES (1)});                      # 500
call('/svc/users/1/x', 'INSERT INTO u VALUES (2)');                    # another path
call('/svc/users/1', 'INSERT INTO u VALUES (3)', method => 'PUT');     # another method
call('/svc/users/', 'SELECT 1');                                       # recorded only if it changes something
my $last = call('/svc//x/%2E./us%65rs/7?x', 'INSERT INTO u VALUES (4)');
$receiver->wait_for(2, 10);
$psp->settled('mail', 'nothing else');
my @got = sort { $a->path cmp $b->path } $receiver->requests; # ids begin with the time
is(join(' ', map { $_->path } @got), "/mail/$id /mail/$last", 'the calls that fit, whichever way the path was written');
my $event = $got[0]->json;
is(join(' ', map { "$_->{table} $_->{type}" } @{ $event->{changes} }), 'public.t insert public.t update public.u insert', 'with the rows in order');
is(to_json($event->{changes}[1]{new}), '{"id":1,"v":6}', 'without excluded columns');
is(to_json($event->{changes}[0]{key}) . $event->{changes}[0]{url}, '{"id":1}' . $httpd->url('/pubsubpull/tables/public.t/rows/1'), 'by their keys');
is(join(' ', @{ $event->{request} }{qw(id method path query user status)}), "$id POST /svc/users/ token=REDACTED&a=1 alice 200", 'and the request, ended');
is(join(' ', map { $_ // '-' } @{$event}{qw(type table subscription more old new)}), 'request - mail - - -', 'as a request');
is($event->{key}{id} . $event->{url}, $id . $httpd->url("/pubsubpull/requests/$id"), 'that can be looked up');
is($got[0]->header('webhook-signature') =~ /^v1,/ && $got[0]->header('webhook-id') =~ /^psp_\d+_\d+$/ && 1, 1, 'signed');
cmp_ok($event->{request}{duration}, '>', 0, 'with what it took');
unlike(join('', map { $_->body } @got), qr/secret|abc|nobody/, 'nothing of what is nobody\'s business');
is(scalar(grep { $_->{type} eq 'request' || ($_->{table} // '') eq 'requests' } @{ $httpd->get('/pubsubpull/changes/', user => 'admin')->json->{changes} }), 0, 'calls are not among changes');
is(scalar(grep { $_->{table} eq 'requests' } @{ $httpd->get('/pubsubpull/tables/', user => 'admin')->json->{tables} }), 0, 'nor tables');

# Together with a table, on and when
$receiver->forget;
$psp->subscribe('t', { callback => $receiver->url('/t/{table}/{id}'), table => 'public.t', on => ['update', 'delete'], requests => {}, when => '$.request.user == "alice" && exists($.changes[*].old ? (@.v > 6))' });
$psp->subscribe('ce', { callback => $receiver->url('/ce'), table => 'public.t', requests => { user => ['bob', 'x'], host => '127.0.0.1' }, format => 'cloudevents' });
call('/svc/a', 'INSERT INTO u VALUES (10)');
call('/svc/a', 'INSERT INTO t VALUES (2, 9)');
call('/svc/a', 'UPDATE t SET v = 7 WHERE id = 1');
$id = call('/svc/a', 'UPDATE t SET v = 8 WHERE id = 1');
$last = call('/svc/a', 'INSERT INTO t VALUES (3, 9)', user => 'bob');
$receiver->wait_for(2);
$psp->settled($_, 'the table\'s calls') for qw(t ce);
is(join(' ', sort map { $_->path } $receiver->requests), "/ce /t/public.t/$id", 'calls that changed that table, in this way, and for which when holds');
my ($ce) = map { $_->json } $receiver->requests(qr{^/ce});
is("$ce->{type} $ce->{subject} $ce->{data}{request}{user} $ce->{data}{changes}[0]{new}{id}", "pubsubpull.request $last bob 3", 'as a CloudEvent');
$httpd->delete("$url/$_", @as) for qw(t ce mail);

# Requests that changed nothing, where all are recorded; status, several patterns, a batch
$receiver->forget;
$psp->subscribe('odd', { callback => $receiver->url('/odd'), requests => { status => [404, '5xx'], path => ['/svc/all/**', '/none'] }, batch => 10, rate => 5 });
my @ids = map { call("/svc/all/x/$_?status=" . (404 + $_), '', method => 'GET') } 0, 1, 99;
wait_until { 2 <= map { @{ $_->json } } $receiver->requests } 10, 'two calls';
$psp->settled('odd', 'what fits');
is(join(' ', sort map { $_->{request}{id} } map { @{ $_->json } } $receiver->requests), join(' ', sort @ids[0, 2]), 'calls by their status, though they changed nothing');
$httpd->delete("$url/odd", @as);

# From the beginning: what is recorded, then what ends from now on; nothing twice; a replay
$receiver->forget;
my @before = map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], q{SELECT id FROM pubsubpull.request WHERE status = 200 AND path LIKE '/svc/%' ORDER BY 1}) };
$receiver->reply(match => '^/all/', status => 500, times => 3);
$psp->subscribe('all', { callback => $receiver->url('/all/{id}'), requests => { status => 200, path => '/svc/**' }, since => 'beginning', retry => { first => 1, max => 1 } });
my @after = map { call('/svc/late', "UPDATE t SET v = v + 1 WHERE id = 1") } 1 .. 5;
$receiver->wait_for(@before + @after + 3, 20);
$psp->settled('all', 'old and new');
my %times;
$times{$_}++ for map { $_->json->{request}{id} } $receiver->requests;
is(join(' ', sort keys %times), join(' ', sort @before, @after), 'from the beginning: each call, those that failed at first as well');
is(eval { my $n = 0; $n += $_ for values %times; $n }, @before + @after + 3, 'and none twice');
my %first;
is(join(' ', grep { !$first{$_}++ } map { $_->json->{request}{id} } grep { $_->json->{request}{path} eq '/svc/late' } $receiver->requests), "@after", 'calls that changed one row in order');
my $position = $httpd->get("$url/all/position", @as)->json->{since};
$receiver->forget;
my $one = call('/svc/late', 'UPDATE t SET v = 0 WHERE id = 1');
$receiver->wait_for(1);
$psp->settled('all', 'one more');
is($httpd->put("$url/all/position", { since => $position }, @as)->status, 200, 'back to a cursor');
is(join(' ', map { $_->json->{request}{id} } $receiver->wait_for(2)), "$one $one", 'is a replay');
is($httpd->put("$url/fresh", { callback => $receiver->url('/f'), requests => { status => 201 }, since => $position }, @as)->status, 410, 'a cursor from before anybody wanted such calls');
is($httpd->put("$url/fresh", { callback => $receiver->url('/f'), requests => { path => '/svc/**', status => '200' }, since => $position }, @as)->status, 201, 'one of a subscription to the same calls is good');
$psp->settled('fresh', 'what was sent to the other');
is(join(' ', map { $_->json->{request}{id} } $receiver->requests(qr{^/f$})), $one, 'and none is missing');

# What is still open when the call has ended is not in; what fails waits with its row alone, and is the same when it is sent again
$receiver->forget;
$httpd->delete("$url/$_", @as) for qw(all fresh);
$psp->subscribe('r', { callback => $receiver->url('/r/{id}'), requests => { path => '/svc/r/*' }, retry => { first => 1, max => 1 } });
$receiver->reply(match => '^/r/', status => 503, headers => { 'Retry-After' => 2 }, times => 1);
my @row1 = call('/svc/r/1', 'UPDATE t SET v = v + 1 WHERE id = 1');
my $failure = wait_until { (grep { $_->{request} eq $row1[0] } @{ $httpd->get("$url/r/failures/", @as)->json->{failures} })[0] } 10, 'a failure';
like($failure->{error}, qr/503/, 'the failure names the request');
push @row1, call('/svc/r/1', 'UPDATE t SET v = v + 1 WHERE id = 1; UPDATE t SET v = 1 WHERE id = 2');
my $row2 = call('/svc/r/2', 'UPDATE t SET v = v + 1 WHERE id = 2');
$pg->sql(q{SELECT set_config('pubsubpull.request', $1, false)}, qq({"id":"$row1[0]","started":"2026-01-01T00:00:00Z"}));
$pg->sql('UPDATE t SET v = -1 WHERE id = 100'); # a job that kept the identity
$pg->sql(q{SELECT set_config('pubsubpull.request', '', false)});
$receiver->wait_for(4);
$psp->settled('r', 'all of them');
my @order = map { $_->json->{request}{id} } $receiver->requests;
is(join(' ', map { my $x = $_; scalar grep { $_ eq $x } @order } @row1, $row2), '2 1 1', 'one failed once');
is(join(' ', grep { $_ ne $row2 } @order), "$row1[0] $row1[0] $row1[1]", 'the next call that changed its row comes after it');
cmp_ok((grep { $order[$_] eq $row2 } 0 .. $#order)[0], '<', 2, 'that of another row does not wait');
my @same = grep { $_->json->{request}{id} eq $row1[0] } $receiver->requests;
is($same[1]->body =~ s/"cursor":[^,}]*//gr, $same[0]->body =~ s/"cursor":[^,}]*//gr, 'and says the same the second time');
is($same[1]->header('webhook-id'), $same[0]->header('webhook-id'), 'under the same webhook-id');

# Records that are committed late, behind later ones, are not skipped, and one that comes twice is sent once
$receiver->forget;
sub record { my ($n) = @_; return to_json([{ id => sprintf('%s-%s-7000-8000-%012d', unpack('A8A4', sprintf '%012x', 1000 * time), $n), method => 'PUT', path => "/svc/r/$n", started => '2026-11-01T00:00:00Z', status => 200, bytes => 1, duration => 1, mode => 2 }]) }
my $db = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);
$db->do('SELECT pubsubpull.record_requests($1)', undef, record(1));
my $again = record(2);
admin('SELECT pubsubpull.record_requests($1)', $again);
admin('SELECT pubsubpull.record_requests($1)', $again);
$receiver->wait_for(1);
$psp->settled('r', 'the second');
$db->commit;
admin('SELECT pubsubpull.record_requests($1)', record(3));
$receiver->wait_for(3);
$psp->settled('r', 'all three');
is(join(' ', sort map { $_->json->{request}{path} =~ /(\d+)$/ } $receiver->requests), '1 2 3', 'each once, the late one as well');
is(join(' ', map { $_->json->{request}{path} =~ /(\d+)$/ } ($receiver->requests)[0]), '2', 'which delayed nobody');

# One that ends after a subscription from the beginning was made and before that reads so far is not sent as both
$receiver->forget;
kill STOP => my $notifier = $httpd->notifier_pid;
$psp->subscribe('past', { callback => $receiver->url('/past'), requests => { path => '/svc/r/*', method => 'PUT' }, since => 'beginning' });
admin('SELECT pubsubpull.record_requests($1)', record(4));
kill CONT => $notifier;
$receiver->wait_for(4, 10, qr{^/past});
$psp->settled('past', 'what was and what came');
is(join(' ', sort map { $_->json->{request}{path} =~ /(\d+)$/ } $receiver->requests(qr{^/past})), '1 2 3 4', 'what ends meanwhile is sent once');
$httpd->delete("$url/past", @as);
$psp->settled('r', 'the fourth');

# A user who is forgotten is sent to nobody
$receiver->forget;
$httpd->put("$url/r/state", { state => 'paused' }, @as);
recorded(call('/svc/r/5', 'UPDATE t SET v = 1 WHERE id = 1', user => 'bob'));
my $kept = call('/svc/r/6', 'UPDATE t SET v = 2 WHERE id = 1');
recorded($kept);
admin(q{SELECT pubsubpull.forget_user('bob')});
$httpd->put("$url/r/state", { state => 'active' }, @as);
$psp->settled('r', 'what is left');
is(join(' ', map { $_->json->{request}{id} } $receiver->requests), $kept, 'only calls of those who are still known');

# Two servers, both recording, and many calls: each arrives once
$receiver->forget;
my $other = PspTest::Httpd->start(pg => $pg, config => $config);
my @pids;
for my $server ($httpd, $other) {
    defined(my $pid = fork) or die "fork: $!";
    if (!$pid) {
        my @done = grep { $server->request('POST', '/svc/r/x', user => 'alice', body => 'INSERT INTO u VALUES (' . ($server == $httpd ? 1000 : 2000) . " + $_)")->status == 200 } 1 .. 100;
        require POSIX;
        POSIX::_exit(@done == 100 ? 0 : 1);
    }
    push @pids, $pid;
}
is(join(' ', map { waitpid $_, 0; $? } @pids), '0 0', 'calls at two servers');
$receiver->wait_for(200, 20);
$psp->settled('r', 'the calls of two servers');
my %seen;
$seen{ $_->json->{changes}[0]{new}{id} }++ for $receiver->requests;
is(scalar(keys %seen) . ' ' . scalar(grep { $_ > 1 } values %seen), '200 0', 'each call arrives, once');

# Nobody wants them: nothing is written
$httpd->delete("$url/r", @as);
my $logged = admin('SELECT count(*) FROM pubsubpull.change WHERE table_id = 0');
recorded(call('/svc/r/1', 'UPDATE t SET v = 1 WHERE id = 1'));
is(admin('SELECT count(*) FROM pubsubpull.change WHERE table_id = 0'), $logged, 'without a subscription the log has none');
$_->expect_log(qr/PSP04\d\d|AH01631/) for $httpd, $other;
finish;
