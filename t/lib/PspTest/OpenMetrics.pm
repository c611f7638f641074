# SPDX-License-Identifier: Apache-2.0
# OpenMetrics.pm: reads metrics as text, OpenMetrics 1.0.0 or the older format, and refuses all that is not in order.
package PspTest::OpenMetrics;
use strict;
use warnings;

my $name   = qr/[a-zA-Z_:][a-zA-Z0-9_:]*/;
my %suffix = (gauge => '', counter => '_total', info => '_info');

# parse($text, old => 0 or 1): an object; dies of the first fault.
sub parse {
    my ($class, $text, %o) = @_;
    my $self = bless { old => $o{old}, families => {}, samples => {} }, $class;
    utf8::decode(my $copy = $text) or die "not UTF-8\n";
    $text =~ s/# EOF\n\z// xor $o{old} or die "# EOF is " . ($o{old} ? 'there' : 'missing') . "\n";
    $text =~ /\n\z/ or die "the last line has no end\n";
    my $number = 0;
    for my $line (split /\n/, $text, -1) {
        $number++;
        last if $number > ($text =~ tr/\n//);
        eval { $line =~ /^#/ ? $self->descriptor($line) : $self->sample($line); 1 } or die "line $number: $line: $@";
    }
    $self->leave;
    return $self;
}

# All that is said of a family stands together, its type first, and once.
sub descriptor {
    my ($self, $line) = @_;
    my ($what, $family, $value) = $line =~ /^# (TYPE|UNIT|HELP) ($name) (\S.*)\z/ or die "not a descriptor\n";
    if (!$self->{family} || $self->{family}{name} ne $family) {
        $self->leave;
        die "the family comes again\n" if $self->{families}{$family};
        $self->{family} = $self->{families}{$family} = { name => $family, count => 0 };
    }
    my $f = $self->{family};
    die "after samples\n" if $f->{count};
    die "twice\n" if exists $f->{$what};
    die "TYPE comes first\n" if $what ne 'TYPE' && !$f->{TYPE};
    die "a quote, backslash or blank that should not be\n" if $value =~ /["\\]|\s\z/;
    if ($what eq 'TYPE') {
        die "no such type\n" if $value !~ ($self->{old} ? qr/^(?:gauge|counter)\z/ : qr/^(?:gauge|counter|info)\z/);
        die "the family of a counter has no suffix\n" if !$self->{old} && $family =~ /_(?:total|info|created)\z/;
        die "and here it has\n" if $self->{old} && $value eq 'counter' && $family !~ /_total\z/;
    }
    die "the unit is not the end of the name\n" if $what eq 'UNIT' && $family !~ /_\Q$value\E\z/;
    $f->{$what} = $value;
    return;
}

sub sample {
    my ($self, $line) = @_;
    my ($series, $labels, $value) = $line =~ /^($name)(?:\{(.*)\})? (\S+)\z/ or die "not a sample\n";
    my $f = $self->{family} or die "without a family\n";
    die "not of the family $f->{name}\n" if $series ne $f->{name} . ($self->{old} ? '' : $suffix{ $f->{TYPE} });
    my %label;
    if (defined $labels) {
        while ($labels =~ /\G([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(,(?=.)|\z)/gcs) {
            die "label $1 twice\n" if exists $label{$1};
            my ($key, $text) = ($1, $2);
            $text =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ge;
            $label{$key} = $text;
        }
        die "labels that are none\n" if !%label || (pos($labels) // 0) != length $labels;
    }
    my $set = join ',', sort keys %label;
    die "other labels than before\n" if ($f->{labels} //= $set) ne $set;
    die "not a number\n" if $value !~ /^-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\z/;
    die "a counter below zero\n" if $f->{TYPE} eq 'counter' && $value < 0;
    die "an info that is not 1\n" if $f->{TYPE} eq 'info' && $value ne '1';
    my $key = join '|', $series, map { "$_=$label{$_}" } sort keys %label;
    die "twice\n" if exists $self->{samples}{$key};
    $self->{samples}{$key} = $value;
    $f->{count}++;
    return;
}

sub leave {
    my ($self) = @_;
    my $f = $self->{family} or return;
    defined $f->{$_} or die "$f->{name} has no $_\n" for qw(TYPE HELP);
    die "$f->{name} is called seconds and has no unit\n" if !$self->{old} && $f->{name} =~ /_seconds\z/ && !$f->{UNIT};
    return;
}

# value('pubsubpull_subscriptions', state => 'active'), or undef
sub value {
    my ($self, $series, %label) = @_;
    return $self->{samples}{ join '|', $series, map { "$_=$label{$_}" } sort keys %label };
}

sub series { return sort keys %{ $_[0]{samples} } }

1;
