# SPDX-License-Identifier: Apache-2.0
# match.t: which request a change belongs to, whatever the service does in its session: functions, savepoints, deferred triggers,
# prepared statements, jobs; never another's.
use PspTest;

my $pg = PspTest::Postgres->start(config => "track_functions = 'all'\n");
$pg->install_schema;
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
$pg->sql('CREATE TABLE t (id serial PRIMARY KEY, v text)');
$pg->sql('CREATE TABLE later (id serial PRIMARY KEY, v text)');
for my $table (qw(t later)) {
    $pg->publishable($table);
    admin('SELECT pubsubpull.publish($1)', $table);
}
my $db = $pg->dbh;
my $last = 0;

my $made = 0;
sub new_id { return sprintf '01900000-0000-7000-8000-%012x', ++$made }
sub envelope { return qq({"id":"$_[0]","method":"PUT","path":"/$_[0]","user":"u","started":"2026-01-01T00:00:00Z"}) }
sub comment { return "/*traceparent='00-0123-45-01',tracestate='psp%3D$_[0]'*/" }
sub set { my ($id, $local) = @_; $db->do(q{SELECT set_config('pubsubpull.request', ?, ?)}, undef, defined $id ? envelope($id) : '', $local ? 1 : 0); return }
sub direct { my ($statement) = @_; $db->do($statement); return }    # as the simple protocol has it: one text

