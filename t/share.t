# SPDX-License-Identifier: Apache-2.0
# share.t: the notifier gives way to others while it has much to send, and takes its full share again when it has not.
use PspTest;

my $receiver = PspTest::Receiver->start;
my $psp = PspTest->up;
my $pid = $psp->httpd->notifier_pid;

sub session { my @field = split / /, slurp("/proc/$pid/stat") =~ s/.*\) //sr; return $field[3] }
# As far as the system lets it be changed to and fro: that of the session, and that of the process
my ($limit) = slurp("/proc/$pid/limits") =~ /^Max nice priority +(\d+)/m;
sub levels {
    my ($group) = eval { slurp("/proc/$pid/autogroup") =~ /nice (-?\d+)/ };
    return join ' ', $group // (), $limit >= 20 ? getpriority(0, $pid) : ();
}

my $idle = levels();
like($idle, qr/^0( 0)?$/, 'as all others when there is nothing to do');
my $busy = $idle =~ s/0/10/gr;
is(session(), $pid, 'a session of its own: Linux may share between these');

$psp->publish('public.t', 'id int PRIMARY KEY');
$psp->subscribe('few', { table => 'public.t', callback => $receiver->url('/few/{id}') });
$psp->pg->sql('INSERT INTO t SELECT g FROM generate_series(1, 20) g');
$receiver->wait_for(20, 10, qr{/few/});
is(levels(), $idle, 'little goes at once');
$psp->httpd->delete('/pubsubpull/subscriptions/few', user => 'billing');

$psp->subscribe('much', { table => 'public.t', callback => $receiver->url('/much'), batch => 100 });
$psp->pg->sql('INSERT INTO t SELECT g FROM generate_series(100, 40000) g');
my %seen;
ok(eval { wait_until { $seen{ levels() } = 1; $seen{$busy} } 10, 'it to give way'; 1 }, "others go first while there is much: $busy") or diag join ', ', sort keys %seen;
ok(eval { wait_until { levels() eq $idle } 30, 'it to be as all others'; 1 }, 'until it is sent') or diag levels();

# However much is sent, no writer ever waits for a lock of ours
$psp->publish('public.w', 'id int PRIMARY KEY, n int');
$psp->pg->sql('INSERT INTO w SELECT g, 0 FROM generate_series(1, 160) g');
$psp->subscribe('w', { table => 'public.w', callback => $receiver->url('/w/{id}') });
my @writers = map {
    my $n = $_;
    my $writer = fork // die $!;
    if (!$writer) {
        my ($dbh, $until) = ($psp->pg->dbh, time + 3);
        while (time < $until) { $dbh->do('UPDATE w SET n = n + 1 WHERE id = ?', undef, 10 * $n + int rand 10) }
        require POSIX;
        POSIX::_exit(0);
    }
    $writer;
} 0 .. 15;
my ($looks, $waits) = (0, 0);
while (my @left = grep { alive($_) } @writers) {
    $looks++;
    $waits += $psp->pg->admin->sql(q{SELECT count(*) FROM pg_stat_activity w WHERE w.usename = 'service' AND w.wait_event_type = 'Lock'
        AND EXISTS (SELECT FROM unnest(pg_blocking_pids(w.pid)) b JOIN pg_stat_activity o ON o.pid = b WHERE o.usename = 'pubsubpull_httpd')});
    sleep 0.01;
    @writers = @left;
}
cmp_ok($looks, '>', 20, "16 writers were looked at $looks times");
cmp_ok(scalar(() = $receiver->requests(qr{/w/})), '>', 10, 'while their changes were sent');
is($waits, 0, 'and none waited for a session of httpd');
finish;
