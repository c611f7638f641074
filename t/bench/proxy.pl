# SPDX-License-Identifier: Apache-2.0
# proxy.pl: proxied requests per second with the module, against the same httpd without it. Many short turns, each against the one
# without the module that is next to it, for a machine is not as fast in one second as in the next.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256_hex);
use POSIX ();
use PspTest;
use Nginx;
use Table;

my $rounds  = $ENV{BENCH_ROUNDS} // 15;
my $seconds = 1;

# nginx is the service: it costs little, so what httpd costs shows.
my $nginx = Nginx->start('return 200 "hello";');
my $pg = PspTest::Postgres->start;
$pg->install_schema;
$pg->sql('CREATE TABLE seen (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), at timestamptz NOT NULL DEFAULT now(), method text, host text, path text, remote text)');

my $proxy = "ProxyPass @{[$nginx->url('/')]} keepalive=On max=200";
sub server {
    my ($inside, %o) = @_;
    return PspTest::Httpd->start(
        pg => $pg, %o,
        config => "LogLevel warn\n@{[$o{before} // '']}\n<Location /service/>\n$inside\n$proxy\n</Location>\n");
}
my $dbd = <<"END";
DBDriver pgsql
DBDParams "@{[$pg->conninfo(socket => 1)]}"
DBDPrepareSQL "INSERT INTO seen (method, host, path, remote) VALUES (%s, %s, %s, %s)" record
DBDMin 8
DBDKeep 16
DBDMax 32
LuaScope thread
END
# A cluster of its own has a hundred subscriptions to calls, though not to those that come.
my $subscribed = PspTest::Postgres->start;
$subscribed->install_schema;
my $key = 'the key of the bench, long enough';
chmod 0600, my $keys = spew(tmp_dir() . '/keys', "$key\n");
my %server = (
    bare    => server('', module => 0),
    changes => server("PubSubPull On\nPubSubPullRecord changes"),
    all     => server("PubSubPull On\nPubSubPullRecord all"),
    key     => server("PubSubPull On\nPubSubPullRecord changes", before => "PubSubPullKey $keys"),
    calls   => server("PubSubPull On\nPubSubPullRecord changes", pg => $subscribed),
    lua     => server("LuaHookFixups \"@{[repo('t/bench/record.lua')]}\" record", module => 0, before => $dbd),
);

for my $n (1 .. 100) {
    my $answer = $server{calls}->put("/pubsubpull/subscriptions/calls-$n", { callback => $nginx->url('/'), requests => { method => ['POST'], path => "/users/$n/*" } }, user => 'billing');
    $answer->status == 201 or die $answer->body;
}

# What is measured: which server, and what the client sends. A cause is what a delivery brought, an id that httpd gave out.
sub cause {
    my $id = sprintf('%012x', time * 1000) =~ s/^(.{8})/$1-/r . '-7000-8000-000000000001';
    return "PubSubPull-Cause: $id; signature=" . hmac_sha256_hex($id, $key);
}
my %way = ((map { $_ => [$_] } keys %server), cause => ['key', '-H', cause()]);

# Requests per second, milliseconds at p99, requests
sub wrk {
    my (@arguments) = @_;
    open my $wrk, '-|', 'wrk', '-t1', '-c32', "-d${seconds}s", '--latency', @arguments or die "wrk: $!";
    my $out = do { local $/; <$wrk> };
    close $wrk or die $out;
    my ($rate) = $out =~ m{Requests/sec:\s+([\d.]+)} or die $out;
    my ($n)    = $out =~ m{(\d+) requests in} or die $out;
    my ($value, $unit) = $out =~ m{99%\s+([\d.]+)(us|ms|s)} or die $out;
    die $out if $out =~ /Non-2xx/;
    return ($rate, $value * { us => 0.001, ms => 1, s => 1000 }->{$unit}, $n);
}

