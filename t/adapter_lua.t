# SPDX-License-Identifier: Apache-2.0
# adapter_lua.t: handlers inside httpd (mod_lua) whose connections are mod_dbd's need no change.
use PspTest;
use PspTest::Channels;
use HTTP::Tiny;
use MIME::Base64 ();

my $pg;
for my $mpm (qw(event prefork)) {
    my $channels = PspTest::Channels->up(['lua'], mpm => $mpm, pg => $pg);
    $pg = $channels->pg;
    subtest $mpm => sub { $channels->check(seconds => 2) };
    kept($channels->psp) if $mpm eq 'prefork';
    $channels->psp->httpd->stop;
}

sub kept {
    my ($psp) = @_;
    # A script that keeps its connection: what it does later is not the first request's, though whose it is nobody can tell.
    my $client = HTTP::Tiny->new(keep_alive => 1);
    my @ids = map {
        my $auth = MIME::Base64::encode_base64("$_:$_", '');
        $client->post($psp->httpd->url("/lua/items/kept?name=kept"), { headers => { Authorization => "Basic $auth" } })->{headers}{'x-request-id'};
    } qw(alice bob bob bob);
    my $kept = $pg->rows([user => 'pubsubpull'], q{SELECT request FROM pubsubpull.change WHERE new->>'name' = $1 ORDER BY id}, "kept");
    is(scalar @$kept, 4, "a script that keeps its connection");
    is($kept->[0][0], $ids[0], 'is known while the request lasts that it was taken for');
    is(scalar(grep { defined $kept->[$_][0] && $kept->[$_][0] ne $ids[$_] } 0 .. 3), 0, 'and passes for no other later');
    # APR misses the connection when the process ends, also without our module.
    $psp->httpd->expect_log(qr/reslist_cleanup: Assertion/, qr/exit signal Abort/);
    return;
}
finish;
