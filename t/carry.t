# SPDX-License-Identifier: Apache-2.0
# carry.t: the identity beside what else travels with a request: options of the administrator, parts of pages that are not recorded, trailers,
# connections of mod_dbd on which the database does not answer; and records that a leaving notifier has in its memory alone.
use PspTest;

my $service = PspTest::Receiver->start;
my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $lua = repo('t/services/items.lua');
my $psp = PspTest->up(pg => $pg, log_level => 'notice pubsubpull:debug', config => <<"END");    # one process: all sessions are of one pool
StartServers 1
ServerLimit 4
MaxRequestWorkers 64
MinSpareThreads 1
MaxSpareThreads 64
MergeTrailers On
DBDriver pgsql
DBDParams "@{[$pg->conninfo]}"
DBDMin 1
DBDKeep 1
DBDMax 1
LuaMapHandler "^/lua/" "$lua" handle
<Location /lua/>
    PubSubPull On
    Require valid-user
</Location>
<Location /svc/>
    PubSubPull On
    ProxyPass @{[$service->url('/')]}
</Location>
<Location /cgi-bin/>
    PubSubPull On
    Require valid-user
</Location>
<Location /cgi-bin/options.cgi>
    SetEnv PGOPTIONS "-c work_mem=1MB"
</Location>
<Location /cgi-bin/inner/>
    PubSubPullRecord off
</Location>
<Location /page/>
    PubSubPull On
    PubSubPullRecord all
</Location>
<Files "*.shtml">
    SetOutputFilter INCLUDES
</Files>
END
my $httpd = $psp->httpd;
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
mkdir $httpd->htdocs . '/page' or die $!;
spew($httpd->htdocs . '/page/one', 'one');

