# SPDX-License-Identifier: Apache-2.0
# retention.t: the log is kept as long as configured: parts of it come and go under writers, and whoever loses their place is told.
use PspTest;

my $receiver = PspTest::Receiver->start;
my $psp = PspTest->up(config => "PubSubPullRetention 1h\n");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
$psp->publish("public.$_", 'id int PRIMARY KEY, n int') for qw(t quiet);

# Time passes by moving what is remembered of it into the past; the notifier, which would call once a minute, is called for.
sub age { return admin(q{UPDATE pubsubpull.slot SET since = since - $1::interval, until = until - $1::interval, quiet_at = quiet_at - $1::interval}, "$_[0] s") }
sub maintain {
    my @events;
    for (1 .. 100) {
        push @events, map { [@$_[0, 1]] } grep { $_->[0] ne 'next' } @{ $pg->rows([user => 'pubsubpull'], 'SELECT * FROM pubsubpull.notify_maintain(3600)') };
        age(2);
        last if !admin(q{SELECT count(*) FROM pubsubpull.slot WHERE until IS NOT NULL AND mark IS NULL}) && $_ > 1;
    }
    return @events;
}
sub turn { my ($seconds) = @_; age($seconds // 601); return maintain() }
sub slot { return admin('SELECT pubsubpull.current_slot()') }
sub used { return admin(q{SELECT count(*) FROM pubsubpull.slot WHERE since IS NOT NULL}) }

sub page {
    my ($since, $limit) = @_;
    my $answer = $httpd->get('/pubsubpull/tables/public.t/changes/?' . join('&', $since ? "since=$since" : (), 'limit=' . ($limit // 1000)), user => 'alice');
    my $page = $answer->json;
    my ($next) = ($page->{next} // '') =~ /since=([^&]+)/;
    return ($answer->status, $page, $next);
}

is($httpd->get('/pubsubpull/', user => 'alice')->json->{dropped_until}, undef, 'nothing was dropped yet');
wait_until { ($httpd->get('/pubsubpull/', user => 'alice')->json->{retention} // 0) == 3600 } 10, 'the retention on the root';
pass('the retention is shown');

# --- Parts come and go while writers write and a follower follows ---

my ($status, $page, $since) = page('now');
my $open = $pg->dbh(AutoCommit => 0);    # elsewhere, and for as long as this goes on
my $elsewhere = $pg->admin(db => 'postgres')->dbh(AutoCommit => 0);
$elsewhere->do('CREATE TABLE elsewhere (id int)');
my $enough = tmp_dir() . '/enough';
my @writers = map {
    my $number = $_;
    my $pid = fork // die $!;
    if (!$pid) {
        my $dbh = $pg->dbh;
        $dbh->do(q{SET lock_timeout = '200ms'});
        my $ok = eval {
            for (my $i = 1; !-e $enough; $i++) {
                $dbh->begin_work;
                $dbh->do('INSERT INTO t VALUES (?, 0)', undef, $number * 1_000_000 + $i);
                $dbh->do('UPDATE t SET n = n + 1 WHERE id = ?', undef, $number * 1_000_000 + $i);
                $i % 7 ? $dbh->commit : $dbh->rollback;
                sleep 0.002;
            }
            1;
        };
        print STDERR "writer: $@" if !$ok;
        require POSIX;
        POSIX::_exit($ok ? 0 : 1);
    }
    $pid;
} 1 .. 3;
my (%ids, %copy, $bad, $dropped);
my (%slots, $failed);
my $follow = sub {
    while (1) {
        my ($code, $changes, $next) = page($since);
        $bad .= "answer $code: " . to_json($changes) . "\n", last if $code != 200;
        $since = $next;
        for my $c (@{ $changes->{changes} }) {
            $bad .= "twice $c->{id}\n" if $ids{ $c->{id} }++;
            $copy{ $c->{new}{id} } = $c->{new}{n};
        }
        last if !$changes->{more};
    }
};
while (@writers) {
    $follow->();
    $dropped += grep { $_->[0] eq 'dropped' } turn();
    $slots{ slot() }++;
    spew($enough, '') if keys %slots == 8 && $dropped > 1 && keys %copy > 1000;
    @writers = grep { my $done = waitpid($_, 1); $failed .= $? if $done && $?; !$done } @writers;
}
$follow->();
is($failed // '', '', 'no writer failed or had to wait');
is($bad // '', '', 'the follower saw every change once, and never lost its place');
is_deeply(\%copy, { map { @$_ } @{ $pg->rows('SELECT id, n FROM t') } }, 'its copy equals the table');
cmp_ok($dropped, '>', 1, "all parts were current, and $dropped were dropped, though a transaction is open elsewhere");
cmp_ok(admin('SELECT count(*) FROM pubsubpull.change'), '<', 2 * keys %copy, 'with their changes');
$elsewhere->rollback;

# --- A transaction that stays open: what it wrote is kept as long as the rest, from its commit on ---

my $old = slot();
$open->do('INSERT INTO t VALUES (1, 0)');
$pg->sql('INSERT INTO t VALUES (9, 0)');
age(601);
maintain();
isnt(slot(), $old, 'the next part is current');
turn() for 1 .. 8;
is(admin('SELECT quiet_at FROM pubsubpull.slot WHERE number = $1', $old), undef, 'a part that an open transaction wrote to is not closed');
my ($stuck) = turn(1200);
is_deeply($stuck, ['stuck', undef], 'that it cannot be dropped is reported');
$open->do('INSERT INTO t VALUES (2, 0)');
$open->commit;
maintain();
turn(3000);
($status, $page, $since) = page($since);
is_deeply([map { $_->{key}{id} } @{ $page->{changes} }], [1, 9, 2], 'after its commit its changes are there for as long as any');
turn(700);
is(admin('SELECT count(*) FROM pubsubpull.change WHERE key = $1', 1), 0, 'and are dropped then');

# --- A reader holds on to a part: it is dropped later ---

$pg->sql('INSERT INTO t VALUES (3, 0)');
$old = slot();
turn();
my $reader = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);
$reader->do('SELECT count(*) FROM pubsubpull.change');
ok(!grep({ $_->[0] eq 'dropped' } turn(3700)), 'what is being read is not dropped');
$reader->rollback;
is((maintain())[0][0], 'dropped', 'but when it was read');

# --- Somebody writes to a part that was closed: what they wrote is not dropped with it ---

$pg->sql('INSERT INTO t VALUES (4, 0)');
$old = slot();
turn();
admin(sprintf q{INSERT INTO pubsubpull.change_%d (table_id, type, key, new) SELECT id, 'I', '5', '{"id":5}' FROM pubsubpull.published WHERE name = 'public.t'}, $old);
turn(3700);
is(admin(q{SELECT count(*) FROM pubsubpull.change WHERE key = '5'}), 1, 'a late change is kept');
turn(3700);
is(admin(q{SELECT count(*) FROM pubsubpull.change WHERE key = '5'}), 0, 'until it is old enough, too');

# --- Cursors ---

turn(4000) for 1 .. 3;    # all is empty
$pg->sql('INSERT INTO t VALUES (10, 0), (11, 0), (12, 0)');
my (undef, undef, $first)  = page(undef, 1);
my (undef, undef, $recent) = page('now');
my $before = admin('SELECT pubsubpull.begin_batch(pubsubpull.now_position())');
my $rows = $httpd->get('/pubsubpull/tables/public.t/rows/?limit=1', user => 'alice')->json;
turn();
$pg->sql('INSERT INTO t VALUES (13, 0)');
my (undef, undef, $later) = page('now');
turn();
is((page($first))[0], 200, 'cursors hold while the changes after them do');
turn(3100);
($status, $page) = page($first);
is("$status $page->{type}", '410 urn:pubsubpull:problem:gone-cursor', 'a page of a walk from the beginning whose rest was dropped is refused');
like($page->{detail}, qr/the log goes back to \d{4}-\d\d-\d\dT[\d:]+Z.*Start again: GET .*"changes".*or leave since out/, 'and the answer says how to start again');
is((page($recent))[0], 410, 'an old cursor is refused');
is($httpd->get($rows->{next}, user => 'alice')->status, 410, 'also in the next page of rows');
is($httpd->get($rows->{changes}, user => 'alice')->status, 410, 'and as the link to changes');
($status, $page, my $again) = page(undef, 1);
is_deeply([$status, map { $_->{key}{id} } @{ $page->{changes} }], [200, 13], 'the beginning is the oldest change that is kept');
is((page($again))[0], 200, 'and can be gone on from');
ok(!eval { admin(q{SELECT count(*) FROM pubsubpull.feed($1::pubsubpull.position, pubsubpull.all_tables(), 10)}, $before); 1 }, 'a read under way finds no gap');
like($@, qr/are not kept any more/, 'but that something is gone');
is((page($later))[0], 200, 'a cursor behind what was dropped holds');
like($httpd->get('/pubsubpull/', user => 'alice')->json->{dropped_until}, qr/^\d{4}-/, 'the root says what is gone');

# --- Subscriptions ---

my $sub = '/pubsubpull/subscriptions';
$psp->subscribe('live',   { callback => $receiver->url('/live/{id}'),   table => 'public.t' });
$psp->subscribe('parked', { callback => $receiver->url('/parked/{id}'), table => 'public.t', retry => { first => 3600, max => 3600 } });
sub document { return $httpd->get("$sub/$_[0]", user => 'billing')->json }
my $made = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);    # paused before any notifier sees them
for (['late', 'public.t'], ['calm', 'public.quiet']) {
    my ($name, $table) = @$_;
    $made->do(q{SELECT pubsubpull.subscribe($1, $2::jsonb, 'billing', $3)}, undef, $name, to_json({ callback => $receiver->url("/$name/{id}"), table => $table }), $httpd->url('/pubsubpull'));
    $made->do(q{SELECT pubsubpull.set_state($1, 'paused')}, undef, $name);
}
$made->commit;
$made->disconnect;
$receiver->reply(path => '/parked/20', status => 500);
$pg->sql('INSERT INTO t VALUES (20, 0)');
$pg->sql('UPDATE t SET n = 1 WHERE id = 20');
$receiver->wait_for(2, 10, qr{^/live/20});
wait_until { document('parked')->{pending} == 2 } 10, 'two deliveries that wait';
$httpd->graceful;    # the notifier saves positions that only moved when it leaves, else every ten seconds
wait_until { !grep { document($_)->{lag}{changes} } qw(live parked) } 20, 'saved positions';
is(document('late')->{loses_place_at}, undef, 'a place that is young');
turn();
turn(2000);
like(document('late')->{loses_place_at}, qr/^\d{4}-/, 'when a place will be lost is shown');
is(document('late')->{warning}, undef, 'without a warning while there is time');
turn(800);
like(document('late')->{warning}, qr/^loses its place in the log at \d{4}-/, 'with one when there is not');
is(document($_)->{warning}, undef, "no warning for $_") for qw(live calm parked);
is_deeply([map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], 'SELECT name FROM pubsubpull.subscriptions_at_risk()') }], ['late'], 'nor are they counted');
is(join(' ', $httpd->get('/pubsubpull/metrics', user => 'admin')->body =~ /^pubsubpull_subscription_at_risk\{subscription="(\w+)"\} 1$/mg), 'late', 'in the metrics, too');
admin('UPDATE pubsubpull.progress SET warned_at = NULL');
$httpd->graceful;
$httpd->wait_for_log(qr/PSP0460: subscription late loses its place in the log at \d{4}/, 10);
pass('the notifier warns');
maintain();
is(admin(q{SELECT count(*) FROM pubsubpull.progress WHERE warned_at > now() - interval '1 minute'}), 1, 'once an hour');

age(800);
$httpd->graceful;
$httpd->wait_for_log(qr/PSP0461: subscription late lost its place/, 10);
$httpd->wait_for_log(qr/PSP0462: changes up to \d{4}/, 10);
my $late = document('late');
is($late->{state}, 'disabled', 'who lost its place is disabled');
like($late->{reason}, qr/lost its place.*start again with PUT \{"since": "now"\}.*position/, 'and told why, and how to start again');
is($late->{warning}, $late->{reason}, 'also while it is read');
is(document('calm')->{state}, 'paused', 'a table where nothing happened costs nobody their place');
is(document('live')->{state}, 'active', 'nor does being at work');
my $parked = document('parked');
is("$parked->{state} $parked->{pending} $parked->{failed}", 'active 0 2', 'deliveries that waited with a dropped change are failures');
my @failures = @{ $httpd->get("$sub/parked/failures/", user => 'billing')->json->{failures} };
is(scalar(grep { $_->{error} =~ /change is older than what is kept/ } @failures), 2, 'that say so');
$httpd->put("$sub/parked/failures/", { state => 'pending' }, user => 'billing');
wait_until { document('parked')->{failed} == 2 } 10, 'the failures again';
is(scalar(() = $receiver->requests(qr{^/parked/20})), 1, 'trying again makes them failures again');

my $answer = $httpd->put("$sub/late/state", { state => 'active' }, user => 'billing');
is($answer->status, 409, 'it cannot go on');
like($answer->json->{detail}, qr/PUT \{"since": "now"\}/, 'and the answer says what to do');
is($httpd->put("$sub/late/position", { since => $recent }, user => 'billing')->status, 410, 'nor from a cursor that is gone');
is($httpd->put("$sub/late/position", { since => 'now' }, user => 'billing')->status, 200, 'it can start again');
is($httpd->put("$sub/late/state", { state => 'active' }, user => 'billing')->json->{state}, 'active', 'and be active');
is(document('late')->{warning}, undef, 'without a warning');
$httpd->put("$sub/calm/state", { state => 'active' }, user => 'billing');
$pg->sql('INSERT INTO t VALUES (21, 0); INSERT INTO quiet VALUES (21, 0)');
$receiver->wait_for(1, 10, qr{^/$_/21}) for qw(late calm live parked);
pass('all are served');

# A notifier that still has the old position of a lost subscription is given nothing
my $lost = admin(q{SELECT ROW('5:5:', 0, 5, NULL, NULL, NULL, NULL, NULL, NULL)::pubsubpull.position});
my ($number, $version) = @{ $pg->rows([user => 'pubsubpull'], q{SELECT id, version FROM pubsubpull.subscription WHERE name = 'late'})->[0] };
my $read = $pg->rows([user => 'pubsubpull'], q{SELECT r.subscription, r."position", r.more::int FROM pubsubpull.notifier n, pubsubpull.notify_read(n.id, $1::jsonb, 10) r WHERE n.alive_until > now()},
    to_json([{ position => $lost, subscriptions => "{$number}", versions => $version }]));
is_deeply($read, [[undef, $lost, 0]], 'a lost position is not read from');

# --- Rows from before there were parts ---

admin(q{INSERT INTO pubsubpull.change (table_id, type, key, new) SELECT id, 'I', '30', '{"id":30}' FROM pubsubpull.published WHERE name = 'public.t'});
$pg->install_schema;
my $kept = admin('SELECT count(*) FROM ONLY pubsubpull.change');
is($kept, 1, 'rows of an installation from before stay where they are');
($status, $page) = page();
ok(scalar(grep { $_->{key}{id} == 30 } @{ $page->{changes} }), 'and are in the feed');
$pg->sql('INSERT INTO t VALUES (31, 0)');
maintain();
turn(3000);
is(admin('SELECT count(*) FROM ONLY pubsubpull.change'), 1, 'for as long as others');
turn(700);
is(admin('SELECT count(*) FROM ONLY pubsubpull.change'), 0, 'then they are dropped');
is(admin(q{SELECT count(*) FROM pubsubpull.change WHERE key = '31'}), 1, 'and no others');

# --- A table that is published meanwhile, and one that is dropped, hinder nothing ---

$psp->publish('public.brief', 'id int PRIMARY KEY');
$pg->sql('DROP TABLE brief');
$psp->publish('public.parted', 'id int PRIMARY KEY) PARTITION BY RANGE (id');
$pg->sql('CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10)');
$pg->sql('INSERT INTO t VALUES (40, 0)');
$old = slot();
turn();
$pg->sql('INSERT INTO parted VALUES (1), (2)');
$pg->publishable('parted_1');
admin(q{SELECT pubsubpull.publish('parted')});
$pg->sql('TRUNCATE parted_1');
isnt(slot(), $old, 'the next part is current');
is_deeply([map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], sprintf q{SELECT c.type FROM pubsubpull.change_%d c JOIN pubsubpull.published p ON p.id = c.table_id
    WHERE p.name = 'public.parted' ORDER BY c.id}, slot()) }], [qw(I I D D)], 'row by row, too');

# --- A table whose functions have to be written anew is left as it is, loud ---

$pg->sql('ALTER TABLE quiet RENAME id TO code');
$old = slot();
turn();
isnt(slot(), $old, 'the next part is current');
ok(!eval { $pg->sql('UPDATE quiet SET n = n + 1'); 1 }, 'changes are not logged without their key');
$pg->sql('ALTER TABLE quiet RENAME code TO id');
$pg->sql('UPDATE quiet SET n = n + 1');
is(admin(sprintf q{SELECT key FROM pubsubpull.change_%d ORDER BY id DESC LIMIT 1}, slot()), 21, 'but with it when it is back');

# --- The first of a batch that waits is dropped: the rest is tried all the same ---

admin(q{SELECT pubsubpull.subscribe('packed', $1::jsonb, 'billing')}, to_json({ callback => $receiver->url('/packed'), table => 'public.t', batch => 10 }));
admin(q{SELECT pubsubpull.set_state('packed', 'paused')});
$pg->sql('INSERT INTO t VALUES (50, 0)');
turn();
$pg->sql('INSERT INTO t VALUES (51, 0)');
admin(q{INSERT INTO pubsubpull.delivery (subscription, change, lane, attempts, next_at, batch)
    SELECT s.id, c.id, c.key, 1, CASE c.key WHEN '50' THEN now() + interval '1 hour' END, min(c.id) OVER ()
    FROM pubsubpull.subscription s JOIN pubsubpull.change c ON c.table_id = s.table_id WHERE s.name = 'packed' AND c.key IN ('50', '51')});
turn(3300);
turn(400);
is_deeply($pg->rows([user => 'pubsubpull'], q{SELECT d.lane, d.state, (d.next_at > now())::int FROM pubsubpull.delivery d WHERE d.lane IN ('50', '51') ORDER BY 1}),
    [['50', 'failed', undef], ['51', 'pending', 1]], 'the rest has its time');
is(admin(q{SELECT given_up FROM pubsubpull.progress g JOIN pubsubpull.subscription s ON s.id = g.subscription WHERE s.name = 'packed'}), 1, 'and what was given up is counted');

# --- Requests ---

my $uuid = sub { my ($hours, $n) = @_; return sprintf '%s-7000-8000-%012d', sprintf('%012x', (time - $hours * 3600) * 1000) =~ s/^(.{8})/$1-/r, $n };
for my $n (1 .. 4) {
    admin(q{INSERT INTO pubsubpull.request (id, method, started) VALUES ($1, 'GET', now() - $2::interval)}, $uuid->($n > 2 ? 1 : 30, $n), $n > 2 ? '1 hour' : '30 hours');
}
admin(q{INSERT INTO pubsubpull.request_late (record, try_at) VALUES (jsonb_build_object('id', $1::text), now() + interval '1 day')}, $uuid->(30, 5));
maintain();
is_deeply([map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], 'SELECT right(id::text, 1) FROM pubsubpull.request ORDER BY id') }], [3, 4], 'old requests are deleted');
is(admin('SELECT count(*) FROM pubsubpull.request_late'), 0, 'and what waits for them');

# --- Off, and what is no time ---

admin('SELECT count(*) FROM pubsubpull.notify_maintain(NULL)');
$old = slot();
age(100_000);
admin('SELECT count(*) FROM pubsubpull.notify_maintain(NULL)') for 1 .. 3;
is(slot(), $old, 'without a retention nothing happens');
is($httpd->get('/pubsubpull/', user => 'alice')->json->{retention}, undef, 'as the root says');
for my $wrong ('30s', '30', '0d', 'd', '-1d', '1y', '99999w', '1d2') {
    $httpd->configure("PubSubPullRetention \"$wrong\"\n");
    my ($ok, $text) = $httpd->configtest;
    ok(!$ok && $text =~ /PubSubPullRetention.*at least a minute/, "'$wrong' is refused") or diag $text;
}
for my $right (qw(off 60s 1M 12h 30d 4w)) {
    $httpd->configure("PubSubPullRetention $right\n");
    ok(($httpd->configtest)[0], "$right is fine");
}
$_->disconnect for $open, $elsewhere, $reader;
$httpd->expect_log(qr/PSP046[0-3]/);
finish;
