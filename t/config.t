# SPDX-License-Identifier: Apache-2.0
# config.t: mistakes in the configuration are told at once and without secrets; the connection string can come from a program; virtual hosts
# share the database and have URLs of their own; paths mean what httpd authorized.
use PspTest;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $dir = tmp_dir();
my $conninfo = $pg->conninfo(user => 'pubsubpull_httpd', socket => 1);

# --- What configtest says ---

my $idle = PspTest::Httpd->start(stopped => 1, unwatched => 1, location => 0, database => undef);
spew($idle->dir . '/stderr.log', '');    # it never runs
my $wants = 'PubSubPullDatabase "host=/x"';
for my $case (
    ['PubSubPullDatabase " "',                      qr/is empty/],
    ['PubSubPullDatabase "host=/x s3cret"',         qr/has no '='/],
    ['PubSubPullDatabase "host=/x password=\'s3cret"', qr/quote in it is not closed/],
    ['PubSubPullDatabase "hots=/x password=s3cret"', qr/a parameter that libpq does not know/],
    ['PubSubPullDatabase "postgresql://u:s3cret@h/app?s3cret=1"', qr/URI: it names a parameter/],
    ['PubSubPullDatabase "postgresql://u:s3cret@s3cret@h/app"', qr/percent-encoded/],
    ['PubSubPullDatabase "postgresql://[s3cret"',   qr/neither a connection string/],
    ["$wants\n$wants",                              qr/set twice/],
    ['PubSubPullDatabase exec:bin/vault',           qr/absolute path/],
    ['PubSubPullDatabase exec:/no/such/vault',      qr/not a program/],
    ["$wants\nPubSubPullReadDatabase \"hots=/x\"",  qr/PubSubPullReadDatabase .*libpq does not know/],
    ['PubSubPullBaseURL example.org',               qr/absolute http or https URL/],
    ['PubSubPullBaseURL ftp://example.org/',        qr/absolute http or https URL/],
    ['PubSubPullBaseURL https://u:s3cret@h/',       qr/neither credentials nor a query/],
    ["<Location /x>\nPubSubPullBaseURL https://h/\n</Location>", qr/not allowed/],
    ['PubSubPullPool 5 4',                          qr/0 <= min <= max/],
    ['PubSubPullPool x 4',                          qr/0 <= min <= max/],
    ['PubSubPullRetention 5',                       qr/neither off nor a time/],
    ['PubSubPullRetention 5s',                      qr/neither off nor a time/],
    ['PubSubPullStreamTimeout 0',                   qr/must be a number of seconds from 1 to 3600/],
    ['PubSubPullWaiters -1',                        qr/must be a number from 0 to/],
    ['PubSubPullSpool /x 5',                        qr/how many bytes it may hold/],
    ['PubSubPullCallbackAllow example.org',         qr/neither an address nor a network/],
    ['PubSubPullCallbackDeny 10.0.0.0/64',          qr/neither an address nor a network/],
    ['PubSubPullRecord some',                       qr/must be all, changes or off/],
    ['PubSubPullCapture "a b"',                     qr/not the name of a header/],
    ['PubSubPullUser "%{"',                         qr/is not an expression/],
    ["<VirtualHost *:81>\n$wants\n</VirtualHost>",  qr/cannot occur within <VirtualHost>|not allowed/],
    ["$wants\n<Directory /x>\nSetHandler pubsubpull\n</Directory>", qr/PSP0001: line \d+ .*belongs directly into a <Location/],
    ["$wants\n<Location /x>\n<If \"true\">\nSetHandler pubsubpull\n</If>\n</Location>", qr/PSP0001/])
{
    my ($config, $error) = @$case;
    $idle->configure($config);
    my ($good, $said) = $idle->configtest;
    ok(!$good, 'refused: ' . $config =~ s/\n/ /gr);
    like($said, $error, '  and why');
    unlike($said, qr/s3cret/, '  without what may be a secret') if $config =~ /^PubSubPullDatabase/;
}
for my $case (
    ["<Location /x>\nSetHandler pubsubpull\n</Location>", qr/PSP0002: line \d+ .*SetHandler pubsubpull does nothing/],
    ["<Location /x>\nPubSubPull On\n</Location>",         qr/PSP0002: line \d+ .*PubSubPull On does nothing/],
    ["$wants\nPubSubPullCallbackAllow 0.0.0.0/0 ::/0\nPubSubPullCallbackDeny 10.0.0.0/8 192.0.2.1 2001:db8::/32\nPubSubPullCapture X-A none X-B\nPubSubPullRetention off\nPubSubPullSpool spool 2g\nPubSubPullPool 0 3", qr/^Syntax OK$/m])
{
    my ($config, $said) = @$case;
    spew($idle->dir . '/configtest.log', '');
    $idle->configure($config);
    my ($good, $text) = $idle->configtest;
    ok($good, 'taken: ' . $config =~ s/\n/ /gr) or diag $text;
    like($text . $idle->log, $said, '  and what is said to it') if $said !~ /Syntax/;
}

# --- The connection string from a program ---

