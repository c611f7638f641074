# SPDX-License-Identifier: Apache-2.0
# latency.pl: from commit to the PUT at the receiver: through the proxy, past it, and with 1,000 subscriptions on 100 tables.
use strict;
use warnings;
use PspTest;
use Nginx;
use Table;
use IO::Socket::INET;

my $seconds = $ENV{BENCH_SECONDS} // 8;
my $tables  = 100;
my $pg      = PspTest::Postgres->start;
$pg->install_schema;
$pg->admin->sql("ALTER SYSTEM SET autovacuum_naptime = '5s'");
my $nginx   = Nginx->start('return 204;', q{log_format at '$msec $uri'; access_log DIR/access.log at;});
my $service = PspTest::Service->start(port => free_port(), env => { $pg->env }, cmd => ['/usr/bin/perl', repo('t/bench/service.pl'), '{port}', 12]);
my $psp     = PspTest->up(pg => $pg, config => "LogLevel warn\n<Location /service/>\nPubSubPull On\nProxyPass @{[$service->url('/')]} keepalive=On\n</Location>");
$psp->publish("public.t$_", 'id int PRIMARY KEY, name text, city text, n int') for 0 .. $tables - 1;
my ($next, %committed) = (0);

# So many changes a second for some seconds through httpd, by 4 clients on time, spread over so many tables
sub through_httpd {
    my ($rate, $spread) = @_;
    my (@pipe, $first);
    my $per = $rate / 4;
    $first = $next;
    for my $client (0 .. 3) {
        pipe my $out, my $in or die;
        push @pipe, $out;
        next if fork;
        my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $psp->httpd->{port}) or die;
        my $start = time;
        for my $i (0 .. $per * $seconds - 1) {
            my $wait = $start + ($i + $client / 4) / $per - time;
            select undef, undef, undef, $wait if $wait > 0;
            my $n = $first + 4 * $i + $client;
            print {$s} 'PUT /service/t', $n % $spread, "/$n HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";
            my $length;
            while (defined(my $line = <$s>)) {
                $length = $1 if $line =~ /^Content-Length: (\d+)/i;
                last if $line eq "\r\n";
            }
            read $s, my $text, $length or die 'no answer';
            print {$in} "$n $text\n";
        }
        close $in;
        POSIX::_exit(0);
    }
    for my $out (@pipe) {
        while (<$out>) { /^(\d+) ([\d.]+)$/ or die $_; $committed{$1} = $2 }
    }
    wait for 0 .. 3;
    $next += $rate * $seconds;
    return;
}

sub by_psql {
    my ($rate) = @_;
    my $insert = $pg->dbh->prepare('INSERT INTO t0 VALUES (?, \'name\', \'city\', 1)');
    my $start = time;
    for my $i (0 .. $rate * $seconds - 1) {
        my $wait = $start + $i / $rate - time;
        select undef, undef, undef, $wait if $wait > 0;
        $insert->execute($next);
        $committed{ $next++ } = time;
    }
    return;
}

# Milliseconds from commit to PUT for what was changed since; resets
sub latencies {
    my ($each) = @_;
    my $log = "$nginx->{dir}/access.log";
    my $count = keys(%committed) * $each;
    my @lines;
    eval { wait_until { (@lines = split /\n/, slurp($log)) >= $count } 20, "$count PUTs"; 1 } or warn $@;
    my @ms = map { /^([\d.]+) \S*\/(\d+)$/ && exists $committed{$2} ? 1000 * ($1 - $committed{$2}) : () } @lines;
    spew($log, '');
    %committed = ();
    return @ms;
}
sub subscribe {
    my ($name, $table) = @_;
    $psp->subscribe($name, { table => "public.t$table", callback => $nginx->url("/$name/{id}"), concurrency => 64 });
    return;
}
sub ms { return sprintf '%.1f ms', $_[0] }

sub warm { through_httpd(50, $_[0]); latencies($_[1]); return }
subscribe('s0', 0);
warm(1, 1);
through_httpd(500, 1);
my @proxied = latencies(1);
by_psql(100);
my @past = latencies(1);
# p99 of 50 changes a second, the median of three times
sub p99 {
    my ($spread, $each) = @_;
    return Table::median(map { through_httpd(50, $spread); Table::percentile(99, latencies($each)) } 1 .. 3);
}
my $one = p99(1, 1);
for my $n (1 .. 999) { subscribe("s$n", $n % $tables) }
warm($tables, 10);
my $thousand = p99($tables, 10);

Table::row('commit to PUT, 500/s through the proxy, p50', ms(Table::percentile(50, @proxied)), '5 ms', Table::percentile(50, @proxied) / 5, '<=', 1);
Table::row('  p99', ms(Table::percentile(99, @proxied)), '25 ms', Table::percentile(99, @proxied) / 25, '<=', 1);
Table::row('commit to PUT, made by psql, p99', ms(Table::percentile(99, @past)), '60 ms', Table::percentile(99, @past) / 60, '<=', 1);
Table::row('commit to PUT, 1,000 subscriptions on 100 tables, p99', ms($thousand), 'one ' . ms($one), $thousand / $one, '<=', 2);
$psp->httpd->stop;
$_->stop for $service, $nginx;
$pg->stop;
1;
