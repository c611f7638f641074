# SPDX-License-Identifier: Apache-2.0
# audit.t: requests by whatever they are known by, newest first in stable pages, by indexes; what is odd about requests and changes.
use PspTest;

my $psp = PspTest->up(config => <<'END');
<Location "/pubsubpull/tables/public.secret">
    Require user admin
</Location>
END
my ($pg, $httpd) = ($psp->pg, $psp->httpd);
sub admin { return $pg->sql([user => 'pubsubpull'], @_) }
$psp->publish('public.t',      'a text, b int, v int, PRIMARY KEY (a, b)');
$psp->publish('public.secret', 'id int PRIMARY KEY');

# Many requests of many, one a second, none of them now
my $n = 200_000;
my $start = 1_700_000_000;
admin(<<"END");
INSERT INTO pubsubpull.request (id, method, host, path, query, "user", remote, agent, started, status, bytes, duration)
SELECT (substr(h, 1, 8) || '-' || substr(h, 9) || '-7000-8000-' || lpad(to_hex(g), 12, '0'))::uuid,
    (CASE WHEN g % 10 = 0 THEN 'PUT' WHEN g = 100001 THEN 'DELETE' ELSE 'GET' END), 'h', (CASE WHEN g <= 3000 THEN '/old/' ELSE '/p' || g % 50 || '/' END) || g, '', 'user' || g % 1000, '192.0.2.' || g % 200, 'agent', to_timestamp($start + g),
    CASE WHEN g % 5000 = 0 THEN 503 WHEN g = 199907 THEN 403 WHEN g % 100 = 7 THEN 404 ELSE 200 END, 100, interval '1 ms'
FROM (SELECT g, lpad(to_hex(($start + g) * 1000::bigint), 12, '0') AS h FROM generate_series(1, $n) g) s;
END
admin('ANALYZE pubsubpull.request');
sub id_of { my ($g) = @_; no warnings 'portable'; my $h = sprintf '%012x', ($start + $g) * 1000; return substr($h, 0, 8) . '-' . substr($h, 8) . sprintf '-7000-8000-%012x', $g }
sub change {
    my ($g, @rows) = @_;
    $pg->sql(q{SELECT set_config('pubsubpull.request', $1, false)}, defined $g ? qq({"id":"@{[id_of($g)]}","started":"2026-01-01T00:00:00Z"}) : '');
    $pg->sql('INSERT INTO t VALUES (?, ?, 1) ON CONFLICT (a, b) DO UPDATE SET v = t.v + 1', @$_) for @rows;
    return;
}
change(10, ['x', 1], ['x', 2]);
change(20, ['x', 1], ['y,z', 3]);
change(5000, ['x', 4]);
change(10_000, ['x', 5]);
change(undef, ['none', $_]) for 1 .. 7;
change(30, ['x', 6]);
$pg->sql(q{UPDATE t SET b = 60 WHERE a = 'x' AND b = 6});
$pg->sql('INSERT INTO secret VALUES (1)');
$pg->sql(q{SELECT set_config('pubsubpull.request', 'garbage', false)});
$pg->sql(q{INSERT INTO t VALUES ('garbage', 1, 1)});
change(undef);

my @as = (user => 'auditor');
sub numbers { return map { hex substr $_->{id}, 24 } @{ $_[0]{requests} } }
sub list { my ($query, @who) = @_; my $answer = $httpd->get("/pubsubpull/requests/?$query", @who ? @who : @as); return $answer->status == 200 ? $answer->json : diag $answer->body }
sub follow { my ($page, $most) = @_; my @all = numbers($page); while ($page->{next} && $most--) { $page = $httpd->get($page->{next}, @as)->json; push @all, numbers($page) } return @all }
sub time_of { my @t = gmtime($start + $_[0]); return sprintf '%04d-%02d-%02dT%02d:%02d:%02dZ', $t[5] + 1900, $t[4] + 1, @t[3, 2, 1, 0] }

