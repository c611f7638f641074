# SPDX-License-Identifier: Apache-2.0
# Table.pm: rows of the table of speed, and medians.
package Table;
use strict;
use warnings;

my @rows;

# row(what, measured, against, ratio, '>=' or '<=', limit)
sub row {
    my (@row) = @_;
    push @rows, [@row];
    printf STDERR "# %s: %.3f\n", $row[0], $row[3];
    return;
}

# A line of its own below the row before it
sub note {
    my ($text) = @_;
    push @rows, $text;
    return;
}

sub percentile {
    my ($percent, @values) = @_;
    my @sorted = sort { $a <=> $b } @values;
    return $sorted[int($#sorted * $percent / 100 + 0.5)];
}

sub median {
    my @sorted = sort { $a <=> $b } @_;
    return @sorted % 2 ? $sorted[$#sorted / 2] : ($sorted[@sorted / 2 - 1] + $sorted[@sorted / 2]) / 2;
}

sub print_all {
    printf "%-58s %-22s %-28s %6s %8s\n", 'what', 'measured', 'against', 'ratio', 'wanted';
    for my $row (@rows) {
        if (!ref $row) {
            print "$row\n";
            next;
        }
        my ($what, $measured, $against, $ratio, $relation, $limit) = @$row;
        my $met = $relation eq '>=' ? $ratio >= $limit : $ratio <= $limit;
        printf "%-58s %-22s %-28s %6.2f %s %.2f %s\n", $what, $measured, $against, $ratio, $relation, $limit, $met ? '' : 'short';
    }
    return;
}

1;
