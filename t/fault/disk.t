# SPDX-License-Identifier: Apache-2.0
# disk.t: the disk of PostgreSQL is full, that of the spool, that of httpd's log: what cannot be kept is said or counted, requests are
# served, and everything goes on by itself when there is room.
use PspTest;

# Small disks, that are there for this test only
if (!$ENV{PSP_DISKS}) {
    $ENV{PSP_DISKS} = tmp_dir();
    my @maybe = $> == 0 ? () : qw(--map-current-user --keep-caps);
    my $script = 'for d in pg spool log; do mkdir -m 0777 "$PSP_DISKS/$d" && mount -t tmpfs -o size=8m,mode=0777 tmpfs "$PSP_DISKS/$d" || exit 99; done; exec "$@"';
    my $pid = spawn(cmd => ['unshare', '--mount', @maybe, '--', 'sh', '-c', $script, 'sh', $^X, (map { "-I$_" } @INC), $0]);
    waitpid $pid, 0;
    exit($? >> 8 || $? & 127);
}
my $disks = $ENV{PSP_DISKS};
sub fill { my ($disk) = @_; system "cat /dev/zero >'$disks/$disk/fill' 2>/dev/null"; return }
sub room { my ($disk) = @_; unlink "$disks/$disk/fill" or die $!; return }

my $pg = PspTest::Postgres->start;
my (undef, undef, $uid, $gid) = $> == 0 ? getpwnam 'postgres' : (undef, undef, -1, -1);
mkdir "$disks/pg/data" or die $!;
chown $uid, $gid, "$disks/pg/data";
$pg->install_schema;
my $service = PspTest::Receiver->start;
my $psp = PspTest->up(pg => $pg, config => "PubSubPullSpool $disks/spool/records 64M\nErrorLog $disks/log/error.log\n"
        . "<Location /svc/>\nPubSubPull On\nPubSubPullRecord all\nProxyPass @{[$service->url('/')]}\n</Location>\n", stopped => 1);
my $httpd = $psp->httpd;
symlink "$disks/log/error.log", "$httpd->{dir}/error.log" or die $!;
$httpd->launch;
my $receiver = PspTest::Receiver->start;
my @as = (user => 'billing');
$psp->publish("public.$_", 'id int PRIMARY KEY, v text') for qw(t other);
$psp->subscribe('s', { callback => $receiver->url('/{id}'), table => 'public.t', retry => { first => 1, max => 1 } });
$pg->sql(q{INSERT INTO t VALUES (1, '')});
$receiver->wait_for(1, 10, qr{^/1$});
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }

# The log of changes and the state of deliveries are on a disk that is full
$pg->admin->sql("CREATE TABLESPACE small LOCATION '$disks/pg/data'");
$pg->admin->sql(qq{ALTER TABLE $_->[0] SET TABLESPACE small}) for @{ $pg->rows([user => 'pubsubpull'], q{SELECT 'pubsubpull.' || relname FROM pg_class
    WHERE relnamespace = 'pubsubpull'::regnamespace AND relkind = 'r' AND relname ~ '^(change|delivery|progress|request)'}) };
fill('pg');
my ($id, $error) = (1, '');
until ($error) {
    last if $id > 2000;
    eval { $pg->sql('INSERT INTO t SELECT g, repeat(md5(g::text), 100) FROM generate_series($1::int, $1::int + 9) g', $id + 1); $id += 10; 1 } or $error = $@;
}
like($error, qr/could not extend file.*No space left on device/s, 'when the log is full the service is told, and its transaction fails');
is($pg->sql('SELECT max(id) FROM t'), $id, 'as a whole');
ok(eval { $receiver->wait_for($id, 15, qr{^/\d+$}) }, 'what was committed is sent all the same') or diag $@;
my @served = map { $httpd->put("/svc/full-$_", {})->status } 1 .. 30;
is(join(' ', @served), join(' ', (204) x 30), 'proxied requests do not notice');
is($httpd->get('/pubsubpull/tables/public.t/rows/?limit=1', @as)->status, 200, 'rows are pulled');
like($httpd->put('/pubsubpull/subscriptions/more', { callback => $receiver->url('/more/{id}'), table => 'public.t' }, @as)->status, qr/^(?:201|50[037])$/, 'who writes gets an answer');
room('pg');
$pg->sql(q{INSERT INTO t VALUES ($1, 'room')}, $id + 1);
ok(eval { $receiver->wait_for(1, 15, qr{^/@{[$id + 1]}$}) }, 'with room deliveries go on') or diag $@;
$psp->settled('s');
wait_until { admin(q{SELECT count(*) FROM pubsubpull.request WHERE path ~ '^/svc/full' AND status = 204}) == 30 } 20, 'all requests to be recorded';
pass('and requests that ended meanwhile are recorded');

# The disk of the spool is full, while the database is away
$pg->stop('immediate');
fill('spool');
for my $n (1 .. 300) { $httpd->put("/svc/spool-$n", {})->status == 204 or fail("request $n") }
$httpd->wait_for_log(qr/PSP0424: .*the disk may be full|PSP0424: .*no file can be made/, 10);
pass('a spool whose disk is full is in the log');
is(scalar(() = $httpd->log =~ /PSP0424/g), 1, 'once');
room('spool');
for my $n (301 .. 600) { $httpd->put("/svc/spool-$n", {})->status == 204 or fail("request $n") }
$pg->launch;
wait_until { eval { admin(q{SELECT count(*) FROM pubsubpull.request WHERE path ~ '^/svc/spool' AND status = 204}) == 600 } } 30, 'all requests to be recorded';
pass('what it could not take was kept in memory: all are recorded');

# httpd's log is on a disk that is full
fill('log');
my $pid = $httpd->notifier_pid;
$pg->restart('immediate');
kill KILL => $pid;
wait_until { my ($new) = $httpd->notifier_pids; $new && $new != $pid } 5, 'another notifier';
$receiver->reply(path => '/9000', status => 500, times => 1);
$pg->sql(q{INSERT INTO t VALUES (9000, '')});
ok(eval { $receiver->wait_for(2, 15, qr{^/9000$}) }, 'nothing waits for a log that cannot be written') or diag $@;
is($httpd->put('/svc/log', {})->status, 204, 'requests are served');
wait_until { admin(q{SELECT count(*) FROM pubsubpull.request WHERE path = '/svc/log'}) } 10, 'the record';
room('log');
$httpd->expect_log(qr/PSP04(?:03|1[01]|2\d|3\d|4\d)|PSP03\d\d/);
finish;
