# SPDX-License-Identifier: Apache-2.0
# Faults.pm: what is done to the parts while the soak runs. The seed decides what comes when.
package PspTest::Soak::Faults;
use strict;
use warnings;
use Test::More ();
use Time::HiRes qw(time sleep);
use PspTest::Util qw(wait_until slow);

# Each with its weight.
my %faults = (
    notifier_killed   => 5,
    notifier_stopped  => 4,    # and continued; sometimes its leases are over then
    worker_killed     => 2,
    backend_ended     => 5,
    backend_killed    => 2,    # PostgreSQL ends all sessions and recovers
    database_fast     => 2,
    database_crash    => 3,
    database_stopped  => 3,
    receiver_stopped  => 3,
    receiver_killed   => 3,
    graceful          => 3,
    server_restarted  => 1,
    table_locked      => 2,
    changed           => 3,    # a subscription's document
    paused            => 2,
);

sub run {
    my ($self) = @_;
    my $from = time;
    my $until = $from + $self->{seconds} * slow();
    my @wheel = map { ($_) x $faults{$_} } sort keys %faults;
    my $quiet_at = $from + 25;
    my %once = %{ $self->{later} };
    sleep 3;
    $self->measure;
    while (time < $until) {
        my $name = $wheel[rand @wheel];
        my $fault = { name => $name, from => time };
        push @{ $self->{faults} }, $fault;
        my $what = $self->$name;
        $fault->{to} = time;
        $fault->{name} .= " $what" if defined $what;
        Test::More::note(sprintf '%7.2f s: %s, %.2f s', $fault->{from} - $from, $fault->{name}, $fault->{to} - $fault->{from});
        if (%once && time > $from + $self->{seconds} / 3) {
            my ($later) = sort keys %once;
            $self->subscribe($later, delete $once{$later});
        }
        sleep rand 2;
        if (time > $quiet_at) {    # time to recover and to deliver, and to see whether anything is sent twice without a reason
            sleep 4 + rand 4;
            $quiet_at = time + 20 + rand 20;
        }
    }
    $self->subscribe($_, $once{$_}) for sort keys %once;
    return;
}

sub mend {
    my ($self) = @_;
    $self->resume;
    wait_until { eval { $_->notifier_pid } } 10, 'a notifier' for @{ $self->{servers} };
    return;
}

sub random_notifier {
    my ($self) = @_;
    my @pids = map { $_->notifier_pids } @{ $self->{servers} };
    return $pids[rand @pids];
}

sub notifier_killed {
    my ($self) = @_;
    my $pid = $self->random_notifier // return;
    kill KILL => $pid;
    return;
}

sub notifier_stopped {
    my ($self) = @_;
    my $pid = $self->random_notifier // return;
    kill STOP => $pid;
    sleep(rand() < 0.5 ? rand 2 : 5 + rand 3);
    kill CONT => $pid;
    return;
}

sub worker_killed {
    my ($self) = @_;
    my $server = $self->any_server;
    my %other = map { $_ => 1 } $server->notifier_pids;
    my @workers = grep { !$other{$_} && command_line($_) !~ /cgid/ } split ' ', `pgrep -P $server->{pid}`;
    kill KILL => $workers[rand @workers] if @workers;
    return;
}

sub command_line { my ($pid) = @_; open my $in, '<', "/proc/$pid/cmdline" or return ''; return scalar(<$in>) // '' }

# Waits until PostgreSQL answers.
sub as_superuser {
    my ($self, @statement) = @_;
    return wait_until { eval { $self->{pg}->admin(db => 'postgres')->rows(@statement) } } 60, 'PostgreSQL';
}

sub backends {
    my ($self) = @_;
    return @{ $self->as_superuser(
            q{SELECT pid, application_name FROM pg_stat_activity WHERE datname = 'app' AND pid <> pg_backend_pid() ORDER BY application_name LIKE 'pubsubpull%' DESC, random() LIMIT 4}) };
}

sub backend_ended {
    my ($self) = @_;
    my @backends = $self->backends or return;
    my ($pid, $name) = @{ $backends[rand @backends] };
    $self->as_superuser('SELECT pg_terminate_backend(?)', $pid);
    return $name;
}

sub backend_killed {
    my ($self) = @_;
    my @backends = $self->backends or return;
    kill KILL => $backends[0][0];
    return $backends[0][1];
}

sub database_fast  { my ($self) = @_; $self->{pg}->restart('fast');      return }
sub database_crash { my ($self) = @_; $self->{pg}->restart('immediate'); return }

sub database_stopped {
    my ($self) = @_;
    $self->{pg}->signal('STOP');
    sleep(rand() < 0.7 ? rand 2 : 4 + rand 3);
    $self->{pg}->signal('CONT');
    return;
}

sub receiver_stopped {
    my ($self) = @_;
    $self->{receiver}->signal('STOP');
    sleep rand 5;
    $self->{receiver}->signal('CONT');
    return;
}

sub receiver_killed {
    my ($self) = @_;
    $self->{receiver}->stop;
    sleep rand 3;
    $self->{receiver}->launch;
    $self->{receiver}->reply(status => 204, flaky => 0.2);
    return;
}

sub graceful { my ($self) = @_; $self->any_server->graceful; return }

sub server_restarted {
    my ($self) = @_;
    my $server = $self->any_server;
    $server->stop;
    sleep rand 2;
    $server->launch;
    return;
}

# Nobody can read the table meanwhile either.
sub table_locked {
    my ($self) = @_;
    my $table = (qw(plain pair part))[rand 3];
    eval {
        my $dbh = $self->{pg}->dbh(AutoCommit => 0);
        $dbh->do(q{SET LOCAL lock_timeout = '5s'});
        $dbh->do("LOCK TABLE $table IN ACCESS EXCLUSIVE MODE");
        sleep rand 2;
        $dbh->rollback;
        1;
    } or return "$table: not";
    return $table;
}

# From batches to single events and back, with another concurrency or address.
sub changed {
    my ($self) = @_;
    my %document = (table => 'plain', callback => '/f/changed', batch => (1, 1, 2, 7)[rand 4], concurrency => 1 + int rand 8);
    $document{callback} = '/f/changed/{id}' if $document{batch} == 1;
    $self->subscribe('changed', \%document);
    return "batch $document{batch}";
}

sub paused {
    my ($self) = @_;
    $self->set_state('paused');
    sleep rand 2;
    $self->resume;
    return;
}

sub resume { my ($self) = @_; return $self->set_state('active') }

sub set_state {
    my ($self, $state) = @_;
    wait_until { $self->any_server->put('/pubsubpull/subscriptions/paused/state', { state => $state }, user => 'billing')->status == 200 } 60, $state;
    return;
}

# Descriptors and memory: of httpd's parents, which live as long as the soak.
sub measure {
    my ($self) = @_;
    push @{ $self->{measured} }, { map { $_->port => { pid => $_->pid, %{ usage($_->pid) } } } @{ $self->{servers} } };
    return;
}

sub usage {
    my ($pid) = @_;
    my @files = glob "/proc/$pid/fd/*";
    open my $in, '<', "/proc/$pid/status" or return { files => 0, kb => 0 };
    my ($kb) = join('', <$in>) =~ /^VmRSS:\s+(\d+)/m;
    return { files => scalar @files, kb => $kb };
}

1;
