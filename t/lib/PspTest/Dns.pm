# SPDX-License-Identifier: Apache-2.0
# Dns.pm: a name server for an httpd of ours only: PspTest->up(mounts => $dns->mounts)
package PspTest::Dns;
use strict;
use warnings;
use PspTest::Util qw(at_exit tmp_dir spawn stop_child repo spew slurp to_json);

# It has an address of its own, since port 53 must be free, and is the only one that resolves names.
sub start {
    my ($class) = @_;
    my $self = bless { dir => tmp_dir(), owner => $$, address => join('.', 127, 53, $$ >> 8 & 255, $$ & 255 || 1) }, $class;
    at_exit(sub { $self->stop if $self->{owner} == $$ });
    pipe my $child_in, my $in or die "pipe: $!";
    pipe my $out, my $child_out or die "pipe: $!";
    $self->{pid} = spawn(
        cmd => [$> == 0 ? () : qw(sudo -n), '/usr/bin/python3', '-B', repo('t/lib/dns.py'), $self->{address}, "$self->{dir}/asked"],
        in => $child_in, out => $child_out, log => "$self->{dir}/log");
    $in->autoflush(1);
    @{$self}{qw(in out)} = ($in, $out);
    close $child_in;
    close $child_out;
    defined(scalar <$out>) or die 'the name server did not start: ' . slurp("$self->{dir}/log");
    spew("$self->{dir}/resolv.conf", "nameserver $self->{address}\n");
    spew("$self->{dir}/nsswitch.conf", "passwd: files\ngroup: files\nhosts: dns\n");
    return $self;
}

# Files that stand for those of the system
sub mounts {
    my ($self) = @_;
    return { map { ("/etc/$_" => "$self->{dir}/$_") } qw(resolv.conf nsswitch.conf) };
}

# name('x.test', ['192.0.2.1', '::1'], …): the addresses of the first look-up, of the next …; name('x.test'): no answer
sub name {
    my ($self, $name, @answers) = @_;
    print { $self->{in} } to_json({ name => $name, @answers ? (answers => \@answers) : (hang => JSON::PP::true()) }), "\n";
    my $out = $self->{out};
    defined(scalar <$out>) or die 'the name server is gone: ' . slurp("$self->{dir}/log");
    return;
}

# How often it was asked for a name.
sub asked {
    my ($self, $name) = @_;
    return scalar(() = slurp("$self->{dir}/asked") =~ /^\Q$name\E /mg);
}

sub stop {
    my ($self) = @_;
    close delete $self->{$_} for grep { $self->{$_} } qw(in out);
    stop_child(delete $self->{pid});
    return;
}

1;
