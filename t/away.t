# SPDX-License-Identifier: Apache-2.0
# away.t: on the event MPM who waits holds no worker: many more wait than there are, over TLS too, each is answered and logged once, and others are served.
use PspTest;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);

my $dir  = tmp_dir();
my $port = free_port();
my $tls  = PspTest::Secure::Authority->new('ours')->issue(name => '127.0.0.1');
my $psp  = PspTest->up(load => [qw(ssl http2 deflate)], config => <<"END");
StartServers 1
ServerLimit 4
ThreadLimit 4
ThreadsPerChild 4
MaxRequestWorkers 4
MinSpareThreads 1
MaxSpareThreads 4
AsyncRequestWorkerFactor 60
PubSubPullWaiters 120
PubSubPullStreamTimeout 1
Protocols h2c http/1.1
AddOutputFilterByType DEFLATE application/json
<Location "/pubsubpull">
    PubSubPull On
    PubSubPullRecord all
</Location>
CustomLog "$dir/log" "%>s %D %B %X %U %{User-Agent}i"
Listen 127.0.0.1:$port
<VirtualHost 127.0.0.1:$port>
    ServerName 127.0.0.1
    SSLEngine on
    SSLCertificateFile $tls->{cert}
    SSLCertificateKeyFile $tls->{key}
