# SPDX-License-Identifier: Apache-2.0
# Writer.pm: random transactions on the tables of the soak, and a journal of them that knows nothing of the log.
#
# What a transaction changed is written to a file before it commits, under a name that the transaction itself inserts into the
# table done: so it is known in the end which transactions were committed, also of those whose COMMIT was never answered.
package PspTest::Soak::Writer;
use strict;
use warnings;
use utf8;
use Time::HiRes qw(time sleep);

our @ids = (1 .. 40);
our @names = ('a', 'b c', 'd/e', 'f,g', 'ü', '100%');

# tables(): what the soak writes to. Values of v differ in all writes of one key.
sub tables {
    return (
        'CREATE TABLE plain (id int PRIMARY KEY, n int, v bigint)',
        'CREATE TABLE pair (a text, b int, n int, v bigint, PRIMARY KEY (a, b))',
        'CREATE TABLE part (region text, id int, n int, v bigint, PRIMARY KEY (region, id)) PARTITION BY LIST (region)',
        q{CREATE TABLE part_1 PARTITION OF part FOR VALUES IN ('r1')},
        q{CREATE TABLE part_2 PARTITION OF part FOR VALUES IN ('r2')},
        'CREATE TABLE done (tx text PRIMARY KEY)');
}

# new(pg => …, number => n, dir => where the journal goes, hold => longest time in seconds to leave some transactions open)
sub new {
    my ($class, %o) = @_;
    my $self = bless { %o, v => $o{number} * 1_000_000_000, tx => 0, name => "w$o{number}-$$" }, $class;
    srand $o{seed} * 1000 + $o{number};
    open $self->{journal}, '>>:utf8', "$o{dir}/journal-$o{number}-$$" or die "journal: $!";
    $self->{journal}->autoflush(1);
    return $self;
}

sub key { return join ',', map { my $s = "$_"; utf8::encode($s); $s =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ger } @_ }

sub note {
    my ($self, $type, $table, $key, $v, $old) = @_;
    push @{ $self->{changes} }, join '|', $table, $type, $key // '', $v // '', $old // '';
    return;
}

# One transaction; its name when it was committed for sure. $identify->($dbh) is called at its start.
sub transaction {
    my ($self, $identify) = @_;
    my $tx = "$self->{name}-" . ++$self->{tx};
    $self->{changes} = [];
    my $committed = eval {
        my $dbh = $self->{dbh} //= $self->{pg}->dbh(pg_enable_utf8 => 1);
        $dbh->begin_work;
        $identify->($dbh) if $identify;
        $dbh->do(q{SET LOCAL lock_timeout = '3s'});
        $self->step($dbh) for 1 .. 1 + int rand 4;
        $dbh->do('INSERT INTO done VALUES (?)', undef, $tx);
        sleep rand $self->{hold} if rand() < 0.2;
        if (rand() < 0.1) {
            $dbh->rollback;
            return 0;
        }
        print { $self->{journal} } join("\t", 'try', $tx, @{ $self->{changes} }), "\n";
        $dbh->commit;
    };
    print { $self->{journal} } "ok\t$tx\n" if $committed;
    if (!$committed && !eval { $self->{dbh}->rollback if !$self->{dbh}{AutoCommit}; $self->{dbh}->ping }) {
        delete $self->{dbh};
        sleep 0.2;
    }
    return $committed ? $tx : undef;
}

sub step {
    my ($self, $dbh) = @_;
    return $self->change($dbh) if rand() > 0.15;
    my $before = @{ $self->{changes} };
    $dbh->do('SAVEPOINT s');
    if (eval { $self->change($dbh); 1 } && rand() < 0.5) { $dbh->do('RELEASE s') }
    else {
        $dbh->do('ROLLBACK TO s');
        splice @{ $self->{changes} }, $before;
    }
    return;
}

sub change {
    my ($self, $dbh) = @_;
    my $table = (qw(plain plain plain pair part))[rand 5];
    my $v = ++$self->{v};
    return $self->$table($dbh, $v, int rand 10, rand);
}

# Rows that a statement returned: type, then the columns of the key, then v.
sub returned {
    my ($self, $dbh, $table, $statement, @values) = @_;
    for my $row (@{ $dbh->selectall_arrayref($statement, undef, @values) }) {
        my ($type, @key) = @$row;
        my $v = pop @key;
        $self->note($type, $table, key(@key), $v);
    }
    return;
}

sub plain {
    my ($self, $dbh, $v, $n, $dice) = @_;
    my ($id, $other) = map { $ids[rand @ids] } 1, 2;
    if ($dice < 0.3) {
        $self->returned($dbh, 'plain', q{INSERT INTO plain VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET v = excluded.v
            RETURNING CASE WHEN xmax = 0 THEN 'I' ELSE 'U' END, id, v}, $id, $n, $v);
    }
    elsif ($dice < 0.69) {
        $self->returned($dbh, 'plain', q{UPDATE plain SET v = ?, n = ? WHERE id = ? RETURNING 'U', id, v}, $v, $n, $id);
    }
    elsif ($dice < 0.74) {
        $self->returned($dbh, 'plain', q{UPDATE plain SET v = ? WHERE id BETWEEN ? AND ? RETURNING 'U', id, v}, $v, $id, $id + 5);
    }
    elsif ($dice < 0.94) { $self->returned($dbh, 'plain', q{DELETE FROM plain WHERE id = ? RETURNING 'D', id, v}, $id) }
    elsif ($dice < 0.98) {    # changed keys and TRUNCATE are barriers: too many of them, and deliveries cannot keep up
        my $rows = $dbh->selectall_arrayref(q{UPDATE plain SET id = ?, v = ? WHERE id = ? AND NOT EXISTS (SELECT FROM plain WHERE id = ?) RETURNING id},
            undef, $other, $v, $id, $other);
        $self->note('U', 'plain', $other, $v, $id) if @$rows;
    }
    elsif ($dice < 0.995) {
        $self->returned($dbh, 'plain', q{INSERT INTO plain SELECT g, ?, ? FROM generate_series(1, ?) g ON CONFLICT (id) DO NOTHING RETURNING 'I', id, v}, $n, $v, scalar @ids);
    }
    else {
        $dbh->do('TRUNCATE plain');
        $self->note('T', 'plain');
    }
    return;
}

