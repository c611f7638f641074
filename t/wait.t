# SPDX-License-Identifier: Apache-2.0
# wait.t: waiting for changes: long-poll and Server-Sent Events; who waits holds no session, is bounded in number, and nothing is missed.
use PspTest;
use IO::Select;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);

my $psp = PspTest->up(config => "PubSubPullWaiters 40\nPubSubPullPool 0 2\n");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $path = '/pubsubpull/tables/public.t/changes/';
my @as = (user => 'alice');
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->publish('public.other', 'id int PRIMARY KEY');

# Requests that are under way: ask(url, header, …) is a socket, got(socket) what it brought so far
my %text;
sub ask {
    my ($url, @headers) = @_;
    $url =~ s{^http://[^/]+}{};
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->{port}) or die $!;
    $s->blocking(0);
    print {$s} join "\r\n", "GET $url HTTP/1.1", 'Host: x', 'Authorization: Basic ' . encode_base64('alice:alice', ''), @headers, '', '';
    $text{$s} = '';
    return $s;
}
sub got {
    my ($s) = @_;
    1 while sysread $s, $text{$s}, 65_536, length $text{$s};
    return $text{$s};
}
sub events { my ($s, $url, @headers) = @_; return ref $s ? join(" ", got($s) =~ /^data: \{"id":(\d+)/mg) : ask($url, "Accept: text/event-stream", @headers) }
sub waiting { return $pg->admin->sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'pubsubpull_httpd' AND query LIKE '%pubsubpull.watch(%'}) }
sub now { return $httpd->get("$path?since=now", @as)->json->{next} }