# Microseconds of processor time so far: of httpd, of its notifier, of PostgreSQL but for the session that counts
my $counting = $pg->sql([user => 'pubsubpull'], 'SELECT pg_backend_pid()');
sub used {
    my ($server) = @_;
    my %notifier = map { $_ => 1 } $server->notifier_pids;
    my $cluster = $server == $server{calls} ? $subscribed : $pg;
    my %of = (
        httpd      => [grep { !$notifier{$_} } split ' ', `pgrep -P @{[$server->pid]}`],
        notifier   => [keys %notifier],
        PostgreSQL => [grep { $_ != $counting } split ' ', `pgrep -P @{[$cluster->pid]}`]);
    my %used;
    for my $what (keys %of) {
        $used{$what} = 0;
        for my $pid (@{ $of{$what} }) {
            open my $in, '<', "/proc/$pid/stat" or next;
            my ($user, $system) = (split ' ', <$in> =~ s/.*\) //r)[11, 12];
            $used{$what} += ($user + $system) * 1e6 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
        }
    }
    return %used;
}

sub recorded { return $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request') }

my (%rate, %p99, %requests, %cpu);
my ($there, $at_once) = (0, 0);
for my $round (0 .. $rounds) {
    for my $name (sort { ($a cmp $b) * ($round % 2 ? 1 : -1) } keys %way) {
        my ($server, @arguments) = @{ $way{$name} };
        $server = $server{$server};
        my %before = used($server);
        my ($rate, $p99, $n) = wrk(@arguments, $server->url('/service/'));
        if ($name eq 'all') {    # what is left to do must not burden the next
            $at_once += recorded() - $there if $round;
            wait_until { recorded() >= $there + $n } 30, 'all records';
            $there = wait_until { my $now = recorded(); sleep 0.2; recorded() == $now && $now } 10, 'those under way at the end';
        }
        next if !$round;         # the first is for warming up
        my %after = used($server);
        $cpu{$name}{$_} += $after{$_} - $before{$_} for keys %after;
        $requests{$name} += $n;
        push @{ $rate{$name} }, $rate;
        push @{ $p99{$name} },  $p99;
    }
}
my %median = map { $_ => Table::median(@{ $rate{$_} }) } keys %rate;
sub ratio { my ($of, $name, $to) = @_; $to //= 'bare'; return Table::median(map { $of->{$name}[$_] / $of->{$to}[$_] } 0 .. $rounds - 1) }
sub cpu {
    my ($name) = @_;
    return join ', ', map { sprintf '%s %.1f', $_, $cpu{$name}{$_} / $requests{$name} } grep { $cpu{$name}{$_} } qw(httpd notifier PostgreSQL);
}

for my $name (qw(changes all)) {
    Table::row("proxied requests/s, PubSubPullRecord $name", sprintf('%.0f/s', $median{$name}),
        sprintf('without the module %.0f/s', $median{bare}), ratio(\%rate, $name), '>=', $name eq 'all' ? 0.90 : 0.97);
    Table::row("  latency at p99, PubSubPullRecord $name", sprintf('%.2f ms', Table::median(@{ $p99{$name} })),
        sprintf('without the module %.2f ms', Table::median(@{ $p99{bare} })), ratio(\%p99, $name), '<=', 1.10);
    Table::note('  us of processor time per request: ' . cpu($name) . '; without the module: ' . cpu('bare'));
}
Table::note(sprintf '  of %d requests %.0f %% were in the database when the last one was answered, and all in the end', $requests{all}, 100 * $at_once / $requests{all});
Table::note(sprintf '  changes with PubSubPullKey: %.0f/s, ratio %.2f; us: %s', $median{key}, ratio(\%rate, 'key'), cpu('key'));
Table::note(sprintf '    and a signed PubSubPull-Cause in each request: ratio %.2f to those without; us: %s', ratio(\%rate, 'cause', 'key'), cpu('cause'));
Table::note(sprintf '  changes with 100 subscriptions to calls: %.0f/s, ratio %.2f; us: %s', $median{calls}, ratio(\%rate, 'calls'), cpu('calls'));
Table::note(sprintf '  a hook of mod_lua that inserts through mod_dbd instead: %.0f/s, ratio %.2f; us: %s', $median{lua}, ratio(\%rate, 'lua'), cpu('lua'));
$_->stop for values %server;
$nginx->stop;
$_->stop for $pg, $subscribed;
1;
