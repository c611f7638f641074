# SPDX-License-Identifier: Apache-2.0
# pull.pl: a whole table, pages and polls against what psql does with the same rows, and how soon those who wait hear of a commit.
use strict;
use warnings;
use PspTest;
use IO::Select;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);
use Table;

my $rounds = 5;
my $psp = PspTest->up;
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $columns = 'id bigint PRIMARY KEY, name text, email text, city text, n int, price numeric, at timestamptz, ok boolean';
my $values  = q{g, 'name ' || g, 'user' || g || '@example.com', 'London', g % 100, g / 7.0, now(), g % 2 = 0};
$psp->publish("public.$_", $columns) for qw(big small asked);
my $base = '/pubsubpull/tables/public';
my $tmp  = tmp_dir();

sub fill { my ($table, $n) = @_; $pg->sql("INSERT INTO $table SELECT $values FROM generate_series(1, $n) g"); return }
sub request { my ($path, @headers) = @_; return join "\r\n", "GET $path HTTP/1.1", 'Host: 127.0.0.1', 'Authorization: Basic ' . encode_base64('alice:alice', ''), @headers, '', '' }

sub connected { return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->{port}) || die $! }

sub psql {    # seconds for a file of statements
    my ($text) = @_;
    spew("$tmp/in.sql", $text);
    my $start = time;
    system("PGOPTIONS='-c role=pubsubpull' $pg->{bin}/psql -XqAt -h $pg->{socket} -p $pg->{port} -U administrator app -f $tmp/in.sql > $tmp/out") == 0 or die 'psql';
    return time - $start;
}

sub pages {    # seconds for n requests on one connection
    my ($n, $path, @headers) = @_;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->{port}) or die $!;
    my $start = time;
    for (1 .. $n) {
        print {$s} request($path, @headers);
        my ($text, $length) = ('');
        while (1) {
            sysread $s, $text, 262_144, length $text or die "no answer: $text";
            $length //= $text =~ /\r\n\r\n/ ? $+[0] + ($text =~ /^Content-Length: (\d+)/mi ? $1 : 0) : undef;
            last if defined $length && length $text >= $length;
        }
        die $text if $text !~ /^HTTP\/1\.1 (?:200|304)/;
    }
    return time - $start;
}