# What was logged since the last time, as "request channel" of each change
sub logged {
    my $rows = $pg->rows([user => 'pubsubpull'], 'SELECT id, request, channel, unattributed FROM pubsubpull.change WHERE id > $1 ORDER BY id', $last);
    $last = $rows->[-1][0] if @$rows;
    return join ', ', map { join ' ', map { $_ // '-' } @$_[1 .. 3] } @$rows;
}

# One session, one request after the other
my ($a, $b) = (new_id(), new_id());
for my $id ($a, $b, undef, $a) {
    set($id);
    direct(q{INSERT INTO t (v) VALUES ('x')});
    is(logged(), defined $id ? "$id setting -" : '- - -', 'the request of the moment: ' . ($id // 'none'));
}
is(admin('SELECT count(*) FROM pubsubpull.request WHERE id IN ($1, $2)', $a, $b), 2, 'each request once, also a job that comes later');
set(undef);

# Savepoints
($a, $b) = (new_id(), new_id());
$db->begin_work;
set($a, 1);
direct('SAVEPOINT s');
direct(q{INSERT INTO t (v) VALUES ('undone')});
direct('ROLLBACK TO s');
direct(q{INSERT INTO t (v) VALUES ('1')});
direct('SAVEPOINT s');
set($b, 1);
direct(q{INSERT INTO t (v) VALUES ('2')});
direct('RELEASE s');
direct(q{INSERT INTO t (v) VALUES ('3')});
direct('SAVEPOINT s');
set($a, 1);
direct(q{INSERT INTO t (v) VALUES ('undone')});
direct('ROLLBACK TO s');
direct(q{INSERT INTO t (v) VALUES ('4')});
$db->commit;
is(logged(), "$a setting -, $b setting -, $b setting -, $b setting -", 'savepoints: what holds when the statement runs');
is(admin('SELECT count(*) FROM pubsubpull.request WHERE id IN ($1, $2)', $a, $b), 2, 'the request is there although its first change was undone');
direct(q{INSERT INTO t (v) VALUES ('after')});
is(logged(), '- - -', 'a local setting ends with the transaction');

# Functions that call functions
$pg->sql('CREATE FUNCTION inner_one() RETURNS void LANGUAGE sql AS $$ INSERT INTO t (v) VALUES (\'inner\') $$');
$pg->sql('CREATE FUNCTION outer_one() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UPDATE t SET v = v || \'!\' WHERE id = 1; PERFORM inner_one(); EXECUTE \'DELETE FROM t WHERE id = 2 /*no comment of ours*/\'; END $$');
my $c = new_id();
direct('SELECT outer_one() ' . comment($c));
is(logged(), join(', ', ("$c comment -") x 3), 'functions: the statement of the client counts');
my $d = new_id();
set($d);
direct('SELECT outer_one() ' . comment($c));
is(logged(), join(', ', ("$d setting -") x 2), 'the setting comes before the comment');
$db->do('SET application_name = ' . $db->quote("psp:$c"));
direct('SELECT outer_one()');
is(logged(), join(', ', ("$d setting -") x 2), 'and before application_name');
set(undef);
direct('SELECT outer_one() ' . comment($d));
is(logged(), join(', ', ("$c application_name -") x 2), 'which comes before the comment');
direct(q{SET application_name = ''});

# Deferred triggers run at COMMIT
$pg->sql('CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO later (v) VALUES (NEW.v); RETURN NULL; END $$');
$pg->sql('CREATE CONSTRAINT TRIGGER later AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later()');
$a = new_id();
$db->begin_work;
set($a, 1);
direct(q{INSERT INTO t (v) VALUES ('d')});
$db->commit;
is(logged(), "$a setting -, $a setting -", 'deferred: the setting of the transaction holds at its end');
my $e = new_id();
direct('BEGIN');
direct(q{INSERT INTO t (v) VALUES ('d') } . comment($e));
direct('COMMIT');
is(logged(), "$e comment -, - - -", 'deferred: a comment is that of COMMIT');
direct('BEGIN');
direct(q{INSERT INTO t (v) VALUES ('d') } . comment($e));
direct('COMMIT ' . comment($e));
is(logged(), "$e comment -, $e comment -", 'if it has one');
$pg->sql('DROP TRIGGER later ON t');

# Prepared statements
my ($f, $g) = (new_id(), new_id());
my $named = $db->prepare(q{INSERT INTO t (v) VALUES ($1) } . comment($f), { pg_prepare_now => 1 });
$named->execute('x');
$named->execute('y');
is(logged(), '- - prepared, - - prepared', 'the comment of a named statement may be another request\'s: not believed, and said so');
set($g);
$named->execute('z');
is(logged(), "$g setting -", 'the setting does');
set(undef);
direct('PREPARE p AS INSERT INTO t (v) VALUES (\'p\')');
direct('EXECUTE p ' . comment($g));
is(logged(), "$g comment -", 'EXECUTE has a comment of its own');

# Comments as they are written by what is about
for my $form (
    [q{/*tracestate='psp%3DID'*/},                                                 'alone'],
    [q{/*traceparent='00-1-2-01', tracestate='psp%3DID'*/;},                       'as Java separates'],
    [q{/*db_driver='x',tracestate='psp%%3DID',traceparent='00-1-2-01'*/ },         'as Python doubles'],
    [q{/*tracestate='congo%3Dt61,psp%3DID'*/},                                     'after another vendor'],
    [q{/*tracestate='psp%3DID%2Ccongo%3Dt61',x='y'*/},                             'before another vendor'],
    [q{/*tracestate='psp%3DID'*/ /*tracestate='psp%3DOTHER'*/},                    undef, 'the last of two'],
    [q{/*tracestate='xpsp%3DID'*/},                                                undef, 'a look-alike'],
    [q{/*tracestate='psp%3DID0'*/},                                                undef, 'too long an id'],
    [q{/*tracestate='psp%3DID'*/ RETURNING id},                                    undef, 'not at the end'],
    [q{/*xtracestate=psp%3DID*/},                                                  undef, 'without quotes'])
{
    my ($text, $good, $bad) = @$form;
    my $id = new_id();
    direct(q{INSERT INTO t (v) VALUES ('/*tracestate=''psp%3D01900000-0000-7000-8000-00000000bad1''*/') } . ($text =~ s/ID/$id/r));
    is(logged(), $good ? "$id comment -" : '- - -', 'comment: ' . ($good // $bad));
}

# Many rows: found out once
my $h = new_id();
sub calls { $db->do('SELECT pg_stat_force_next_flush()'); return admin(q{SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE schemaname = 'pubsubpull' AND funcname = 'attribute'}) }
my $before = calls();
direct('INSERT INTO t (v) SELECT g FROM generate_series(1, 20000) g ' . comment($h));
wait_until { calls() > $before } 10, 'statistics of functions';
is(calls() - $before, 1, '20,000 rows, and the comment is read once');
is(admin('SELECT count(*) FROM pubsubpull.change WHERE request = $1 AND channel = \'comment\'', $h), 20000, 'for all of them');

# Two sessions of one request at the same time, and neither waits
my $i = new_id();
my $other = $pg->dbh(AutoCommit => 0);
$other->do(q{SELECT set_config('pubsubpull.request', ?, true)}, undef, envelope($i));
$other->do(q{INSERT INTO t (v) VALUES ('one')});
$db->do(q{SET statement_timeout = '5s'});
set($i);
ok(eval { direct(q{INSERT INTO t (v) VALUES ('two')}); 1 }, 'a second session of a request does not wait for the first') or diag $@;
$other->rollback;
admin(q{SELECT pubsubpull.record_requests($1)}, to_json([{ %{ json(envelope($i)) }, status => 200, bytes => 1, duration => 1, mode => 1 }]));
is(admin('SELECT count(*) FROM pubsubpull.request WHERE id = $1', $i), 0, 'the first wrote the request and rolled back');
admin('UPDATE pubsubpull.request_late SET try_at = now()');
admin('SELECT pubsubpull.record_late()');
is(admin('SELECT status FROM pubsubpull.request WHERE id = $1', $i), 200, 'then it comes from httpd, because there is a change');

# A request that should only have read wrote, and its record comes before that is committed, among others that only read
my ($late, $early, $plain) = map { new_id() } 1 .. 3;
sub ended { my ($id) = @_; return { %{ json(envelope($id)) }, method => 'GET', status => 200, bytes => 1, duration => 1, mode => 2 } }
sub status { my ($id) = @_; return admin('SELECT status FROM pubsubpull.request WHERE id = $1', $id) }
sub writes {
    my ($id) = @_;
    $other->do(q{SELECT set_config('pubsubpull.request', ?, true)}, undef, envelope($id) =~ s/"method":"[A-Z]+"/"method":"GET"/r);
    $other->do(q{INSERT INTO t (v) VALUES ('read')});
    return;
}
writes($early);
$other->commit;
writes($late);
my $from = time;
is(admin(q{SELECT pubsubpull.record_requests($1)}, to_json([map { ended($_) } $late, $early, $plain])), 2, 'reads that wrote, one of them not yet committed, and one that did not');
cmp_ok(time - $from, '<', 2, 'nobody waits for the writer');
is_deeply([map { status($_) } $early, $plain], [200, 200], 'what can be completed is');
is(admin('SELECT count(*) FROM pubsubpull.request_late'), 1, 'the other is tried again');
$other->commit;
admin('UPDATE pubsubpull.request_late SET try_at = now()');
admin('SELECT pubsubpull.record_late()');
is(status($late), 200, 'when it is committed it is completed, too');
is(admin(q{SELECT pubsubpull.record_requests($1)}, to_json([map { ended($_) } $late, $plain])), 2, 'recording them twice is recording them once');

# The same by the way that is for reads alone
my ($first, $open, $done) = map { new_id() } 1 .. 3;
sub reads { return admin(q{SELECT pubsubpull.record_reads($1)}, to_json([map { ended($_) } @_])) }
admin('UPDATE pubsubpull.request SET status = 200, claimed = NULL WHERE status IS NULL');    # none is awaited any more
is(reads($first), 1, 'a read');
is(reads($first, $done), 2, 'again, among others');
is_deeply([map { status($_) } $first, $done], [200, 200], 'they are recorded');
writes($open);
$from = time;
my $fresh = new_id();
is(reads($open, $fresh), 1, 'a read that wrote what is not committed yet, and one that did not');
cmp_ok(time - $from, '<', 2, 'nobody waits for the writer here either');
$other->commit;
is(status($open), undef, 'it is not complete when it is committed');
is(reads($open, $fresh), 2, 'said again it is');
is_deeply([map { status($_) } $open, $fresh], [200, 200], 'and all are recorded');
admin('DELETE FROM pubsubpull.request_late');

# Serializable transactions
set(new_id());
my @failed;
for my $n (1 .. 5) {
    $db->do('BEGIN ISOLATION LEVEL SERIALIZABLE');
    $other->do('SET TRANSACTION ISOLATION LEVEL SERIALIZABLE');
    $other->do(q{SELECT set_config('pubsubpull.request', ?, true)}, undef, envelope(new_id()));
    direct(q{INSERT INTO t (v) VALUES ('s')});
    $other->do(q{INSERT INTO t (v) VALUES ('s')});
    push @failed, $@ if !eval { $db->do('COMMIT'); $other->commit; 1 };
}
is(join('', @failed), '', 'serializable transactions that have nothing to do with each other stay so');
finish;