# Long-poll
my $next = now();
my $start = time;
my $answer = $httpd->get("$next&wait=1", @as);
cmp_ok(time - $start, '>=', 1, 'a request waits');
is($answer->status . @{ $answer->json->{changes} }, '2000', 'and ends without changes');
like($answer->json->{next}, qr/&wait=1$/, 'its link waits as well');
$start = time;
is($httpd->get("$next&wait=1", @as, headers => ['If-None-Match' => $answer->header('ETag')])->status, 304, 'with a validator it is 304');
cmp_ok(time - $start, '>=', 1, 'after the wait');
is($httpd->get("$next&wait=x", @as)->json->{type}, 'urn:pubsubpull:problem:bad-wait', 'nonsense is refused');
my $s = ask($next, 'Prefer: respond-async, wait=1000');
wait_until { waiting() } 5, 'a watcher';
$pg->sql('INSERT INTO other VALUES (1)');
$pg->sql('INSERT INTO t VALUES (1, 1)');
wait_until { got($s) =~ /"changes":\[\{.*"table":"public\.t"/ } 2, 'the change';
like(got($s), qr/^Preference-Applied: wait=60\r$/m, 'Prefer works, up to a minute');
is(() = got($s) =~ /"id":\d+,"table"/g, 1, 'changes of other tables do not count');
$start = time;
is(scalar @{ $httpd->get("$next&wait=30", @as)->json->{changes} }, 1, 'what is there is not waited for');
cmp_ok(time - $start, '<', 5, 'at all');

# A transaction that is open; a filter; one row
$next = now();
my $writer = $pg->dbh(AutoCommit => 0);
$writer->do('INSERT INTO t VALUES (2, 2)');
my %wait = (all => ask("$next&wait=30"), delete => ask("$next&wait=30&on=delete"), row => ask($next =~ s{/changes/}{/rows/3/changes/}r . '&wait=30'),
    lines => ask("$next&wait=30", 'Accept: application/x-ndjson'), every => ask('/pubsubpull/changes/?wait=30&since=' . ($next =~ /since=([^&]*)/)[0]));
wait_until { waiting() } 5, 'a watcher';
$pg->sql('INSERT INTO t VALUES (3, 3)');
wait_until { got($wait{row}) =~ /"id":3/ } 2, 'the change of one row';
$pg->sql('DELETE FROM t WHERE id = 3');
wait_until { got($wait{delete}) =~ /"type":"delete"/ } 2, 'a delete';
unlike(got($wait{delete}), qr/insert/, 'on waits for what it names');
wait_until { got($wait{$_}) =~ /"id":3/ } 2, "a change for $_" for qw(all lines every);
$next = now();
$s = ask("$next&wait=30");
$writer->commit;
wait_until { got($s) =~ /"key":\{"id":2\}/ } 2, 'the change that was open';
pass('each gets what it waits for, when it is committed');
$writer->disconnect;

# Events
$next = now();
my $e = events(undef, $next);
wait_until { got($e) =~ /^id: \S+\n\n/m } 5, 'an event stream';
like(got($e), qr/^Content-Type: text\/event-stream\r$/m, 'its type');
like(got($e), qr/^retry: \d+\n/m, 'when to come again');
$pg->sql('INSERT INTO t VALUES ($1, 0)', $_) for 10 .. 12;
wait_until { events($e) =~ /\d+ \d+ \d+/ } 2, 'three events';
$pg->sql('UPDATE t SET n = 1 WHERE id >= 10');
wait_until { 6 == (() = events($e) =~ /\d+/g) } 2, 'three more';
my @blocks = map { /^id: (\S+)\ndata: (.*)$/ ? [$1, json($2)] : () } split /\n\n/, got($e) =~ s/\r\n[0-9a-f]+\r\n//gr =~ s/^.*?\r\n\r\n//sr;
is(join(' ', map { "$_->[1]{type}:$_->[1]{key}{id}" } @blocks), 'insert:10 insert:11 insert:12 update:10 update:11 update:12', 'in order, each once');
my $again = events(undef, "$path?since=now", "Last-Event-ID: $blocks[3][0]");
wait_until { events($again) eq join ' ', map { $_->[1]{id} } @blocks[4, 5] } 5, 'the rest';
pass('Last-Event-ID goes on behind that event');
close $_ for $e, $again;
is($httpd->head("$path", @as, headers => [Accept => 'text/event-stream'])->header('Content-Type'), 'text/event-stream', 'HEAD');
is($httpd->get("$path?since=x", @as, headers => [Accept => 'text/event-stream'])->status, 400, 'a bad cursor is a problem');

# One change of a table behind very many of another, in one commit
my $elsewhere = $httpd->get('/pubsubpull/tables/public.other/changes/?since=now', @as)->json->{next};
my @two = map { ask(now() . '&wait=60'), ask("$elsewhere&wait=60") } 1 .. 6;
wait_until { waiting() } 5, 'a watcher';
sleep 0.3;    # all wait
$pg->sql('DO $$ BEGIN INSERT INTO t SELECT g, 0 FROM generate_series(1000, 2000) g; INSERT INTO other VALUES (2); END $$');
wait_until { 12 == grep { got($_) =~ /"id":(?:1000|2)\}/ } @two } 5, 'all to hear of it';
pass('who follows either hears of it');
close $_ for @two;

# Many wait: each gets the change at once, by few calls, and none holds a session
$next = now();
my @crowd = map { $_ % 2 ? ask("$next&wait=60") : events(undef, $next) } 1 .. 36;
wait_until { my $n = () = grep { got($_) =~ /^id: /m } @crowd; $n == 18 } 10, 'event streams';
is($httpd->get('/pubsubpull/tables/public.t/rows/1', @as)->status, 200, 'others are served meanwhile, with two sessions');
sub reached { my ($id) = @_; return scalar grep { got($_) =~ /"key":\{"id":$id\}/ } @crowd }
sleep 0.3;    # all wait
$start = time;
$pg->sql('INSERT INTO t VALUES (20, 0)');
wait_until { reached(20) == 36 } 5, 'the change for all';
cmp_ok(time - $start, '<', 1, sprintf 'within %.0f ms', (time - $start) * 1000);
$pg->sql('INSERT INTO t VALUES (21, 0)');
wait_until { reached(21) == 18 } 5, 'the next event';
is(reached(21), 18, 'a long-poll is over after one answer');

# Many come at once: those who ask the same have one call in common, as long as it is under way, and the next for who comes meanwhile
$next = now();
my $busy = sub { return ($httpd->get('/server-status?auto')->body =~ /^BusyWorkers: (\d+)/m)[0] };
my $lock = $pg->admin->dbh(AutoCommit => 0);
$lock->do('LOCK TABLE pubsubpull.published');
my @same = map { ask("$next&wait=60") } 1 .. 20;
wait_until { $busy->() > 20 } 10, 'all to have come';
cmp_ok($pg->admin->sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'pubsubpull_httpd' AND wait_event_type = 'Lock' AND query LIKE '%changes_get(%'}),
    '<=', 2, 'a call of each process');
