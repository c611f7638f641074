# SPDX-License-Identifier: Apache-2.0
# complete.t: one record for each request, with the status that it ended with, whatever way it took through httpd.
use PspTest;
use IO::Socket::INET;
use List::Util qw(sum0);

my $service = PspTest::Receiver->start;
my $nobody = free_port();

# Something that speaks WebSocket as far as it takes: it upgrades and echoes.
my $ws = PspTest::Service->start(cmd => [$^X, '-MIO::Socket::INET', '-e', <<'END', '{port}']);
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => shift, Listen => 8, ReuseAddr => 1) // die $!;
while (my $c = $listener->accept) {
    my $head = '';
    while ($head !~ /\r\n\r\n/) { sysread($c, $head, 4096, length $head) or last }
    syswrite $c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" if $head;
    while (sysread $c, my $data, 4096) { syswrite $c, $data }
}
END

my $htdocs = tmp_dir();
my $psp = PspTest->up(load => [qw(http2 proxy_wstunnel reqtimeout dav dav_fs)], config => <<"END");
Protocols h2c http/1.1
RequestReadTimeout header=2
LimitRequestLine 4000
LimitRequestBody 100000
H2Direct on
DavLockDB dav.lock
PubSubPull On
PubSubPullRecord all
<Location /pubsubpull>
    PubSubPull Off
</Location>
<Location /svc/>
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /secure/>
    Require valid-user
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /denied/>
    Require ip 192.0.2.1
</Location>
<Location /away/>
    ProxyPass http://127.0.0.1:$nobody/
</Location>
<Location /tunnel>
    ProxyPass ws://127.0.0.1:@{[$ws->port]}/
</Location>
<Location /upgrade>
    ProxyPass @{[$ws->url('/')]} upgrade=websocket
</Location>
<Location /readonly/>
    <LimitExcept GET>
        Require all denied
    </LimitExcept>
</Location>
ErrorDocument 503 /sorry.html
ErrorDocument 402 "short and stout"
RewriteEngine On
RewriteRule ^/moved\$ /svc/target [R=302,L]
RewriteRule ^/teapot\$ - [R=402,L]
RewriteRule ^/passed\$ /plain.html [PT]
RewriteRule ^/gone\$ - [G]
AddOutputFilter INCLUDES .shtml
Alias /in/ $htdocs/
<Directory "$htdocs">
    Require all granted
    Options +Includes
    RewriteEngine On
    RewriteRule ^inside\$ /svc/target
    DirectoryIndex index.shtml index.html
</Directory>
END
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
$service->reply(status => 200, body => 'x' x 100);
$service->reply(match => '^/slow', status => 200, delay => 1, body => 'late');
$service->reply(match => '^/big', status => 200, body => 'x' x 20_000_000);
$service->reply(match => '^/hang', hang => 1);
my $dir = $httpd->htdocs;
spew("$dir/sorry.html", 'sorry, ' x 5);
spew("$dir/plain.html", 'plain');
spew("$dir/page.shtml", join "\n", '<!--#include virtual="/svc/part" -->', '<!--#include virtual="/plain.html" -->', '<!--#include virtual="/cgi-bin/part" -->', '<!--#include virtual="/missing" -->');
mkdir "$htdocs/sub" or die $!;
spew("$htdocs/sub/index.shtml", '<!--#include virtual="/svc/part" -->');
$httpd->cgi('part', "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\npart'\n");
$httpd->cgi('local', "#!/bin/sh\nprintf 'Location: /svc/target\\n\\n'\n");
$httpd->cgi('fails', "#!/bin/sh\nexit 1\n");

