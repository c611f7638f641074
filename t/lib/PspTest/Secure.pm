# SPDX-License-Identifier: Apache-2.0
# Secure.pm: a receiver behind TLS that speaks HTTP/2, and certificates for it, made for the time of a test.
package PspTest::Secure;
use strict;
use warnings;
use PspTest::Receiver;
use PspTest::Util qw(tmp_dir repo spew slurp to_json);

our @ISA = ('PspTest::Receiver');

# start(certificate => PspTest::Secure::Authority->issue(…), clients => $authority whose certificates are demanded,
# http1 => 1: no HTTP/2): as PspTest::Receiver; t/lib/secure.js says what its paths mean. There is no reply().
sub start {
    my ($class, %o) = @_;
    return $class->SUPER::start(%o);
}

sub command {
    my ($self) = @_;
    my %options = (%{ $self->{certificate} }{qw(cert key)}, $self->{http1} ? (http1 => 1) : (),
        $self->{clients} ? (ca => $self->{clients}{cert}) : ());
    return ('node', repo('t/lib/secure.js'), $self->{port}, "$self->{dir}/requests", to_json(\%options));
}

sub url { return "https://127.0.0.1:$_[0]{port}" . ($_[1] // '') }

# A certificate authority: new('name'); has {cert} and {key}, files.
package PspTest::Secure::Authority;
use PspTest::Util qw(tmp_dir spew slurp);

my @new_key = qw(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes);

sub openssl {
    my ($dir, @arguments) = @_;
    my $pid = PspTest::Util::spawn(cmd => ['openssl', @arguments], log => "$dir/log", cwd => $dir);
    waitpid $pid, 0;
    die "openssl @arguments: " . slurp("$dir/log") if $?;
    return;
}

sub new {
    my ($class, $name) = @_;
    my $dir = tmp_dir();
    openssl($dir, 'req', '-x509', @new_key, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', "/CN=$name", '-days', 30);
    return bless { dir => $dir, cert => "$dir/ca.pem", key => "$dir/ca.key", made => 0 }, $class;
}

# issue(name => 'x', for => 'IP:127.0.0.1', days => -1, self => 1: signed by itself): {cert, key}, files
sub issue {
    my ($self, %o) = @_;
    my $dir = $self->{dir};
    my $n = ++$self->{made};
    my $for = $o{for} // 'IP:127.0.0.1';
    openssl($dir, 'req', @new_key, '-keyout', "$n.key", '-out', "$n.csr", '-subj', '/CN=' . ($o{name} // 'receiver'));
    spew("$dir/$n.ext", "subjectAltName=$for\n");
    my @by = $o{self} ? ('-signkey', "$n.key") : ('-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial');
    openssl($dir, 'x509', '-req', '-in', "$n.csr", '-out', "$n.pem", '-days', $o{days} // 30, '-extfile', "$n.ext", @by);
    return { cert => "$dir/$n.pem", key => "$dir/$n.key" };
}

1;