sub pair {
    my ($self, $dbh, $v, $n, $dice) = @_;
    my @key = ($names[rand @names], int rand 4);
    if ($dice < 0.7) {
        $self->returned($dbh, 'pair', q{INSERT INTO pair VALUES (?, ?, ?, ?) ON CONFLICT (a, b) DO UPDATE SET n = excluded.n, v = excluded.v
            RETURNING CASE WHEN xmax = 0 THEN 'I' ELSE 'U' END, a, b, v}, @key, $n, $v);
    }
    elsif ($dice < 0.94) { $self->returned($dbh, 'pair', q{DELETE FROM pair WHERE a = ? AND b = ? RETURNING 'D', a, b, v}, @key) }
    elsif ($dice < 0.995) {
        my $rows = $dbh->selectall_arrayref(q{UPDATE pair SET b = b + 10, v = ? WHERE a = ? AND b = ? RETURNING a, b}, undef, $v, @key);
        $self->note('U', 'pair', key(@{ $rows->[0] }), $v, key(@key)) if @$rows;
    }
    else {
        $dbh->do('TRUNCATE pair');
        $self->note('T', 'pair');
    }
    return;
}

sub part {
    my ($self, $dbh, $v, $n, $dice) = @_;
    my ($number, $id) = (1 + int rand 2, $ids[rand 10]);
    my $region = "r$number";
    if ($dice < 0.7) {
        my $before = @{ $self->{changes} };
        $self->returned($dbh, 'part', q{INSERT INTO part VALUES (?, ?, ?, ?) ON CONFLICT (region, id) DO NOTHING RETURNING 'I', region, id, v}, $region, $id, $n, $v);
        return if @{ $self->{changes} } > $before;
        $self->returned($dbh, 'part', q{UPDATE part SET n = ?, v = ? WHERE region = ? AND id = ? RETURNING 'U', region, id, v}, $n, $v, $region, $id);
    }
    elsif ($dice < 0.8) { $self->returned($dbh, 'part', q{DELETE FROM part WHERE region = ? AND id = ? RETURNING 'D', region, id, v}, $region, $id) }
    elsif ($dice < 0.98) {    # to the other partition
        my ($old) = $dbh->selectrow_array('SELECT v FROM part WHERE region = ? AND id = ? FOR UPDATE', undef, $region, $id);
        return if !defined $old;
        my $to = $region eq 'r1' ? 'r2' : 'r1';
        $dbh->do('UPDATE part SET region = ?, v = ? WHERE region = ? AND id = ?', undef, $to, $v, $region, $id);
        $self->note('D', 'part', key($region, $id), $old);
        $self->note('I', 'part', key($to, $id), $v);
    }
    elsif ($dice < 0.99) {    # a partition by itself: its rows are deleted
        $dbh->do("LOCK TABLE part_$number IN ACCESS EXCLUSIVE MODE");
        $self->returned($dbh, 'part', "SELECT 'D', region, id, v FROM part_$number");
        $dbh->do("TRUNCATE part_$number");
    }
    else {
        $dbh->do('TRUNCATE part');
        $self->note('T', 'part');
    }
    return;
}

# The same by psql: what it prints is the journal's.
sub psql {
    my ($self) = @_;
    my $tx = "$self->{name}-" . ++$self->{tx};
    my ($id, $n) = ($ids[rand @ids], int rand 10);
    my ($v, $w) = (++$self->{v}, ++$self->{v});
    my $text = <<"END";
BEGIN;
SET LOCAL lock_timeout = '3s';
DELETE FROM plain WHERE id = $id RETURNING 'plain|D', id, v, '';
INSERT INTO plain VALUES ($id, $n, $v) ON CONFLICT DO NOTHING RETURNING 'plain|I', id, v, '';
UPDATE plain SET v = $w, n = n + 1 WHERE id % 17 = $id % 17 RETURNING 'plain|U', id, v, '';
INSERT INTO done VALUES ('$tx');
END
    my %env = ($self->{pg}->env, PGHOST => $self->{pg}{socket});
    local @ENV{ keys %env } = values %env;
    open my $old, '>&', \*STDERR or die $!;
    open STDERR, '>', '/dev/null' or die $!;
    require IPC::Open2;
    my $pid = IPC::Open2::open2(my $out, my $in, "$self->{pg}{bin}/psql", qw(-X -q -A -t -v ON_ERROR_STOP=1));
    open STDERR, '>&', $old or die $!;
    print {$in} $text, "SELECT 'ready';\n";
    $in->flush;
    my (@changes, $ready);
    while (my $line = <$out>) {
        chomp $line;
        last if $ready = $line eq 'ready';
        push @changes, $line;
    }
    if ($ready) {
        print { $self->{journal} } join("\t", 'try', $tx, @changes), "\n";
        print {$in} "COMMIT;\nSELECT 'committed';\n";
    }
    close $in;
    my $answer = <$out> // '';
    close $out;
    waitpid $pid, 0;
    print { $self->{journal} } "ok\t$tx\n" if $answer eq "committed\n";
    return;
}

1;