# What was recorded since the last time, once everything until now is
my %seen;
my ($barrier, $last) = (0, '00000000-0000-0000-0000-000000000000');
sub recorded {
    my ($wanted) = @_;
    wait_until { $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request WHERE id > $1', $last) >= $wanted } 10, "$wanted records" if $wanted;
    my $path = '/svc/barrier-' . ++$barrier;
    $httpd->get($path);
    my $id = wait_until { $pg->sql([user => 'pubsubpull'], 'SELECT id FROM pubsubpull.request WHERE path = $1', $path) } 10, 'the barrier';
    my $rows = $pg->rows([user => 'pubsubpull'], 'SELECT method, path, "user", status, bytes, duration FROM pubsubpull.request WHERE id > $1 AND id < $2 ORDER BY id', $last, $id);
    $last = $id;
    $seen{ $_->[1] // '' }++ for @$rows;
    return sort { brief($a) cmp brief($b) } @$rows;
}
sub brief { return join ', ', map { join ' ', map { $_ // '-' } @$_[0, 1, 3] } @_ }

# once('GET /path 200', what): exactly this was recorded
sub once {
    my ($wanted, $what) = @_;
    my @rows = recorded(scalar split /, /, $wanted);
    is(brief(@rows), $wanted, $what);
    return @rows;
}
recorded();

# Plain, and ways through httpd
for my $case (
    ['/svc/one',        200, 'proxied'],
    ['/plain.html',     200, 'a file'],
    ['/none.html',      404, 'no file'],
    ['/moved',          302, 'a redirect'],
    ['/passed',         200, 'rewritten before it is served'],
    ['/in/inside',         200, 'rewritten inside a directory: an internal redirect'],
    ['/cgi-bin/local',  200, 'a CGI program that redirects inside'],
    ['/cgi-bin/fails',  500, 'a CGI program that fails'],
    ['/away/x',         503, 'a service that is away, with an ErrorDocument'],
    ['/teapot',         402, 'an ErrorDocument that is a text'],
    ['/gone',           410, 'gone'],
    ['/page.shtml',     200, 'SSI with sub-requests, one of which fails'],
    ['/in/sub/',        200, 'an index with SSI'],
    ['/in/sub',         301, 'a directory without its slash'],
    ['/secure/x',       401, 'refused before authentication'],
    ['/denied/x',       403, 'refused before that'],
    ['/server-status',  200, 'a handler'])
{
    my ($path, $status, $what) = @$case;
    my $answer = $httpd->get($path);
    is($answer->status, $status, $what);
    my ($row) = once("GET $path $status", '  one record');
    is($row->[4], length $answer->body, '  all bytes') if $row;
    is($pg->sql([user => 'pubsubpull'], 'SELECT path FROM pubsubpull.request WHERE id = $1', $answer->header('X-Request-Id')), $path, '  under the id that the client has');
}
$httpd->get('/secure/x', user => 'alice');
my ($row) = once('GET /secure/x 200', 'authenticated');
is($row->[2], 'alice', 'with its user');
$httpd->get('/secure/x', user => 'alice', password => 'wrong');
($row) = once('GET /secure/x 401', 'a wrong password');
$httpd->request('HEAD', '/svc/head');
($row) = once('HEAD /svc/head 200', 'HEAD');
is($row->[4], 0, 'has no body');
$httpd->get('/plain.html', headers => ['If-Modified-Since' => $httpd->get('/plain.html')->header('Last-Modified')]);
once('GET /plain.html 200, GET /plain.html 304', 'a copy that is still good');
$httpd->get('/plain.html', headers => [Range => 'bytes=0-1']);
once('GET /plain.html 206', 'a part of a file');
$httpd->post('/readonly/x', {});
once('POST /readonly/x 403', 'a method that is not allowed');
$httpd->request('PUT', '/cgi-bin/part', body => 'x' x 100_001);
once('PUT /cgi-bin/part 413', 'too large a body');
raw_http($httpd->port, "OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
once('OPTIONS * 200', 'OPTIONS *');
$httpd->request('BREW', '/svc/x');
once('BREW /svc/x 200', 'a method nobody knows');

# The wire
my $raw = raw_http($httpd->port, join('', map { "GET /svc/p$_ HTTP/1.1\r\nHost: h\r\n" . ($_ == 5 ? "Connection: close\r\n" : '') . "\r\n" } 1 .. 5));
is(scalar(() = $raw =~ m{HTTP/1.1 200}g), 5, 'five requests in one go');
once(join(', ', map { "GET /svc/p$_ 200" } 1 .. 5), 'five records');

my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->port);
print $socket "PUT /svc/expect HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
sysread $socket, my $first, 100;
like($first, qr/^HTTP\/1.1 100 /, '100-continue');
print $socket 'hello';
my $rest = do { local $/ = undef; <$socket> };
once('PUT /svc/expect 200', 'and one record with the last status');
raw_http($httpd->port, "GET /svc/old HTTP/1.0\r\n\r\n");
once('GET /svc/old 200', 'HTTP/1.0');

# Clients that go away
sub open_and_leave {
    my ($bytes, $read) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->port);
    print $s $bytes;
    sysread $s, my $some, $read if $read;
    setsockopt $s, Socket::SOL_SOCKET(), Socket::SO_LINGER(), pack('ii', 1, 0);    # a reset
    close $s;
    return;
}
sub wait_record { my ($path) = @_; wait_until { $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request WHERE path = $1', $path) } 20, "a record of $path"; return }
open_and_leave("GET /svc/big HTTP/1.1\r\nHost: h\r\n\r\n", 1000);
wait_record('/svc/big');
($row) = once('GET /svc/big 200', 'a client leaves in the middle of a response');
cmp_ok($row->[4], '<', 20_000_000, 'it did not get all');
open_and_leave("GET /svc/slow HTTP/1.1\r\nHost: h\r\n\r\n");
wait_record('/svc/slow');
my @left = recorded();
is(scalar @left, 1, 'a client leaves before the response: one record') or diag brief(@left);
is($left[0][1], '/svc/slow', 'of it');
cmp_ok($left[0][5], 'ge', '00:00:00.9', 'with its duration');
open_and_leave("PUT /svc/upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nhello");
wait_record('/svc/upload');
@left = recorded();
is(scalar @left, 1, 'a client leaves in the middle of its body: one record');
like(brief(@left), qr{^PUT /svc/upload [45]\d\d$}, 'of a failure');

# HTTP/2: many streams on a connection. Frames by hand: curl gives up when it multiplexes without TLS.
my $port = $httpd->port;
sub frame { my ($type, $flags, $stream, $data) = @_; return substr(pack('N', length $data), 1) . pack('CCN', $type, $flags, $stream) . $data }
sub headers {
    my (%h) = @_;
    return join '', map { "\0" . chr(length) . $_ . chr(length $h{$_}) . $h{$_} } sort keys %h;
}
sub h2 { # h2([path, give up?], …): streams that ended
    my @wanted = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
    my $bytes = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame(4, 0, 0, '');
    for my $i (0 .. $#wanted) {
        my ($path, $leave) = @{ $wanted[$i] };
        $bytes .= frame(1, 5, 2 * $i + 1, headers(':method' => 'GET', ':scheme' => 'http', ':path' => $path, ':authority' => 'h'));
    }
    syswrite $s, $bytes;
    my ($in, $ended) = ('', 0);
    for my $i (grep { $wanted[$_][1] } 0 .. $#wanted) {
        $service->wait_for(1, 5, qr/^\Q@{[$wanted[$i][0] =~ s{^\/svc}{}r]}/);
        syswrite $s, frame(3, 0, 2 * $i + 1, pack 'N', 8);    # RST_STREAM: cancel
    }
    my $wait = grep { !$_->[1] } @wanted;
    local $SIG{ALRM} = sub { die "no answer of @wanted" };
    alarm 10;
    while ($ended < $wait && sysread $s, $in, 65536, length $in) {
        while (length $in >= 9 && length $in >= 9 + unpack 'N', "\0" . substr $in, 0, 3) {
            my ($length, $type, $flags) = (unpack('N', "\0" . substr $in, 0, 3), unpack 'xxxCC', $in);
            $ended++ if $type <= 1 && $flags & 1;
            substr $in, 0, 9 + $length, '';
        }
    }
    alarm 0;
    close $s;
    return $ended;
}
is(h2(map { ["/svc/h2-$_"] } 1 .. 10), 10, 'ten streams at once');
my @streams = recorded(10);
is(brief(@streams), join(', ', sort map { "GET /svc/h2-$_ 200" } 1 .. 10), 'ten records');
h2(['/page.shtml'], ['/away/h2']);
once('GET /away/h2 503, GET /page.shtml 200', 'HTTP/2 with sub-requests and with an ErrorDocument');
$service->reply(match => '^/h2-slow', status => 200, delay => 1, body => 'late');
h2(['/svc/h2-slow', 1], ['/svc/h2-other']);
my @left_h2 = recorded(2);
is(scalar @left_h2, 2, 'a stream that the client gave up: one record') or diag brief(@left_h2);
my $curl = 'curl -s -o /dev/null --http2-prior-knowledge';
system "$curl -X POST -d 'some=thing' -u alice:alice http://127.0.0.1:$port/secure/h2";
($row) = once('POST /secure/h2 200', 'HTTP/2 with a body');
is($row->[2], 'alice', 'its user');
is($row->[4], 100, 'its bytes');
system "$curl --http2 http://127.0.0.1:$port/svc/upgraded";
once('GET /svc/upgraded 200', 'an upgrade to HTTP/2');

# WebSocket
for my $path ('/tunnel', '/upgrade') {
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
    print $s "GET $path HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    my $head = '';
    while ($head !~ /\r\n\r\n/) { sysread($s, $head, 4096, length $head) or last }
    like($head, qr{^HTTP/1.1 101 }, "WebSocket by $path");
    print $s 'hello';
    $s->flush;
    sysread $s, my $echo, 100;
    is($echo, 'hello', 'both ways');
    close $s;
    wait_record($path);
    once("GET $path 101", 'one record');
}

# What is no request
recorded();
my %garbage = (
    'no request line'    => [400, "GARBAGE\r\n\r\n"],
    'control characters' => [400, "\x01\x02\x03 \x16\x03\x01 HTTP/1.1\r\n\r\n"],
    'no such version'    => [400, "GET /g1 HTTP/9.9\r\n\r\n"],
    'too long a line'    => [414, 'GET /g2' . 'x' x 5000 . " HTTP/1.1\r\nHost: h\r\n\r\n"],
    'a bad header'       => [400, "GET /g3 HTTP/1.1\r\nHost: h\r\nBad Header\r\n\r\n"],
    'no host'            => [400, "GET /g4 HTTP/1.1\r\n\r\n"],
    'too many headers'   => [400, "GET /g5 HTTP/1.1\r\nHost: h\r\n" . join('', map { "X-$_: x\r\n" } 1 .. 200) . "\r\n"],
    'too long a header'  => [400, "GET /g6 HTTP/1.1\r\nHost: h\r\nX-Long: " . 'x' x 10000 . "\r\n\r\n"],
    'empty lines'        => [undef, "\r\n\r\n\r\n"],
    'half a URL'         => [400, "GET http:// HTTP/1.1\r\n\r\n"],
    'a bad encoding'     => [400, "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n"],
    'outside'            => [400, "GET /../../g7 HTTP/1.1\r\nHost: h\r\n\r\n"],
    'a bad length'       => [400, "PUT /svc/g8 HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"],
    'a bad chunk'        => [400, "PUT /svc/g9 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    'smuggling'          => [200, "PUT /svc/g10 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\nConnection: close\r\n\r\n0\r\n\r\n"],
    'too slow a header'  => [408, "GET /g11 HTTP/1.1\r\nHost: h\r\nX-Half: "],
);
for my $what (sort keys %garbage) {
    my ($status, $bytes) = @{ $garbage{$what} };
    my ($got) = raw_http($port, $bytes, timeout => 5) =~ m{HTTP/1.1 (\d+)};
    is($got, $status, "no request: $what");
}
for my $row (recorded(10)) {
    my ($what) = grep { defined $row->[1] && $garbage{$_}[1] =~ /^\Q$row->[0] $row->[1] / } keys %garbage;
    like($row->[3], $what ? qr/^$garbage{$what}[0]$/ : qr/^4/, 'recorded as it was answered: ' . substr brief($row), 0, 60);
}
is($httpd->get('/svc/alive')->status, 200, 'httpd is alive');
recorded(1);
is(join(', ', map { "$_ $seen{$_}" } grep { $seen{$_} > 1 && /g\d+/ } sort keys %seen), '', 'and none of that is recorded twice');
is($pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request WHERE id <= $1', $last) - 1, $barrier - 1 + sum0(values %seen), 'nothing was recorded late');
$httpd->expect_log(qr/AH\d+/, qr/cgid:error.*End of script output|include:error/);
finish;
