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
my $rounds   = 21;
my %psp      = map { $_ => PspTest->up(mpm => 'event') } qw(short long);

# What is asked for has changed last, long ago, or never, seldom or always. Times are counted from here.
my $now = time;

# A table of some rows that change again and again, a thousand changes of another spread over the log, and the first tenth of it of a third: so
# many changes in as many transactions as there would be statements of 1,000 rows, in as many parts as the log has after a long time. Each ten
# belong to the request that made them.
sub fill_log {
    my ($psp, $n, $requests) = @_;
    $psp->publish("public.$_", 'id int PRIMARY KEY, name text, city text, n int') for qw(t seldom former);
    $psp->pg->sql(q{INSERT INTO t SELECT g, 'name ' || g, 'city ' || g % 100, g FROM generate_series(1, ?) g}, $short / 2);
    my $dbh = $psp->pg->dbh(user => 'pubsubpull');
    for (my ($done, $parts, $step) = (0, 0, $short / 10); $done < $n; $done += $step) {
        for (; $parts < int(6 * $done / $n); $parts++) { $dbh->do(q{SELECT pubsubpull.rotate_slot('0 s')}) }
        $dbh->do(sprintf(<<'END', $dbh->selectrow_array('SELECT pubsubpull.current_slot()')), undef, $now, $requests, $n, $done, $done + $step);
WITH given AS (SELECT $1::numeric AS now, $2::bigint AS requests, $3::bigint AS changes)
INSERT INTO pubsubpull.change_%d (table_id, type, key, old, new, request, channel, at)
SELECT CASE WHEN i %% greatest(changes / 1000, 100) = 17 THEN seldom.id WHEN i < changes / 10 THEN former.id ELSE t.id END, 'U', x.id,
       json_build_object('id', x.id, 'name', 'name ' || x.id, 'city', 'city ' || x.id %% 100, 'n', x.id + i / 5000), json_build_object('id', x.id, 'name', 'name ' || x.id, 'city', 'city ' || x.id %% 100, 'n', x.id + i / 5000 + 1),
       r.id, CASE WHEN r.id IS NOT NULL THEN 'setting'::pubsubpull.channel END, r.at
FROM given CROSS JOIN generate_series($4::bigint + 1, $5::bigint) i
CROSS JOIN LATERAL (SELECT CASE WHEN i <= 10 THEN i ELSE 11 + i %% 4990 END AS id) x
CROSS JOIN LATERAL (SELECT 10 * ((i - 1) * (requests / 10) / changes + 1) AS g) p
CROSS JOIN LATERAL (SELECT to_timestamp(now - (requests - p.g) * 0.1) AS at) q
CROSS JOIN LATERAL (SELECT q.at, CASE WHEN NOT (p.g %% 100 = 0 AND p.g %% 1000 <> 0 OR p.g %% 1000 = 10) THEN
    (lpad(to_hex((extract(epoch FROM q.at) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(p.g), 12, '0'))::uuid END AS id) r,
    (SELECT id FROM pubsubpull.published WHERE name = 'public.t') t, (SELECT id FROM pubsubpull.published WHERE name = 'public.seldom') seldom,
    (SELECT id FROM pubsubpull.published WHERE name = 'public.former') former
END
    }
    return;
}

# One request a tenth of a second. One in ten wrote, and of those one in ten failed (a tenth of these after they had committed), and one in a
# hundred succeeded and changed nothing. The first tenth was on a path that is none any more.
sub fill_requests {
    my ($psp, $n) = @_;
    $psp->pg->sql([user => 'pubsubpull'], <<'END', $now, $n);
WITH given AS (SELECT $1::numeric AS now, $2::bigint AS requests)
INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, status, bytes, duration)
SELECT (lpad(to_hex((extract(epoch FROM r.at) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(g), 12, '0'))::uuid,
       CASE WHEN g = requests / 2 + 1 THEN 'DELETE' WHEN g % 10 = 0 THEN 'POST' ELSE 'GET' END, 'shop.example',
       CASE WHEN g < requests / 10 THEN '/former/' ELSE '/customers/' END || g % (requests / 10) || '/', '', 'user' || g % 1000, '192.0.2.' || g % 250,
       'Mozilla/5.0', r.at, CASE WHEN g % 100 = 0 THEN 500 WHEN g % 50 = 7 THEN 404 WHEN g = requests / 4 + 1 THEN 403 ELSE 200 END, 1000, '3 ms'
FROM given CROSS JOIN generate_series(1, requests) g CROSS JOIN LATERAL (SELECT to_timestamp(now - (requests - g) * 0.1) AS at) r
END
    return;
}

$_->httpd->expect_log(qr/PSP04(?:12|35)/) for values %psp;    # the notifier may be late meanwhile
my %seconds;
for my $name (sort keys %psp) {
    my ($n, $r) = $name eq 'short' ? ($short, $short) : ($changes, $requests);
    my $start = time;
    fill_log($psp{$name}, $n, $r);
    my $filled = time;
    fill_requests($psp{$name}, $r);
    $seconds{$name} = [$filled - $start, time - $filled];
    $psp{$name}->pg->admin->sql('VACUUM ANALYZE');
}
Table::note(sprintf '  %d changes took %.0f s, %d requests %.0f s to make', $changes, $seconds{long}[0], $requests, $seconds{long}[1]);

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
compare('  the changes of one row, with their request', 20, 0.8, both("$base/rows/7/changes/"));
my %one = map { my $page = http('GET', $psp{$_}->httpd->url('/pubsubpull/requests/?table=public.t&limit=1'), user => 'alice')->json; $_ => "/pubsubpull/requests/$page->{requests}[0]{id}" } keys %psp;
compare("$requests requests: one, with its changes", 20, 0.8, \%one);
my $day = sub { my @t = gmtime($now - $_[0]); return sprintf '%04d-%02d-%02dT%02d:%02d:%02dZ', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0] };
my @filters = (['newest', ''], ['user', 'user=user77'], ['method', 'method=POST'], ['a method of one only', 'method=DELETE'], ['path', 'path=/customers/471/'], ['status', 'status=500'], ['class of status', 'status=4xx'],
    ['a status of one only', 'status=403'], ['a status that none has', 'status=418'], ['remote', 'remote=192.0.2.77'], ['from', 'from=' . $day->(600)], ['to', 'to=' . $day->(600)], ['user and status', 'user=user0&status=5xx'],
    ['table', 'table=public.t'], ['user and table', 'user=user20&table=public.t'], ['key', 'table=public.t&key=7'], ['5xx that committed', 'odd=5xx-committed'], ['2xx that changed nothing', 'odd=2xx-unchanged'], ['no request', 'odd=no-request']);
for my $filter (@filters) {
    my ($what, $query) = @$filter;
    compare("  $what", 10, 0.8, both("/pubsubpull/requests/?limit=5&$query"));
}

# What is hard to find: a page looks through so much and no more, so it takes no longer however long the log is. The short one is shorter than that.
my @parts = (['a path that was last asked for long ago', 'path=/former/'], ['a status and method that never met', 'status=404&method=POST'], ['a user who never came there', 'user=user77&path=/former/'], ['a table that changed seldom', 'table=public.seldom'],
    ['a table that changed last long ago', 'table=public.former'], ['a user who never changed it', 'user=user77&table=public.t'], ['a table that no such request changed', 'table=public.t&method=GET'],
    ['changes whose request is not believed, of which there are none', 'odd=unattributed']);
for my $part (@parts) {
    my ($what, $query) = @$part;
    my $most = 0.25;
    my $seconds = Table::median(map { ask($psp{long}->httpd, 1, "/pubsubpull/requests/?$query") } 1 .. $rounds);
    Table::row("  $what", sprintf('%.0f ms', 1000 * $seconds), sprintf('%.0f ms', 1000 * $most), $seconds / $most, '<=', 1);
}
for my $name (sort keys %psp) { $psp{$name}->httpd->stop; $psp{$name}->pg->stop }
1;
