# SPDX-License-Identifier: Apache-2.0
# Account.pm: the books of the soak: writers' journal = log = tables = feed = what each subscription got.
package PspTest::Soak::Account;
use strict;
use warnings;
use Test::More ();
use PspTest::Util qw(slurp wait_until slow);

my $shown = 20;    # most lines of each kind of mistake

sub account {
    my ($self) = @_;
    $self->measure;
    $self->{log} = $self->read_log;
    $self->journal_is_log;
    $self->log_is_tables;
    $self->feed_is_log;
    $self->requests_are_recorded;
    my %deliveries = $self->read_deliveries;
    for my $name (sort keys %{ $self->{subscriptions} }) {
        my $s = $self->{subscriptions}{$name};
        $self->complete($s, $deliveries{ $s->{name} } // []);
        $self->in_order($s);
    }
    $self->nothing_grows;
    $self->nothing_stays;
    return;
}

sub none {
    my ($what, @wrong) = @_;
    my $more = @wrong > $shown ? '… ' . @wrong . ' in all' : undef;
    return Test::More::is(join("\n", grep { defined } @wrong[0 .. ($#wrong < $shown ? $#wrong : $shown - 1)], $more), '', $what);
}

sub lines { my ($file) = @_; return -e $file ? split /\n/, slurp($file) : () }

# Changes by id, as PostgreSQL has them.
sub read_log {
    my ($self) = @_;
    my %log;
    for my $row (@{ $self->{pg}->rows([user => 'pubsubpull'], q{SELECT c.id, substr(p.name, 8), c.type, coalesce(c.key, ''), coalesce(c.old_key, ''),
            coalesce(c.new->>'v', c.old->>'v', ''), coalesce(c.new->>'n', ''), coalesce(c.old->>'n', ''), coalesce(c.request::text, ''), extract(epoch FROM c.at)
            FROM pubsubpull.change c JOIN pubsubpull.published p ON p.id = c.table_id}) }) {
        my %c;
        @c{qw(id table type key old_key v n old_n request at)} = @$row;
        $log{ $c{id} } = \%c;
    }
    return \%log;
}

sub in_log_order { my ($self) = @_; return map { $self->{log}{$_} } sort { $a <=> $b } keys %{ $self->{log} } }

# What was committed, and nothing else, is in the log. What was acknowledged was committed.
sub journal_is_log {
    my ($self) = @_;
    my %done = map { $_->[0] => 1 } @{ $self->{pg}->rows('SELECT tx FROM done') };
    my (%balance, @lost, $open);
    for my $line (map { lines($_) } glob "$self->{dir}/journal-*") {
        my ($word, $tx, @changes) = split /\t/, $line;
        if ($word eq 'try') {
            $open++ if !$done{$tx};
            $self->{tx_changes}{$tx} = @changes;
            $balance{$_}++ for $done{$tx} ? @changes : ();
        }
        else { push @lost, $tx if !$done{$tx} }
    }
    my $expected = 0;
    $expected += $_ for values %balance;
    $balance{ join '|', @$_{qw(table type key v old_key)} }-- for values %{ $self->{log} };
    none('what was committed is committed', @lost);
    none("the log has each of $expected changes in " . keys(%done) . ' transactions, and nothing else', map { "$_: $balance{$_}" } grep { $balance{$_} } sort keys %balance);
    return;
}

# What a follower has in hands who applies these changes.
sub apply {
    my ($rows, $c) = @_;
    if    ($c->{type} eq 'T') { %$rows = () }
    elsif ($c->{type} eq 'D') { delete $rows->{ $c->{key} } }
    else {
        delete $rows->{ $c->{old_key} } if $c->{old_key} ne '';
        $rows->{ $c->{key} } = $c->{v};
    }
    return;
}

sub table_rows {
    my ($self, $table) = @_;
    my %key = (plain => 'id', pair => "pubsubpull.percent_encode(a) || ',' || b", part => "region || ',' || id");
    return { map { @$_ } @{ $self->{pg}->rows([user => 'pubsubpull'], "SELECT $key{$table}, v FROM $table") } };
}

sub differences {
    my ($got, $wanted) = @_;
    my %keys = (%$got, %$wanted);
    return map { "$_: " . ($got->{$_} // 'none') . ', not ' . ($wanted->{$_} // 'none') } grep { ($got->{$_} // '') ne ($wanted->{$_} // '') } sort keys %keys;
}

sub log_is_tables {
    my ($self) = @_;
    my %rows;
    apply($rows{ $_->{table} } //= {}, $_) for $self->in_log_order;
    for my $table (qw(plain pair part)) {
        $self->{rows}{$table} = $self->table_rows($table);
        none("the changes of $table in order lead to its rows", differences($rows{$table} // {}, $self->{rows}{$table}));
    }
    return;
}

sub feed_is_log {
    my ($self) = @_;
    my %count;
    $count{$_}++ for lines("$self->{dir}/feed");
    none('the feed has each change', map { "$_ is missing: " . join '|', @{ $self->{log}{$_} }{qw(table type key at)} } grep { !$count{$_} } sort { $a <=> $b } keys %{ $self->{log} });
    none('once', map { "$_: $count{$_} times" } grep { $count{$_} > 1 || !$self->{log}{$_} } sort { $a <=> $b } keys %count);
    return;
}

# A change has its request. The end of a request is known, unless a kill of a notifier took it along, or the log counts it as dropped.
sub requests_are_recorded {
    my ($self) = @_;
    my %row = map { $_->[0] => $_ } @{ $self->{pg}->rows([user => 'pubsubpull'], 'SELECT id::text, status FROM pubsubpull.request') };
    my %late = map { @$_ } @{ $self->{pg}->rows([user => 'pubsubpull'], q{SELECT record->>'id', 1 FROM pubsubpull.request_late}) };    # tried again, at times much later
    my %changes;
    $changes{ $_->{request} }++ for grep { $_->{request} ne '' } values %{ $self->{log} };
    my (@without, @wrong, @ends, $n);
    for my $line (map { lines($_) } glob "$self->{dir}/requests-*") {
        my ($id, $status, $tx, $time) = split /\t/, $line;
        next if $id eq '-';
        $n++;
        my $changed = $tx eq '-' ? 0 : $self->{tx_changes}{$tx};
        push @without, "$id $tx: $changed changes" if $changed && !$row{$id};
        push @wrong, "$id $tx: " . ($changes{$id} // 0) . " changes, not $changed" if $tx ne '-' && ($changes{$id} // 0) != $changed;
        push @ends, $time if !$late{$id} && (!$row{$id} || ($row{$id}[1] // '') ne $status);
    }
    none('the request of a change is recorded', @without, map { "$_ is no request" } grep { !$row{$_} } sort keys %changes);
    none('and is its own', @wrong);
    my $dropped = 0;
    $dropped += $_ for map { $_->log =~ /PSP(?:0102|0335|0420): (\d+) records/g } @{ $self->{servers} };
    my $explained = grep { $self->excused($_) } @ends;
    none("the ends of $n requests are recorded, but " . @ends . " of which $explained ended just before a notifier was killed, and $dropped are counted as dropped",
        @ends - $explained > $dropped ? map { sprintf '%.3f', $_ } grep { !$self->excused($_) } @ends : ());
    return;
}

# httpd's child keeps records in memory for 20 ms, or while the database is away: a kill takes these along. The end of httpd counts them.
sub excused {
    my ($self, $time) = @_;
    my @faults = @{ $self->{faults} };
    for my $kill (grep { $_->{name} =~ /^notifier_killed/ } @faults) {
        next if $time > $kill->{to} + 0.1;
        my $from = $kill->{from} - 1;
        for my $f (reverse grep { $_->{name} =~ /^(?:backend|database|notifier_stopped|table)/ && $_->{to} <= $kill->{to} } @faults) {
            $from = $f->{from} - 1 if $f->{to} > $from - 6;    # sessions come back within seconds
        }
        return 1 if $time >= $from;
    }
    return 0;
}

# By subscription: requests with time, method, path, accepted, events.
sub read_deliveries {
    my ($self) = @_;
    my %deliveries;
    my $n = 0;
    for my $line (lines("$self->{receiver}{dir}/requests")) {
        my %put;
        (@put{qw(time subscription method path outcome id)}, my $events) = split /\t/, $line, 7;
        $put{line} = ++$n;
        my @events = map { my %e; @e{qw(id type v columns key)} = split /:/, $_, 5; \%e } split / /, $events;
        @events = { id => ($put{id} =~ /_(-?\d+)$/)[0], type => 'delete' } if $put{method} eq 'DELETE';
        $put{events} = \@events;
        push @{ $deliveries{ $put{subscription} } }, \%put;
    }
    return %deliveries;
}

my %word = (I => 'insert', U => 'update', D => 'delete', T => 'truncate');

sub wants {
    my ($s, $c) = @_;
    return 0 if $c->{table} ne $s->{table};
    return 0 if $s->{on} && !grep { $_ eq $word{ $c->{type} } } @{ $s->{on} };
    return 0 if $s->{when} && !($c->{n} ne '' && $c->{n} > 4);
    return 0 if $s->{columns} && $c->{type} eq 'U' && $c->{n} eq $c->{old_n} && $c->{old_key} eq '';
    return 1;
}

# Every event that the subscription wants arrived, as it is in the log; nothing else did.
sub complete {
    my ($self, $s, $puts) = @_;
    my (%first, @last, $repeats);
    my @strange = map { "$_->{time} $_->{path} $_->{outcome}" } grep { $_->{outcome} =~ /^no/ } @$puts;
    for my $put (grep { $_->{outcome} eq '204' } @$puts) {
        for my $i (0 .. $#{ $put->{events} }) {
            my $e = $put->{events}[$i];
            my $c = $e->{id} < 0 ? { id => $e->{id}, table => $s->{table}, type => 'I', key => $e->{key}, old_key => '', v => $e->{v} } : $self->{log}{ $e->{id} };
            my $ok = $e->{id} < 0 ? $s->{since} && $e->{type} eq 'row' : $c && wants($s, $c) && $e->{type} eq $word{ $c->{type} };
            $ok &&= $e->{key} eq $c->{key} && ($s->{columns} || $e->{v} eq $c->{v}) && (!$s->{columns} || $e->{columns} =~ /^(?:id,n)?$/) if $put->{method} eq 'PUT';
            push @strange, "$put->{time} $put->{path} $put->{id}: $e->{id} $e->{type} " . ($e->{v} // '') if !$ok;
            next if !$c;
            $repeats++ if $first{ $c->{id} };
            my $arrival = { %$c, time => $put->{time}, at => $put->{line} * 10_000 + $i };
            $first{ $c->{id} } //= $arrival;
            push @last, $arrival;
        }
    }
    $s->{first} = \%first;
    $s->{arrivals} = \@last;
    none("$s->{name}: nothing strange arrived", @strange);
    my @wanted = grep { wants($s, $_) && !($s->{since} && $_->{at} < $s->{made_at}) } $self->in_log_order;
    my %next;    # the lane's next change
    my @missing;
    for my $c (reverse @wanted) {
        my $barrier = $c->{key} eq '' || $c->{old_key} ne '';
        push @missing, $c if !$first{ $c->{id} } && !($s->{latest} && !$barrier && $next{ $c->{key} });
        $next{$_} = 1 for grep { $_ ne '' } @$c{qw(key old_key)};
    }
    none("$s->{name}: all of " . @wanted . ' arrived' . ($s->{latest} ? ', or a later one did' : ''),
        map { join '|', @$_{qw(id type key old_key v at)} } reverse @missing);
    Test::More::note("$s->{name}: " . keys(%first) . ' arrived, ' . ($repeats // 0) . ' times again');
    return;
}

# For each key: first arrivals in order; the last one to arrive is the newest; what comes again after a newer one does so after a fault.
sub in_order {
    my ($self, $s) = @_;
    my (%highest, %all, @late, @groundless, %lanes);
    for my $e (@{ $s->{arrivals} }) {
        my @keys = $e->{type} eq 'T' ? keys %highest : grep { $_ ne '' } @$e{qw(key old_key)};
        for my $key (@keys) {
            my $newer = $highest{$key} // $all{id};
            if ($newer && $newer->{id} > $e->{id}) {
                my $text = join '|', @$e{qw(time id type key old_key)}, "after $newer->{id} $newer->{type} at $newer->{time}";
                # after a fault rows are read again and may be more; where only the latest counts, some that were left out before may be sent
                if ($s->{first}{ $e->{id} }{at} == $e->{at}) { push @late, $text if !($s->{latest} || $e->{id} < 0) || !$self->fault_between($newer->{time}, $e->{time}) }
                elsif (!$self->fault_between($s->{first}{ $e->{id} }{time}, $e->{time})) { push @groundless, $text }
            }
            $highest{$key} = $e if !$highest{$key} || $highest{$key}{id} < $e->{id};
            $lanes{$key} = $e;
        }
        if ($e->{type} eq 'T' && $e->{id} > ($all{id}{id} // 0)) { $all{id} = $e }
    }
    none("$s->{name}: in order for each key", @late);
    none("$s->{name}: an older one comes again only after a fault", @groundless);
    none("$s->{name}: the newest came last", map { join '|', $_, @{ $lanes{$_} }{qw(time id type)}, "not $highest{$_}{id}" } grep { $lanes{$_}{id} != $highest{$_}{id} } sort keys %lanes);
    return if $s->{when} || $s->{columns};
    my %rows;
    apply(\%rows, $_) for @{ $s->{arrivals} };
    none("$s->{name}: a copy made of it is the table", differences(\%rows, $self->{rows}{ $s->{table} }));
    return;
}

sub fault_between {
    my ($self, $from, $to) = @_;
    return scalar grep { $_->{from} < $to && ($_->{to} // $to) + 15 > $from } @{ $self->{faults} };
}

sub nothing_grows {
    my ($self) = @_;
    my ($before, $after) = @{ $self->{measured} }[0, -1];
    my @grown;
    for my $port (sort keys %$after) {
        my ($b, $a) = ($before->{$port}, $after->{$port});
        next if $a->{pid} != $b->{pid};    # it was restarted
        push @grown, "$port: $b->{files} files, then $a->{files}" if $a->{files} > $b->{files} + 5;
        push @grown, "$port: $b->{kb} kB, then $a->{kb}" if $a->{kb} > $b->{kb} * 1.3 + 4000;
        Test::More::note("httpd $port: $b->{files} files, $b->{kb} kB; then $a->{files} files, $a->{kb} kB");
    }
    for my $pid (map { $_->notifier_pids } @{ $self->{servers} }) {
        my $usage = PspTest::Soak::Faults::usage($pid);
        push @grown, "notifier $pid: $usage->{files} files, $usage->{kb} kB" if $usage->{files} > 200 || $usage->{kb} > 100_000 * slow();
        Test::More::note("notifier $pid: $usage->{files} files, $usage->{kb} kB");
    }
    none('descriptors and memory do not grow', @grown);
    return;
}

sub nothing_stays {
    my ($self) = @_;
    $self->stop_load;
    $_->stop for @{ $self->{servers} };
    my $ours = join '|', map { quotemeta $_->dir } @{ $self->{servers} };
    my @left;
    eval { wait_until { !(@left = grep { PspTest::Soak::Faults::command_line($_) =~ /$ours/ } map { m{(\d+)} } glob '/proc/[0-9]*') } 3; 1 };
    none('no process of theirs is left', @left);
    my $sessions = [];
    eval { wait_until { !@{ $sessions = $self->{pg}->admin->rows(q{SELECT application_name, state, query FROM pg_stat_activity WHERE usename = 'pubsubpull_httpd' AND application_name LIKE 'pubsubpull%'}) } } 5; 1 };
    none('no session of theirs is left', map { join ' ', map { $_ // '' } @$_ } @$sessions);
    none('nothing in the logs tells of a mistake', map { bad_lines($_->output) } @{ $self->{servers} });
    none('nor in that of PostgreSQL', grep { /pubsubpull@/ && /ERROR|PANIC|FATAL/ && !/terminating connection|connection to client lost|statement timeout|the database system is|not yet accepting/ && !($self->{schema} && /cached plan must not change result type|does not exist/) } split /\n/, $self->{pg}->log);
    return;
}

sub bad_lines {
    my ($log) = @_;
    return grep { /PSP043[0-3569]|PSP045\d|PSP040[25-7]|PSP0421|Segmentation|Abort|core dump|Sanitizer|corrupt|double free|assertion/i } split /\n/, $log;
}

1;
