# SPDX-License-Identifier: Apache-2.0
# cursor.t: cursors are short, are nobody else's, and never lead over a gap in silence. SQL only.
use PspTest;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
$pg->sql('CREATE TABLE t (id int PRIMARY KEY, n int)');
$pg->sql('CREATE TABLE other (id int PRIMARY KEY)');
$pg->publishable('t', 'other');
my $db = 'app';
sub admin { return $pg->sql([user => 'pubsubpull', db => $db], @_) }
admin(qq{SELECT pubsubpull.publish('$_')}) for qw(t other);

sub now_cursor { return admin('SELECT pubsubpull.cursor_encode(pubsubpull.now_position())') }
sub decode { return admin('SELECT pubsubpull.cursor_decode($1)', @_) }
sub refused { my ($cursor, $text, $name) = @_; eval { decode($cursor) }; like($@, $text, $name); return }

# What is encoded is decoded, whatever the snapshot; hundreds of open writers make no long cursor
my $round = q{SELECT pubsubpull.cursor_decode(pubsubpull.cursor_encode(p))::text = p::text FROM (SELECT $1::pubsubpull.position) x(p)};
is(admin($round, $_), 1, "$_ comes back") for '("1:1:",0,1,,,,,,)', '("700:700:",0,703,,,,,,)', '("5:9:5,7",0,12,"7:10:7",0,13,15,4,)',
    '("1:9:1,2,3,4,5,6,7,8",0,9,"9:9:",0,700,9223372036854775807,123456789012345678,)';
admin('SELECT pg_current_xact_id()') for 1 .. 20;
my $open = q{(SELECT string_agg(x::text, ',' ORDER BY x) FROM (SELECT DISTINCT 8000000000 + (i * i * 7919::bigint) % 90000 AS x FROM generate_series(1, 500) i) y)};
my $text = admin(qq{SELECT ROW(concat('8000000000:8000100000:', $open), 123456789012, 8000100020, concat('8000000000:8000100500:', $open), 123456799012, 8000100520, 123456799000, 123456798000, NULL)::pubsubpull.position});
my $long = admin('SELECT pubsubpull.cursor_encode($1::pubsubpull.position)', $text);
cmp_ok(length $long, '<', 4096, 'a cursor over 500 open transactions has ' . length($long) . ' characters');
is(admin(q{SELECT pubsubpull.numbers_snapshot(pubsubpull.snapshot_numbers(p.since) || 7::bigint)::text = p.since::text FROM (SELECT ($1::pubsubpull.position).*) p}, $text), 1, 'and holds them all');
cmp_ok(length now_cursor(), '<', 60, 'a usual one is short: ' . now_cursor());
unlike(now_cursor() . $long, qr/[^A-Za-z0-9.]/, 'and is the same percent-encoded');

# Tampered with, or of another log
my $cursor = now_cursor();
ok(decode($cursor), 'a cursor is taken');
for my $at (0, 9 .. length($cursor) - 1) {
    my $changed = $cursor;
    substr $changed, $at, 1, substr($cursor, $at, 1) eq 'H' ? 'I' : substr($cursor, $at, 1) eq '1' ? '2' : 'H';
    eval { decode($changed) };
    $@ =~ /not a cursor that was given out here/ or fail("taken with another character at $at: $@");
}
pass('with any character changed it is refused');
refused($_, qr/not a cursor/, "'" . substr($_, 0, 40) . "' is refused") for '', 'x', '1.2.3', "$cursor.", 'MTs7.1.0123456789', "\x{fffd}", 'G' x 100_000;
my $secret = admin('SELECT secret FROM pubsubpull.log');
admin(q{UPDATE pubsubpull.log SET secret = 'another'});
refused($cursor, qr/belongs to another log/, 'a cursor of another log is told so');
admin('UPDATE pubsubpull.log SET secret = $1', $secret);
ok(decode($cursor), 'and good in its own');

# What keeps transaction numbers keeps cursors: a restart, a crash, a rewritten table, another installation
$pg->admin->sql("VACUUM (FULL, FREEZE) pubsubpull.$_") for qw(origin log);
$pg->install_schema;
$pg->restart('immediate');
ok(decode($cursor), 'a crash, VACUUM FULL and an upgrade leave cursors alone');

