# SPDX-License-Identifier: Apache-2.0
# metrics.t: /metrics and server-status tell what happened, in good form, whatever dies meanwhile.
use PspTest;
use PspTest::OpenMetrics;
use Digest::SHA qw(hmac_sha256_hex);

my $receiver = PspTest::Receiver->start;
my $psp = PspTest->up(config => <<"END");
<Location /svc/>
    PubSubPull On
    PubSubPullRecord all
    ProxyPass @{[$receiver->url('/svc/')]}
</Location>
<Location /pubsubpull/metrics>
    Require user auditor
</Location>
END
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $path = '/pubsubpull/metrics';
my @as   = (user => 'auditor');
my @open = (headers => [Accept => 'application/openmetrics-text;version=1.0.0;q=0.7,text/plain;version=0.0.4;q=0.3,*/*;q=0.1']);

sub metrics {
    my $answer = $httpd->get($path, @as, @open);
    $answer->status == 200 or die 'metrics: ' . $answer->status;
    return PspTest::OpenMetrics->parse($answer->body);
}
sub value { my ($name, @label) = @_; return metrics()->value("pubsubpull_$name", @label) }
sub of    { my ($subscription, $name) = @_; return value("subscription_$name", subscription => $subscription) }
sub becomes {
    my ($what, $wanted, $name) = @_;
    my $got;
    ok(eval { wait_until { ($got = $what->()) == $wanted } 10; 1 }, $name) or diag "got $got, wanted $wanted";
    return;
}
sub status_of {
    my %s = $httpd->get('/server-status?auto')->body =~ /^PubSubPull(\w+): (-?\d+)$/mg;
    return \%s;
}

# Form
my $answer = $httpd->get($path, @as, @open);
is($answer->status, 200, 'metrics');
is($answer->header('Content-Type'), 'application/openmetrics-text; version=1.0.0; charset=utf-8', 'OpenMetrics for who asks for it');
ok(eval { PspTest::OpenMetrics->parse($answer->body); 1 }, 'and it is that') or diag $@, $answer->body;
for my $accept ([], [Accept => '*/*'], [Accept => 'text/plain;version=0.0.4;q=0.9, application/openmetrics-text;version=1.0.0;q=0.5'],
    [Accept => 'application/openmetrics-text;version=1.0.0;q=0, */*'], [Accept => 'application/openmetrics-text;version=2.0.0']) {
    my $old = $httpd->get($path, @as, headers => $accept);
    is($old->header('Content-Type'), 'text/plain; version=0.0.4; charset=utf-8', "the older format for @$accept");
    ok(eval { PspTest::OpenMetrics->parse($old->body, old => 1); 1 }, 'and it is that') or diag $@;
}
my $head = $httpd->head($path, @as, @open);
is($head->status . $head->body, '200', 'HEAD');
cmp_ok($head->header('Content-Length'), '>', 1000, 'with the length');
is($httpd->put($path, {}, @as)->status, 405, 'nothing to PUT');
is($httpd->get('/pubsubpull/', user => 'alice')->json->{metrics}, $httpd->url($path), 'the root links to it');
is($httpd->get($path, user => 'alice')->status, 401, 'Require decides who may see it');
is(value('database_up') . value('notifier_up') . value('build_info', schema_version => 4), '111', 'all is up');

# A delivery that arrives
$psp->publish('public.t', 'id int PRIMARY KEY');
$psp->subscribe('good', { callback => $receiver->url('/good/{id}'), table => 'public.t' });
$pg->sql('INSERT INTO t SELECT g FROM generate_series(1, 3) g');
becomes(sub { value('deliveries_sent_total') }, 3, 'three sent');
is(value('events_read_total') . value('events_sent_total'), '33', 'three read, and sent');
becomes(sub { of('good', 'lag_changes') + of('good', 'lag_seconds') }, 0, 'nothing left');
is(value('subscriptions', state => 'active'), 1, 'one active subscription');

