# SPDX-License-Identifier: Apache-2.0
# fence.t: a notifier that stands still, dies or loses its database between sending and writing that down: nothing is lost, and what it
# says too late is refused.
use PspTest;

my $psp = PspTest->up(pg => { fsync => 1 });
my ($pg, $one) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
my @as = ([user => 'pubsubpull']);
sub progress { return join ' ', map { $_ // '-' } @{ $pg->rows(@as, 'SELECT "position", done::text, epoch, holder FROM pubsubpull.progress')->[0] } }
sub holder   { return $pg->sql(@as, 'SELECT holder FROM pubsubpull.progress') }
sub numbers  { return join ' ', map { $_->json->{new}{n} } $receiver->requests }

# Stopped past its lease with a request on the wire, and continued while another server has it all
$receiver->reply(path => '/s/1', delay => 0.5, times => 1);
$psp->subscribe('s', { callback => $receiver->url('/s/{id}'), table => 'public.t' });
wait_until { holder() } 5, 'a holder';
my $first = holder();
my $pid = $one->notifier_pid;
my $two = PspTest::Httpd->start(pg => $pg);
my $other = $two->notifier_pid;
$pg->sql('INSERT INTO t VALUES (1, 1)');
$receiver->wait_for(1, 5);
kill STOP => $pid;
my $start = time;
$pg->sql('UPDATE t SET n = 2');
wait_until { holder() ne $first } 10, 'the other to take over';
cmp_ok(time - $start, '<', 5.5, sprintf 'a notifier that stands still is replaced (%.1f s)', time - $start);
$receiver->wait_for(3, 10);
$pg->sql('UPDATE t SET n = 3');
$receiver->wait_for(4, 10);
is(numbers(), '1 1 2 3', 'what was on the wire is sent again, and everything after it once');
wait_until { $pg->sql(@as, 'SELECT ("position").since_id = pubsubpull.last_id() FROM pubsubpull.progress') } 5, 'the other to save that all is done';
my $before = progress();
kill CONT => $pid;
$one->wait_for_log(qr/PSP0434/, 5);
is(progress(), $before, 'what the first says afterwards changes nothing');
is(holder(), (split ' ', $before)[-1], 'and the other keeps it');
$pg->sql('UPDATE t SET n = 4');
$receiver->wait_for(5, 10);
$pg->sql('UPDATE t SET n = 5');
$receiver->wait_for(6, 10);
is(numbers(), '1 1 2 3 4 5', 'later changes are sent once');
$two->stop;

# Killed after the receiver's 2xx and before that is written down
$receiver->forget;
wait_until { holder() eq $first && $pg->sql(@as, 'SELECT ("position").since_id = pubsubpull.last_id() FROM pubsubpull.progress') } 5, 'the first to have it';
my $lock = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);
$lock->do('SELECT FROM pubsubpull.progress FOR UPDATE');
$pg->sql('UPDATE t SET n = 6');
$receiver->wait_for(1, 5);
wait_until { $pg->admin->sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE NOT l.granted AND a.query ~ 'notify_save'}) } 5, 'the result to wait for the lock';
kill KILL => $one->notifier_pid;
$pg->kill_backend(q{application_name = 'pubsubpull notifier' AND query ~ 'notify_save' AND wait_event_type = 'Lock'});
$lock->rollback;
my @again = $receiver->wait_for(2, 5);
is(numbers(), '6 6', 'what arrived and was not written down is sent again');
is($again[0]->header('webhook-id'), $again[1]->header('webhook-id'), 'under the same webhook-id');

# Database sessions are ended all the time, also at COMMIT, while there are deliveries to retry and results to save
$receiver->forget;
my $deadline = time + 6;
my ($n, $ended) = (0, 0);
$receiver->reply(match => '^/s/[1-5]$', status => 500, times => 40);
$one->put('/pubsubpull/subscriptions/s', { callback => $receiver->url('/s/{id}'), table => 'public.t', timeout => 1, retry => { first => 1, max => 1 } }, user => 'billing');
while (time < $deadline) {
    $n++;
    $pg->sql('INSERT INTO t SELECT g, $1 FROM generate_series(1, 20) g ON CONFLICT (id) DO UPDATE SET n = excluded.n', $n);
    $ended += $pg->kill_backend(q{application_name LIKE 'pubsubpull %'}) if $n % 4 == 0;
    sleep 0.03;
}
$receiver->reset;
cmp_ok($ended, '>', 40, "sessions were ended $ended times");
my %last;
wait_until {
    %last = map { $_->path => $_->json->{new}{n} } $receiver->requests;
    20 == grep { ($last{"/s/$_"} // 0) == $n } 1 .. 20;
} 40, 'all changes';
my (%at, @wrong);
for my $put ($receiver->requests) {
    my ($path, $number) = ($put->path, $put->json->{new}{n});
    push @wrong, "$path: $number after $at{$path}" if $number > ($at{$path} //= 0) + 1;
    $at{$path} = $number if $number > $at{$path};
}
is(join("\n", @wrong), '', 'none is lost, and keys keep their order');
wait_until { !$pg->sql(@as, 'SELECT count(*) FROM pubsubpull.delivery') } 40, 'nothing to be left to retry';
$one->expect_log(qr/PSP0403|PSP041[012]|PSP0435|PSP044[01]|PSP03\d\d/);
finish;