# What does not: a copy of the database, a dump that is restored, a server that was set back
$pg->{dbh} = {};
$pg->admin(db => 'postgres')->sql('CREATE DATABASE copy TEMPLATE app');
$db = 'copy';
refused($cursor, qr/belongs to another log/, 'in a copy of the database it is one of another log');
my $dump = $pg->{socket} . '/dump';
my $pid = spawn(cmd => ["$pg->{bin}/pg_dump", '-h', $pg->{socket}, '-p', $pg->port, '-U', 'postgres', '-f', $dump, 'app'], log => "$dump.log");
waitpid $pid, 0;
is($?, 0, 'a dump') or diag slurp("$dump.log");
$pg->{dbh} = {};
$pg->admin(db => 'postgres')->sql('DROP DATABASE app');
$pg->admin(db => 'postgres')->sql('CREATE DATABASE app OWNER service');
$pg->admin->psql(['-f', $dump]);
$db = 'app';
refused($cursor, qr/belongs to another log.*dump/, 'after a restore from a dump it is one of another log');
is(admin('SELECT secret FROM pubsubpull.log'), $secret, 'though all else is as it was');
$cursor = now_cursor();
$pg->sql('INSERT INTO t VALUES (1, 1)');
ok(decode($cursor = now_cursor()), 'new cursors are good');
admin('SELECT pubsubpull.adopt_log()');
ok(decode($cursor), 'and stay so when the log is adopted');
admin(q{SELECT setval('pubsubpull.change_id', 1, false)});
refused($cursor, qr/set back to an earlier state/, 'a log that was set back is noticed');
admin(q{SELECT setval('pubsubpull.change_id', 100)});

# The first version of the schema gave out others
refused('MTthNjQ5OWI1Zjs3NTQ6NzU0OjszOzc1NA..34a8b1c364', qr/first version/, 'a cursor of the first version leads nowhere any more');

# A table that was not published for a time
sub pages {
    my ($since, $name) = @_;
    my $page = eval { json(admin(q{SELECT body FROM pubsubpull.changes_get($1, $3, NULL, NULL, $2, NULL, NULL, NULL, NULL, 'page', NULL)}, 'http://h/p', $since, $name)) } or return $@;
    return join ' ', map { "$_->{table}:$_->{key}{id}" } @{ $page->{changes} };
}
my $before = now_cursor();
admin(q{SELECT pubsubpull.unpublish('t')});
$pg->sql('INSERT INTO t VALUES (2, 2)');
my $between = now_cursor();
$pg->sql('INSERT INTO other VALUES (1)');
is(pages($before), 'public.other:1', 'while it is not, others are followed');
admin(q{SELECT pubsubpull.publish('t')});
my $after = now_cursor();
$pg->sql('INSERT INTO t VALUES (3, 3)');
for ([before => $before], ['in the meantime' => $between]) {
    my ($when, $since) = @$_;
    like(pages($since, 'public.t'), qr/public\.t was not published/, "a cursor from $when leads over a gap, and says so");
    like(pages($since), qr/public\.t was not published/, 'among all tables, too');
    is(pages($since, 'public.other'), 'public.other:1', 'other tables have none');
}
is(pages($after, 'public.t'), 'public.t:3', 'one from then on is good');
is(pages(undef, 'public.t'), 'public.t:1 public.t:3', 'the log can be read from its beginning');
admin(q{SELECT pubsubpull.publish('t', '{"skip_unchanged": true}')});
is(pages($after, 'public.t'), 'public.t:3', 'other options make no gap');

# Dropped and made again under the same name; who follows all tables loses nothing by a new one
$before = now_cursor();
$pg->sql('DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)');
$pg->publishable('t');
admin(q{SELECT pubsubpull.publish('t')});
$pg->sql('INSERT INTO t VALUES (9)');
like(pages($before, 'public.t'), qr/public\.t was not published/, 'another table of that name is not taken for it');
is(pages($before), 'public.t:9', 'among all tables it just appears');

# An idle poll looks into one index of each part of the log and finds nothing there, however much happened to other tables
my $idle = now_cursor();
$pg->sql('INSERT INTO other SELECT generate_series(1000, 6000)');
my $dbh = $pg->dbh(user => 'pubsubpull');
my $poll = q{SELECT etag FROM pubsubpull.changes_get('http://h/p', 'public.t', NULL, NULL, ?, NULL, NULL, NULL, NULL, 'page', NULL)};
$dbh->begin_work;
like($dbh->selectrow_array($poll, undef, $idle), qr{^W/idle-}, 'nothing came') for 1 .. 2;
is_deeply($dbh->selectrow_arrayref(q{SELECT sum(seq_scan), sum(idx_tup_fetch), max(idx_scan) FROM pg_stat_xact_all_tables WHERE schemaname = 'pubsubpull' AND relname ~ '^change'}),
    [0, 0, 2], 'two polls: one look-up each, no row read, no table scanned');
$dbh->rollback;
$dbh->disconnect;
done_testing;
