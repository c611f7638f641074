# SPDX-License-Identifier: Apache-2.0
# fuzz_sql.t: keys, cursors, queries, documents and headers that nobody would write, into PostgreSQL and through httpd: each is answered well, or
# with a problem of the client's; never with an error of ours, never late. `make fuzz` goes on for longer.
use PspTest;
use PspTest::Fuzz;

my $seconds = $ENV{FUZZ_SECONDS};
my $seed = $ENV{FUZZ_SEED} // (exists $ENV{FUZZ_SECONDS} ? int(time) : 1);
my $fuzz = PspTest::Fuzz->new($seed);
diag "FUZZ_SEED=$seed" if exists $ENV{FUZZ_SECONDS};

my $psp = PspTest->up(config => "PubSubPull On\nPubSubPullStreamTimeout 5\nAllowEncodedSlashes NoDecode", location => "Require valid-user\n    PubSubPullAdmin \"%{REMOTE_USER} == 'admin'\"");
my $pg = $psp->pg;
my %types = (int2 => 'int2', int4 => 'int', int8 => 'bigint', numeric => 'numeric', decimal => 'numeric(5,2)', float8 => 'float8', text => 'text', short => 'varchar(3)', char => 'char(3)',
    uuid => 'uuid', bytea => 'bytea', bool => 'boolean', date => 'date', time => 'time', moment => 'timestamptz', interval => 'interval', inet => 'inet', range => 'int4range',
    enum => 'colour', domain => 'even', array => 'int[]', jsonb => 'jsonb', bits => 'bit varying', lsn => 'pg_lsn', money => 'money', pair_of => 'two', oid => 'oid', class => 'regclass');
$pg->sql("CREATE TYPE colour AS ENUM ('red', 'green')");
$pg->sql('CREATE TYPE two AS (a int, b text)');
$pg->sql('CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0)');
for my $name (sort keys %types) { $psp->publish("public.t_$name", "id $types{$name} PRIMARY KEY, v int") }
$psp->publish('public.t_pair', 'a int, b text, v int, PRIMARY KEY (a, b)');
$pg->sql('CREATE TABLE "Odd ,%/name" ("Id ," int PRIMARY KEY, v int)');
$pg->publishable('"Odd ,%/name"');
is($psp->httpd->put('/pubsubpull/tables/' . encode('public."Odd ,%/name"'), {}, user => 'admin')->status, 201, 'a table with an odd name');
$psp->publish('public.t_none', 'v int');
$pg->sql('INSERT INTO t_int4 SELECT n, n FROM generate_series(1, 30) n');
$pg->sql(q{INSERT INTO t_pair VALUES (1, 'x,y', 1), (2, '', 2)});
$pg->sql('INSERT INTO "Odd ,%/name" VALUES (1, 1)');
my @tables = ((map { "public.t_$_" } sort keys %types), 'public.t_pair', 'public."Odd ,%/name"', 'public.t_none', 't_int4', 'public.missing');

