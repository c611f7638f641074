# SPDX-License-Identifier: Apache-2.0
# restore.t: a database that was restored from a dump into another cluster: nothing is sent from it until it is adopted, and then nothing
# is passed over in silence: neither what the dump holds nor what came after.
use PspTest;

my $receiver = PspTest::Receiver->start;
my $psp = PspTest->up;
my $old = $psp->pg;
$psp->publish('public.t', 'id int PRIMARY KEY, v int');
$psp->subscribe('sent',  { table => 'public.t', callback => $receiver->url('/sent/{id}') });
$psp->subscribe('later', { table => 'public.t', callback => $receiver->url('/later/{id}') });
$old->sql('INSERT INTO t VALUES (1, 0)');
$receiver->wait_for(1, 10, qr{^/sent/1});
$receiver->wait_for(1, 10, qr{^/later/1});
$psp->httpd->put('/pubsubpull/subscriptions/later/state', { state => 'paused' }, user => 'billing');
$old->psql(['-f', spew(tmp_dir() . '/busy.sql', join '', map { "SELECT pg_current_xact_id();\n" } 1 .. 5000)]);    # its numbers are far ahead of a new cluster's
$old->sql('INSERT INTO t VALUES (2, 0)');
$old->sql('UPDATE t SET v = 1 WHERE id = 1');
$receiver->wait_for(1, 10, qr{^/sent/2});
my $cursor = $psp->httpd->get('/pubsubpull/changes/', user => 'alice')->json->{next} =~ s{^http://[^/]+}{}r;

# The dump, and where it is restored to
my $dump = "$old->{socket}/dump";
my $pid = spawn(cmd => ["$old->{bin}/pg_dump", '-h', $old->{socket}, '-p', $old->port, '-U', 'postgres', '-f', $dump, 'app'], log => "$dump.log");
waitpid $pid, 0;
is($?, 0, 'a dump') or diag slurp("$dump.log");
$psp->httpd->stop;
my $pg = PspTest::Postgres->start;
$pg->{dbh} = {};
my $admin = $pg->admin(db => 'postgres');
$admin->sql($_) for 'DROP DATABASE app', 'CREATE DATABASE app OWNER service';
$pg->admin->psql(['-f', $dump]);
$old->stop;
$receiver->forget;
$pg->sql('INSERT INTO t VALUES (3, 0)');
$psp = PspTest->up(pg => $pg);
my $httpd = $psp->httpd;
$httpd->expect_log(qr/PSP0121/);
sub document { my ($name) = @_; return $httpd->get("/pubsubpull/subscriptions/$name", user => 'billing')->json }
sub keys_of { my ($answer) = @_; return join ' ', map { "$_->{type} $_->{key}{id}" } @{ $answer->json->{changes} } }

# Not adopted
$httpd->wait_for_log(qr/PSP0121: nothing is sent: .*adopt_log/, 20);
pass('the log says that nothing is sent');
like(document($_)->{warning}, qr/nothing is sent.*adopt_log/, "$_ says so") for qw(sent later);
is($httpd->get($cursor, user => 'alice')->status, 410, 'an old cursor is refused');
for my $url ('/pubsubpull/changes/', '/pubsubpull/tables/public.t/changes/?since=beginning', '/pubsubpull/tables/public.t/rows/1/changes/') {
    my $answer = $httpd->get($url, user => 'alice');
    is($answer->status, 503, "$url is not answered with a part of it");
    like($answer->body, qr/log-copied.*adopt_log/s, 'the problem says what to do');
}
my $next = $httpd->get('/pubsubpull/changes/?since=now', user => 'alice')->json->{next} =~ s{^http://[^/]+}{}r;
$pg->sql('INSERT INTO t VALUES (4, 0)');
my $page = $httpd->get($next, user => 'alice');
is(keys_of($page), 'insert 4', 'who follows from now on misses nothing');
$next = $page->json->{next} =~ s{^http://[^/]+}{}r;
$psp->subscribe('fresh', { table => 'public.t', callback => $receiver->url('/fresh/{id}') });
is(scalar $receiver->requests, 0, 'nothing was sent');

# Adopted
is($pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.adopt_log()'), 3, 'the administrator adopts it');
is($pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.adopt_log()'), 0, 'once');
is(keys_of($httpd->get('/pubsubpull/changes/', user => 'alice')), 'insert 1 insert 2 update 1 insert 3 insert 4', 'the log begins at its beginning');
is(keys_of($httpd->get('/pubsubpull/tables/public.t/rows/1/changes/', user => 'alice')), 'insert 1 update 1', 'so does the history of a row');
$pg->sql('INSERT INTO t VALUES (5, 0)');
is(keys_of($httpd->get($next, user => 'alice')), 'insert 5', 'and who followed goes on');
for my $name (qw(sent later fresh)) {
    my $document = document($name);
    is($document->{state}, 'disabled', "$name is disabled");
    like($document->{$_}, qr/lost its place: .*restored.*"since": "now"/, "its $_ says why, and how to start again") for qw(reason warning);
    my $refused = $httpd->put("/pubsubpull/subscriptions/$name/state", { state => 'active' }, user => 'billing');
    is($refused->status, 409, 'it cannot just go on');
    like($refused->json->{detail}, qr/restored/, 'as the problem says');
}
is(scalar $receiver->requests, 0, 'nothing was sent');
my %since = (sent => 'beginning', later => 'now');
for my $name (sort keys %since) {
    is($httpd->put("/pubsubpull/subscriptions/$name/position", { since => $since{$name} }, user => 'billing')->status, 200, "$name starts again");
    is($httpd->put("/pubsubpull/subscriptions/$name/state", { state => 'active' }, user => 'billing')->status, 200, 'and is active');
}
$pg->sql('INSERT INTO t VALUES (6, 0)');
$psp->settled('sent', 'all');
$psp->settled('later', 'what is new');
my %sent = map { $_->path => 1 } $receiver->requests(qr{^/sent});
is(join(' ', sort keys %sent), '/sent/1 /sent/2 /sent/3 /sent/4 /sent/5 /sent/6', 'from the beginning: every row');
is(join(' ', map { $_->path } $receiver->requests(qr{^/later})), '/later/6', 'from now: what is new');
is(document($_)->{warning}, undef, 'no warning is left') for qw(sent later);

# Transaction numbers come to where those of the dump were, and nothing is sent or seen twice
$page = $httpd->get($next, user => 'alice');
$next = $page->json->{next} =~ s{^http://[^/]+}{}r;
$pg->psql(['-f', spew(tmp_dir() . '/busy.sql', join '', map { "SELECT pg_current_xact_id();\n" } 1 .. 6000)]);
$pg->sql('INSERT INTO t VALUES (7, 0)');
$receiver->wait_for(1, 10, qr{^/later/7});
is(keys_of($httpd->get($next, user => 'alice')), 'insert 7', 'when numbers have passed those of the dump nothing is repeated');
is(scalar $receiver->requests(qr{^/sent/2}), 1, 'nor sent again');
is(document('sent')->{state}, 'active', 'nor lost');
finish;