# Each filter, and what it must find
my %find = (
    'user=user7'                   => sub { $_[0] % 1000 == 7 },
    'method=PUT'                   => sub { $_[0] % 10 == 0 },
    'path=/p7/'                    => sub { $_[0] % 50 == 7 },
    'path=/p7/7'                   => sub { $_[0] % 50 == 7 && $_[0] =~ /^7/ },
    'path=/p3/3053'                => sub { $_[0] == 3053 },
    'path=/old/&user=user999'      => sub { $_[0] % 1000 == 999 && $_[0] <= 3000 },
    'path=/p%25'                   => sub { 0 },
    'path=/p_/'                    => sub { 0 },
    'status=404'                   => sub { $_[0] % 100 == 7 && $_[0] != 199_907 },
    'status=403'                   => sub { $_[0] == 199_907 },
    'status=4xx'                   => sub { $_[0] % 100 == 7 },
    'status=3xx'                   => sub { 0 },
    'status=5xx'                   => sub { $_[0] % 5000 == 0 },
    'status=503'                   => sub { $_[0] % 5000 == 0 },
    'status=4xx&user=user107'      => sub { $_[0] % 1000 == 107 },
    'remote=192.0.2.9'             => sub { $_[0] % 200 == 9 },
    'user=nobody'                  => sub { 0 },
    'method=DELETE'                => sub { $_[0] == 100_001 },
    'method=HEAD'                  => sub { 0 },
    'method=PUT&status=503'        => sub { $_[0] % 5000 == 0 },
    'method=GET&user=user10'       => sub { 0 },
    'from=' . time_of(199_000)     => sub { $_[0] >= 199_000 },
    'to=' . time_of(1000)          => sub { $_[0] < 1000 },
    'from=' . time_of(5) . '&to=' . time_of(10) => sub { $_[0] >= 5 && $_[0] < 10 },
    'table=public.t'               => sub { grep { $_[0] == $_ } 10, 20, 30, 5000, 10_000 },
    'table=t&method=PUT&status=2xx' => sub { grep { $_[0] == $_ } 10, 20, 30 },
    'table=public.t&key=x,1'       => sub { $_[0] == 10 || $_[0] == 20 },
    'table=public.t&key=y%252Cz,3' => sub { $_[0] == 20 },
    'table=public.t&key=x,6'       => sub { $_[0] == 30 },
    'odd=5xx-committed'            => sub { $_[0] == 5000 || $_[0] == 10_000 },
    'odd=2xx-unchanged&user=user20' => sub { $_[0] % 1000 == 20 && $_[0] != 20 },
    'odd=2xx-unchanged&to=' . time_of(100) => sub { $_[0] % 10 == 0 && $_[0] < 100 && !grep { $_[0] == $_ } 10, 20, 30 },
);
for my $query (sort keys %find) {
    my @wanted = grep { $find{$query}->($_) } reverse 1 .. $n;
    splice @wanted, 120 if @wanted > 120;
    my $began = time;
    my $page = list("$query&limit=40");
    my $took = time - $began;
    my @got = follow($page, 2);
    is("@got", "@wanted[0 .. (@got < @wanted ? $#got : $#wanted)]", "$query: newest first, page after page");
    is(scalar @got, scalar @wanted, '  all of them');
    cmp_ok($took, '<', 1.5 * slow(), sprintf '  soon (%.0f ms)', 1000 * $took);
}
is((numbers(list('limit=5')))[0], $n, 'all');

# A page looks through so many and no more: what was last asked for long ago is some pages away
my $far = list('path=/old/&limit=40');
is(scalar @{ $far->{requests} }, 0, 'a page may be empty');
is(join(' ', follow($far, 76)), join(' ', reverse 1 .. 3000), 'and the next ones have all, newest first');

# Pages stay as they are while others are recorded
my $page = list('user=user3&limit=10');
admin(q{INSERT INTO pubsubpull.request (id, method, path, "user", started) SELECT gen_random_uuid(), 'GET', '/', 'user3', now() FROM generate_series(1, 10)}) for 1 .. 3;
admin(q{UPDATE pubsubpull.request SET id = ('ff' || substr(id::text, 3))::uuid WHERE path = '/'});
is(join(' ', follow($page, 1)), join(' ', map { $n + 3 - 1000 * $_ } 1 .. 20), 'newer ones do not move pages');
admin(q{DELETE FROM pubsubpull.request WHERE path = '/'});

