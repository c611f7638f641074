# SPDX-License-Identifier: Apache-2.0
# key.t: with PubSubPullKey only what httpd signed is believed, keys can be replaced under load, and an id that httpd never issued
# is found out.
use PspTest;
use Digest::SHA qw(hmac_sha256_hex);

my ($one, $two, $long) = ('the first key, sixteen and more', 'the second key, newer than it', 'a long key ' x 12);
my $file = tmp_dir() . '/keys';
sub keys_are { my $text = join "\n", '# newest first', @_, ''; spew($file, $text); chmod 0600, $file; return }

# Mistakes are found by configtest
my $idle = PspTest::Httpd->start(stopped => 1, unwatched => 1, database => 'host=/nowhere');
spew($idle->dir . '/stderr.log', ''); # it never runs
for my $case (
    [qr/cannot read '\/no\/such\/file'/, 'PubSubPullKey /no/such/file'],
    [qr/holds no key/,                   "PubSubPullKey $file"],
    [qr/less than 16/,                   "PubSubPullKey $file", 'short'],
    [qr/more than 2 keys/,               "PubSubPullKey $file", $one, $two, $long],
    [qr/set twice/,                      "PubSubPullKey $file\nPubSubPullKey $file", $one],
    [qr/from 1 to \d+, not '0'/,         'PubSubPullKeyTTL 0'],
    [qr/not '5m'/,                       'PubSubPullKeyTTL 5m'],
    [qr/not allowed in <Location>/,            "<Location /x>\nPubSubPullKey $file\n</Location>", $one])
{
    my ($error, $config, @keys) = @$case;
    keys_are(@keys);
    $idle->configure($config);
    my ($good, $said) = $idle->configtest;
    ok(!$good, "refused: $config");
    like($said, $error, 'and why');
    unlike($said, qr/short|first key/, 'without the key');
}

my $service = PspTest::Receiver->start;
keys_are($one);
my $on = "<Location /svc/>\nPubSubPull On\nRequire valid-user\nProxyPass @{[$service->url('/')]}\n</Location>\nPubSubPullKeyTTL 300\n";
my $psp = PspTest->up(config => "${on}PubSubPullKey $file\n");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
$psp->publish('public.t', 'id serial PRIMARY KEY, n int');
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
sub known { my ($n) = @_; return wait_until { admin('SELECT count(*) FROM pubsubpull.key') == $n } 10, "$n keys in the database" }

# What a service gets for a request
sub envelope {
    my (%o) = @_;
    my $n = () = $service->requests;
    $httpd->request($o{method} // 'PUT', '/svc/a%20b?q="x"', user => 'alice', body => '');
    return (($service->wait_for($n + 1, 5))[$n])->header('PubSubPull-Request');
}

# What becomes of a change that is made under it: request (or why not)
sub change {
    my ($envelope) = @_;
    $pg->sql(q{SELECT set_config('pubsubpull.request', $1, false)}, $envelope);
    $pg->sql('INSERT INTO t (n) VALUES (1)');
    return join ' ', grep { defined } @{ $pg->rows([user => 'pubsubpull'], 'SELECT request, unattributed FROM pubsubpull.change ORDER BY id DESC LIMIT 1')->[0] };
}

sub signed { my ($text, $key) = @_; return ($text =~ s/\}$//r) . ',"signature":"' . hmac_sha256_hex($text =~ s/\}$//r, $key) . '"}' }
sub unsigned { return $_[0] =~ s/,"signature":"[0-9a-f]{64}"\}$/}/r }

