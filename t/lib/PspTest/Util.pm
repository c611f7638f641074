# SPDX-License-Identifier: Apache-2.0
# Util.pm: what all parts of the harness share: clean-up, child processes, waiting, ports, files.
package PspTest::Util;
use strict;
use warnings;
use Cwd qw(abs_path);
use Errno qw(ECHILD);
use Exporter qw(import);
use File::Basename qw(dirname);
use File::Path qw(remove_tree);
use File::Temp ();
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP ();
use POSIX ();
use Socket qw(SOCK_STREAM);
use Time::HiRes qw(time sleep);

our @EXPORT_OK = qw(at_exit tmp_dir spawn stop_child alive signal_group wait_until free_port listening
    repo build_dir slurp spew json to_json slow);

# --- Clean-up: whatever a test starts is undone when it ends, however it ends, last things first ---

my (@undo, $owner);

sub at_exit {
    my ($code) = @_;
    $owner //= $$;
    push @undo, $code;
    return;
}

sub run_undo {
    return if !defined $owner || $owner != $$;
    while (my $code = pop @undo) {
        eval { $code->(); 1 } or print STDERR "# clean-up: $@";
    }
    return;
}

END {
    my $status = $?;
    run_undo();
    $? = $status;
}

$SIG{$_} = sub { exit 130 } for qw(INT TERM HUP);
$SIG{PIPE} = 'IGNORE';

# --- Files ---

my $repo = abs_path(dirname(__FILE__) . '/../../..');

sub repo { return join '/', $repo, @_ }

# Where the module and unit tests were built; `make asan` has another place.
sub build_dir {
    my $build = $ENV{PSP_BUILD} // 'build';
    return $build =~ m{^/} ? $build : repo($build);
}

# Deadlines are stretched by this factor when what runs is slow (sanitizers, valgrind).
sub slow { return $ENV{PSP_SLOW} || 1 }

# A short path, since the names of unix sockets are limited to 107 bytes; open to postgres and www-data.
sub tmp_dir {
    my $dir = File::Temp::tempdir('psp-XXXXXX', DIR => '/tmp');
    chmod 0755, $dir or die "$dir: $!";
    at_exit(sub { remove_tree($dir) unless $ENV{PSP_KEEP} });
    return $dir;
}

sub slurp {
    my ($file) = @_;
    open my $in, '<:raw', $file or die "$file: $!";
    local $/ = undef;
    my $text = <$in>;
    close $in or die "$file: $!";
    return $text // '';
}

sub spew {
    my ($file, $text) = @_;
    open my $out, '>:raw', $file or die "$file: $!";
    print {$out} $text or die "$file: $!";
    close $out or die "$file: $!";
    return $file;
}

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
sub json { return $json->decode($_[0]) }
sub to_json { return $json->encode($_[0]) }

# --- Child processes: each leads a process group of its own, and gets a signal should this process be killed ---

# spawn(cmd => […], log => file, env => {}, cwd => dir, user => name, death => 'TERM', in/out => handle): the process id
sub spawn {
    my (%o) = @_;
    my @cmd = ('setpriv', '--pdeathsig', $o{death} // 'KILL');
    push @cmd, "--reuid=$o{user}", "--regid=$o{user}", '--init-groups' if defined $o{user};
    push @cmd, '--', @{ $o{cmd} };
    $owner //= $$;
    my $pid = fork // die "fork: $!";
    return $pid if $pid;

    # The child leaves only by exec or _exit: what at_exit and END hold is its parent's.
    eval {
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE);
        setpgrp 0, 0;
        chdir $o{cwd} or die "$o{cwd}: $!" if defined $o{cwd};
        if   ($o{in}) { open STDIN, '<&', $o{in}      or die "stdin: $!" }
        else          { open STDIN, '<',  '/dev/null' or die "stdin: $!" }
        if ($o{out}) { open STDOUT, '>&', $o{out} or die "stdout: $!" }
        if (defined $o{log}) {
            open STDERR, '>>', $o{log} or die "$o{log}: $!";
            open STDOUT, '>&', \*STDERR or die "stdout: $!" unless $o{out};
        }
        for my $name (keys %{ $o{env} // {} }) {
            if (defined $o{env}{$name}) { $ENV{$name} = $o{env}{$name} }
            else                        { delete $ENV{$name} }
        }
        exec { $cmd[0] } @cmd or die "$cmd[0]: $!";
    };
    print STDERR $@;
    POSIX::_exit(127);
}

# True while a child of ours runs; once it ended its status is in $?.
sub alive {
    my ($pid) = @_;
    return 0 if !$pid;
    my $got = waitpid $pid, POSIX::WNOHANG();
    return $got == 0;
}

sub signal_group {
    my ($pid, $signal) = @_;
    return kill $signal, -$pid;
}

# Ask a child to end, and after some seconds end its whole group; true when it ended when asked.
sub stop_child {
    my ($pid, $signal, $seconds) = @_;
    return 1 if !$pid;
    local ($?, $!);
    my $deadline = time + ($seconds // 5) * slow();
    kill $signal // 'TERM', $pid;
    kill 'CONT', $pid;
    my $asked = 1;
    while (alive($pid)) {
        if (time > $deadline) {
            $asked = 0;
            signal_group($pid, 'KILL');
        }
        sleep 0.01;
    }
    signal_group($pid, 'KILL');
    return $asked;
}

# --- Waiting, by condition and never by guess ---

# wait_until { condition } seconds, 'what': its true value; dies when the time is over.
sub wait_until (&;$$) {
    my ($condition, $seconds, $what) = @_;
    my $deadline = time + ($seconds // 10) * slow();
    my $pause = 0.002;
    while (1) {
        my $late = time > $deadline;
        my $value = $condition->();
        return $value if $value;
        die sprintf "waited %s s in vain for %s at %s line %d\n", $seconds // 10,
            $what // 'a condition', (caller)[1, 2] if $late;
        sleep $pause;
        $pause *= 1.5 if $pause < 0.05;
    }
}

# --- Ports: below the ephemeral range, each reserved until this process ends (tests may run side by side) ---

my (@reserved, $next_port);

sub free_port {
    my ($wanted) = @_;
    $next_port //= 20_000 + ($$ * 37) % 10_000;
    for (1 .. 12_000) {
        my $port = $wanted // (20_000 + $next_port++ % 12_000);
        my $lock = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => "\0psp-port-$port", Listen => 1);
        if ($lock) {
            my $probe = IO::Socket::INET->new(
                LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
            if ($probe) {
                close $probe;
                push @reserved, $lock;
                return $port;
            }
        }
        return undef if defined $wanted;
    }
    die 'no free port';
}

sub listening {
    my ($port) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 1);
    return $socket ? 1 : 0;
}

1;