# Those that fail, each for a reason of its own
$psp->publish('public.f', 'id text PRIMARY KEY');
my $closed = free_port();
my %callback = (
    '4xx' => $receiver->url('/404'), '5xx' => $receiver->url('/500'), status => $receiver->url('/302'), timeout => $receiver->url('/hang'),
    connect => "http://127.0.0.1:$closed/", denied => 'http://10.0.0.1/', tls => "https://127.0.0.1:@{[$httpd->port]}/",
    dns => 'http://' . 'a' x 64 . '.invalid/', url => $receiver->url('/{id}'), other => $receiver->url('/close'),
);
$receiver->reply(path => "/$_", status => $_) for qw(404 500 302);
$receiver->reply(path => '/hang', hang => 1);
$receiver->reply(path => '/close', close => 1);
$psp->subscribe("f-$_", { callback => $callback{$_}, table => 'public.f', timeout => 1, retry => { for => 0 } }) for sort keys %callback;
$pg->sql(q{INSERT INTO f VALUES (repeat('x', 9000))});
becomes(sub { of("f-$_", 'given_up_total') }, 1, "$_: given up") for sort keys %callback;
my $m = metrics();
is($m->value('pubsubpull_deliveries_failed_total', reason => $_), 1, "$_: counted") for sort keys %callback;
is($m->value('pubsubpull_deliveries_failed_total', reason => 'local'), 0, 'and for no other reason');
is($m->value('pubsubpull_subscription_failed_deliveries', subscription => 'f-url'), 1, 'it can be looked at');
is($m->value('pubsubpull_subscription_oldest_pending_seconds', subscription => 'f-url') + 0, 0, 'nothing is pending of what was given up');
$httpd->delete('/pubsubpull/subscriptions/f-5xx/failures/', user => 'billing');
is(of('f-5xx', 'failed_deliveries') . of('f-5xx', 'given_up_total'), '01', 'what is discarded was given up all the same');
unlike($httpd->get($path, @as)->body, qr/127\.0\.0\.1|public|billing/, 'no callback, table or owner is shown');
$httpd->delete("/pubsubpull/subscriptions/f-$_", user => 'billing') for sort keys %callback;

# One that is tried again, and one that waits for it
$receiver->reply(path => '/once/1', status => 500, times => 1);
$receiver->reply(match => '^/down', status => 503);
$psp->publish('public.r', 'id int PRIMARY KEY, n int DEFAULT 0');
$psp->subscribe('once', { callback => $receiver->url('/once/{id}'), table => 'public.r' });
$psp->subscribe('down', { callback => $receiver->url('/down/{id}'), table => 'public.r', retry => { first => 3600 } });
$pg->sql('INSERT INTO r VALUES (1)');
becomes(sub { value('deliveries_retried_total') }, 1, 'one is tried again');
becomes(sub { value('deliveries_sent_total') }, 4, 'and arrives');
becomes(sub { of('down', 'parked_deliveries') }, 1, 'another one waits');
$m = metrics();
is($m->value('pubsubpull_subscription_lag_changes', subscription => 'down'), 0, 'which is no lag');
cmp_ok($m->value('pubsubpull_subscription_oldest_pending_seconds', subscription => 'down'), '>', 0, 'but pending');
$pg->sql('UPDATE r SET n = 1');
becomes(sub { of('down', 'parked_deliveries') }, 2, 'with what waits behind it');
$httpd->delete('/pubsubpull/subscriptions/down', user => 'billing');

# On the wire
$receiver->reply(path => '/good/4', delay => 2);
$pg->sql('INSERT INTO t VALUES (4), (5), (6)');
becomes(sub { value('deliveries_in_flight') + 10 * of('good', 'lag_changes') }, 11, 'one in flight, and those after it are done');
becomes(sub { value('deliveries_in_flight') }, 0, 'and landed');
$receiver->reset;

# Batches
$psp->publish('public.b', 'id int PRIMARY KEY');
$psp->subscribe('batches', { callback => $receiver->url('/batches'), table => 'public.b', batch => 100 });
my $sofar = metrics();
$pg->sql('INSERT INTO b SELECT g FROM generate_series(1, 50) g');
becomes(sub { value('events_sent_total') - $sofar->value('pubsubpull_events_sent_total') }, 50, 'fifty events');
my $puts = () = $receiver->requests(qr{^/batches});
is(value('deliveries_sent_total') - $sofar->value('pubsubpull_deliveries_sent_total'), $puts, "in $puts deliveries");
cmp_ok($puts, '<', 50, 'which are fewer');

