# SPDX-License-Identifier: Apache-2.0
# browser.t: rows and changes as clients take them that know nothing of us: a browser's EventSource, curl -N, jq, and compressed with brotli.
use PspTest;

my $dir = tmp_dir();
my $psp = PspTest->up(load => ['brotli'], location => "Require all granted\nPubSubPullAnonymous On\nPubSubPullAdmin true", config => <<"END");
AddOutputFilterByType BROTLI_COMPRESS application/json application/x-ndjson text/event-stream
CustomLog "$dir/log" "%{Last-Event-ID}i %{Content-Encoding}o %{Accept-Encoding}i %U"
END
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
$psp->publish("public.$_", 'id int PRIMARY KEY, t text') for qw(t quiet many);
my $t = $httpd->url('/pubsubpull/tables/public.t');
my @stream = ('curl', '-sSN', '-m', 40, '-H', 'Accept: text/event-stream');
sub starts { my ($name, @command) = @_; return spawn(cmd => \@command, log => "$dir/$name") }
sub text { my ($name) = @_; return -e "$dir/$name" ? slurp("$dir/$name") : '' }
sub ids { my ($name, $pattern) = @_; return join ' ', text($name) =~ /$pattern/mg }

# curl -N, a tool for lines of JSON, and brotli take events as they come
my $curl = starts('curl', @stream, "$t/changes/?since=now");
my $jq = starts('jq', 'sh', '-c', "@stream[0 .. 3] -H 'Accept: text/event-stream' '$t/changes/?since=now' | sed -un 's/^data: //p' | jq --unbuffered -c .key.id");
my $brotli = starts('brotli', @stream, '--compressed', "$t/changes/?since=now");
wait_until { text($_) =~ /^id: /m } 10, $_ for qw(curl brotli);

# A page in a browser
spew("$httpd->{htdocs}/page.html", <<'END');
<!DOCTYPE html><title>follows</title><script>
const source = new EventSource('/pubsubpull/tables/public.t/changes/?since=now');
let tell = Promise.resolve();
const seen = what => { tell = tell.then(() => fetch('/seen/' + what).catch(() => seen(what))); };
source.onopen = () => seen('open');
source.onmessage = event => { const change = JSON.parse(event.data); seen(change.type + change.key.id); };
</script>
END
my $browser = starts('chromium', 'chromium', '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', "--user-data-dir=$dir/profile",
    '--remote-debugging-port=0', $httpd->url('/page.html'));
sub seen { return join ' ', text('log') =~ m{^\S+ \S+ .*/seen/(\w+)$}mg }
wait_until { seen() eq 'open' } 30, 'the browser';
$pg->sql('INSERT INTO t VALUES ($1)', $_) for 1 .. 3;
$pg->sql('UPDATE t SET t = $$x$$ WHERE id = 2');
wait_until { seen() =~ /update2/ } 5, 'changes';
is(seen(), 'open insert1 insert2 insert3 update2', 'EventSource sees changes as they come');
wait_until { ids($_, qr/^data: .*?"key":\{"id":(\d+)\}/m) eq '1 2 3 2' } 5, $_ for qw(curl brotli);
wait_until { ids('jq', qr/^(\d+)$/m) eq '1 2 3 2' } 5, 'jq';
pass("so do curl -N, jq, and who takes brotli");

# httpd is restarted: the browser comes again and says where it stopped
$httpd->restart;
my $began = time;
my $quiet = starts('quiet', @stream, $httpd->url('/pubsubpull/tables/public.quiet/changes/?since=now'));
$pg->sql('DELETE FROM t WHERE id = 1');
$pg->sql('INSERT INTO t VALUES (4)');
wait_until { seen() =~ /insert4/ } 15, 'the browser again';
is(seen(), 'open insert1 insert2 insert3 update2 open delete1 insert4', 'after a restart it goes on where it was, each change once');

# Pages and lines
$pg->sql(q{INSERT INTO many SELECT g, repeat('text ', 20) FROM generate_series(1, 3000) g});
my $many = $httpd->url('/pubsubpull/tables/public.many');
sub lines { my (@options) = @_; return `curl -sSN @options -H 'Accept: application/x-ndjson' '$many/rows/'` }
is(lines('--compressed'), lines(), 'lines through brotli are the same');
is(`curl -sSN -H 'Accept: application/x-ndjson' '$many/rows/' | jq -s 'length, (map(.id) | add)' | tr '\\n' ' '`, '3000 4501500 ', 'jq reads them');
is(`curl -sSN -H 'Accept: application/x-ndjson' '$many/changes/' | jq -c 'select(.type == "insert") | .new.id' | wc -l` + 0, 3000, 'and changes');
is(json(`curl -sS --compressed '$many/rows/?limit=7'`)->{rows}[6]{id}, 7, 'a page');
my $next = json(`curl -sS '$many/changes/?since=now'`)->{next};
my $poll = starts('poll', qw(curl -sS --compressed), "$next&wait=20");
wait_until { $pg->sql([user => 'postgres'], q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pubsubpull.watch(%' AND pid <> pg_backend_pid()}) } 5, 'a watcher';
$pg->sql('DELETE FROM many WHERE id = 7');
wait_until { !alive($poll) } 5, 'an answer';
is(json(slurp("$dir/poll"))->{changes}[0]{key}{id}, 7, 'a long-poll');
my $compressed = join ' ', text('log') =~ m{^\S+ br (?:\S+ )+?/pubsubpull/tables/public\.(many/\w+)/$}mg;
is($compressed, 'many/rows many/rows many/changes', 'were compressed') or diag slurp("$dir/log");
kill TERM => $browser;
wait_until { text('log') =~ m{^\w\S+ br (?:\S+ )+?/pubsubpull/tables/public\.t/changes/$}m } 5, 'the end of the stream to the browser';
pass('the browser had come again by Last-Event-ID, and took brotli');

# A stream without changes shows that it is there
wait_until { text('quiet') =~ /^:\nid: \S+\n\n/m } 25, 'a heartbeat';
cmp_ok(time - $began, '>', 14, 'a comment and the place, every 15 seconds');
unlike(text('quiet'), qr/^data/m, 'and no event');
$httpd->expect_log(qr/PSP0331/);
finish;
