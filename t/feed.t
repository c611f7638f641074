# SPDX-License-Identifier: Apache-2.0
# feed.t: a follower sees every committed change exactly once, in commit order for each key. SQL only.
use PspTest;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
$pg->sql('CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL)');
$pg->publishable('t');
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
admin(q{SELECT pubsubpull.publish('t')});

# Follows /changes/: returns changes since the last call, in pages of $limit.
my $since;
sub follow {
    my ($limit) = @_;
    my @changes;
    while (1) {
        my $page = json(admin(q{SELECT body FROM pubsubpull.changes_get($1, NULL, NULL, NULL, $2, $3, NULL, NULL, NULL, 'page', NULL)}, 'http://h/p', $since, $limit // 7));
        push @changes, @{ $page->{changes} };
        ($since) = $page->{next} =~ /since=([^&]+)/;
        return @changes if !$page->{more};
    }
}
sub seen { return join ' ', map { "$_->{type}:" . ($_->{key} ? $_->{key}{id} : '-') } follow(@_) }

is(seen(), '', 'an empty log can be followed');
my ($a, $b) = ($pg->dbh(AutoCommit => 0), $pg->dbh(AutoCommit => 0));
$a->do('INSERT INTO t VALUES (1, 1)');
$b->do('INSERT INTO t VALUES (2, 1)');
$b->commit;
is(seen(), 'insert:2', 'the transaction with the higher id committed first and is seen');
$a->commit;
is(seen(), 'insert:1', 'then the one with the lower id');
is(seen(), '', 'each once');

# A transaction that stays open delays nobody, also when it wrote long ago; its changes come when it commits.
my $other_db = $pg->admin(db => 'postgres')->dbh(AutoCommit => 0);
$other_db->do('CREATE TABLE elsewhere (id int)');
$a->do('INSERT INTO t SELECT g, 0 FROM generate_series(1000, 1019) g');
for my $i (3 .. 12) {
    $pg->sql('INSERT INTO t VALUES (?, 0)', $i);
    is(seen(3), "insert:$i", "change $i passes the open ones");
}
$a->do('UPDATE t SET n = 1 WHERE id = 1000');
$a->commit;
is(seen(4), join(' ', map({ "insert:$_" } 1000 .. 1019), 'update:1000'), 'all changes of the open transaction, in order, once');
$other_db->rollback;
$other_db->disconnect;

# A cursor taken in a REPEATABLE READ transaction loses nothing either.
$a->do('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
$a->do('SELECT 1');
$b->do('INSERT INTO t VALUES (2000, 0)');
my $admin = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);
$admin->do('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
$admin->do('SELECT 1');
$b->commit;
$pg->sql('INSERT INTO t VALUES (2001, 0)');
($since) = $admin->selectrow_array('SELECT pubsubpull.cursor_encode(pubsubpull.now_position())');
$admin->rollback;
is(seen(), 'insert:2000 insert:2001', 'a position taken under an old snapshot is as old as the snapshot');

$since = undef;
follow(1000);

# With many tables short stretches are read for all of them together: from here on they are.
$pg->sql("CREATE TABLE o$_ (id int PRIMARY KEY)"), $pg->publishable("o$_"), admin("SELECT pubsubpull.publish('o$_')") for 1 .. 50;
$a->do('INSERT INTO o7 VALUES (1)');
$b->do('INSERT INTO t VALUES (3000, 0)');
$pg->sql('INSERT INTO o8 VALUES (2)');
is(seen(), 'insert:2', 'of many tables, past two open transactions');
$b->commit;
is(seen(), 'insert:3000', 'then those of the one');
$pg->sql("INSERT INTO o$_ VALUES ($_), (1000 + $_)") for 9 .. 12;
is(seen(3), join(' ', map { "insert:$_ insert:" . (1000 + $_) } 9 .. 12), 'several tables in order, in pages');
$a->commit;
is(seen(), 'insert:1', 'and those of the other');
is(seen(), '', 'each once');

# Churn: eight writers with rollbacks, savepoints and pauses; a follower meanwhile; at the end the copy must equal the table.
my %copy = map { @$_ } @{ $pg->rows('SELECT id, n FROM t') };
my $writers = 8;
my @pids = map {
    my $seed = $_;
    my $pid = fork // die $!;
    if (!$pid) {
        srand $seed;
        my $w = $pg->dbh;
        $w->do(q{SET lock_timeout = '50ms'});    # instead of waiting for deadlocks
        $w->{AutoCommit} = 0;
        for (1 .. 150) {
            eval {
                for (1 .. 1 + int rand 4) {
                    my $key = int rand 40;
                    my $what = int rand 10;
                    $w->do('SAVEPOINT s') if $what == 0;
                    if    ($what < 5) { $w->do('INSERT INTO t VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET n = t.n + 1', undef, $key, $seed) }
                    elsif ($what < 7) { $w->do('UPDATE t SET n = n + 1 WHERE id BETWEEN ? AND ? + 3', undef, $key, $key) }
                    elsif ($what < 8) { $w->do('DELETE FROM t WHERE id = ?', undef, $key) }
                    elsif ($what < 9) { $w->do('UPDATE t SET id = ? WHERE id = ? AND NOT EXISTS (SELECT FROM t WHERE id = ?)', undef, $key + 100, $key, $key + 100) }
                    $w->do('ROLLBACK TO s') if $what == 0;
                    select undef, undef, undef, rand 0.01 if $what == 9;
                }
                rand() < 0.2 ? $w->rollback : $w->commit;
                1;
            } or $w->rollback;    # deadlocks and lost races on keys
        }
        require POSIX;
        POSIX::_exit(0);
    }
    $pid;
} 1 .. $writers;

my (%ids, $bad);
my $apply = sub {
    for my $c (follow(50)) {
        $bad .= "twice $c->{id}\n" if $ids{ $c->{id} }++;
        my ($old, $new) = @$c{qw(old new)};
        if ($old) {
            $bad .= "order: $c->{id} has old n=$old->{n} for $old->{id}, copy has " . ($copy{ $old->{id} } // 'none') . "\n"
                if ($copy{ $old->{id} } // -1) != $old->{n};
            delete $copy{ $old->{id} };
        }
        $copy{ $new->{id} } = $new->{n} if $new;
    }
};
my $alive = $writers;
wait_until { $apply->(); $alive-- while $alive && waitpid(-1, 1) > 0; !$alive } 120, 'the writers are done';
$apply->();
is($bad // '', '', 'every change once, and in order for each key');
cmp_ok(scalar keys %ids, '>', 500, 'of many: ' . keys %ids);
is_deeply(\%copy, { map { @$_ } @{ $pg->rows('SELECT id, n FROM t') } }, 'the copy equals the table');
is(scalar keys %ids, admin(q{SELECT count(*) FROM pubsubpull.change WHERE id > (SELECT min(i) FROM unnest($1::bigint[]) i) - 1}, [keys %ids]), 'nothing in the log was missed');

$_->disconnect for $a, $b, $admin;
done_testing;