# Lag: paused; more than is counted; a transaction that was open when the position was taken; in the middle of a batch
$psp->publish('public.l', 'id int PRIMARY KEY');
$psp->subscribe('late', { callback => $receiver->url('/late/{id}'), table => 'public.l' });
my $late = '/pubsubpull/subscriptions/late';
$httpd->put("$late/state", { state => 'paused' }, user => 'billing');
is(value('subscriptions', state => 'paused'), 1, 'one is paused');
my $open = $pg->dbh(AutoCommit => 0);
$open->do('INSERT INTO l VALUES (1), (2)');
$pg->sql('INSERT INTO l VALUES (3)');
is(of('late', 'lag_changes'), 1, 'one change behind');
$httpd->put("$late/position", { since => 'now' }, user => 'billing');
is(of('late', 'lag_changes') + of('late', 'lag_seconds'), 0, 'none after it was skipped');
$open->commit;
is(of('late', 'lag_changes'), 2, 'then what was open at that time');
cmp_ok(of('late', 'lag_seconds'), '>', 0, 'and since when');
cmp_ok(of('late', 'oldest_pending_seconds'), '>', 0, 'which is pending');

my @db = (user => 'pubsubpull');
$pg->sql([@db], q{CREATE FUNCTION pg_temp.walk(p pubsubpull.position, t int) RETURNS int LANGUAGE plpgsql AS $$
    DECLARE n int := 0; r record;
    BEGIN
      FOR batch IN 1 .. 2 LOOP
        p := pubsubpull.begin_batch(p);
        LOOP
          SELECT * INTO r FROM pubsubpull.feed_page(p, ARRAY[t], 3, 1000000);
          n := n + coalesce(cardinality(r.page), 0);
          EXIT WHEN NOT r.more;
          p.after_id := r.page[cardinality(r.page)].id;
        END LOOP;
        p := pubsubpull.end_batch(p);
      END LOOP;
      RETURN n;
    END $$});
my $table = $pg->sql([@db], q{SELECT id FROM pubsubpull.published WHERE name = 'public.l'});
my (@positions, @opened, $base);
my $position = sub { return $pg->sql([@db], "SELECT ($_[0])::pubsubpull.position FROM pubsubpull.begin_batch(coalesce(\$1::text::pubsubpull.position, pubsubpull.now_position())) p", $_[1]) };
for my $n (1 .. 4) {
    push @opened, $pg->dbh(AutoCommit => 0);
    $opened[-1]->do('INSERT INTO l VALUES ($1), ($1 + 1)', undef, 100 * $n);
    $pg->sql('INSERT INTO l SELECT g FROM generate_series($1::int, $1::int + 4) g', 100 * $n + 10);
    $opened[0]->commit if $n == 2;
    push @positions, $position->('p.since, p.since_id, p.since_next, p.upto, p.upto_id, p.upto_next, p.top_id, (p.since_id + p.upto_id) / 2, NULL', $base) if $base;
    push @positions, $base = $position->('p.since, p.since_id, p.since_next, NULL, NULL, NULL, NULL, NULL, NULL');
    push @positions, $position->('p.since, p.since_id - 3, p.since_next, NULL, NULL, NULL, NULL, NULL, NULL');
}
my $compare = sub {
    my (@got, @wanted);
    for my $p (@positions) {
        push @got, $pg->sql([@db], q{SELECT coalesce((SELECT changes FROM pubsubpull.lag($1::text::pubsubpull.position, '{}', ARRAY[$2::int], 100)), 0)}, $p, $table);
        push @wanted, $pg->sql([@db], 'SELECT pg_temp.walk($1::text::pubsubpull.position, $2)', $p, $table);
    }
    is("@got", "@wanted", "lag is what a follower would read: @wanted");
};
$compare->();
$_->commit for @opened[1 .. 3];
$compare->();
$pg->sql(q{INSERT INTO l SELECT g FROM generate_series(1000, 12000) g});
is(of('late', 'lag_changes'), 10000, 'counting stops');
$httpd->put("$late/position", { since => 'now' }, user => 'billing');

