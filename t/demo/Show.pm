# SPDX-License-Identifier: Apache-2.0
# Show.pm: runs commands for the demo and prints them with their output, JSON laid out for reading.
package Show;
use strict;
use warnings;
use Exporter qw(import);
use JSON::PP ();

our @EXPORT_OK = qw(title say_so run show_json);

my $width = 110;
my $colour = -t STDOUT;
my $json = JSON::PP->new->utf8;

sub title { my ($text) = @_; print "\n", paint(1, $text), "\n"; return }
sub say_so { print map { "$_\n" } @_; return }
sub paint { my ($style, $text) = @_; return $colour ? "\e[${style}m$text\e[0m" : $text }

# How curl speaks in the demo, so that the commands shown are whole: quiet, with the status at the end.
sub curl_home {
    my ($dir) = @_;
    open my $out, '>', "$dir/.curlrc" or die "$dir/.curlrc: $!";
    print {$out} qq{silent\nshow-error\nnoproxy = "*"\nmax-time = 30\nwrite-out = "\\nHTTP %{http_code}\\n"\n};
    close $out or die "$dir/.curlrc: $!";
    $ENV{CURL_HOME} = $dir;
    return;
}

# run('command'): { text, and for curl: status, head (with -i), json }
sub run {
    my ($command) = @_;
    print paint(36, '$ ' . $command), "\n";
    open my $out, '-|', 'sh', '-c', "$command 2>&1" or die "sh: $!";
    my $text = do { local $/ = undef; <$out> } // '';
    close $out;
    die "$text\ncommand failed: $command\n" if $?;
    my %result = (text => $text);
    if ($command =~ /^curl/) {
        $text =~ s/\n?HTTP (\d+)\n\z// and $result{status} = $1;
        ($result{head}, $text) = split /\r\n\r\n/, $text, 2 if $command =~ / -i /;
        print map { "  $_\n" } grep { /^(?:HTTP|x-request-id|location|content-type)/i } split /\r\n/, $result{head} // '';
        $result{json} = eval { $json->decode($text) };
        print $result{json} ? show_json($text) : $text =~ /\S/ ? "  $text\n" : '';
        print "  HTTP $result{status}\n" if !$result{head};
    }
    else { print $text =~ s/^/  /gmr }
    return \%result;
}

# JSON text with members in their order; what fits in a line stays in a line.
sub show_json {
    my ($text) = @_;
    my @tokens = $text =~ /("(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+)/g;
    my $tree = tree(\@tokens);
    return '  ' . layout($tree, 2) . "\n";
}

# Scalars as they are written; [open, [part, …]] for objects and arrays, a member being 'name: ' before its value.
sub tree {
    my ($tokens) = @_;
    my $token = shift @$tokens // return 'null';
    return $token if $token !~ /^[\[{]$/;
    my @parts;
    while (@$tokens && $tokens->[0] !~ /^[\]}]$/) {
        my $name = '';
        if (@$tokens > 1 && $tokens->[1] eq ':') { $name = shift(@$tokens) . ': '; shift @$tokens }
        push @parts, [$name, tree($tokens)];
        shift @$tokens if @$tokens && $tokens->[0] eq ',';
    }
    shift @$tokens;
    return [$token, \@parts];
}

sub layout {
    my ($node, $indent) = @_;
    return $node if !ref $node;
    my ($open, $parts) = @$node;
    my $close = $open eq '{' ? '}' : ']';
    my $line = $open . join(', ', map { $_->[0] . layout($_->[1], -10_000) } @$parts) . $close;
    return $line if length($line) + $indent <= $width;
    my $pad = ' ' x ($indent + 2);
    return "$open\n" . join(",\n", map { $pad . $_->[0] . layout($_->[1], $indent + 2) } @$parts)
        . "\n" . ' ' x $indent . $close;
}

1;