sub versus {    # medians of two, in turn
    my ($ours, $theirs) = @_;
    my (@a, @b);
    for (0 .. $rounds) {
        my ($x, $y) = ($ours->(), $theirs->());
        push @a, $x and push @b, $y if $_;
    }
    return (Table::median(@a), Table::median(@b), Table::median(map { $a[$_] / $b[$_] } 0 .. $#a));
}

$pg->sql('ALTER TABLE big DISABLE TRIGGER USER');
$httpd->expect_log(qr/PSP0105/);
fill('big', 500_000);
fill('small', 10_000);
$pg->sql(qq{DO \$\$ BEGIN FOR g IN 1 .. 1000 LOOP
    PERFORM set_config('pubsubpull.request', format('{"id":"%s","method":"POST","host":"example.com","path":"/app/%s","user":"bob","remote":"127.0.0.1"}', gen_random_uuid(), g), true);
    INSERT INTO asked SELECT $values;
END LOOP; END \$\$});
$pg->admin->sql('VACUUM ANALYZE');
my $url = $httpd->url("$base.big/rows/");
my ($ours, $theirs, $ratio) = versus(
    sub { my $start = time; system("curl -s -u alice:alice -H 'Accept: application/x-ndjson' $url > $tmp/rows") == 0 or die 'curl'; return time - $start },
    sub { return psql('COPY (SELECT row_to_json(t) FROM big t ORDER BY id) TO STDOUT') });
Table::row('500,000 rows as NDJSON', sprintf('%.2f s', $ours), sprintf('psql COPY %.2f s', $theirs), 1 / $ratio, '>=', 0.8);

my $n = 40;
my $start_up = Table::median(map { psql('SELECT 1') } 1 .. 5);
($ours, $theirs, $ratio) = versus(sub { return pages($n, "$base.small/rows/") },
    sub { return psql('SELECT json_agg(t) FROM (SELECT * FROM small ORDER BY id LIMIT 1000) t;' x $n) - $start_up });
Table::row('a page of 1,000 rows', sprintf('%.1f ms', 1000 * $ours / $n), sprintf('psql %.1f ms', 1000 * $theirs / $n), $ratio, '<=', 1.5);
my $id = $pg->sql([user => 'pubsubpull'], q{SELECT id FROM pubsubpull.published WHERE name = 'public.small'});
($ours, $theirs, $ratio) = versus(sub { return pages($n, "$base.small/changes/") },
    sub { return psql("SELECT json_agg(t) FROM (SELECT id, table_id, type, at, key, old, new, request, channel FROM pubsubpull.change WHERE table_id = $id ORDER BY id LIMIT 1000) t;" x $n) - $start_up });
Table::row('a page of 1,000 changes', sprintf('%.1f ms', 1000 * $ours / $n), sprintf('psql %.1f ms', 1000 * $theirs / $n), $ratio, '<=', 1.5);
($ours, $theirs, $ratio) = versus(sub { return pages($n, "$base.asked/changes/") },
    sub { return psql('SELECT json_agg(t) FROM (SELECT c.id, c.table_id, c.type, c.at, c.key, c.old, c.new, row_to_json(r) AS request, c.channel FROM pubsubpull.change c JOIN pubsubpull.request r ON r.id = c.request ORDER BY c.id LIMIT 1000) t;' x $n) - $start_up });
Table::row('a page of 1,000 changes of as many requests', sprintf('%.1f ms', 1000 * $ours / $n), sprintf('psql %.1f ms', 1000 * $theirs / $n), $ratio, '<=', 1.5);

# 100 who wait, and a commit now and then
my $change = 1_000_000;
for my $way ('long-poll', 'events') {
    my $next = http('GET', $httpd->url("$base.small/changes/?since=now"), user => 'alice')->json->{next} =~ s{^http://[^/]+}{}r;
    my $asks = sub { return $way eq 'events' ? request($_[0], 'Accept: text/event-stream') : request("$_[0]&wait=60") };
    my (@late, %text);
    my $select = IO::Select->new(map { my $s = connected(); print {$s} $asks->($next); $s } 1 .. 100);
    my $writer = $pg->dbh;
    for my $round (1 .. 40) {
        sleep 0.3;    # all wait again
        sysread $_, my $beat, 65_536 for $select->can_read(0);
        %text = ();
        $writer->do('INSERT INTO small (id) VALUES (?)', undef, ++$change);
        my ($start, %heard) = (time);
        while (keys %heard < 100) {
            for my $s ($select->can_read(5)) {
                sysread $s, $text{$s}, 65_536, length($text{$s} // '') or die 'closed';
                next if $text{$s} !~ /"id":$change,/;
                $heard{$s} = $s;
                push @late, time - $start if $round > 3;
                $select->remove($s) if $way ne 'events';
            }
        }
        next if $way eq 'events';
        ($next) = (values %text)[0] =~ m{"next":"http://[^/]+([^"]+)&wait};
        for my $s (values %heard) {    # who waited comes again on another connection
            my $again = $text{$s} =~ /^Connection: close\r$/m ? connected() : $s;
            print {$again} $asks->($next);
            $select->add($again);
        }
    }
    close $_ for $select->handles;
    my ($p99) = (sort { $a <=> $b } @late)[@late * 0.99];
    Table::row("commit to $way at 100 who wait, p99", sprintf('%.1f ms (p50 %.1f)', 1000 * $p99, 1000 * Table::median(@late)), '25 ms', $p99 / 0.025, '<=', 1);
}
$httpd->stop;
$pg->stop;
1;
