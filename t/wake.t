# SPDX-License-Identifier: Apache-2.0
# wake.t: how soon a notifier that was idle acts: on a new subscription, on one that goes on, on a change made past httpd.
use PspTest;

my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $receiver = PspTest::Receiver->start;
$psp->publish('public.t', 'id int PRIMARY KEY, n int');
$psp->publish('public.u', 'id int PRIMARY KEY, n int');
my $id = 0;

# How long after f began did the PUT arrive that matches?
sub delay {
    my ($f, $pattern) = @_;
    my $start = time;
    $f->();
    my ($put) = $receiver->wait_for(1, 10, $pattern);
    return $put->{time} - $start;
}
sub median { return (sort { $a <=> $b } @_)[$#_ / 2] }
sub wanted {
    my ($limit, $what, @delays) = @_;
    my $median = median(@delays);
    return cmp_ok($median, '<', $limit * slow(), sprintf '%s: %.0f ms, at worst %.0f ms', $what, 1000 * $median, 1000 * (sort { $b <=> $a } @delays)[0]);
}
sub insert { return $pg->sql('INSERT INTO t VALUES ($1, 0)', ++$id) }

# A change right after the answer; and the notifier looks while the subscription is made
my @new = map {
    my $name = "new$_";
    $psp->subscribe($name, { callback => $receiver->url("/$name/{id}"), table => 'public.t' });
    delay(\&insert, qr{^/$name/});
} 1 .. 15;
wanted(0.3, 'a new subscription', @new);
$httpd->delete("/pubsubpull/subscriptions/new$_", user => 'billing') for 2 .. 15;

# One that was paused has what came meanwhile as soon as it goes on
my @resumed = map {
    $httpd->put('/pubsubpull/subscriptions/new1/state', { state => 'paused' }, user => 'billing');
    insert();
    my $key = $id;
    delay(sub { $httpd->put('/pubsubpull/subscriptions/new1/state', { state => 'active' }, user => 'billing') }, qr{^/new1/$key$});
} 1 .. 10;
wanted(0.3, 'a resumed subscription', @resumed);

# Made in SQL, in a transaction that is committed after the notifier saw that something moves: no request wakes anybody
my @sql = map {
    my $name = "sql$_";
    my $dbh = $pg->dbh(user => 'pubsubpull', AutoCommit => 0);
    $dbh->do('SELECT pubsubpull.subscribe($1, $2)', {}, $name, to_json({ callback => $receiver->url("/$name/{id}"), table => 'public.u' }));
    sleep 0.12;    # some polls
    $dbh->commit;
    $id++;
    delay(sub { $pg->sql('INSERT INTO u VALUES ($1, 0)', $id) }, qr{^/$name/});
} 1 .. 5;
wanted(0.3, 'a subscription made in SQL', @sql);

# Nothing wakes the notifier: it looks by itself
my @polled = map { my $key = $id + 1; delay(\&insert, qr{^/new1/$key$}) } 1 .. 20;
wanted(0.06, 'a change past httpd', @polled);
finish;
