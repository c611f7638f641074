# SPDX-License-Identifier: Apache-2.0
# proxy.pl: proxied requests per second with the module, against the same httpd without it, in turn.
use strict;
use warnings;
use PspTest;
use Nginx;
use Table;

my $rounds  = 7;
my $seconds = 4;

# nginx is the service: it costs little, so what httpd costs shows.
my $nginx = Nginx->start('return 200 "hello";');
my $pg = PspTest::Postgres->start;
$pg->install_schema;

my $proxy = "ProxyPass @{[$nginx->url('/')]} keepalive=On max=200";
sub server {
    my ($inside) = @_;
    return PspTest::Httpd->start(
        pg => $pg, module => defined $inside,
        config => "LogLevel warn\n<Location /service/>\n@{[$inside // '']}\n$proxy\n</Location>\n");
}
my %server = (
    bare    => server(undef),
    changes => server("PubSubPull On\nPubSubPullRecord changes"),
    all     => server("PubSubPull On\nPubSubPullRecord all"),
);

sub wrk {
    my ($url) = @_;
    my $out = qx{wrk -t1 -c32 -d${seconds}s --latency $url};
    my ($rate) = $out =~ m{Requests/sec:\s+([\d.]+)} or die $out;
    my ($value, $unit) = $out =~ m{99%\s+([\d.]+)(us|ms|s)} or die $out;
    die $out if $out =~ /Non-2xx/;
    return ($rate, $value * { us => 0.001, ms => 1, s => 1000 }->{$unit});
}

my (%rate, %p99);
for my $round (0 .. $rounds) {
    for my $name (sort { ($a cmp $b) * ($round % 2 ? 1 : -1) } keys %server) {
        my ($rate, $p99) = wrk($server{$name}->url('/service/'));
        next if !$round;    # the first is for warming up
        push @{ $rate{$name} }, $rate;
        push @{ $p99{$name} },  $p99;
    }
}
my %median = map { $_ => Table::median(@{ $rate{$_} }) } keys %rate;
for my $name (qw(changes all)) {
    my $ratio = Table::median(map { $rate{$name}[$_] / $rate{bare}[$_] } 0 .. $rounds - 1);
    Table::row("proxied requests/s, PubSubPullRecord $name", sprintf('%.0f/s', $median{$name}),
        sprintf('without the module %.0f/s', $median{bare}), $ratio, '>=', $name eq 'all' ? 0.90 : 0.97);
    my $latency = Table::median(map { $p99{$name}[$_] / $p99{bare}[$_] } 0 .. $rounds - 1);
    Table::row("  latency at p99, PubSubPullRecord $name", sprintf('%.2f ms', Table::median(@{ $p99{$name} })),
        sprintf('without the module %.2f ms', Table::median(@{ $p99{bare} })), $latency, '<=', 1.10);
}
my ($written, $before) = (0, -1);
while ($written != $before) {    # nothing tells when the last record has arrived
    $before = $written;
    sleep 1;
    $written = $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request');
}
printf STDERR "# %d requests recorded with PubSubPullRecord all\n", $written;
$_->stop for values %server;
$nginx->stop;
$pg->stop;
1;
