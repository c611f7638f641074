# SPDX-License-Identifier: Apache-2.0
# forged.t: what clients send under our names, in all spellings, by every way in which httpd passes requests on: the service is told
# ours and nothing else. And raw bytes, as httpd lets them through.
use PspTest;

my $id = qr/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;
my %port = map { $_ => free_port() } qw(uwsgi scgi fcgi);
my $uwsgi = PspTest::Service->start(env => { PYTHONPATH => repo('t/services'), PYTHONDONTWRITEBYTECODE => 1 }, cwd => '/',
    cmd => [qw(uwsgi --plugin python3 --module echo:app --master --processes 2 --threads 4 --die-on-term --http-socket 127.0.0.1:{port}),
        '--socket' => "127.0.0.1:$port{uwsgi}", '--scgi-socket' => "127.0.0.1:$port{scgi}", '--fastcgi-socket' => "127.0.0.1:$port{fcgi}"]);
my $ajp = PspTest::Service->start(cmd => ['/usr/bin/python3', '-B', repo('t/services/ajp.py'), '{port}', 'echo:app'], env => { PYTHONPATH => repo('t/services') });
my $h2c = PspTest::Service->start(cmd => ['node', '-e', <<'END', '{port}']);
require('http2').createServer((req, res) => {
  const environ = {};
  for (const [name, value] of Object.entries(req.headers)) { environ['HTTP_' + name.replace(/-/g, '_').toUpperCase()] = String(value); }
  res.end(JSON.stringify(environ));
}).listen(process.argv[1], '127.0.0.1');
END

my %way = (http => $uwsgi->url('/'), ajp => 'ajp://127.0.0.1:' . $ajp->port . '/', h2c => 'h2c://127.0.0.1:' . $h2c->port . '/', (map { $_ => "$_://127.0.0.1:$port{$_}/" } keys %port));
my $config = join '', "PubSubPull On\nPubSubPullRecord all\n<Location /pubsubpull>\nPubSubPull Off\n</Location>\nSetEnvIf Request_URI ^/scgi/ proxy-scgi-pathinfo\n",
    map({ "<Location /$_/>\nProxyPass $way{$_}\n</Location>\n" } sort keys %way),
    "<Proxy balancer://many>\nBalancerMember $way{http}\n</Proxy>\n<Location /balancer/>\nProxyPass balancer://many/\n</Location>\n",
    "RewriteEngine On\nRewriteRule ^/rewritten/(.*) $way{http}\$1 [P]\n<Location /handler/>\nSetHandler proxy:$way{fcgi}\n</Location>\n";

# Each name in each spelling that some server takes for it, twice, and in Connection
my @names = qw(PubSubPull-Request PubSubPull-Request-Id X-Request-Id traceparent tracestate);
my @attempts;
for my $name (@names) {
    my $value = { traceparent => '00-f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0-f0f0f0f0f0f0f0f0-01', tracestate => 'psp=forged,other=forged' }->{$name} // '{"id":"forged"}';
    my %spelling = map { $_ => 1 } $name, lc $name, uc $name, $name =~ s/(.)/rand() < 0.5 ? uc $1 : lc $1/ger;
    $spelling{ $_ =~ tr/-/_/r } = 1 for keys %spelling;
    $spelling{ $name =~ s/-/$_/r } = 1 for '_', '.', '+', '~', '!';
    push @attempts, [$_, $value, $_, $value] for sort keys %spelling;
    push @attempts, [$name, $value, $name =~ tr/-/_/r, $value], [Connection => "close, $name", $name, $value], [Connection => uc $name, Connection => 'close', $name, $value];
}
push @attempts, [Connection => join(', ', 'close', @names), map { ($_, '{"id":"forged"}') } @names];

