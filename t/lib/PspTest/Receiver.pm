# SPDX-License-Identifier: Apache-2.0
# Receiver.pm: somebody else's server that callbacks go to; does as it is told and remembers what it got.
package PspTest::Receiver;
use strict;
use warnings;
use PspTest::Util qw(at_exit tmp_dir spawn stop_child wait_until free_port repo to_json);

# start(port => n, address => '127.0.0.1'): answers 204 to everything until told otherwise. script: another program in
# t/lib that does as receiver.py.
sub start {
    my ($class, %o) = @_;
    my $self = bless { port => free_port(), address => '127.0.0.1', %o, dir => tmp_dir(), owner => $$ }, $class;
    $self->forget;
    at_exit(sub { $self->stop if $self->{owner} == $$ });
    $self->launch;
    return $self;
}

# Also after stop: the same port, default answers, and what it got before is still known.
sub launch {
    my ($self) = @_;
    pipe my $child_in, my $in or die "pipe: $!";
    pipe my $out, my $child_out or die "pipe: $!";
    $self->{pid} = spawn(
        cmd => [$self->command],
        in => $child_in, out => $child_out, log => "$self->{dir}/log");
    $in->autoflush(1);
    @{$self}{qw(in out)} = ($in, $out);
    close $child_in;
    close $child_out;
    defined(scalar <$out>) or die 'the receiver did not start: ' . PspTest::Util::slurp("$self->{dir}/log");
    return;
}

sub command {
    my ($self) = @_;
    return ('/usr/bin/python3', '-B', repo('t/lib', $self->{script} // 'receiver.py'), $self->{port}, "$self->{dir}/requests", $self->{address});
}

# From now on connections to its port are refused.
sub stop {
    my ($self) = @_;
    stop_child(delete $self->{pid}, 'KILL');
    close delete $self->{$_} for grep { $self->{$_} } qw(in out);
    return;
}

# Accepts, and does nothing more, until signal('CONT').
sub signal { my ($self, $signal) = @_; return kill $signal, $self->{pid} }

sub port { return $_[0]{port} }
sub url  { return "http://$_[0]{address}:$_[0]{port}" . ($_[1] // '') }

# What to answer: reply(status => 503, headers => {'Retry-After' => 1}, body => '…', delay => seconds)
#   hang => 1: never; close => 1: close without an answer; bye => 1: answer, then close; raw => 'bytes', and
#   endless => 'bytes' over and over after these, until the connection is closed
#   path => '/exactly' or match => 'regex', times => n: for these requests only; later rules win.
sub reply {
    my ($self, %rule) = @_;
    print { $self->{in} } to_json(\%rule), "\n";
    my $out = $self->{out};
    defined(scalar <$out>) or die 'the receiver is gone: ' . PspTest::Util::slurp("$self->{dir}/log");
    return;
}

# Forget all rules.
sub reset { my ($self) = @_; return $self->reply(reset => 1) }

# Forget the requests so far.
sub forget {
    my ($self) = @_;
    my $file = "$self->{dir}/requests";
    $self->{requests} = [];
    $self->{offset} = -e $file ? -s $file : 0;
    return;
}

# All requests in order of arrival, or those whose path matches; each has time, conn, in_flight, method, path, body,
# ->header('name'), ->json.
sub requests {
    my ($self, $pattern) = @_;
    my $file = "$self->{dir}/requests";
    if (-e $file && -s _ > $self->{offset}) {
        open my $in, '<:raw', $file or die "$file: $!";
        seek $in, $self->{offset}, 0;
        while (my $line = <$in>) {
            last if $line !~ /\n\z/;
            $self->{offset} += length $line;
            push @{ $self->{requests} }, PspTest::Receiver::Request->parse($line);
        }
        close $in;
    }
    my @requests = @{ $self->{requests} };
    return defined $pattern ? grep { $_->{path} =~ $pattern } @requests : @requests;
}

# Wait until there are at least n requests; returns them all.
sub wait_for {
    my ($self, $n, $seconds, $pattern) = @_;
    my $got = 0;
    eval { wait_until { ($got = () = $self->requests($pattern)) >= $n } $seconds, "$n requests"; 1 }
        or die "$@only $got requests at the receiver\n";
    return $self->requests($pattern);
}

package PspTest::Receiver::Request;
use strict;
use warnings;
use PspTest::Util ();

my %char = ('\\' => '\\', t => "\t", n => "\n", r => "\r");

sub parse {
    my ($class, $line) = @_;
    chomp $line;
    my %self;
    @self{qw(time conn in_flight method path headers body)} = split /\t/, $line, 7;
    $self{body} =~ s/\\(.)/$char{$1}/g;
    return bless \%self, $class;
}

sub json { my ($self) = @_; return $self->{json} //= PspTest::Util::json($self->{body}) }
sub body { return $_[0]{body} }
sub path { return $_[0]{path} }

sub header {
    my ($self, $name) = @_;
    my @values = map { $_->[1] } grep { lc $_->[0] eq lc $name } @{ PspTest::Util::json($self->{headers}) };
    return @values ? join(', ', @values) : undef;
}

1;
