# SPDX-License-Identifier: Apache-2.0
# fuzz_receiver.t: receivers that answer with whatever: Retry-After of all kinds, broken status lines, headers, bodies. The notifier lives on, serves the
# others, and tries again neither too late nor at once. `make fuzz` goes on for longer.
use PspTest;
use PspTest::Fuzz;

my $rounds = 2 * ($ENV{FUZZ_SECONDS} // 3);
my $seed = $ENV{FUZZ_SEED} // (exists $ENV{FUZZ_SECONDS} ? int(time) : 1);
my $fuzz = PspTest::Fuzz->new($seed);
diag "FUZZ_SEED=$seed" if exists $ENV{FUZZ_SECONDS};
my $each = 60;

my @after = ('0', '1', '-1', '120', '99999999999999999999', '9223372036854775807', '-9223372036854775808', '4294967297', '1.5', '1e3', '0x10', ' 7 ', '', 'soon',
    'Fri, 31 Dec 1999 23:59:59 GMT', 'Fri, 31 Dec 2999 23:59:59 GMT', 'Friday, 31-Dec-99 23:59:59 GMT', 'Fri Dec 31 23:59:59 2999', '120, 3', "120\r\nRetry-After: 9");
my @answers = map { my $status = $_; map { "HTTP/1.1 $status\r\nRetry-After: $_\r\nContent-Length: 2\r\n\r\nno" } @after } '503 Busy', '429 Slow Down', '301 Moved';
push @answers, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.0 204\r\n\r\n", "HTTP/2 200\r\n\r\n",
    "HTTP/1.1 500 \xff\r\nX: \x01\r\n folded\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nabc", "ICY 200 OK\r\n\r\n", "HTTP/1.1 410 Done\r\n";

my $psp = PspTest->up;
my ($pg, $strange, $good) = ($psp->pg, PspTest::Receiver->start, PspTest::Receiver->start);
$psp->publish('public.t', 'id int PRIMARY KEY');
my %retry = (retry => { first => 1, max => 3, for => 600 });
$psp->subscribe('good', { table => 'public.t', callback => $good->url('/{id}'), %retry });
$psp->httpd->expect_log(qr/PSP04/);
my $notifier = $psp->httpd->notifier_pid;
my $n = 0;
while ($rounds-- > 0) {
    my @ids = map { ++$n } 1 .. $each;
    for my $id (@ids) {
        my $raw = $fuzz->chance(3) ? $fuzz->one_of(@answers) : $fuzz->bytes($fuzz->one_of(@answers));
        $raw =~ s/^HTTP\/1.1 410/HTTP\/1.1 411/;    # which would end the subscription
        $strange->reply(path => "/$id", raw => $raw, $fuzz->chance(4) ? () : (bye => 1));
    }
    $psp->subscribe('strange', { table => 'public.t', callback => $strange->url('/{id}'), concurrency => 64, timeout => 1, %retry });
    $pg->sql('INSERT INTO t SELECT generate_series($1::int, $2::int)', $ids[0], $ids[-1]);
    wait_until { my %got = map { $_->path => 1 } $good->requests; !grep { !$got{"/$_"} } @ids } 20, 'the other receiver to get all';
    wait_until { my %got = map { $_->path => 1 } $strange->requests; keys %got >= 8 } 20, 'strange answers to be given';
    my $late = $pg->sql([user => 'pubsubpull'], q{SELECT count(*) FROM pubsubpull.delivery WHERE next_at > now() + interval '3.5 s'});
    is($late, 0, 'nothing waits for longer than the subscription says, whatever Retry-After does');
    is($psp->httpd->delete('/pubsubpull/subscriptions/strange', user => 'billing')->status, 204, 'enough of it');
}
cmp_ok(scalar($strange->requests), '>', 8, 'strange answers: ' . scalar $strange->requests);
is($psp->httpd->notifier_pid, $notifier, 'the notifier lives');
finish;
