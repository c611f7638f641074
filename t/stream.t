# SPDX-License-Identifier: Apache-2.0
# stream.t: rows and changes as lines of JSON, of any number, from one moment; what breaks is seen to break.
use PspTest;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);

my $psp = PspTest->up(load => [qw(http2 cache cache_socache socache_shmcb)],
    config => "PubSubPullStreamTimeout 1\nPubSubPullPool 0 4\nProtocols h2c http/1.1\nCacheEnable socache /\n");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $tables = '/pubsubpull/tables';
my @as = (user => 'alice', headers => [Accept => 'application/x-ndjson']);
sub lines { my ($answer) = @_; return [split /(?<=\n)/, $answer->body] }
sub sessions { return $pg->admin->sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'pubsubpull_httpd' AND query LIKE 'COPY%' AND state <> 'idle'}) }

# All rows, whatever is in them
$psp->publish('public.t', 'id int PRIMARY KEY, t text, j json, secret text', { exclude => ['secret'] });
$pg->sql(q{INSERT INTO t VALUES (1, E'a "b" \\\\ \n\r\t \u00e4 \u2603 \x01\x02', E'{"a":\n[1,\r\n 2]}', 'hidden'), (2, NULL, NULL, NULL)});
$pg->sql(q{INSERT INTO t SELECT g, 'text ' || g, '[]', 'hidden' FROM generate_series(3, 3000) g});
my $answer = $httpd->get("$tables/public.t/rows/", @as);
is($answer->status, 200, 'rows as lines');
is($answer->header('Content-Type'), 'application/x-ndjson', 'of JSON');
is($answer->header('Cache-Control'), 'private, no-store', 'for nobody else');
my $rows = lines($answer);
is(scalar @$rows, 3000, 'one for each');
is_deeply(json($rows->[0]), { id => 1, t => "a \"b\" \\ \n\r\t \x{e4} \x{2603} \x01\x02", j => { a => [1, 2] } }, 'whatever is in it');
is(join(',', map { json($_)->{id} } @$rows), join(',', 1 .. 3000), 'by key');
unlike($answer->body, qr/secret|hidden/, 'and nothing that is excluded');
my $next = $answer->link('changes');
my $first = lines($httpd->get("$tables/public.t/rows/?order=desc&after=10&limit=3&fields=id", user => 'alice', headers => [Accept => 'application/jsonl']));
is_deeply($first, [map { qq({"id":$_}\n) } 9, 8, 7], 'order, after, limit and fields');
$pg->sql('UPDATE t SET t = NULL WHERE id = 5');
is_deeply([map { $_->{key}{id} } @{ $httpd->get($next, user => 'alice')->json->{changes} }], [5], 'and what changed since is behind the link');
is($httpd->get("$tables/public.t/rows/?after=x", @as)->status, 400, 'a bad key is a problem');
is($httpd->get("$tables/t/rows/?limit=1", @as)->header('Content-Location'), $httpd->url("$tables/public.t/rows/"), 'another spelling is answered with the URL');
$answer = $httpd->head("$tables/public.t/rows/", @as);
is($answer->status . $answer->body . $answer->header('Content-Type'), '200application/x-ndjson', 'HEAD');
like($answer->link('changes'), qr/since=/, 'with the link');
is($httpd->get("$tables/public.t/rows/", user => 'alice', headers => [Accept => 'application/json, application/x-ndjson;q=0.9'])->header('Content-Type'),
    'application/json', 'the client chooses');
is($httpd->get("$tables/public.t/rows/", user => 'alice', headers => [Accept => 'application/x-ndjson, */*;q=0.1'])->header('Content-Type'), 'application/x-ndjson', 'by weight');
like($httpd->get("$tables/public.t/rows/", user => 'alice', headers => [Accept => 'text/csv'])->json->{detail}, qr/application\/x-ndjson/, 'or is told what there is');

# Changes, more than a page; the link to go on with is known at the start
sub changes { return map { json($_)->{id} } @{ lines($_[0]) } }
my $log = join ',', map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], 'SELECT id FROM pubsubpull.change ORDER BY id') };
$answer = $httpd->get("$tables/public.t/changes/", @as);
is(join(',', changes($answer)), $log, 'all changes, each once');
is(json(lines($answer)->[0])->{new}{j}{a}[1], 2, 'each in a line');
$pg->sql('DELETE FROM t WHERE id = 7');
is(join(' ', map { json($_)->{type} } @{ lines($httpd->get($answer->link('next'), @as)) }), 'delete', 'then those that are new');
$answer = $httpd->get("$tables/public.t/changes/?limit=2", @as);
is(join(',', changes($answer), changes($httpd->get($answer->link('next'), @as))), join(',', (split /,/, $log)[0 .. 3]), 'or a page at a time');
is($httpd->get("$tables/public.t/changes/?since=x", @as)->status, 400, 'a bad cursor is a problem');

