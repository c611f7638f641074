# SPDX-License-Identifier: Apache-2.0
# dns.t: a name server that says nothing, and few files to open: others and the end of httpd do not wait for either.
use PspTest;

my $dns = PspTest::Dns->start;
$dns->name('hang.test');
my $psp = PspTest->up(mounts => $dns->mounts, files => 128);
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
my $slow = PspTest::Receiver->start;
my @as = (user => 'billing');
$psp->publish('public.t', 'id int PRIMARY KEY, at float8');
$psp->publish('public.u', 'id int PRIMARY KEY');

# Many that wait for the name server, one that does not
my $port = $receiver->port;
$psp->subscribe("hang$_", { callback => "http://hang.test:$port/hang/{id}", table => 'public.t', timeout => 20 }) for 1 .. 10;
$psp->subscribe('fine', { callback => $receiver->url('/{id}'), table => 'public.t' });
$pg->sql('INSERT INTO t VALUES (0)');
$receiver->wait_for(1, 10);
$receiver->forget;
sub worst {
    my @late = sort { $a <=> $b } map { $_->{time} - $_->json->{new}{at} } @_;
    return $late[int 0.99 * $#late];
}
for my $id (1 .. 200) {
    $pg->sql('INSERT INTO t VALUES (?, extract(epoch FROM clock_timestamp()))', $id);
    sleep 0.005;
}
my @put = $receiver->wait_for(200, 10);
cmp_ok($dns->asked('hang.test'), '>', 0, 'the name server was asked');
cmp_ok(worst(@put), '<', 1, sprintf 'others are served meanwhile: %.3f s at p99', worst(@put));

# More receivers that take their time than there are files
$slow->reply(hang => 1);
$psp->subscribe("slow$_", { callback => $slow->url("/$_/{id}"), table => 'public.u', concurrency => 64, timeout => 5 }) for 1 .. 10;
$pg->sql('INSERT INTO u SELECT g FROM generate_series(1, 100) g');
$slow->wait_for(10, 10);
$receiver->forget;
for my $id (1001 .. 1100) {
    $pg->sql('INSERT INTO t VALUES (?, extract(epoch FROM clock_timestamp()))', $id);
    sleep 0.005;
}
@put = $receiver->wait_for(100, 10);
cmp_ok(worst(@put), '<', 1, sprintf 'and while sockets are scarce: %.3f s at p99', worst(@put));
my $pid = $httpd->notifier_pid;
my $files = () = glob "/proc/$pid/fd/*";
cmp_ok($files, '<', 120, "$files files are open");
is(scalar(grep { ($_->{last_error} // '') =~ /Too many|thread/ } map { $httpd->get("/pubsubpull/subscriptions/$_", @as)->json } 'fine', map { ("slow$_", "hang$_") } 1 .. 10),
    0, 'no receiver is blamed for our limit');

# The end
my $start = time;
$httpd->graceful;
my $new = wait_until { my ($n) = $httpd->notifier_pids; $n && $n != $pid && $n } 5, 'another notifier';
cmp_ok(time - $start, '<', 2, 'a graceful restart does not wait');
$httpd->stop('TERM');
cmp_ok(time - $start, '<', 6, 'nor does the end');
like($httpd->log, qr/PSP0401/, 'the notifier left by itself');
$httpd->expect_log(qr/PSP044\d/);
finish;