my $pg = PspTest::Postgres->start;
$pg->install_schema;
$pg->sql('CREATE TABLE guest (id serial PRIMARY KEY)');
$pg->publishable('guest');
$pg->sql([user => 'pubsubpull'], q{SELECT pubsubpull.publish('guest')});
sub recorded { return $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.request WHERE status IS NOT NULL') }

for my $mpm (qw(event prefork)) {
    my @ways = (sort(keys %way), qw(balancer rewritten handler));
    @ways = grep { $_ ne 'h2c' } @ways if $mpm eq 'prefork';
    my $psp = PspTest->up(pg => $pg, mpm => $mpm, load => [qw(proxy_balancer lbmethod_byrequests), $mpm eq 'event' ? qw(http2 proxy_http2) : ()],
        config => $mpm eq 'event' ? $config : $config =~ s{<Location /h2c/>.*?</Location>\n}{}sr);
    my $httpd = $psp->httpd;
    my $before = recorded();
    my $n = 0;
    for my $way (@ways) {
        my @wrong;
        for my $headers (@attempts) {
            my $answer = $httpd->get("/$way/x", headers => $headers);
            my $told = eval { $answer->json } // {};
            my $ours = $answer->header('X-Request-Id') // 'none';
            my $line = join ' ', @$headers;
            push @wrong, "$line: status " . $answer->status if $answer->status != 200;
            push @wrong, "$line: the service gets " . $answer->body if $answer->body =~ /forged|f0f0f0f0/;
            for my $name (qw(HTTP_PUBSUBPULL_REQUEST HTTP_X_REQUEST_ID HTTP_TRACEPARENT HTTP_TRACESTATE)) {
                my $hex = $ours =~ s/-//gr;
                push @wrong, "$line: $name is " . ($told->{$name} // 'missing') if ($told->{$name} // '') !~ /\Q$ours\E|\Q$hex\E/ || $ours !~ /^$id$/;
            }
            $n++;
        }
        is(join("\n", splice @wrong, 0, 5), '', "$mpm, $way: the service is told who asks by us only");
    }
    wait_until { recorded() >= $before + $n } 20, 'all records';
    is($pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.request WHERE to_json(request)::text ~ 'forged|f0f0f0f0'}), 0, 'nor is any of it in the log');

    # Any byte that httpd lets through as it is, which are more when it is told to be careless
    my %env = $pg->env;
    my $cgi = $httpd->cgi('any', "#!/bin/sh\n" . join('', map { "export $_='$env{$_}'\n" } grep { defined $env{$_} } sort keys %env)
            . "printf 'Content-Type: text/plain\\n\\n%s' \"\$PUBSUBPULL_REQUEST\"\npsql -X -q -c 'INSERT INTO guest DEFAULT VALUES' >&2\n");
    $httpd->configure("$httpd->{config}HttpProtocolOptions Unsafe\n");
    $httpd->graceful;
    for my $from (map { $_ * 32 } 1 .. 7) {
        my @bytes = grep { $_ != 127 } $from .. $from + 31;
        my ($header, $query, $path) = map { my $not = $_; join '', grep { $_ !~ $not } map { chr } @bytes } qr/\0/, qr/[ #]/, qr/[ #%?]/;
        my $answer = PspTest::Response->parse(raw_http($httpd->port, "GET $cgi/a$path?$query HTTP/1.1\r\nHost: h\r\nUser-Agent: a${header}z\r\nConnection: close\r\n\r\n", method => 'GET'), 'GET');
        my $envelope = eval { json($answer->body) } // {};
        my ($agent, $asked, $where) = map { join '', map { ord() < 0x80 ? $_ : "\x{fffd}" } split // } "a${header}z", $query, "$cgi/a$path";
        is_deeply([@$envelope{qw(agent query path)}], [$agent, $asked, $where], "$mpm, raw bytes from $from are told") or diag $answer->status, $answer->body;
        my $row = $pg->rows([user => 'pubsubpull'], 'SELECT r.agent, r.query, r.path FROM pubsubpull.change c JOIN pubsubpull.request r ON r.id = c.request ORDER BY c.id DESC LIMIT 1')->[0];
        is_deeply($row, [$agent, $asked, $where], 'recorded, and the SQL of the service works');
    }
    $httpd->expect_log(qr/AH\d+/);
    $httpd->stop;
}
finish;
