# SPDX-License-Identifier: Apache-2.0
# members.t: what the members batch, latest, rate, columns and when of a subscription do to its notifications.
use PspTest;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, v int');
my $url = '/pubsubpull/subscriptions';
my @as = (user => 'billing');
my %retry = (retry => { first => 1, max => 1 });

sub events { return map { @{ $_->json } } @_ }

# Batches: all arrive, once, in order per key, few at a time never more than asked for
$psp->subscribe('b', { callback => $receiver->url('/b/{table}'), table => 'public.t', batch => 10, concurrency => 2, %retry });
$receiver->reply(match => '^/b', delay => 0.02);
$pg->sql('INSERT INTO t SELECT n, 0 FROM generate_series(1, 100) n');
$pg->sql('UPDATE t SET v = v + 1') for 1 .. 3;
$psp->settled('b', 'a backlog is sent');
my @puts = $receiver->requests(qr{^/b/public\.t$});
my @events = events(@puts);
is(scalar @events, 400, 'every change is in a batch, once');
cmp_ok(scalar(grep { @{ $_->json } > 10 } @puts), '==', 0, 'no batch is larger than asked for');
cmp_ok(scalar @puts, '<', 100, 'and most are full: ' . @puts . ' PUTs');
my (%last, $disorder);
for my $event (@events) {
    $disorder++ if ($last{ $event->{key}{id} } // 0) >= $event->{id};
    $last{ $event->{key}{id} } = $event->{id};
}
is($disorder, undef, 'in order per key');
is(scalar(grep { my @ids = map { $_->{id} } @{ $_->json }; "@ids" ne join ' ', sort { $a <=> $b } @ids } @puts), 0, 'and within each batch');
is($puts[0]->header('content-type'), 'application/json', 'as JSON');
$pg->sql('TRUNCATE t');
$pg->sql('INSERT INTO t VALUES (1, 1), (2, 2)');
$psp->settled('b', 'TRUNCATE between changes');
@events = (events($receiver->requests(qr{^/b})))[400 .. 402];
is(join(' ', map { $_->{type} } @events), 'truncate insert insert', 'TRUNCATE keeps its place');

# A batch that fails is tried again as it was, under the same id, and what comes later of its keys waits
$receiver->forget;
$receiver->reply(match => '^/b', status => 500, times => 1);
$pg->sql('UPDATE t SET v = 10');
$receiver->wait_for(1);
$pg->sql('UPDATE t SET v = 11');
$psp->settled('b', 'a batch is tried again');
@puts = $receiver->requests(qr{^/b});
is($puts[1]->header('webhook-id'), $puts[0]->header('webhook-id'), 'the same webhook-id');
is($puts[1]->body =~ s/"cursor":[^,}]*//gr, $puts[0]->body =~ s/"cursor":[^,}]*//gr, 'and the same events');
is(join(' ', map { $_->{new}{v} } events(@puts[1 .. $#puts])), '10 10 11 11', 'before the later ones of their keys');
cmp_ok(scalar(map { $_->header('webhook-id') } @puts), '>=', 3, 'which come in another');
isnt($puts[2]->header('webhook-id'), $puts[0]->header('webhook-id'), 'with another webhook-id');

# Given up: each event of the batch is a failure, and can be tried again
$psp->subscribe('b', { callback => $receiver->url('/b/{table}'), table => 'public.t', batch => 10, concurrency => 2, retry => { first => 1, max => 1, for => 0 } });
$receiver->forget;
$receiver->reply(match => '^/b', status => 500, times => 1);
$pg->sql('UPDATE t SET v = 12');
wait_until { @{ $httpd->get("$url/b/failures/", @as)->json->{failures} } == 2 } 10, 'two failures';
$pg->sql('UPDATE t SET v = 13');
$psp->settled('b', 'the keys go on');
is($httpd->put("$url/b/failures/", { state => 'pending' }, @as)->status, 200, 'try again');
wait_until { !@{ $httpd->get("$url/b/failures/", @as)->json->{failures} } } 10, 'no failures';
is(join(' ', sort map { $_->{new}{v} } events($receiver->requests(qr{^/b}))), '12 12 12 12 13 13', 'all arrived, the failed ones twice');

# What failed as a batch goes each by itself, in order per key, when the subscription wants no batches any more
$receiver->forget;
$psp->subscribe('b', { callback => $receiver->url('/b'), table => 'public.t', batch => 10, %retry });
$receiver->reply(match => '^/b', status => 500, times => 1);
my $dbh = $pg->dbh(AutoCommit => 0);
$dbh->do("UPDATE t SET v = $_") for 30, 31;
$dbh->commit;
$receiver->wait_for(1, 10, qr{^/b});
$psp->subscribe('b', { callback => $receiver->url('/b/{id}'), table => 'public.t', %retry });
$psp->settled('b', 'the batch in pieces');
is(join(' ', map { my $path = $_; map { $_->json->{new}{v} } grep { $_->path eq $path } $receiver->requests } qw(/b/1 /b/2)), '30 31 30 31', 'none of a batch is lost when there are none any more');
is($httpd->delete("$url/b", @as)->status, 204, 'done with batches');

# CloudEvents in batches
$psp->subscribe('ce', { callback => $receiver->url('/ce'), table => 'public.t', batch => 5, format => 'cloudevents' });
$pg->sql('UPDATE t SET v = 20');
$psp->settled('ce', 'CloudEvents');
my ($put) = $receiver->requests(qr{^/ce});
is($put->header('content-type'), 'application/cloudevents-batch+json', 'the batch format of CloudEvents');
is((events($put))[0]->{specversion}, '1.0', 'is an array of them');
$pg->sql('TRUNCATE t');
$psp->settled('ce', 'CloudEvents of TRUNCATE');
($put) = (events(($receiver->requests(qr{^/ce}))[-1]))[-1];
is($put->{type} . ' ' . ($put->{subject} // 'of no row'), 'pubsubpull.truncate of no row', 'one of TRUNCATE has no subject');
$pg->sql('INSERT INTO t VALUES (1, 20), (2, 20)');
$httpd->delete("$url/ce", @as);

# Latest: of many changes of a key that wait only the newest is sent
$psp->subscribe('l', { callback => $receiver->url('/l/{id}'), table => 'public.t', latest => JSON::PP::true(), %retry });
$receiver->reply(match => '^/l', delay => 0.3, times => 1);
$pg->sql("UPDATE t SET v = $_ WHERE id = 1") for 100 .. 150;
$psp->settled('l', 'the newest');
my @l = map { $_->json->{new}{v} } $receiver->requests(qr{^/l/1});
is($l[-1], 150, 'the newest arrives');
cmp_ok(scalar @l, '<', 20, "few of those before it: @l");
is("@l", join(' ', sort { $a <=> $b } @l), 'in order');
$receiver->forget;
$receiver->reply(match => '^/l', status => 503, times => 1);
$pg->sql('UPDATE t SET v = 200 WHERE id = 1');
$receiver->wait_for(1, 10, qr{^/l});
$pg->sql("UPDATE t SET v = $_ WHERE id = 1") for 201 .. 210;
$psp->settled('l', 'the newest after a failure');
@l = map { $_->json->{new}{v} } $receiver->requests(qr{^/l/1});
is($l[-1], 210, 'the newest replaces what failed');
cmp_ok(scalar @l, '<=', 3, "and what waited behind it: @l");
$httpd->delete("$url/l", @as);

# Rate: PUTs a second, in fresh ones and tries
$psp->subscribe('r', { callback => $receiver->url('/r/{id}'), table => 'public.t', rate => 20 });
$pg->sql('INSERT INTO t SELECT n, 0 FROM generate_series(1000, 1029) n');
$psp->settled('r', 'the rate');
my @times = map { $_->{time} } $receiver->requests(qr{^/r});
is(scalar @times, 30, 'all arrive');
my $seconds = $times[-1] - $times[0];
cmp_ok($seconds, '>', 1.3, "not faster than 20 a second: $seconds s");
cmp_ok($seconds, '<', 4, 'nor much slower');
$httpd->delete("$url/r", @as);

# When: an error in the predicate is a failure of that event, never a silent skip; the others go on
$psp->subscribe('w', { callback => $receiver->url('/w/{id}'), table => 'public.t', when => '$.new.v > 5', on => ['insert', 'update'] });
$psp->subscribe('e', { callback => $receiver->url('/e/{id}'), table => 'public.t', when => 'strict $.new.nothing > 5', on => ['insert'] });
$psp->subscribe('f', { callback => $receiver->url('/f/{id}'), table => 'public.t', when => '$.new.v.double() / ($.new.v - 8) > 0', on => ['insert'] });
$pg->sql('INSERT INTO t VALUES (2001, 1), (2002, 9), (2003, 8)');
$psp->settled($_, 'predicates') for qw(w e f);
is(join(' ', sort map { $_->path } $receiver->requests(qr{^/w})), '/w/2002 /w/2003', 'what the predicate lets through');
my $failures = $httpd->get("$url/e/failures/", @as)->json->{failures};
is(scalar @$failures, 3, 'events for which it is unknown are failures');
like($failures->[0]{error}, qr/"when" is unknown/, 'which say so');
is($failures->[0]{state}, 'failed', 'and are not tried again by themselves');
$failures = $httpd->get("$url/f/failures/", @as)->json->{failures};
like(join(' ', map { "$_->{key} $_->{error}" } @$failures), qr/^2003 "when" /, 'so is one that it fails for');
is(join(' ', map { $_->path } $receiver->requests(qr{^/f})), '/f/2002', 'the others are judged');
is($httpd->put("$url/f", { callback => $receiver->url('/f/{id}'), table => 'public.t', on => ['insert'] }, @as)->status, 200, 'the predicate is mended');
is($httpd->put("$url/f/failures/", { state => 'pending' }, @as)->status, 200, 'try again');
$receiver->wait_for(2, 10, qr{^/f});
is(join(' ', map { $_->path } $receiver->requests(qr{^/f})), '/f/2002 /f/2003', 'and it arrives');
is($httpd->put("$url/e/failures/", { state => 'pending' }, @as)->status, 200, 'where it is not mended');
wait_until { my $f = $httpd->get("$url/e/failures/", @as)->json->{failures}; @$f == 3 && !grep { $_->{state} ne 'failed' } @$f } 10, 'it fails again';
is(scalar $receiver->requests(qr{^/e}), 0, 'and nothing is sent');

# A notification that PostgreSQL cannot make is a failure; the others, before and after it and of others, go on
$psp->publish('public.j', 'k text PRIMARY KEY, v json');
$psp->subscribe('j', { callback => $receiver->url('/j/{k}'), table => 'public.j', on => ['insert'] });
$psp->subscribe('i', { callback => $receiver->url('/i/{id}'), table => 'public.t', on => ['insert'] });
$pg->sql(q<INSERT INTO j VALUES ('a', '{"x": 1}'), ('b', '{"x": "\\u0000"}'), ('c', '{"x": 2}')>);
$pg->sql('INSERT INTO t VALUES (2500, 0)');
$psp->settled($_, 'what can be made') for qw(j i);
is(join(' ', sort map { $_->path } $receiver->requests(qr{^/[ij]})), '/i/2500 /j/a /j/c', 'the others arrive');
$failures = $httpd->get("$url/j/failures/", @as)->json->{failures};
like(join(' ', map { "$_->{key} $_->{state} $_->{error}" } @$failures), qr/^b failed the notification cannot be made: /, 'and it is a failure that says why');
is($httpd->put("$url/j/failures/", { state => 'pending' }, @as)->status, 200, 'try again');
wait_until { my $f = $httpd->get("$url/j/failures/", @as)->json->{failures}; @$f == 1 && $f->[0]{state} eq 'failed' } 10, 'it fails again';
$pg->sql(q<INSERT INTO j VALUES ('d', '{"x": 3}')>);
$receiver->wait_for(1, 10, qr{^/j/d});

# Whoever replaces a subscription and then changes a row has the row sent by the new document; likewise paused and deleted
for my $n (1 .. 15) {
    $psp->subscribe('n', { callback => $receiver->url("/n$n/{id}"), table => 'public.t', on => ['insert'] });
    $pg->sql('INSERT INTO t VALUES (?, 0)', 3000 + $n);
    $receiver->wait_for($n, 10, qr{^/n});
}
is(join(' ', sort map { $_->path } $receiver->requests(qr{^/n})), join(' ', sort map { "/n$_/" . (3000 + $_) } 1 .. 15), 'each by the document of its time');
$httpd->put("$url/n/state", { state => 'paused' }, @as);
$pg->sql('INSERT INTO t VALUES (4000, 0)');
$psp->subscribe('o', { callback => $receiver->url('/o/{id}'), table => 'public.t', since => 'now' });
$pg->sql('INSERT INTO t VALUES (4001, 0)');
$receiver->wait_for(1, 10, qr{^/o/4001});
is(scalar $receiver->requests(qr{^/n\d+/4}), 0, 'nothing is sent once paused');
finish;