# The time of an envelope is in its id
sub aged {
    my ($envelope, $seconds) = @_;
    my ($high, $low) = unsigned($envelope) =~ /^\{"id":"(.{8})-(.{4})/;
    no warnings 'portable';
    my $then = sprintf '%012x', hex("$high$low") - 1000 * $seconds;
    return unsigned($envelope) =~ s/^\{"id":".{13}/'{"id":"' . substr($then, 0, 8) . '-' . substr($then, 8)/er;
}
sub id { return json($_[0])->{id} }

known(1);
my $envelope = envelope();
is($envelope, signed(unsigned($envelope), $one), 'the envelope ends in an HMAC-SHA256 of what goes before');
is(json($envelope)->{user}, 'alice', 'and is JSON');
is(change($envelope), id($envelope), 'what httpd signed is believed');
is(change($envelope), id($envelope), 'more than once');
is(change(unsigned($envelope)), 'unsigned', 'no signature');
is(change($envelope =~ s/alice/admin/r), 'forged', 'another user');
is(change($envelope =~ s/(.)"\}$/($1 eq '0' ? 1 : 0) . '"}'/er), 'forged', 'another signature');
is(change(signed(unsigned($envelope), $two)), 'forged', 'another key');
is(change(substr($envelope, 0, 100)), 'unsigned', 'a part of it');
is(change('nonsense'), 'malformed', 'no envelope');
is(change(signed(aged($envelope, 250), $one)), id(aged($envelope, 250)), 'some minutes old');
is(change(signed(aged($envelope, 350), $one)), 'expired', 'too old');
is(change(signed(aged($envelope, -350), $one)), 'expired', 'or from the future');
is(change($envelope . ' '), 'unsigned', 'more after it');
$pg->sql(q{SELECT set_config('pubsubpull.seen', $1, false)}, id($envelope));
is(change($envelope =~ s/alice/admin/r), 'forged', 'what a session says that it has seen does not help');
$pg->sql(q{SET pubsubpull.seen = ''});
my ($page) = $httpd->get('/pubsubpull/changes/?limit=100', user => 'alice')->json->{changes};
my ($forged) = grep { ($_->{unattributed} // '') eq 'forged' } @$page;
ok($forged && !defined $forged->{request}, 'a follower sees no request, and why');
ok((grep { $_->{request} && !exists $_->{unattributed} } @$page), 'and nothing of that in other changes');
for my $statement ('SELECT * FROM pubsubpull.key', 'SELECT pubsubpull.set_keys(NULL, NULL, NULL, 1)', 'SELECT pubsubpull.forget_keys()') {
    ok(!eval { $pg->sql($statement); 1 }, "not for the service: $statement");
}

# Replaced under load: nothing is lost between
keys_are($two, $one);
my $slow = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);    # the database learns of the new key late
$slow->do('LOCK TABLE pubsubpull.key IN EXCLUSIVE MODE');
my (%by, @bad);
sub replaced {
    my $e = envelope();
    $by{ $e eq signed(unsigned($e), $two) ? 'new' : $e eq signed(unsigned($e), $one) ? 'old' : 'none' }++;
    my $got = change($e);
    push @bad, $got if $got ne id($e);
    return;
}
my $restart = fork // die $!;
if (!$restart) { $httpd->graceful; require POSIX; POSIX::_exit(0) }
replaced() while waitpid($restart, 1) == 0;
replaced() for 1 .. 5;
is(join(' ', sort keys %by), 'old', 'the old key signs until the database knows the new one');
$slow->rollback;
wait_until { replaced(); ($by{new} // 0) >= 5 } 20, 'the new key to sign';
is(join(' ', @bad), '', 'every change is attributed while the key is replaced');
is(join(' ', sort keys %by), 'new old', 'and every envelope is signed by one of the two');
is(change($envelope), id($envelope), 'what it signed holds');
keys_are($two);
$httpd->graceful;
known(1);
is(change($envelope), 'forged', 'until it is gone from the file');

# A key longer than a block of the hash
keys_are($long);
$httpd->graceful;
wait_until { my $e = envelope(); change($e) eq id($e) } 10, 'a long key to sign';
pass('a long key');

# Envelopes at their limit leave room for the signature
$httpd->configure("${on}PubSubPullKey $file\n<Location /svc/>\nPubSubPullCapture X-Long X-Longer\n</Location>\n");
$httpd->graceful;
wait_until { my $e = envelope(); change($e) eq id($e) } 10, 'the key again';
for my $length (3300 .. 3312, 3700) {
    my $n = () = $service->requests;
    $httpd->get('/svc/', user => 'alice', headers => ['X-Long' => 'x' x $length, 'X-Longer' => 'y' x 300]);
    my $e = (($service->wait_for($n + 1, 5))[$n])->header('PubSubPull-Request');
    next if length $e <= 4096 && change($e) eq id($e);
    fail("a header of $length bytes: " . length $e);
}

# Only an id: its request comes from httpd, or not
$pg->sql(q{SELECT set_config('pubsubpull.request', '', false)});
sub named {
    my ($id) = @_;
    $pg->sql(q{SELECT set_config('application_name', $1, false)}, "psp:$id");
    $pg->sql('INSERT INTO t (n) VALUES (2)');
    $pg->sql(q{SET application_name = ''});
    return admin('SELECT max(id) FROM pubsubpull.change');
}
sub state_of { my ($change) = @_; return join ' ', map { $_ // '-' } @{ $pg->rows([user => 'pubsubpull'], 'SELECT channel, unattributed, r."user", r.status FROM pubsubpull.change c LEFT JOIN pubsubpull.request r ON r.id = c.request WHERE c.id = $1', $_[0])->[0] } }
my $late;
$service->reply(match => '^/late', status => 204, delay => 0.5);
my $client = fork // die $!;
if (!$client) { $httpd->put('/svc/late', {}, user => 'bob'); require POSIX; POSIX::_exit(0) }
my ($got) = $service->wait_for(1, 5, qr{^/late});
my $change = named(json($got->header('PubSubPull-Request'))->{id});
is(state_of($change), 'application_name - - -', 'a change that names an id');
waitpid $client, 0;
wait_until { state_of($change) eq 'application_name - bob 204' } 10, 'its request from httpd';
pass('gets its request from httpd');
my $made_up = '01900000-0000-7000-8000-000000000001';
$change = named($made_up);
admin(q{SELECT pubsubpull.judge_claims('0')});
is(state_of($change), 'application_name unknown - -', 'an id that httpd never issued is found out');
is($httpd->get("/pubsubpull/requests/$made_up", user => 'alice')->status, 404, 'and is no request');
admin(q{SELECT pubsubpull.record_requests($1)}, to_json([{ id => $made_up, method => 'PUT', path => '/', user => 'carol', started => '2026-01-01T00:00:00Z', status => 200, bytes => 0, duration => 1, mode => 1 }]));
is(state_of($change), 'application_name - carol 200', 'unless httpd says so later');

# Given up
$httpd->configure($on);
$httpd->graceful;
known(0);
is(change(unsigned($envelope)), id($envelope), 'without the directive no signature is asked for');
$httpd->configure("${on}PubSubPullKey $file\n");
$httpd->graceful;
known(1);
$httpd->configure($on);
$httpd->restart;
$httpd->wait_for_log(qr/PSP0422/, 10);
is(change(unsigned($envelope)), 'unsigned', 'a server that never had the key takes it from nobody, and says so');
admin('SELECT pubsubpull.forget_keys()');
is(change(unsigned($envelope)), id($envelope), 'it is forgotten by hand');
chmod 0644, $file;
$httpd->configure("${on}PubSubPullKey $file\n");
$httpd->graceful;
$httpd->wait_for_log(qr/PSP0020/, 10);
pass('a file that everybody may read is warned of');
unlike($httpd->output, qr/key, (?:sixteen|newer)|a long key/, 'no key is in the log');
$httpd->expect_log(qr/PSP0422|PSP0020/);
finish;
