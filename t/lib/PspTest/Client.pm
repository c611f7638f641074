# SPDX-License-Identifier: Apache-2.0
# Client.pm: an HTTP client that sends exactly what it is told: header names, order, repetition, raw bytes.
package PspTest::Client;
use strict;
use warnings;
use Exporter qw(import);
use IO::Select;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);
use Time::HiRes qw(time);
use PspTest::Util qw(json to_json slow);

our @EXPORT_OK = qw(http raw_http);

# http($method, $url, user => 'alice', headers => [Name => 'value', …], json => {…} | body => '…', timeout => 15):
# a response with status, reason, body, ->header('name'), ->json. The password of a user is its name.
sub http {
    my ($method, $url, %o) = @_;
    my ($host, $port, $path) = $url =~ m{^http://([^/:?]+)(?::(\d+))?([^#]*)}
        or die "not an http URL: $url";
    $path = "/$path" if $path !~ m{^/};
    my @headers = @{ $o{headers} // [] };
    my %given;
    for (my $i = 0; $i < @headers; $i += 2) { $given{ lc $headers[$i] } = 1 }

    my $body = exists $o{json} ? to_json($o{json}) : $o{body};
    push @headers, 'Content-Type', 'application/json' if exists $o{json} && !$given{'content-type'};
    push @headers, 'Content-Length', length $body if defined $body && !$given{'content-length'};
    push @headers, 'Authorization', 'Basic ' . encode_base64("$o{user}:" . ($o{password} // $o{user}), '')
        if defined $o{user};
    push @headers, 'Connection', 'close' if !$given{connection};
    unshift @headers, 'Host', "$host:" . ($port // 80) if !$given{host};

    my $text = "$method $path HTTP/1.1\r\n";
    while (my ($name, $value) = splice @headers, 0, 2) { $text .= "$name: $value\r\n" }
    my $raw = raw_http($port // 80, "$text\r\n" . ($body // ''), %o, method => $method);
    return PspTest::Response->parse($raw, $method);
}

# Send bytes, return all bytes of the answer: until the peer closes, or one whole answer came.
sub raw_http {
    my ($port, $bytes, %o) = @_;
    my $deadline = time + ($o{timeout} // 15) * slow();
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 5)
        or return "HTTP/1.1 599 No Connection\r\n\r\n$!";
    $socket->autoflush(1);
    my $select = IO::Select->new($socket);
    print {$socket} $bytes;
    my $answer = '';
    while (1) {
        my $left = $deadline - time;
        return "HTTP/1.1 599 Timeout\r\n\r\n$answer" if $left <= 0 || !$select->can_read($left);
        my $got = sysread $socket, $answer, 65_536, length $answer;
        last if !$got;
        last if defined $o{method} && PspTest::Response->parse($answer, $o{method}, 1);
    }
    close $socket;
    return $answer;
}

package PspTest::Response;
use strict;
use warnings;
use PspTest::Util ();

# With $strict: undef unless the answer is there as a whole by its own account.
sub parse {
    my ($class, $raw, $method, $strict) = @_;
    my ($head, $body);
    while (1) {
        my $end = index $raw, "\r\n\r\n";
        if ($end < 0) {
            return undef if $strict;
            return bless { status => 599, reason => 'No Answer', headers => [], body => $raw }, $class;
        }
        ($head, $body) = (substr($raw, 0, $end), substr($raw, $end + 4));
        last if $head !~ m{^HTTP/1\.[01] 1\d\d};
        $raw = $body;
    }
    my ($line, @lines) = split /\r\n/, $head;
    my ($status, $reason) = $line =~ m{^HTTP/1\.[01] (\d+) ?(.*)};
    my @headers = map { /^([^:]+):\s*(.*)$/ ? [$1, $2] : () } @lines;
    my $self = bless { status => $status // 599, reason => $reason // '', headers => \@headers }, $class;

    my $length = $self->header('Content-Length');
    if ($method eq 'HEAD' || $self->{status} =~ /^(?:204|304)$/) { $body = '' }
    elsif (($self->header('Transfer-Encoding') // '') =~ /chunked/i) {
        my ($plain, $done) = dechunk($body);
        return undef if $strict && !$done;
        $self->{truncated} = 1 if !$done;
        $body = $plain;
    }
    elsif (defined $length) {
        return undef if $strict && length $body < $length;
        $self->{truncated} = 1 if length $body < $length;
    }
    elsif ($strict) { return undef }
    $self->{body} = $body;
    return $self;
}

sub dechunk {
    my ($body) = @_;
    my ($plain, $at) = ('', 0);
    while (substr($body, $at, 32) =~ /^([0-9A-Fa-f]+)[^\r\n]*\r\n/) {
        my ($size, $skip) = (hex $1, length $&);
        return ($plain, 1) if $size == 0;
        last if length($body) < $at + $skip + $size + 2;
        $plain .= substr $body, $at + $skip, $size;
        $at += $skip + $size + 2;
    }
    return ($plain, 0);
}

sub status { return $_[0]{status} }
sub reason { return $_[0]{reason} }
sub body   { return $_[0]{body} }
sub json   { return PspTest::Util::json($_[0]{body}) }

# All values of a header, joined with ", "; undef when there is none.
sub header {
    my ($self, $name) = @_;
    my @values = map { $_->[1] } grep { lc $_->[0] eq lc $name } @{ $self->{headers} };
    return @values ? join(', ', @values) : undef;
}

# The target of a Link header with this rel.
sub link {
    my ($self, $rel) = @_;
    my $links = $self->header('Link') // return undef;
    return $links =~ /<([^>]*)>\s*;\s*rel="?\Q$rel\E"?/ ? $1 : undef;
}

1;