# Changes that name a request which is not believed
$psp->publish('public.u', 'id serial PRIMARY KEY, n int');
$pg->sql('CREATE TABLE parts (id int, n int) PARTITION BY LIST (id)');
$pg->sql("CREATE TABLE parts_$_ PARTITION OF parts FOR VALUES IN ($_)") for 1, 2;
$pg->publishable('parts_1', 'parts_2');
$psp->publish('public.parts');
my %counted;
sub unattributed {
    my ($reason, $n, $name) = @_;
    $counted{$reason} += $n;
    my $m = metrics();
    my %now = map { $_ => $m->value('pubsubpull_changes_unattributed_total', reason => $_) } qw(malformed unsigned forged expired unknown prepared);
    is_deeply(\%now, { map({ $_ => 0 } keys %now), %counted }, $name);
    return;
}
sub named { return $pg->sql(q{SELECT set_config('pubsubpull.request', $1, false)}, $_[0]) }
unattributed('forged', 0, 'no change is unattributed so far');
named('nonsense');
$pg->sql('INSERT INTO u (n) SELECT g FROM generate_series(1, 5) g');
unattributed('malformed', 5, 'every row that was changed counts');
$pg->sql('UPDATE u SET n = n + 1 WHERE id = 1');
$pg->sql('UPDATE u SET n = n + 1 WHERE id < 4');
$pg->sql('DELETE FROM u WHERE id = 5');
$pg->sql('DELETE FROM u WHERE id = 5');
$pg->sql('TRUNCATE u');
unattributed('malformed', 6, 'whatever was done to them');
my $undone = $pg->dbh(AutoCommit => 0);
$undone->do(q{SET pubsubpull.request = 'nonsense'});
$undone->do('INSERT INTO u (n) VALUES (1)');
$undone->rollback;
unattributed('malformed', 0, 'what was rolled back does not');
$pg->sql(q{INSERT INTO parts VALUES (1), (2)});
$pg->sql(q{UPDATE parts SET n = 2 WHERE id = 2});
unattributed('malformed', 3, 'rows of partitions do');
$pg->sql('INSERT INTO u (n) VALUES (1)') for 1 .. 120;
wait_until { $pg->sql([@db], 'SELECT count(*) FROM pubsubpull.unattributed_count') < 100 } 10, 'the count to be added up';
unattributed('malformed', 120, 'added up it says the same');
my $made_up = '01900000-0000-7000-8000-000000000001';
named(qq({"id":"$made_up","method":"PUT"}));
$pg->sql('INSERT INTO u (n) VALUES (1)');
unattributed('unsigned', 0, 'without a key no signature is missed');
$pg->sql([@db], q{SELECT pubsubpull.set_keys(gen_random_uuid(), NULL, ARRAY[repeat('ab', 20)], 300)});
$pg->sql('INSERT INTO u (n) VALUES (1)');
unattributed('unsigned', 1, 'with one it is');
named(qq({"id":"$made_up","method":"PUT","signature":"@{['0' x 64]}"}));
$pg->sql('INSERT INTO u (n) VALUES (1), (2)');
unattributed('forged', 2, 'a wrong one');
my $envelope = qq({"id":"$made_up","method":"PUT");
named(qq($envelope,"signature":") . hmac_sha256_hex($envelope, pack 'H*', 'ab' x 20) . '"}');
$pg->sql('INSERT INTO u (n) VALUES (1)');
unattributed('expired', 1, 'one that is too old');
$pg->sql([@db], 'SELECT pubsubpull.forget_keys()');
named('');
$pg->sql(q{SELECT set_config('application_name', 'psp:01900000-0000-7000-8000-000000000002', false)});
$pg->sql('INSERT INTO u (n) VALUES (1), (2), (3)');
$pg->sql(q{SET application_name = ''});
$pg->sql([@db], q{SELECT pubsubpull.judge_claims('0')});
unattributed('unknown', 3, 'an id that httpd does not know');
ok(!eval { $pg->sql('DELETE FROM pubsubpull.unattributed_count'); 1 }, 'who is counted cannot take it back');

# server-status
my $status = status_of();
$m = metrics();
is_deeply([@$status{qw(NotifierUp DatabaseUp InFlight Failed Retried NotifierPid)}], [1, 1, 0, 12, 1, $httpd->notifier_pid], 'server-status?auto');
is($status->{Sent}, $m->value('pubsubpull_deliveries_sent_total'), 'says the same');
my $page = $httpd->get('/server-status')->body;
like($page, qr{<h2>PubSubPull</h2>\s*<dl>\s*(?:<dt>[^<>]+: \d+</dt>\s*){10}</dl>}, 'and the page for people');
like($page, qr{<dt>Deliveries failed: 12</dt>}, 'with the numbers');

# Requests are recorded
$httpd->get('/svc/x') for 1 .. 5;
becomes(sub { value('records_written_total') }, 5, 'records of requests are written');
is(value('records_waiting', place => 'ring') + value('records_waiting', place => 'notifier'), 0, 'none waits');

# The notifier is killed
my $before = metrics();
my $pid = $httpd->notifier_pid;
kill KILL => $pid;
becomes(sub { value('notifier_restarts_total') }, 1, 'a notifier that died');
becomes(sub { value('notifier_up') }, 1, 'and another one');
cmp_ok(value('notifier_start_time_seconds'), '>', $before->value('pubsubpull_notifier_start_time_seconds'), 'started later');
$pg->sql('INSERT INTO t VALUES (15)');
my $sent = $before->value('pubsubpull_deliveries_sent_total');
becomes(sub { value('deliveries_sent_total') }, $sent + 1, 'counters go on');

# A graceful restart
$httpd->graceful;
$pg->sql('INSERT INTO t VALUES (16)');
becomes(sub { value('deliveries_sent_total') }, $sent + 2, 'over a graceful restart, too');
is(value('notifier_restarts_total'), 1, 'which is no death');

# The database is away
$pg->stop;
$m = metrics();
is($m->value('pubsubpull_database_up'), 0, 'without the database the answer says so');
is($m->value('pubsubpull_deliveries_sent_total'), $sent + 2, 'and all that is known without it');
ok(!(grep { /pubsubpull_subscription/ } $m->series), 'and nothing else');
cmp_ok($m->value('pubsubpull_pool_errors_total', reason => 'unreachable'), '>', 0, 'as the resources notice, too');
becomes(sub { value('notifier_database_connected') }, 0, 'the notifier has none either');
$httpd->get('/svc/x') for 1 .. 3;
becomes(sub { value('records_waiting', place => 'ring') }, 3, 'records wait');
is(status_of()->{RecordsWaiting}, 3, 'server-status knows');
kill KILL => $httpd->notifier_pid;
becomes(sub { scalar $httpd->notifier_pids }, 1, 'another notifier');
$pg->launch;
becomes(sub { value('notifier_database_connected') }, 1, 'it is back');
becomes(sub { value('database_up') }, 1, 'for resources');
becomes(sub { value('records_waiting', place => 'ring') }, 0, 'what waited while a notifier was killed is written');
is(value('records_dropped_total'), 0, 'and nothing lost');
$pg->kill_backend(q{application_name = 'pubsubpull notifier'});
becomes(sub { value('notifier_database_reconnects_total') > 0 }, 1, 'sessions that are opened again');

# A name that only somebody with SQL can have given
$pg->sql([@db], q{UPDATE pubsubpull.subscription SET name = E'a"b\\\\n\nc' WHERE name = 'late'});
is(of(qq{a"b\\n\nc}, 'parked_deliveries'), 0, 'labels are escaped');
kill STOP => $httpd->notifier_pid;
becomes(sub { value('notifier_up') }, 0, 'a notifier that hangs is not up');
kill CONT => $httpd->notifier_pid;

$httpd->expect_log(qr/PSP04(?:03|10|11|4\d)|PSP031\d|AH01631: user alice|exit signal/);
finish;