</VirtualHost>
END
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $path = '/pubsubpull/tables/public.t/changes/';
my @as = (user => 'alice');
$psp->publish('public.t', 'id int PRIMARY KEY, t text');
sub place { return $httpd->get("$path?since=now", @as)->json->{next} =~ s{^http://[^/]+}{}r }
sub workers { return [sort split ' ', `pgrep -P $httpd->{pid} -x apache2`] }

my %text;
sub ask {
    my ($url, @headers) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->{port}) or die $!;
    $s->blocking(0);
    print {$s} join "\r\n", "GET $url HTTP/1.1", 'Host: x', 'Authorization: Basic ' . encode_base64('alice:alice', ''), @headers, '', '';
    $text{$s} = '';
    return $s;
}
sub got { my ($s) = @_; 1 while sysread $s, $text{$s}, 65_536, length $text{$s}; return $text{$s} }
sub text { my ($name) = @_; return -e "$dir/$name" ? slurp("$dir/$name") : '' }
sub count { my ($pattern, @of) = @_; return scalar grep { got($_) =~ $pattern } @of }
sub logged { my ($agent) = @_; return [grep { / \Q$agent\E$/ } split /\n/, slurp("$dir/log")] }
sub recorded { my ($agent) = @_; return $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request WHERE agent = $1 AND status = 200 AND duration IS NOT NULL', $agent) }
sub curl { my ($agent, @arguments) = @_; return spawn(cmd => ['curl', '-sSkN', '-m', 30, '-u', 'alice:alice', '-A', $agent, @arguments], log => "$dir/$agent") }

# Ten times as many as workers
my $next = place();
my @polls  = map { ask("$next&wait=30", 'User-Agent: poll') } 1 .. 40;
my @events = map { ask($next, 'Accept: text/event-stream', 'User-Agent: events') } 1 .. 40;
wait_until { count(qr/^id: /m, @events) == 40 } 10, 'event streams';
my @tls = (curl('tls', "https://127.0.0.1:$port$next&wait=30"), curl('tlsevents', '-H', 'Accept: text/event-stream', "https://127.0.0.1:$port$next"));
my $h2 = curl('h2', '--http2-prior-knowledge', $httpd->url("$next&wait=30"));
wait_until { text('tlsevents') =~ /^id: /m } 10, 'events over TLS';
my $start = time;
is($httpd->get('/pubsubpull/tables/public.t', @as)->status, 200, 'with 40 long-polls and 40 event streams four workers serve others') for 1 .. 8;
cmp_ok(time - $start, '<', 5, 'at once');
my $status;
eval { wait_until { $status = `curl -s "@{[$httpd->url('/server-status?auto')]}"`; $status =~ /^IdleWorkers: [23]/m } 5, 'idle workers' } or diag $status;
$pg->sql(q{INSERT INTO t VALUES (1, 'one')});
wait_until { count(qr/"key":\{"id":1\}/, @polls, @events) == 80 } 5, 'the change for all';
wait_until { text($_) =~ /"key":\{"id":1\}/ } 5, "the change for $_" for qw(tls tlsevents h2);
pass('all hear of a change');
wait_until { !alive($tls[0]) && !alive($h2) } 5, 'the end of the long-polls over TLS and HTTP/2';
my $answer = got($polls[0]);
like($answer, qr/^Connection: .*close\r$/m, 'a connection that was left is closed after the answer');
my ($length) = $answer =~ /^Content-Length: (\d+)\r$/m;
is($length, length $answer =~ s/^.*?\r\n\r\n//sr, 'which is complete');
wait_until { 40 == grep { got($_); eof $_ } @polls } 5, 'the end of the connections';
is(scalar @{ logged('events') }, 0, 'streams go on');
wait_until { @{ logged('poll') } == 40 && @{ logged('tls') } == 1 && @{ logged('h2') } == 1 } 5, 'lines in the log';
is(scalar(grep { /^200 (\d+) (\d+) - / && $1 > 100_000 && $2 > 100 } @{ logged('poll') }), 40, 'each is logged once, with the time that it waited');
wait_until { recorded('poll') == 40 && recorded('tls') == 1 } 10, 'records';
is(recorded('poll'), 40, 'and recorded once');

# Time is over; who waited less than that goes away; compressed
my $quiet = place();
$start = time;
my @timed = map { ask("$quiet&wait=2", 'User-Agent: timed', 'Accept-Encoding: gzip') } 1 .. 20;
my @left = map { ask("$quiet&wait=30", 'User-Agent: left') } 1 .. 20;
sleep 0.3;
close $_ for @left;
wait_until { @{ logged('left') } == 20 } 5, 'those who left are forgotten';
cmp_ok(time - $start, '<', 2 * slow(), 'in a second or so');
wait_until { count(qr/^HTTP\/1\.1 200 .*^Content-Encoding: gzip\r$/ms, @timed) == 20 } 5, 'answers when the time is over';
cmp_ok(time - $start, '>=', 2, 'which holds');

# A stream whose client takes nothing ends, and holds nobody up; who speaks HTTP/1.0 is served as well
my $deaf = ask($quiet, 'Accept: text/event-stream', 'User-Agent: deaf');
my $old = curl('old', '-0', '-H', 'Accept: text/event-stream', $httpd->url($quiet));
wait_until { text('old') =~ /^id: /m } 5, 'a stream over HTTP/1.0';
close $_ for @events;
wait_until { @{ logged('events') } == 40 } 5, 'those who left';
for my $n (1 .. 30) {
    $pg->sql(q{INSERT INTO t SELECT 1000 * $1 + g, repeat('x', 10000) FROM generate_series(1, 100) g}, $n);
}
wait_until { text('old') =~ /"key":\{"id":30100\}/ } 20, 'what the other one takes';
wait_until { @{ logged('deaf') } == 1 } 20, 'the end of the stream that nobody reads';
is($httpd->get('/pubsubpull/tables/public.t', @as)->status, 200, 'others are served');
$httpd->expect_log(qr/PSP0125|PSP0331/);

# Restart and stop
my $before = workers();
$next = place();
@polls  = map { ask("$next&wait=60", 'User-Agent: graceful') } 1 .. 10;
@events = map { ask($next, 'Accept: text/event-stream', 'User-Agent: graceful') } 1 .. 10;
wait_until { count(qr/^id: /m, @events) == 10 } 10, 'event streams';
$httpd->graceful;
wait_until { count(qr/"changes":\[\]/, @polls) == 10 && count(qr/\r\n0\r\n\r\n/, @events) == 10 } 5, 'their end';
pass('a graceful restart ends those who wait');
wait_until { !grep { my $was = $_; grep { $_ == $was } @$before } grep { $_ != ($httpd->notifier_pid // 0) } @{ workers() } } 10, 'the end of the processes';
is(scalar @{ logged('graceful') }, 20, 'each is logged once') or diag slurp("$dir/log");
$next = place();
@events = map { ask($next, 'Accept: text/event-stream', 'User-Agent: stop') } 1 .. 10;
wait_until { count(qr/^id: /m, @events) == 10 } 10, 'event streams';
$start = time;
$httpd->restart;
cmp_ok(time - $start, '<', 8, 'stopping does not wait for them');
is(scalar @{ logged('stop') }, 10, 'each is logged once, too');
$httpd->expect_log(qr/AH00484|AH01873/);    # all workers were busy once; sessions of TLS
finish;