# Found by this test before
is($psp->httpd->get('/pubsubpull/subscriptions/none/position', user => 'alice')->status, 404, 'the position of a subscription that is none, when there are no others');
for my $key (qw(nothing nothing.here a.b.c 1e5 %22), 'a b') {
    my $answer = $psp->httpd->get("/pubsubpull/tables/public.t_class/rows/" . encode($key), user => 'alice');
    is($answer->status . ' ' . ($answer->json->{type} // ''), '400 urn:pubsubpull:problem:bad-key', "a key that names nothing: $key");
}

$psp->subscribe('s1', { table => 'public.t_int4', callback => 'http://127.0.0.1:9/' }, user => 'alice');
$psp->httpd->put('/pubsubpull/subscriptions/s1/state', { state => 'paused' }, user => 'alice');

my @documents = $fuzz->corpus('sql/documents');
my @keys      = $fuzz->corpus('sql/keys');
my @values    = $fuzz->corpus('sql/values');
pop @$_ for \@documents, \@keys, \@values;    # behind the last line
my @cursors = map { /since=([^"&]+)/ } map { $psp->httpd->get($_, user => 'admin')->body } '/pubsubpull/changes/?limit=5', '/pubsubpull/changes/', '/pubsubpull/tables/public.t_int4/rows/';
cmp_ok(scalar @cursors, '>', 1, 'there are cursors');

sub table    { return $fuzz->perhaps($fuzz->one_of(@tables), 8) }
sub key      { return $fuzz->perhaps($fuzz->one_of(@keys), 3) }
sub value    { return $fuzz->chance(2) ? undef : $fuzz->perhaps($fuzz->one_of(@values), 4) }
sub cursor   { return $fuzz->chance(3) ? value() : $fuzz->perhaps($fuzz->one_of(@cursors), 2) }
sub document { return $fuzz->document(@documents) }
sub name     { return $fuzz->one_of('s1', 's2', 's3', $fuzz->perhaps('s1', 2)) }
sub header   { return $fuzz->one_of(undef, undef, '*', '"x"', 'W/"x"', $fuzz->bytes('"abc", W/"d"')) }

# --- The functions that answer requests, as the module calls them ---

my %calls = (
    row_get         => sub { ('http://b', table(), key(), value()) },
    rows_get        => sub { ('http://b', table(), value(), value(), $fuzz->one_of(undef, key()), $fuzz->one_of(undef, cursor()), value(), value()) },
    changes_get     => sub { my $table = $fuzz->one_of(undef, table());
        ('http://b', $table, defined $table ? $fuzz->one_of(undef, key()) : undef, $fuzz->one_of(undef, '{public.t_int4}', '{}'), cursor(), value(), value(), value(), undef, $fuzz->one_of('page', 'lines', 'events'), undef) },
    table_get       => sub { ('http://b', table()) },
    table_put       => sub { ('http://b', table(), document()) },
    subscription_scope => sub { (document()) },
    subscription_put => sub { ('http://b', name(), $fuzz->one_of(undef, 'alice', 'bob'), $fuzz->one_of('t', 'f'), document(), header(), header(), $fuzz->one_of(undef, '{}', '{public.t_pair}')) },
    subscription_get => sub { ('http://b', name(), 'alice', $fuzz->one_of('t', 'f')) },
    subscription_delete => sub { ('http://b', name(), 'alice', 'f', header()) },
    subscription_state_put => sub { ('http://b', name(), 'alice', 't', document()) },
    subscription_position_put => sub { ('http://b', name(), 'alice', 't', document()) },
    failures_get    => sub { ('http://b', name(), 'alice', 't', value(), value()) },
    requests_get    => sub { ('http://b', to_json({ map { my $v = value(); utf8::decode($v) if defined $v; defined $v && $v !~ /[\x00]/ ? ($fuzz->one_of(qw(since until user method path status table key odd before)) => $v) : () } 1 .. 3 }),
        $fuzz->one_of(undef, '{public.t_int4}'), value()) },
    request_get     => sub { ('http://b', $fuzz->perhaps('01890000-0000-7000-8000-000000000001', 2), undef) },
);

my $dbh = $pg->dbh(user => 'pubsubpull_httpd', pg_enable_utf8 => 0);
$dbh->do($_) for q{SET client_encoding = 'UTF8'}, q{SET statement_timeout = '10s'};
my (%bad, %seen);

# So many, or for so long.
my ($n, $until);
sub start { ($n, $until) = ($_[0], time + ($seconds // 0)); return }
sub more { return defined $seconds ? time < $until : $n-- > 0 }

start(1500);
while (more()) {
    my $function = $fuzz->one_of(sort keys %calls);
    my @params = $calls{$function}->();
    my $call = sprintf 'SELECT * FROM pubsubpull.%s(%s)', $function, join ', ', map { "\$$_" } 1 .. @params;
    my $good = eval {
        $dbh->begin_work;
        my $query = $dbh->prepare($call);
        $query->execute(@params);
        my $row = $query->fetchrow_hashref;
        $seen{ $function . ' ' . ($row->{status} // 'result') }++;
        die "status $row->{status}\n" if ($row->{status} // 200) >= 500;
        1;
    };
    my $state = $good ? '' : $dbh->state;
    my $error = $@;
    $dbh->rollback;
    $seen{"$function $state"}++ if $state;
    next if $good || $state =~ /^PS(?:308|4\d\d)$/ || $state =~ /^22(?:021|P05)$/;    # not UTF-8, NUL: the module says 400
    $bad{"$function $state " . ($error =~ /ERROR:\s*(.*)/ ? $1 : $error)} //= to_json([map { defined ? "$_" : undef } @params]);
}
is(join("\n", map { "$_\n    $bad{$_}" } sort keys %bad), '', 'functions: good results and problems of the client\'s, nothing else');
cmp_ok(scalar(grep { /PS4/ } keys %seen), '>', 15, 'problems of many kinds') or diag explain \%seen;
cmp_ok(scalar(grep { / (?:20\d|result)$/ } keys %seen), '>', 8, 'and good results');

# --- The same through httpd: paths, queries, headers, bodies ---

sub encode { my ($text) = @_; $text =~ s/([^A-Za-z0-9._~-])/sprintf '%%%02X', ord $1/ge; return $text }
# Resources: path, query parameters, methods
my @changes = qw(since limit on request);
my @resources = (
    [sub { '/tables/' . encode(table()) }, [], [qw(GET PUT)]],
    [sub { '/tables/' . encode(table()) . '/rows/' }, [qw(limit order after fields)], ['GET']],
    [sub { '/tables/' . encode(table()) . '/rows/' . $fuzz->one_of(encode($fuzz->one_of(@keys)), $fuzz->one_of(@keys), key()) }, [], ['GET']],
    [sub { '/tables/' . encode(table()) . '/changes/' }, \@changes, ['GET']],
    [sub { '/tables/' . encode(table()) . '/rows/' . key() . '/changes/' }, \@changes, ['GET']],
    [sub { '/changes/' }, \@changes, ['GET']],
    [sub { '/requests/' }, [qw(since until user method path status table key odd limit)], ['GET']],
    [sub { '/subscriptions/' . encode(name()) }, [], [qw(GET PUT PUT PUT DELETE)]],
    [sub { '/subscriptions/s1/' . $fuzz->one_of('state', 'position') }, [], [qw(GET PUT PUT)]],
    [sub { '/subscriptions/s1/failures/' }, [qw(since limit)], ['GET']],
    [sub { $fuzz->one_of('/', '', '/tables/', '/subscriptions/') }, [], ['GET']],
);

sub ask {
    my ($path, $names, $methods) = @{ $fuzz->one_of(@resources) };
    my @query = map { my $value = $_ eq 'since' ? cursor() : value(); defined $value ? "$_=" . ($fuzz->chance(8) ? $value : encode($value)) : () } grep { $fuzz->chance(3) } @$names;
    push @query, 'wait=' . $fuzz->one_of('0', '', 'x', '-1', '1e9') if $names == \@changes && $fuzz->chance(6);
    my $target = '/pubsubpull' . $path->() . (@query ? '?' . join '&', @query : '');
    $target = '/pubsubpull' . $fuzz->bytes(substr $target, 11) if $fuzz->chance(8);
    $target =~ s/([\x00-\x20#])/sprintf '%%%02X', ord $1/ge if !$fuzz->chance(40);
    return ($fuzz->chance(12) ? $fuzz->one_of('HEAD', 'POST', 'OPTIONS', 'PATCH', 'G%T') : $fuzz->one_of(@$methods), $target);
}

my @headers = (Accept => 'application/json;q=0.5, application/x-ndjson, image/*;q=0', Accept => 'application/x-ndjson', Prefer => 'wait=0, respond-async; a="b"', 'If-None-Match' => '"abc", W/"d"', 'If-Match' => '*',
    'Last-Event-ID' => '2abc.1.0123456789', 'Content-Type' => 'application/json; charset=utf-8', 'X-HTTP-Method-Override' => 'PUT', 'Accept-Encoding' => 'gzip;q=1.0, *;q=0', 'If-Modified-Since' => 'Fri, 31 Dec 1999 23:59:59 GMT',
    'PubSubPull-Request' => '{"id":"x"}', traceparent => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', tracestate => 'psp=1,a=b', 'Range' => 'bytes=0-1', 'TE' => 'trailers', 'Expect' => '100-continue');
my (%odd, %answers);
start(700);
while (more()) {
    my ($method, $target) = ask();
    my @given;
    for (1 .. $fuzz->number(4) * $fuzz->number(2)) {
        my $i = 2 * $fuzz->number(@headers / 2);
        my $value = $fuzz->perhaps($headers[$i + 1], 2);
        $value =~ s/[\r\n]//g;
        push @given, $headers[$i], $value if $headers[$i + 1] !~ /^wait/ || $value !~ /wait=[^,;]*[1-9]/;
    }
    my $answer = $psp->httpd->request($method, $target, user => $fuzz->one_of(qw(admin alice bob)), headers => \@given, $method =~ /^P/ ? (body => document()) : (), timeout => 10);
    $answers{ $answer->status }++;
    next if $answer->status < 500 || $answer->status == 501;
    $odd{ $answer->status . ' ' . substr $answer->body, 0, 300 } //= to_json([$method, $target, @given]);
}
is(join("\n", map { "$_\n    $odd{$_}" } sort keys %odd), '', 'httpd: no answer is ours to be ashamed of, none is late');
cmp_ok($answers{$_} // 0, '>', 0, "answers with $_") for 200, 204, 400, 404, 405, 422;
note explain \%answers;
is($psp->httpd->get('/pubsubpull/', user => 'alice')->status, 200, 'and it serves on');
$psp->httpd->expect_log(qr/authz_core|core:error|PSP04/);
finish;
