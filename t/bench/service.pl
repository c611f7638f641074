# SPDX-License-Identifier: Apache-2.0
# service.pl: a service behind httpd that costs little: PUT /table/n inserts n and answers when that was committed.
use strict;
use warnings;
use DBI;
use IO::Socket::INET;
use Time::HiRes qw(time);

my ($port, $processes) = @ARGV;
my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 128, ReuseAddr => 1) or die "port $port: $!";
for (2 .. $processes) { fork or last }
my $dbh = DBI->connect("dbi:Pg:", '', '', { RaiseError => 1, AutoCommit => 1, pg_server_prepare => 1 });
my $identify = $dbh->prepare(q{SELECT set_config('pubsubpull.request', ?, false)});
my %insert;
while (my $client = $listen->accept) {
    my $head = '';
    while (defined(my $line = <$client>)) {
        $head .= $line;
        next if $line ne "\r\n";
        my ($table, $n) = $head =~ m{\A\w+ \S*/(\w+)/(\d+) } or die $head;
        my ($envelope) = $head =~ /^PubSubPull-Request: (.*?)\r$/mi;
        $identify->execute($envelope // '');
        ($insert{$table} //= $dbh->prepare("INSERT INTO $table VALUES (?, 'name', 'city', 1)"))->execute($n);
        my $text = sprintf '%.6f', time;
        syswrite $client, "HTTP/1.1 200 OK\r\nContent-Length: " . length($text) . "\r\n\r\n$text";
        $head = '';
    }
}