my $vault = "$dir/vault";
sub vault_says { my ($text) = @_; spew($vault, "#!/bin/sh\n$text\n"); chmod 0755, $vault or die $!; return }
for my $case (
    ['exit 3',             qr/PSP0003: PubSubPullDatabase: \S+vault ended with code 3/],
    ['exit 0',             qr/printed nothing/],
    ['echo s3cret',        qr/what \S+vault printed is not a connection string/],
    ['kill -9 $$',         qr/ended with code 9/],
    ['head -c 9000 /dev/zero | tr "\0" x', qr/PSP0003/])
{
    vault_says($case->[0]);
    my $httpd = PspTest::Httpd->start(stopped => 1, database => "exec:$vault");
    ok(!eval { $httpd->launch; 1 }, "httpd does not start: $case->[0]");
    like($httpd->output, $case->[1], '  and says why');
    unlike($httpd->output, qr/s3cret/, '  without what was printed');
    delete $httpd->{pid};
    $httpd->expect_log(qr/PSP0003|AH00020/);
}

vault_says("echo '$conninfo'; echo more");
my @root = ('/pubsubpull/', user => 'alice');
my $config = <<"END";
<Location /here>
    SetHandler pubsubpull
    Require valid-user
</Location>
<Location ~ "^/pattern/">
    SetHandler pubsubpull
    Require all granted
</Location>
<VirtualHost *>
    ServerName one.example
    AllowEncodedSlashes NoDecode
    RewriteEngine On
    RewriteRule ^/short/(.*) /pubsubpull/tables/\$1 [PT]
</VirtualHost>
<VirtualHost *>
    ServerName two.example
    PubSubPullBaseURL https://two.example:8443/
</VirtualHost>
<VirtualHost *>
    ServerName three.example
    PubSubPullBaseURL https://three.example/api/
    PubSubPullUser "'somebody'"
</VirtualHost>
END
my $httpd = PspTest::Httpd->start(pg => $pg, database => "exec:$vault", config => $config);
is($httpd->get(@root)->status, 200, 'a program says how to connect');
unlike($httpd->get('/server-status', user => 'alice')->body, qr/s3cret/, 'nothing shows');

vault_says('exit 7');
$httpd->graceful;
is($httpd->get(@root)->status, 200, 'after a restart without the vault: as it said before');
$httpd->expect_log(qr/PSP0003: PubSubPullDatabase: \S+vault ended with code 7/);
like($httpd->log, qr/PSP0003/, 'and the log tells');

# --- Virtual hosts ---

my $psp = bless { pg => $pg, httpd => $httpd }, 'PspTest';
$psp->publish('public.t', 'id text PRIMARY KEY, v int');
$pg->sql(q{INSERT INTO t VALUES ('a', 1), ('b,c', 2), ('d/e', 3), (U&'\00FC\+01F600', 4)});
sub at { my ($host, $path) = @_; return $httpd->get($path, user => 'alice', headers => [Host => $host]) }
is(at('one.example', '/pubsubpull/tables/public.t')->json->{url}, 'http://one.example/pubsubpull/tables/public.t', 'without a base URL links name the host that was asked');
is(at('two.example', '/pubsubpull/tables/public.t')->json->{url}, 'https://two.example:8443/pubsubpull/tables/public.t', 'with one they begin with it');
is(at('three.example', '/here/tables/public.t')->json->{url}, 'https://three.example/api/tables/public.t', 'one with a path stands for the Location');

# --- Paths ---

my $rows = '/pubsubpull/tables/public.t/rows';
sub v { my ($path) = @_; my $answer = $httpd->get($path, user => 'alice'); return $answer->status == 200 ? $answer->json->{v} : $answer->status . ' ' . ($answer->body =~ /problem:([\w-]+)/ ? $1 : 'of httpd') }
is(v("$rows/a"), 1, 'a key');
is(v("$rows/b%2Cc"), 2, 'with a comma in its value');
is(v("$rows/b,c"), '400 bad-key', 'a bare comma parts values');
is(v("$rows/d%2Fe"), 3, 'with a slash');
is(v("$rows/%C3%BC%F0%9F%98%80"), 4, 'with characters of two and of four bytes');
is(v('/short/public.t/rows/a'), 1, 'by a path that is rewritten');
is(v('/short/public.t/rows/b,c'), '400 bad-key', 'whose commas part values');
is(v("/$rows/a"), 1, 'with two slashes in front');
is(v("$rows/d%2fe"), '400 bad-path', 'a slash in small letters is refused');
is(v('/short/public.t/rows/d%2Fe'), '400 bad-path', 'and one in a path that is rewritten');
is(v("$rows/$_"), '400 bad-path', "not UTF-8: $_") for '%FF', '%C3', '%C3%41', '%ED%A0%80', '%F0%80%80%80', '%F4%90%80%80', '%E0%80%80', '%C0%AF';
is($httpd->get('/pattern/tables/', user => 'alice')->status, 500, 'a Location that is a pattern has no beginning');
$httpd->expect_log(qr/PSP0300/);
like(raw_http($httpd->port, "GET http://one.example$rows/b%2Cc HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWxpY2U6YWxpY2U=\r\nConnection: close\r\n\r\n", method => 'GET'), qr/"v":2/, 'a request with the whole URL in its first line');
finish;
