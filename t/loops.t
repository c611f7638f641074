# SPDX-License-Identifier: Apache-2.0
# loops.t: a subscriber that answers what it is sent with a request is tied to its cause, and a chain of such ends.
use PspTest;
use Digest::SHA qw(hmac_sha256_hex);

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $port = free_port();
my $service = PspTest::Service->wsgi('sql_wsgi', path => [repo('t/services')], env => { $pg->env, SQL_URL => "http://127.0.0.1:$port/svc/back" });
my $file = tmp_dir() . '/key';
my $key = 'the key of this test, long enough';
spew($file, "$key\n");
chmod 0600, $file;
sub config {
    return <<"END" . join "\n", @_, '';
<Location "/svc/">
    PubSubPull On
    ProxyPass "@{[$service->url('/svc/')]}"
    Require valid-user
</Location>
END
}
my $psp = PspTest->up(pg => $pg, port => $port, config => config('PubSubPullMaxHops 3'));
my $httpd = $psp->httpd;
my $receiver = PspTest::Receiver->start;
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
my @alice = ('X-Authorization' => 'Basic YWxpY2U6YWxpY2U=');
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
$psp->publish('public.t', 'id int PRIMARY KEY, v int');
$pg->sql('INSERT INTO t SELECT n, 0 FROM generate_series(1, 99) n');

sub call { my ($sql, %o) = @_; return $httpd->request('POST', '/svc/x', user => 'alice', body => $sql, %o)->header('X-Request-Id') }
sub recorded { my ($id) = @_; return wait_until { my $r = $httpd->get("/pubsubpull/requests/$id", @as); $r->status == 200 && $r->json->{status} && $r->json } 10, "the end of $id" }
sub state_of { my ($name) = @_; return $httpd->get("$url/$name", @as)->json }
sub metric { my ($answer) = $httpd->get('/pubsubpull/metrics', @as)->body =~ /^pubsubpull_deliveries_failed_total\{reason="hops"\} (\d+)/m; return $answer }
sub value { my ($id) = @_; return admin('SELECT v FROM public.t WHERE id = ?', $id) }