# Programs: options that are there stay
my $print = qq{#!/bin/sh\necho "Content-Type: text/plain"\necho\necho "PGOPTIONS=\$PGOPTIONS REQUEST=\$PUBSUBPULL_REQUEST_ID"\n};
$httpd->cgi($_, $print) for 'plain.cgi', 'options.cgi';
my ($plain, $options) = map { $httpd->get("/cgi-bin/$_.cgi", user => 'alice') } 'plain', 'options';
like($plain->body, qr/^PGOPTIONS=-c pubsubpull\.request=\{/, 'a program gets its identity as an option of the database session');
like($options->body, qr/^PGOPTIONS=-c work_mem=1MB -c pubsubpull\.request=\{/, 'behind those of the administrator');
is((split / REQUEST=/, $_->body)[1], $_->header('X-Request-Id') . "\n", 'and its id') for $plain, $options;

# Parts of a page where requests are not recorded get no identity of the page
mkdir $httpd->dir . '/cgi-bin/inner' or die $!;
$httpd->cgi('inner/part.cgi', $print);
$httpd->cgi('part.cgi', $print);
for my $case (['', qr/^PGOPTIONS= REQUEST=$/m], ["SetEnv PGOPTIONS \"-c work_mem=2MB\"", qr/^PGOPTIONS=-c work_mem=2MB REQUEST=$/m]) {
    my ($more, $wanted) = @$case;
    $httpd->configure($httpd->{config} =~ s/(?:SetEnv[^\n]*\n)?(<Location \/page\/>\n)/$more\n$1/r) if $more;
    $httpd->graceful if $more;
    spew($httpd->htdocs . '/page/parts.shtml', '<!--#include virtual="/cgi-bin/part.cgi" -->' . "\n" . '<!--#include virtual="/cgi-bin/inner/part.cgi" -->');
    my $page = $httpd->get('/page/parts.shtml', user => 'alice');
    my ($outer, $inner) = grep { /PGOPTIONS/ } split /\n/, $page->body;
    like($outer, qr/REQUEST=\Q@{[$page->header('X-Request-Id') \/\/ 'none']}\E$/, 'a part of a page has the identity of the page');
    like($inner, $wanted, 'but not where nothing is recorded' . ($more ? ', and options of the administrator stay' : ''));
}

# Trailers become headers under MergeTrailers: nobody forges an identity by them
my $forged = join "\r\n", 'PUT /svc/x HTTP/1.1', 'Host: h', 'Transfer-Encoding: chunked', 'Trailer: PubSubPull-Request', 'Connection: close', '',
    '2', 'ab', '0', 'PubSubPull-Request: {"id":"forged"}', 'pubsubpull_request: forged', 'X-Request-Id: forged', 'traceparent: forged', 'X-Other: kept', '', '';
my ($status) = raw_http($httpd->port, $forged, method => 'PUT') =~ m{^HTTP/1.1 (\d+)};
is($status, 204, 'a request with trailers passes');
my ($put) = $service->wait_for(1, 5);
is($put->body, 'ab', 'with its body');
like($put->header('PubSubPull-Request'), qr/^\{"id":"[0-9a-f-]{36}"/, 'and our identity');
unlike(to_json({%$put}), qr/forged/, 'and nothing of what was forged');

# A connection of mod_dbd on which nobody answers is given up, and so is a call of the database for a resource
$pg->sql('CREATE TABLE item (id serial PRIMARY KEY, name text)');
$psp->publish('public.item');
is($httpd->post('/lua/items?name=a', {}, user => 'alice')->status, 201, 'a script on mod_dbd writes');
my @frozen = map { $_->[0] } @{ $pg->admin->rows(q{SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND backend_type = 'client backend' AND application_name !~ 'notifier|records' AND pid <> pg_backend_pid()}) };
kill STOP => @frozen;
my $pid = fork // die $!;
if (!$pid) {
    require POSIX;
    my $resource = $httpd->get('/pubsubpull/tables/', user => 'alice', timeout => 40);
    POSIX::_exit($resource->status == 503 && $resource->body =~ /database-timeout/ ? 0 : 1);
}
my $began = time;
cmp_ok($httpd->post('/lua/items?name=b', {}, user => 'bob', timeout => 40)->status, '>=', 500, 'while its connection is frozen it fails');
cmp_ok(time - $began, '<', 15 * slow(), 'and does not wait for ever');
waitpid $pid, 0;
is($?, 0, 'a resource says 503 after a while');
kill CONT => @frozen;
wait_until { $httpd->post('/lua/items?name=c', {}, user => 'bob')->status == 201 } 20, 'it to write again';
wait_until { admin(q{SELECT count(*) FROM pubsubpull.change c JOIN pubsubpull.request r ON r.id = c.request WHERE new->>'name' = 'c' AND r."user" = 'bob'}) } 10, 'its change with its user';
is(admin(q{SELECT count(*) FROM pubsubpull.change c WHERE new->>'name' = 'b'}), 0, 'and nothing came of the other');
$httpd->expect_log(qr/lua:|dbd|PSP0110|PSP0313/);
like($httpd->log, $_, "the log tells: $_") for qr/PSP0110/, qr/PSP0313/;

# Records that only the notifier's memory has go back when it leaves: the next one writes them
my $pages = 1400;    # of some 3,300 bytes: more than half of what the queue holds
wait_until { admin(q{SELECT count(*) FROM pubsubpull.request WHERE path = '/page/parts.shtml' AND status IS NOT NULL}) == 2 } 10, 'the records so far';
$pg->stop('immediate');
my $some = join '', map { "GET /page/one?" . 'q' x 3000 . " HTTP/1.1\r\nHost: h\r\n\r\n" } 1 .. 99;
for (1 .. $pages / 100) {
    my $answers = raw_http($httpd->port, $some . "GET /page/one?" . 'q' x 3000 . " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    (() = $answers =~ m{HTTP/1.1 200}g) == 100 or die 'not all pages came';
}
wait_until { $httpd->get('/pubsubpull/metrics', user => 'alice')->body =~ /^pubsubpull_records_waiting\{place="notifier"\} (\d+)$/m && $1 > 1000 } 10,
    'the notifier to have records in its memory alone';
$httpd->graceful;
$pg->launch;
wait_until { eval { admin(q{SELECT count(*) FROM pubsubpull.request WHERE path = '/page/one' AND status = 200}) == $pages } } 30, 'the records of all requests';
like($httpd->get('/pubsubpull/metrics', user => 'alice')->body, qr/^pubsubpull_records_dropped(?:_total)? 0$/m, 'each once, and none is lost');
$httpd->expect_log(qr/PSP04|PSP03/);
finish;
