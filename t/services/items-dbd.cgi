#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# items-dbd.cgi: a CGI program that works with DBD::Pg and knows nothing of mod_pubsubpull (see PspTest/Channel.pm).
use strict;
use warnings;
use DBI;

my ($name) = ($ENV{QUERY_STRING} // '') =~ /^name=(.*)/;
my $dbh = DBI->connect('dbi:Pg:', undef, undef, { RaiseError => 1, PrintError => 0 });
sub insert { return $dbh->do('INSERT INTO item (name) VALUES (?)', undef, $name) }

sub in_transaction {
    my ($end) = @_;
    $dbh->begin_work;
    insert();
    $dbh->$end;
    return;
}

my %resource = (
    '/items'        => \&insert,
    '/items/twice'  => sub { in_transaction('commit') for 1 .. 2 },
    '/items/undone' => sub { in_transaction('rollback'); insert() },
    '/items/failed' => sub { $dbh->begin_work; insert(); die "on purpose\n" },
);
my $status = eval { $resource{ $ENV{PATH_INFO} }->(); 1 } ? '201 Created' : '500 Failed';
print "Status: $status\nContent-Type: text/plain\n\n";