# A large table: memory stays flat
$psp->publish('public.big', 'id int PRIMARY KEY, t text');
$pg->sql('ALTER TABLE big DISABLE TRIGGER USER');
$pg->sql(q{INSERT INTO big SELECT g, repeat(md5(g::text), 16) FROM generate_series(1, 80000) g});
sub memory { my $sum = 0; $sum += slurp("/proc/$_/smaps_rollup") =~ /^Rss:\s+(\d+)/m ? $1 : 0 for split ' ', `pgrep -P $httpd->{pid}`; return $sum }
$httpd->get("$tables/public.big/rows/?limit=3", @as);
my $before = memory();    # sanitizers keep what was freed for a while
my $url = $httpd->url("$tables/public.big/rows/");
is(`curl -s -u alice:alice -H 'Accept: application/x-ndjson' $url | wc -l` + 0, 80_000, 'a large table');
cmp_ok(memory() - $before, '<', $ENV{PSP_PRELOAD} ? 200_000 : 8192, 'adds ' . (memory() - $before) . ' KB to httpd, of 40 MB');

# Over HTTP/2, and past a cache that keeps what it may
sub curl2 { return `curl -s --http2-prior-knowledge -u alice:alice @_` }
is(curl2('-H "Accept: application/x-ndjson"', $url) =~ tr/\n//, 80_000, 'the same over HTTP/2');
like(curl2('-N -m 1 -H "Accept: text/event-stream"', $httpd->url("$tables/public.t/changes/?limit=1")), qr/^retry: \d+\nid: \S+\ndata: \{"id":/, 'events, too');
$pg->sql(q{UPDATE t SET t = 'fresh' WHERE id = 5});
is($httpd->get("$tables/public.t/rows/5", user => 'alice')->json->{t}, 'fresh', 'a row');
$pg->sql(q{UPDATE t SET t = 'fresher' WHERE id = 5});
is($httpd->get("$tables/public.t/rows/5", user => 'alice')->json->{t}, 'fresher', 'is not kept by a cache');
is($httpd->get("$tables/public.t/rows/5")->status, 401, 'and not given to others');

# Clients that read nothing: their number is bounded, others are served, and their sessions end
sub stall {
    my ($path, $buffer) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->{port}) or die $!;
    setsockopt $s, SOL_SOCKET, SO_RCVBUF, pack('i', $buffer // 4096);
    print {$s} "GET $path HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\nAuthorization: Basic " . encode_base64('alice:alice', '') . "\r\n\r\n";
    return $s;
}
my @stalled = map { stall("$tables/public.big/rows/") } 1 .. 12;
wait_until { sessions() > 0 } 5, 'streams';
is($httpd->get("$tables/public.t/rows/1", user => 'alice')->status, 200, 'other requests are served meanwhile');
my $most = sessions();
cmp_ok($most, '<=', 4, "not more than half of each child's sessions stream ($most)");
wait_until { sessions() == 0 } 10, 'the end of all streams';
pass('after PubSubPullStreamTimeout their transactions are over');
$httpd->wait_for_log(qr/PSP0331/, 5);
close $_ for @stalled;

# Breaking in the middle
$psp->publish('public.slow', 'id int PRIMARY KEY, t text');
$pg->sql(q{INSERT INTO slow SELECT g, repeat('x', 1000) FROM generate_series(1, 5000) g});
my $reader = stall("$tables/public.big/rows/", 200_000);
wait_until { sessions() == 1 } 5, 'a stream';
$pg->kill_backend(q{usename = 'pubsubpull_httpd' AND query LIKE 'COPY%' AND state <> 'idle'});
my $got = do { local $/ = undef; <$reader> };
like($got, qr/\AHTTP\/1\.1 200 .*"id":1,/s, 'a stream began');
unlike($got, qr/\r\n0\r\n/, 'its session is killed: it ends without an end');
$httpd->wait_for_log(qr/PSP0330/, 5);
$pg->sql('CREATE VIEW failing AS SELECT id, t, 1 / (4000 - id) AS n FROM slow');
$pg->publishable('failing');
$httpd->put("$tables/public.failing", { key => ['id'] }, user => 'admin');
$answer = $httpd->get("$tables/public.failing/rows/", @as);
is($answer->{truncated}, 1, 'an error in the middle, too') or diag length $answer->body;
curl2('-o /dev/null -H "Accept: application/x-ndjson"', $httpd->url("$tables/public.failing/rows/"));
isnt($? >> 8, 0, 'also over HTTP/2: curl says ' . ($? >> 8));
is($httpd->get("$tables/public.failing/rows/?after=3999", @as)->status, 500, 'one before the first row is a problem');
is($httpd->get("$tables/public.t/rows/", @as)->status, 200, 'and the next request is served');
my $lock = $pg->dbh(AutoCommit => 0);
$lock->do('LOCK t');
is($httpd->get("$tables/public.t/rows/", @as)->status, 503, 'a locked table is not waited for for ever');
$lock->rollback;
$lock->disconnect;
$httpd->expect_log(qr/PSP033[01]|PSP031[234]|PSP030[12]|PSP0105/);
finish;
