# SPDX-License-Identifier: Apache-2.0
# pull.t: rows by any kind of key, fields, views, validators, filters and row-level security, over HTTP.
use PspTest;
use utf8;

my $psp = PspTest->up(load => ['deflate'], config => "AllowEncodedSlashes NoDecode\n<Location /pubsubpull>\nSetOutputFilter DEFLATE\n</Location>\n");
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
my $tables = '/pubsubpull/tables';
my @alice = (user => 'alice');
sub get { my ($url, %o) = @_; return $httpd->get($url =~ m{^(?:http|/)} ? $url : "$tables/$url", @alice, %o) }
sub problem { my ($answer) = @_; return join ' ', $answer->status, $answer->json->{type} =~ /([^:]+)$/, $answer->json->{detail} }

# Keys of every type, in order both ways, page by page; each row is found under the URL that its change names
my %typed = (
    text      => [map { "E'$_'" } 'a,b', 'a/b', 'a b', 'ä ☃', '', '%2C', 'x?y&z=1#f', q{O\\'Neil "x"}, '{}', 'NULL'],
    uuid      => [map { "md5('$_')::uuid" } 1 .. 5],
    numeric   => [qw(-1.50 0 0.1 1e30 12345678901234567890.123456789 'NaN')],
    timestamptz => ["'2026-01-01 00:00+02'", "'2026-01-01 00:00:00.000001+00'", "'-infinity'", "'0044-03-15 00:00+00 BC'"],
    timestamp => ["'2026-01-01 10:00'", "'2026-01-01 10:00:00.5'"],
    bytea     => [q{'\x00ff'}, q{'\x'}, q{'\x2c2f'}],
    float8    => [qw(0.1 1e300 -1e-300 'infinity'), '0.1::float8 + 0.2::float8'],
    interval  => ["'1 day'", "'-1 mon 2 days'"],
    inet      => ["'10.0.0.0/8'", "'::1'"],
    'public.mood' => ["'sad, very'", "'ok'", "'happy/glad'"],
    'public.short' => ["'abc'", "'x,y'"],
    boolean   => [qw(true false)],
    'int4range' => ["'[1,5)'", "'empty'"],
);
$pg->sql(q{CREATE TYPE mood AS ENUM ('sad, very', 'ok', 'happy/glad'); CREATE DOMAIN short AS text CHECK (length(value) < 5)});
for my $type (sort keys %typed) {
    (my $name = "k_$type") =~ s/\W/_/g;
    $psp->publish("public.$name", "k $type, n int, v text, PRIMARY KEY (k, n)");
    my $n = 0;
    $pg->sql("INSERT INTO $name VALUES ($_, @{[++$n % 3]}, 'v')") for @{ $typed{$type} };
    my %order = map { $_ => $pg->sql("SELECT coalesce(json_agg(t ORDER BY k $_, n $_), '[]') FROM $name t") } qw(asc desc);
    utf8::encode($_) for values %order;
    my $bad = '';
    for my $order (qw(asc desc)) {
        my @rows;
        my $url = "public.$name/rows/?limit=1&order=$order";
        while ($url) {
            my $page = get($url)->json;
            push @rows, @{ $page->{rows} // [] };
            $url = $page->{next};
            last if @rows > 20;
        }
        $bad .= "$order: " . to_json(\@rows) . " instead of $order{$order}\n" if to_json(\@rows) ne to_json(json($order{$order}));
    }
    for my $c (@{ get("public.$name/changes/")->json->{changes} }) {
        my $row = get($c->{url});
        $bad .= "$c->{url}: " . $row->status . ' ' . $row->body . "\n" if $row->status != 200 || to_json($row->json) ne to_json($c->{new});
        $bad .= "$c->{url}/changes/\n" if @{ get("$c->{url}/changes/")->json->{changes} } != 1;
    }
    is($bad, '', "keys of type $type");
}

# fields, and columns that are nobody's business
$psp->publish('public.customer', 'id int PRIMARY KEY, name text, "a,b" int, secret text', { exclude => ['secret'] });
$pg->sql(q{INSERT INTO customer SELECT g, 'n' || g, g, 'hidden' FROM generate_series(1, 5) g});
is(get('public.customer/rows/?fields=name&limit=2')->body =~ s/,"next".*//r, '{"rows":[{"name":"n1"},{"name":"n2"}]', 'only these fields');
is(get('public.customer/rows/?fields=id,a%252Cb&limit=1')->body =~ s/,"next".*//r, '{"rows":[{"id":1,"a,b":1}]', 'in the order that was asked for');
my ($next) = get('public.customer/rows/?fields=name&limit=2')->json->{next};
is_deeply(get($next)->json->{rows}, [{ name => 'n3' }, { name => 'n4' }], 'on the next page as well');
is(problem(get("public.customer/rows/?fields=id,$_")), qq{400 bad-fields fields names "$_", which public.customer does not have. It has "id", "name", "a,b"; names are joined by commas, each percent-encoded.},
    "$_ is no field") for qw(nothing secret);
unlike(get("public.customer/$_")->body, qr/secret|hidden/, "$_ shows nothing excluded") for 'rows/', 'rows/1', 'rows/1/changes/', 'changes/', '', 'rows/?fields=id';

# Columns that are called as we call things
$psp->publish('public.axes', 'x int PRIMARY KEY, y int, t int, k int, secret text', { exclude => ['secret'] });
$pg->sql('INSERT INTO axes VALUES (1, 2, 3, 4), (5, 6, 7, 8)');
is(get("public.axes/rows/$_->[0]")->body =~ s/,"next".*//r, $_->[1], "rows/$_->[0] of a table with columns x, y, t, k")
    for ['', '{"rows":[{"x":1,"y":2,"t":3,"k":4},{"x":5,"y":6,"t":7,"k":8}]'], ['?fields=k,x&limit=1&order=desc', '{"rows":[{"k":8,"x":5}]'], ['5', '{"x":5,"y":6,"t":7,"k":8}'];

# A table with partitions, one with inheritance
$pg->sql('CREATE TABLE parted (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)');
$pg->sql("CREATE TABLE parted_$_ PARTITION OF parted FOR VALUES FROM (${_}0) TO (${_}9)") for 1, 2;
$pg->publishable('parted', 'parted_1', 'parted_2');
$psp->publish('public.parted');
$pg->sql('INSERT INTO parted VALUES (11, 1), (25, 2), (12, 3)');
is_deeply([map { $_->{id} } @{ get('public.parted/rows/')->json->{rows} }], [11, 12, 25], 'rows of all partitions in one order');

# Views: rows only
$pg->sql('CREATE VIEW named AS SELECT id, name FROM customer WHERE id > 2');
my $answer = $httpd->put("$tables/public.named", { key => ['id'] }, user => 'admin');
is(problem($answer), '403 missing-privilege The module may not publish public.named yet. Its owner can allow it: GRANT SELECT ON public.named TO pubsubpull_httpd;', 'a view needs SELECT');
$pg->publishable('named');
like(problem($httpd->put("$tables/public.named", {}, user => 'admin')), qr/^422 no-key public\.named is a view and needs "key"/, 'and a key');
$answer = $httpd->put("$tables/public.named", { key => ['id'] }, user => 'admin');
is($answer->status, 201, 'with it, it is published');
is_deeply([@{ $answer->json }{qw(logged changes)}], [JSON::PP::false(), undef], 'and its document says that changes are not logged');
my $page = get('public.named/rows/?limit=2')->json;
is_deeply([$page->{rows}, $page->{changes}], [[{ id => 3, name => 'n3' }, { id => 4, name => 'n4' }], undef], 'its rows are pulled');
is_deeply(get($page->{next})->json->{rows}, [{ id => 5, name => 'n5' }], 'page by page');
is_deeply(get('public.named/rows/4')->json, { id => 4, name => 'n4' }, 'or one by one');
like(problem(get('public.named/changes/')), qr/^409 not-logged public\.named is a view/, 'its changes cannot be followed');
like(problem($httpd->put('/pubsubpull/subscriptions/v', { table => 'public.named', callback => 'http://127.0.0.1:9/' }, user => 'alice')), qr/^422 not-logged/, 'nor subscribed to');
$pg->install_schema;
is(get('public.named/rows/')->status, 200, 'an upgrade leaves it so');
$pg->sql('CREATE VIEW broken AS SELECT id, 1 / (id - 3) AS n FROM customer');
$pg->publishable('broken');
$httpd->put("$tables/public.broken", { key => ['id'] }, user => 'admin');
is(get('public.broken/rows/')->status, 500, 'an error inside a view is none of the client\'s');
is($httpd->delete("$tables/public.named", user => 'admin')->status, 204, 'a view can be withdrawn');

# Validators, also through mod_deflate
sub again { my ($url, $answer, %o) = @_; return get($url, headers => ['If-None-Match' => $answer->header('ETag'), 'Accept-Encoding' => $o{coding} // 'identity'])->status }
my $idle = get('public.customer/changes/?since=now')->json->{next};
$answer = get($idle);
like($answer->header('ETag'), qr/^W\/"/, 'a page without changes has a validator');
is(again($idle, $answer), 304, 'and polling it costs nothing while nothing is new');
$pg->sql('INSERT INTO parted VALUES (13, 1)');
is(again($idle, $answer), 304, 'also when other tables change');
$pg->sql(q{UPDATE customer SET name = 'new' WHERE id = 1});
$answer = get($idle, headers => ['If-None-Match' => $answer->header('ETag')]);
is($answer->status . @{ $answer->json->{changes} }, '2001', 'then there is something');
$next = get('public.customer/changes/?limit=2')->json->{next};
$answer = get($next);
like($answer->header('ETag'), qr/^"/, 'a full page inside a batch does not change any more');
$pg->sql('INSERT INTO customer VALUES (6)');
is(again($next, $answer), 304, 'whatever happens');
for my $url ('public.customer/rows/', get('public.customer/rows/?limit=2')->json->{next}, $idle =~ s/since=[^&]*/since=/r . get('public.customer/changes/?since=now')->json->{next} =~ s/.*since=//r) {
    my $zipped = get($url, headers => ['Accept-Encoding' => 'gzip']);
    is($zipped->header('Content-Encoding'), 'gzip', 'compressed when wanted');
    is(again($url, $zipped, coding => 'gzip'), 304, "and its ETag is known again: $url");
    is($zipped->header('Cache-Control'), 'private, no-cache', 'for nobody else');
    my $head = $httpd->head($url =~ /^http/ ? $url : "$tables/$url", @alice);
    is($head->status . $head->body, '200', 'HEAD answers the same without a body');
    is($head->header('ETag'), get($url)->header('ETag'), 'and with the same ETag');
}

# Filters
$pg->sql(q{UPDATE customer SET name = 'x' WHERE id = 2; DELETE FROM customer WHERE id = 3; TRUNCATE customer});
sub types { return join ' ', map { $_->{type} } @{ get($_[0])->json->{changes} } }
is(types('public.customer/changes/?on=delete,truncate'), 'delete truncate', 'on: only some types');
is(types('public.customer/rows/2/changes/?on=update'), 'update', 'of one row, too');
like(problem(get('public.customer/changes/?on=insert,upsert')), qr/^400 bad-on on names 'upsert'; it takes insert/, 'an unknown one is named');
my $request = '01900000-0000-7000-8000-000000000001';
$pg->sql(qq{BEGIN; SELECT set_config('pubsubpull.request', '{"id":"$request","method":"PUT","path":"/x"}', true);
    INSERT INTO customer VALUES (7), (8); UPDATE parted SET n = 9 WHERE id = 11; COMMIT});
is(types("public.customer/changes/?request=$request"), 'insert insert', 'request: what one request did to a table');
is(types("/pubsubpull/changes/?request=$request"), 'insert insert update', 'and to all');
is(types("public.customer/rows/7/changes/?request=$request"), 'insert', 'and to one row');
like(problem(get('public.customer/changes/?request=7')), qr/^400 bad-request/, 'an id it must be');
my @ids;
for (my $url = "/pubsubpull/changes/?request=$request&limit=1"; ;) {
    my $p = get($url)->json;
    push @ids, map { $_->{id} } @{ $p->{changes} };
    $url = $p->{next};
    last if !$p->{more};
}
is(@ids . '', '3', 'page by page');

# The history of one row, over a changed key; it is followed like any other changes
$pg->sql('UPDATE customer SET id = 70 WHERE id = 7');
is(types("public.customer/rows/$_/changes/"), 'insert update', "history under $_") for '7', '07';
is(types('public.customer/rows/70/changes/'), 'update', 'and under the new key');
$next = get('public.customer/rows/70/changes/')->json->{next};
$pg->sql('UPDATE customer SET name = id::text');
is(types($next), 'update', 'what is new of one row');

# Restarting where a cursor is gone
$next = get('public.customer/changes/')->json->{next};
$httpd->delete("$tables/public.customer", user => 'admin');
$psp->publish('public.customer');
$answer = get($next);
is($answer->status, 410, 'a cursor from before a gap is gone');
is($answer->link('rows'), $httpd->url("$tables/public.customer/rows/"), 'with a link to the rows');
is($answer->link('first'), $httpd->url("$tables/public.customer/changes/"), 'and one to the beginning');

# Memory that a page took is there for the next one: it is not handed to the system and fetched again
$psp->publish('public.many', 'id int PRIMARY KEY, words text');
$pg->sql(q{INSERT INTO many SELECT g, repeat('words ', 40) FROM generate_series(1, 1000) g});
sub faults {    # minor page faults of the sessions that serve
    my $n = 0;
    $n += (split ' ', slurp("/proc/$_/stat") =~ s/.*\)//sr)[7] for map { $_->[0] } @{ $pg->admin->dbh->selectall_arrayref(q{SELECT pid FROM pg_stat_activity WHERE usename = 'pubsubpull_httpd' AND application_name = 'pubsubpull'}) };
    return $n;
}
for my $what (qw(rows changes)) {
    get("public.many/$what/") for 1 .. 3;
    my $before = faults();
    get("public.many/$what/") for 1 .. 10;
    cmp_ok(faults() - $before, '<', 1000, "ten pages of 1,000 $what fault in few of the memory's pages");
}

# Row-level security: policies know who pulls
$psp->publish('public.note', 'id int PRIMARY KEY, owner text, words text');
$pg->sql(q{INSERT INTO note VALUES (1, 'alice', 'a'), (2, 'bob', 'b'), (3, 'alice', 'c')});
$pg->sql(q{ALTER TABLE note ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON note USING (owner = nullif(current_setting('pubsubpull.request', true), '')::json->>'user')});
is_deeply([map { $_->{id} } @{ get('public.note/rows/')->json->{rows} }], [1, 3], 'alice sees hers');
is_deeply([map { $_->{id} } @{ $httpd->get("$tables/public.note/rows/", user => 'bob')->json->{rows} }], [2], 'bob his');
is(get('public.note/rows/2')->status . $httpd->get("$tables/public.note/rows/2", user => 'bob')->status, '404200', 'one by one, too');
is_deeply([map { $_->{id} } @{ $httpd->get("$tables/public.note/rows/", user => 'bob', headers => ['PubSubPull-Request' => '{"id":"x","user":"alice"}'])->json->{rows} }],
    [2], 'and cannot say to be alice');
is(join('', map { $httpd->get("$tables/public.note/rows/?fields=id", user => $_, headers => [Accept => 'application/x-ndjson'])->body } qw(alice bob)),
    qq({"id":1}\n{"id":3}\n{"id":2}\n), 'as lines, too');
$httpd->expect_log(qr/PSP0314.*22012|PSP0302.*22012/);
finish;