# Mistakes
for my $case (['status=9xx', 'bad-status'], ['odd=strange', 'bad-odd'], ['key=1', 'bad-query'], ['odd=no-request&user=x', 'bad-query'], ['since=x', 'bad-cursor'],
    ['odd=no-request&since=x', 'bad-cursor'], ['from=yesterday', 'bad-time'], ['to=2026-99-01', 'bad-time'], ['limit=0', 'bad-limit'], ['table=public.t&key=1', 'bad-key'], ['what=x', 'bad-query'])
{
    my $answer = $httpd->get("/pubsubpull/requests/?$case->[0]", @as);
    is($answer->status . ' ' . ($answer->json->{type} =~ s/.*://r), "400 $case->[1]", "$case->[0] is refused");
}
is($httpd->get('/pubsubpull/requests/?table=public.nothing', @as)->status, 404, 'no such table');

# What only some may see
is($httpd->get('/pubsubpull/requests/?table=public.secret', @as)->status, 403, 'a table that is not for the auditor');
is(join(' ', numbers(list('table=public.secret', user => 'admin'))), '30', 'but for the administrator');
my $url = '/pubsubpull/requests/' . id_of(30);
is(join(' ', map { $_->{table} } @{ $httpd->get($url, @as)->json->{changes} }), 'public.t public.t', 'a request shows what it changed, as far as one may see');
is(join(' ', map { $_->{table} } @{ $httpd->get($url, user => 'admin')->json->{changes} }), 'public.t public.t public.secret', 'or all');

# Changes without a request
sub keys_of { return join ' ', map { "$_->{key}{a},$_->{key}{b}" . ($_->{unattributed} ? " $_->{unattributed}" : '') } @{ $_[0]{changes} } }
is(keys_of(list('odd=no-request')), 'garbage,1 malformed none,7 none,6 none,5 none,4 none,3 none,2 none,1', 'changes without a request, newest first');
$page = list('odd=no-request&limit=3');
is(keys_of($page), 'garbage,1 malformed none,7 none,6', 'in pages');
$page = $httpd->get($page->{next}, @as)->json;
is(keys_of($page), 'none,5 none,4 none,3', 'that follow each other');
is(keys_of($httpd->get($page->{next}, @as)->json), 'none,2 none,1', 'to the end');
is(keys_of(list('odd=unattributed')), 'garbage,1 malformed', 'those whose request is not believed');
admin(q{SELECT setval('pubsubpull.change_id', 1000000)});
change(undef, ['far', 1]);
my ($pages, $all) = (0, '');
for ($page = list('odd=no-request&limit=10'); ; $page = $httpd->get($page->{next}, @as)->json) { $pages++; $all .= ' ' . keys_of($page); last if !$page->{next} }
is($all =~ s/^ | (?= )| $//gr, 'far,1 garbage,1 malformed none,7 none,6 none,5 none,4 none,3 none,2 none,1', "the whole log, in $pages pages");
cmp_ok($pages, '>', 1, 'a page looks through a part of the log only');
# A table with so many changes that they are not all read, and a request that changed so many others that the page ends within it
$psp->publish("public.$_", 'id int PRIMARY KEY') for qw(busy bulk);
for my $case ([40, 'busy', 1, 1500], [60, 'busy', 1501, 1510], [80, 'bulk', 1, 100_100], [80, 'busy', 1511, 1511], [80, 'bulk', 100_101, 200_200], [90, 'bulk', 200_201, 200_201]) {
    my ($g, $table, $from, $to) = @$case;
    $pg->sql(q{SELECT set_config('pubsubpull.request', $1, false)}, qq({"id":"@{[id_of($g)]}","started":"2026-01-01T00:00:00Z"}));
    $pg->sql("INSERT INTO $table SELECT generate_series(?::int, ?::int)", $from, $to);
}
change(undef);
is(join(' ', follow(list('table=public.busy&limit=2'), 5)), '80 60 40', 'each request that changed the table, once');
is(join(' ', follow(list('table=public.bulk'), 5)), '90 80', 'also those that changed many rows');
is(join(' ', follow(list('table=public.busy&limit=1&method=PUT&to=' . time_of(61)), 5)), '60 40', 'beside other filters');
is(join(' ', follow(list('table=public.busy&status=503'), 5)), '', 'also when none is left');
$httpd->expect_log(qr{AH01631: user auditor});
finish;
