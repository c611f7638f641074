# SPDX-License-Identifier: Apache-2.0
# Fuzz.pm: makes inputs from good ones by seed: bytes, JSON documents, texts put together. The same seed gives the same inputs.
package PspTest::Fuzz;
use strict;
use warnings;
use JSON::PP ();
use PspTest::Util qw(slurp repo);

# new(seed): a number
sub new {
    my ($class, $seed) = @_;
    return bless { state => $seed % 2147483646 + 1 }, $class;
}

# Lines of a file below t/fuzz/corpus.
sub corpus { my ($self, $name) = @_; return split /\n/, slurp(repo("t/fuzz/corpus/$name")), -1 }

# A number from 0 to $n - 1. Not perl's own, which others may call, too.
sub number {
    my ($self, $n) = @_;
    $self->{state} = $self->{state} * 48271 % 2147483647;
    return $self->{state} % $n;
}

sub one_of { my ($self, @of) = @_; return $of[$self->number(scalar @of)] }
sub chance { my ($self, $one_in) = @_; return $self->number($one_in) == 0 }

my @pieces = ('', '%', '%2F', '%00', '%2C', ',', '/', '//', '.', '..', "'", '"', '\\', ';', '&', '=', '+', ' ', "\n", "\t", "\x01", "\x7f",
    "\xc3\xa4", "\xff", "\xed\xa0\x80", "\xf0\x9f\x98\x80", "\xef\xbb\xbf", '0', '-1', '1e400', '99999999999999999999', 'NaN', 'null', '{', '}', '[', ']',
    '$1', '%s', '*', 'x' x 300);

# One to four changes of a text, byte by byte or piece by piece; no NUL, which neither HTTP nor PostgreSQL's texts have.
sub bytes {
    my ($self, $text) = @_;
    for (0 .. $self->number(4)) {
        my $at = $self->number(length($text) + 1);
        my $what = $self->number(5);
        if    ($what == 0) { substr $text, $at, 0, $self->one_of(@pieces) }
        elsif ($what == 1) { substr $text, $at, 1 + $self->number(8), '' if $at < length $text }
        elsif ($what == 2) { substr $text, $at, 1, chr(1 + $self->number(255)) if $at < length $text }
        elsif ($what == 3) { $text .= substr $text, $at, $self->number(20) if $at < length $text }
        else               { substr $text, $at, 1, $self->one_of(@pieces) if $at < length $text }
    }
    return $text;
}

# As it is, or changed: one in $one_in.
sub perhaps { my ($self, $text, $one_in) = @_; return $self->chance($one_in) ? $self->bytes($text) : $text }

my $json = JSON::PP->new->utf8->canonical->allow_nonref->max_depth(10_000);

sub strange {
    my ($self) = @_;
    my $deep = [];
    $deep = [$deep] for 1 .. $self->one_of(1, 5, 300);
    return $self->one_of(undef, JSON::PP::true, JSON::PP::false, 0, -1, 1.5, 1e300, 2147483648, '', 'x', "a\x{0}b", "\x{1f600}", "\x{fffe}", 'null', '$.x', '${', '$.a like_regex "["',
        '$.**', 'http://h/', 'public.t_int4', 'now', [], {}, $deep, [undef], [1, 2], { a => [{}] }, 'y' x 5000, "'; SELECT 1 --", '{id}', 'insert', 'v', ['v'], ['v', 'v'], [['v']]);
}

# A JSON document with members changed, added, renamed or dropped; at times no JSON at all.
sub document {
    my ($self, @good) = @_;
    my $value = $json->decode($self->one_of(@good));
    for (0 .. $self->number(3)) {
        my $in = $value;
        my @objects = grep { ref eq 'HASH' } values %$value;
        $in = $self->one_of(@objects) if @objects && $self->chance(3);
        my @names = sort keys %$in;
        my $name = @names ? $self->one_of(@names) : 'callback';
        my $what = $self->number(6);
        if    ($what == 0) { delete $in->{$name} }
        elsif ($what == 1) { $in->{$name} = $self->strange }
        elsif ($what == 2) { $in->{ $self->bytes($name) } = $in->{$name} }
        elsif ($what == 3) {
            my $other = $json->decode($self->one_of(@good));
            $in->{$_} = $other->{$_} for grep { $self->chance(2) } sort keys %$other;
        }
        elsif (defined $in->{$name} && !ref $in->{$name}) {
            my $text = "$in->{$name}";
            utf8::encode($text);
            $text = $self->bytes($text);
            utf8::decode($text);
            $in->{$name} = $text;
        }
    }
    my $text = $json->encode($value);
    return $self->perhaps($text, 6);
}

1;
