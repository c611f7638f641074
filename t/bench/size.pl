# SPDX-License-Identifier: Apache-2.0
# size.pl: pages, idle polls and single rows of a long log against those of a short one, and the audit's filters likewise.
use strict;
use warnings;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);
use PspTest;
use Table;

my $short    = 10_000;
my $changes  = $ENV{BENCH_CHANGES} // 10_000_000;
my $requests = $ENV{BENCH_REQUESTS} // 10_000_000;
my $rounds   = 7;
my %psp      = map { $_ => PspTest->up(mpm => 'event') } qw(short long);

# Through the triggers: a table of so many rows, updated again and again.
sub fill_log {
    my ($psp, $n) = @_;
    my $rows = $short / 2;
    $psp->publish('public.t', 'id int PRIMARY KEY, name text, city text, n int');
    $psp->pg->sql(q{INSERT INTO t SELECT g, 'name ' || g, 'city ' || g % 100, g FROM generate_series(1, ?) g}, $rows);
    for (my $done = $rows; $done < $n; $done += $rows) { $psp->pg->sql('UPDATE t SET n = n + 1 WHERE id > 10') }    # the first rows have a short history
    return;
}

# Requests of the last days, one a tenth of a second, of which one in a hundred failed and one in ten wrote.
sub fill_requests {
    my ($psp, $n) = @_;
    $psp->pg->sql([user => 'pubsubpull'], <<'END', $n);
INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, status, bytes, duration)
SELECT (lpad(to_hex((extract(epoch FROM r.at) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(g), 12, '0'))::uuid,
       CASE WHEN g % 10 = 0 THEN 'POST' ELSE 'GET' END, 'shop.example', '/customers/' || g % ($1::bigint / 10) || '/', '', 'user' || g % 1000, '192.0.2.' || g % 250,
       'Mozilla/5.0', r.at, CASE WHEN g % 100 = 0 THEN 500 ELSE 200 END, 1000, '3 ms'
FROM generate_series(1, $1::bigint) g CROSS JOIN LATERAL (SELECT now() - ($1::bigint - g) * interval '0.1 s' AS at) r
END
    # Ten requests made changes that the log has
    $psp->pg->sql([user => 'pubsubpull'], q{UPDATE pubsubpull.change c SET request = q.id FROM (SELECT id, row_number() OVER () AS n FROM (SELECT id FROM pubsubpull.request WHERE method = 'POST' ORDER BY id DESC LIMIT 10) x) q
        WHERE c.table_id = 1 AND c.id = q.n});
    return;
}

$_->httpd->expect_log(qr/PSP04(?:12|35)/) for values %psp;    # the notifier may be late meanwhile
my %seconds;
for my $name (sort keys %psp) {
    my ($n, $r) = $name eq 'short' ? ($short, $short) : ($changes, $requests);
    my $start = time;
    fill_log($psp{$name}, $n);
    my $filled = time;
    fill_requests($psp{$name}, $r);
    $seconds{$name} = [$filled - $start, time - $filled];
    $psp{$name}->pg->admin->sql('VACUUM ANALYZE');
}
Table::note(sprintf '  %d changes through the trigger took %.0f s, %d requests %.0f s', $changes, $seconds{long}[0], $requests, $seconds{long}[1]);

# Seconds for n requests on one connection
sub ask {
    my ($httpd, $n, $path, @headers) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->{port}) or die $!;
    my $start = time;
    for (1 .. $n) {
        print {$s} join "\r\n", "GET $path HTTP/1.1", 'Host: 127.0.0.1', 'Authorization: Basic ' . encode_base64('alice:alice', ''), @headers, '', '';
        my ($text, $length) = ('');
        while (!defined $length || length $text < $length) {
            sysread $s, $text, 262_144, length $text or die "no answer: $text";
            $length //= $text =~ /\r\n\r\n/ ? $+[0] + ($text =~ /^Content-Length: (\d+)/mi ? $1 : 0) : undef;
        }
        die "$path: $text" if $text !~ /^HTTP\/1\.1 (?:200|304)/;
    }
    return time - $start;
}

# Both in turn; the ratio of their rates. paths: what to ask the short one and the long one for
sub compare {
    my ($what, $n, $limit, $paths, @headers) = @_;
    my (%all, @ratios);
    for my $round (0 .. $rounds) {
        for my $name (qw(short long)) { $all{$name}[$round] = ask($psp{$name}->httpd, $n, $paths->{$name}, @headers) }
        push @ratios, $all{short}[$round] / $all{long}[$round] if $round;
    }
    my ($a, $b) = map { $n / Table::median(@{ $all{$_} }[1 .. $rounds]) } qw(long short);
    Table::row($what, sprintf('%.0f/s', $a), sprintf('of %d: %.0f/s', $short, $b), Table::median(@ratios), '>=', $limit);
    return;
}
sub both { my ($path) = @_; return { short => $path, long => $path } }

my $base = '/pubsubpull/tables/public.t';
my (%now, %middle);
for my $name (sort keys %psp) {
    $now{$name} = http('GET', $psp{$name}->httpd->url("$base/changes/?since=now"), user => 'alice')->json->{next} =~ s{^http://[^/]+}{}r;
    $middle{$name} = http('GET', $psp{$name}->httpd->url("$base/changes/?limit=5000"), user => 'alice')->json->{next} =~ s{^http://[^/]+}{}r =~ s/limit=5000/limit=100/r;
}
compare("log of $changes: 100 changes from the start", 20, 0.8, both("$base/changes/?limit=100"));
compare('  100 changes further on', 20, 0.8, \%middle);
compare('  an idle poll', 50, 0.8, \%now);
compare('  100 rows', 20, 0.8, both("$base/rows/?limit=100"));
compare('  one row', 50, 0.8, both("$base/rows/77"));
my $day = sub { my @t = gmtime(time - $_[0]); return sprintf '%04d-%02d-%02dT%02d:%02d:%02dZ', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0] };
my @filters = (['newest', ''], ['user', 'user=user77'], ['method', 'method=POST'], ['path', 'path=/customers/471/'], ['status', 'status=5xx'], ['a status that none has', 'status=404'], ['remote', 'remote=192.0.2.77'],
    ['from', 'from=' . $day->(600)], ['to', 'to=' . $day->(600)], ['user and status', 'user=user0&status=5xx'], ['table', 'table=public.t'], ['key', 'table=public.t&key=7'],
    ['5xx that committed', 'odd=5xx-committed'], ['2xx that changed nothing', 'odd=2xx-unchanged'], ['no request', 'odd=no-request']);
for my $filter (@filters) {
    my ($what, $query) = @$filter;
    compare(($what eq 'newest' ? "$requests requests: " : '  ') . $what, 20, 0.8, both("/pubsubpull/requests/?limit=10&$query"));
}
for my $name (sort keys %psp) { $psp{$name}->httpd->stop; $psp{$name}->pg->stop }
1;
