# SPDX-License-Identifier: Apache-2.0
# pace.t: while writers need the processors the notifier takes little of them: what changes much is sent later, what changes
# little as always, and all of it in the end.
use PspTest;

# On two processors, wherever it runs
my ($first, $second) = map { /-/ ? /(\d+)-(\d+)/ && ($1 .. $2) : $_ } split /,/, (slurp('/proc/self/status') =~ /^Cpus_allowed_list:\s*(\S+)/m)[0];
my $processors = defined $second ? 2 : 1;
qx{taskset -cp @{[join ',', $first, $second // ()]} $$};
is($?, 0, 'bound to them');
my $receiver = PspTest::Receiver->start;
my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $pid = $httpd->notifier_pid;

sub held { return $httpd->get('/pubsubpull/metrics', user => 'admin')->body =~ /^pubsubpull_deliveries_held_back 1$/m }
sub used { my @field = split / /, slurp("/proc/$pid/stat") =~ s/.*\) //sr; return ($field[11] + $field[12]) / 100 }

sub lag {
    my $s = $httpd->get('/pubsubpull/subscriptions/much', user => 'billing')->json;
    return $s->{lag}{changes} + $s->{pending};
}

$psp->publish($_, 'id int PRIMARY KEY, n int') for 'public.flood', 'public.calm';
$pg->sql('INSERT INTO flood SELECT g, 0 FROM generate_series(1, 10000) g');
$psp->subscribe('much', { table => 'public.flood', callback => $receiver->url('/much/{id}'), concurrency => 32 });
$psp->subscribe('few', { table => 'public.calm', callback => $receiver->url('/few/{id}') });
wait_until { lag() == 0 } 10, 'the beginning';
ok(!held(), 'nothing is held back to begin with');

# Everybody wants a processor, and the writers change some thousands of rows a second
my $script = spew(tmp_dir() . '/update.sql', "\\set id random(1, 9900)\nUPDATE flood SET n = n + 1 WHERE id BETWEEN :id AND :id + 30;\n");
my @writers = ([PspTest::Postgres::bin_dir() . '/pgbench', '-n', '-h', $pg->{socket}, '-p', $pg->{port}, qw(-U service -c 4 -R 80 -T 60 -f), $script, 'app']);
my @busy = map { spawn(cmd => $_, log => tmp_dir() . '/log') } @writers, map { ['perl', '-e', '1 while 1'] } 1 .. $processors;
ok(eval { wait_until { held() } 15, 'it'; 1 }, 'what changes much is held back when processors are scarce');

my ($begun, $since) = (used(), time);
my @took;
my $behind = 0;
for my $id (1 .. 6) {
    my $start = time;
    $pg->sql('INSERT INTO calm VALUES (?, 0)', $id);
    wait_until { $receiver->requests(qr{^/few/$id$}) } 20, "change $id";
    push @took, time - $start;
    my $lag = lag();
    $behind = $lag if $lag > $behind;
    wait_until { time > $since + 0.5 * $id } 5, 'the next';
}
my $share = (used() - $begun) / (time - $since) / $processors;
cmp_ok($share, '<', 0.04, sprintf 'of the processors the notifier takes %.3f, behind by %d', $share, $behind);
cmp_ok($behind, '>', 1000, 'the rest waits');
cmp_ok((sort { $a <=> $b } @took)[3], '<', 1, sprintf 'what changes little goes as always, after %s s', join ' ', map { sprintf '%.2f', $_ } @took);
ok(held(), 'still');

PspTest::Util::stop_child($_, 'KILL') for @busy;
ok(eval { wait_until { lag() == 0 } 60, 'it'; 1 }, 'and is sent when they have done') or diag lag();
ok(eval { wait_until { !held() } 5, 'that'; 1 }, 'nothing is held back any more');
my $last = $pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.change c JOIN pubsubpull.published p ON p.id = c.table_id WHERE p.name = 'public.flood' AND c.type = 'U'});
my %got;
for my $request ($receiver->requests(qr{^/much})) { $got{ $request->json->{id} }++ }
is(scalar keys %got, $last, 'every change of it');
is((scalar grep { $_ > 1 } values %got), 0, 'once');
finish;