# What a delivery says of its cause, and what comes of it when it is sent back
$psp->subscribe('see', { callback => $receiver->url('/see/{id}'), table => 'public.t' });
my $first = call('UPDATE t SET v = 1 WHERE id = 1');
my ($put) = $receiver->wait_for(1);
is($put->header('PubSubPull-Cause'), $first, 'a delivery names the request that caused it');
my ($trace) = $put->header('traceparent') =~ /^00-([0-9a-f]{32})-[0-9a-f]{16}-01$/;
is($trace, $first =~ s/-//gr, 'and goes on in its trace');
for my $case (
    ['the header', 'PubSubPull-Cause' => $first],
    ['the trace, in another span', traceparent => "00-$trace-00f067aa0ba902b7-01"],
    ['the header before the trace', traceparent => "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 'PubSubPull-Cause' => $first])
{
    my ($what, @headers) = @$case;
    my $id = call('UPDATE t SET v = v + 1 WHERE id = 2', headers => \@headers);
    is(recorded($id)->{cause}, $first, "tied by $what");
}
my @puts = $receiver->wait_for(4);
is($puts[-1]->json->{request}{cause}, $first, 'the cause is in events');
is(scalar(grep { ($_->{cause} // '') eq $first } @{ $httpd->get("/pubsubpull/requests/?cause=$first", @as)->json->{requests} }), 3, 'what a request caused can be listed');
is($httpd->get('/pubsubpull/requests/?cause=x', @as)->status, 400, 'by an id only');
is($httpd->get('/pubsubpull/tables/public.t/rows/2/changes/', @as)->json->{changes}[-1]{request}{cause}, $first, 'and is in a row\'s history');
for my $case (
    ['a trace of somebody else', traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'], ['an old one', traceparent => '00-016e9b0c5f1a7d6c8a2b3c4d5e6f7081-00f067aa0ba902b7-01'],
    ['garbage', traceparent => '00-x', 'PubSubPull-Cause' => q('";--)], ['an empty one', traceparent => '', 'PubSubPull-Cause' => ''],
    ['a made-up id', 'PubSubPull-Cause' => '00000000-0000-0000-0000-000000000000'], ['an id and more', 'PubSubPull-Cause' => "$first!" x 50, traceparent => "00-$trace"])
{
    my ($what, @headers) = @$case;
    my $r = recorded(call('UPDATE t SET v = v + 1 WHERE id = 3', headers => \@headers));
    is("$what: " . ($r->{cause} // 'none') . " $r->{user}", $what eq 'an id and more' ? "$what: $first alice" : "$what: none alice", "of $what nothing comes but, at most, a cause");
}
$httpd->delete("$url/see", @as);

# A batch names the deepest
$receiver->forget;
$psp->subscribe('many', { callback => $receiver->url('/many'), table => 'public.t', batch => 10 });
$httpd->put("$url/many/state", { state => 'paused' }, @as);
call('UPDATE t SET v = 1 WHERE id = 4');
my $deep = call('UPDATE t SET v = 1 WHERE id = 5', headers => ['PubSubPull-Cause' => $first]);
call('UPDATE t SET v = 1 WHERE id = 6');
$httpd->put("$url/many/state", { state => 'active' }, @as);
my ($batch) = $receiver->wait_for(1);
is(@{ $batch->json } . ' ' . $batch->header('PubSubPull-Cause'), "3 $deep", 'a batch names the deepest of its causes');
$httpd->delete("$url/many", @as);

# A subscriber that answers each change of a row with another ends after so many, whichever way it is tied, also with batches and calls
my $row = 10;
for my $case (
    ['cause', {}], ['trace', {}], ['cause', { batch => 5 }, '/'], ['trace', { table => undef, requests => { path => '/svc/**' } }])
{
    my ($how, $more, $path) = @$case;
    my $name = "loop$row";
    my $before = metric();
    $psp->subscribe($name, { callback => $service->url("/$how" . ($path // '/{id}')), table => 'public.t', headers => {@alice}, %$more });
    call("UPDATE t SET v = 1 WHERE id = $row");
    wait_until { state_of($name)->{failed} } 15, "$name to be stopped";
    $psp->settled($name);
    is(value($row), 5, "$name: three hops are allowed, what the fourth changed is not sent");
    my ($failure) = @{ $httpd->get("$url/$name/failures/", @as)->json->{failures} };
    like($failure->{error}, qr/^stopped: 4 requests .* PubSubPullMaxHops is 3$/, 'which is a failure with its reason');
    is("$failure->{state} $failure->{attempts}", 'failed 0', 'that was never sent');
    is(metric(), $before + 1, 'is counted');
    my $chain = recorded($failure->{request});
    my $n = 0;
    for (; $chain->{cause}; $n++) { $chain = recorded($chain->{cause}) }
    is("$n $chain->{path}", '4 /svc/x', 'and leads back to where it began');
    $httpd->delete("$url/$name", @as);
    $row++;
}
like($httpd->log, qr/PSP0480: \d+ deliveries were stopped, the last one for subscription loop10: 4 requests .* request [0-9a-f-]{36}, and PubSubPullMaxHops is 3/, 'there is a line in the log');

# Others are not stopped, and what was stopped can be sent all the same
$psp->subscribe('again', { callback => $service->url('/cause/{id}'), table => 'public.t', headers => {@alice} });
call('UPDATE t SET v = 1 WHERE id = 20');
wait_until { state_of('again')->{failed} } 15, 'a chain to be stopped';
$pg->sql('UPDATE t SET v = 100 WHERE id = 20');
$httpd->put("$url/again/failures/", { state => 'pending' }, @as);
wait_until { state_of('again')->{failed} == 2 } 15, 'what came of both to be stopped';
$psp->settled('again');
is(value(20), 106, 'a change past httpd begins a chain of its own, and what is tried again is sent, once');
$httpd->delete("$url/again", @as);

# With a key nobody but who was sent something can claim to be caused by it
$httpd->configure(config('PubSubPullMaxHops 3', "PubSubPullKey $file"));
$httpd->graceful;
wait_until { admin('SELECT count(*) FROM pubsubpull.key') == 1 } 10, 'the key';
$psp->subscribe('see', { callback => $receiver->url('/key/{id}'), table => 'public.t' });
$first = call('UPDATE t SET v = 1 WHERE id = 1');
($put) = $receiver->wait_for(1, 10, qr{^/key});
is($put->header('PubSubPull-Cause'), "$first; signature=" . hmac_sha256_hex($first, $key), 'the cause is signed');
($trace) = $put->header('traceparent') =~ /^00-([0-9a-f]{32})-/;
isnt($trace, $first =~ s/-//gr, 'and the trace does not tell the id');
my %claim = (
    'the header' => ['PubSubPull-Cause' => $put->header('PubSubPull-Cause')], 'the trace' => [traceparent => "00-$trace-00f067aa0ba902b7-01"],
    'an unsigned header' => ['PubSubPull-Cause' => $first], 'the id as a trace' => [traceparent => '00-' . ($first =~ s/-//gr) . '-00f067aa0ba902b7-01'],
    'a wrong signature' => ['PubSubPull-Cause' => "$first; signature=" . hmac_sha256_hex($first, "$key.")], 'one of another' => ['PubSubPull-Cause' => ($first =~ s/^./f/r) . '; signature=' . hmac_sha256_hex($first, $key)]);
for my $what (sort keys %claim) {
    my $r = recorded(call('UPDATE t SET v = v + 1 WHERE id = 2', headers => $claim{$what}));
    is($r->{cause}, $what =~ /^the (?:header|trace)$/ ? $first : undef, "with a key: $what");
    is($r->{changes}[0]{channel}, 'setting', 'and the envelope with it is believed');
}
$httpd->delete("$url/see", @as);
$psp->subscribe('keyed', { callback => $service->url('/trace/{id}'), table => 'public.t', headers => {@alice} });
call('UPDATE t SET v = 1 WHERE id = 30');
wait_until { state_of('keyed')->{failed} } 15, 'a chain to be stopped';
is(value(30), 5, 'a chain ends with a key as well');

# None at all
$httpd->configure(config('PubSubPullMaxHops 0', "PubSubPullKey $file"));
$httpd->graceful;
call('UPDATE t SET v = 1 WHERE id = 31');
wait_until { state_of('keyed')->{failed} == 2 } 15, 'a chain of none';
is(value(31), 2, 'with 0 nothing that a delivery caused is sent');
for my $bad ('-1', '1001', 'many', '3 4') {
    my $idle = PspTest::Httpd->start(stopped => 1, unwatched => 1, database => 'host=/nowhere', config => "PubSubPullMaxHops $bad");
    spew($idle->dir . '/stderr.log', ''); # it never runs
    my ($good, $said) = $idle->configtest;
    like(($good ? 'taken' : 'refused') . $said, qr/^refused.*PubSubPullMaxHops (?:must be a number from 0 to 1000|takes one)/s, "PubSubPullMaxHops $bad is a mistake");
}
$httpd->expect_log(qr/PSP0480|PSP044[01]/);
finish;