$lock->disconnect;
wait_until { $busy->() == 1 } 10, 'all to wait';
$pg->sql('INSERT INTO t VALUES (22, 0)');
wait_until { 20 == grep { got($_) =~ /"changes":\[\{.*"key":\{"id":22\}/ } @same } 5, 'the change for all';
pass('all hear of the next change');

# Too many
my @more = map { ask(now() . '&wait=60') } 1 .. 30;
wait_until { scalar grep { got($_) =~ /^HTTP\/1\.1 503 / } @more } 5, 'a refusal';
my ($refused) = grep { got($_) =~ /^HTTP\/1\.1 503 / } @more;
like(got($refused), qr/^Retry-After: \d+\r$/m, 'is told when to come again');
like(got($refused), qr/too-many-wait/, 'and why');
wait_until { 30 - (40 - 18) == grep { got($_) =~ /^HTTP\/1\.1 503 / } @more } 5, 'the refusals';
pass('as many as come beyond PubSubPullWaiters');
is($httpd->get('/pubsubpull/tables/public.t/rows/1', @as)->status, 200, 'others are served');

# Who goes away gives its place up
close $_ for @crowd, @more;
wait_until { my $probe = ask(now() . '&wait=60'); sleep 0.1; my $ok = got($probe) !~ /503/; close $probe; $ok } 10, 'a place';
pass('the places of those who left are free again');

# The database away while they wait
$next = now();
$s = ask("$next&wait=60");
$e = events(undef, $next);
wait_until { got($e) =~ /^id: /m } 5, 'an event stream';
$pg->stop('fast');
wait_until { got($s) =~ /^HTTP\/1\.1 503 / } 20, 'the end of the long-poll';
wait_until { got($e) =~ /\r\n0\r\n\r\n/ } 20, 'the end of the events';
pass('without the database they end, to come again');
$pg->launch;
wait_until { $httpd->get("$path?since=now", @as)->status == 200 } 20, 'the database';

# httpd stops: nobody waits on
$next = now();
$s = ask("$next&wait=60");
$e = events(undef, $next);
wait_until { got($e) =~ /^id: /m && waiting() } 10, 'those who wait';
$start = time;
$httpd->graceful;
wait_until { got($s) =~ /"changes":\[\]/ && got($e) =~ /\r\n0\r\n\r\n/ } 10, 'their end';
cmp_ok(time - $start, '<', 5, 'a graceful restart ends those who wait');
$next = now();
$s = ask("$next&wait=60");
wait_until { waiting() } 5, 'a watcher';
$pg->sql('INSERT INTO t VALUES (30, 0)');
wait_until { got($s) =~ /"id":30/ } 5, 'the change';
pass('and the next ones wait as before');
$httpd->expect_log(qr/PSP031[0-4]|PSP0301|PSP0331|PSP041\d/);

# A process per request
$httpd = PspTest::Httpd->start(pg => $pg, mpm => 'prefork', config => 'PubSubPullNotifier Off');
$next = now();
$s = ask("$next&wait=60");
$e = events(undef, $next);
wait_until { got($e) =~ /^id: /m && waiting() } 10, 'those who wait';
$pg->sql('INSERT INTO t VALUES (40, 0)');
wait_until { got($s) =~ /"key":\{"id":40\}/ && got($e) =~ /"key":\{"id":40\}/ } 5, 'the change';
$s = ask(now() . '&wait=60');
sleep 0.3;
$httpd->graceful;
wait_until { got($s) =~ /"changes":\[\]/ && got($e) =~ /\r\n0\r\n\r\n/ } 10, 'their end';
pass('prefork lets wait, and ends it when it restarts');
$httpd->expect_log(qr/PSP0331/);
finish;
