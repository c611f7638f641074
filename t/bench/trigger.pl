# SPDX-License-Identifier: Apache-2.0
# trigger.pl: what a trigger adds to a row, ours, PgQ's in C and that of django-pubsubpull, on equal tables in turn.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256_hex);
use PspTest;
use Table;

my $rounds = 7;
my $bulk   = 50_000;
my $single = 3_000;

my $pg = PspTest::Postgres->start(config => "shared_buffers = 512MB\nmax_wal_size = 8GB\n");
$pg->install_schema;
my $columns = q{id serial PRIMARY KEY, name text, city text, country text, n int, amount numeric(12,2), flag boolean,
    created timestamptz DEFAULT now(), note text, u uuid DEFAULT gen_random_uuid()};
my @tables = qw(bare ours pgq origin);
$pg->admin->sql(q{CREATE EXTENSION pgq; SELECT pgq.create_queue('bench'); GRANT pgq_writer TO service});
$pg->sql("CREATE TABLE $_ ($columns)") for @tables;
$pg->publishable('ours');
$pg->sql([user => 'pubsubpull'], q{SELECT pubsubpull.publish('ours')});
$pg->sql(q{CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON pgq FOR EACH ROW EXECUTE FUNCTION pgq.logutriga('bench')});

# The trigger of django-pubsubpull as its documentation describes it: row by row, row_to_json to jsonb, and a request that is a
# foreign key checked at commit.
$pg->sql(<<'END');
CREATE TABLE origin_request (id serial PRIMARY KEY, path text);
CREATE TABLE origin_log (id serial PRIMARY KEY, "table" text, type char, old jsonb, new jsonb, at timestamptz DEFAULT now(),
    request_id int REFERENCES origin_request DEFERRABLE INITIALLY DEFERRED);
CREATE INDEX ON origin_log ("table");
CREATE INDEX ON origin_log (request_id);
INSERT INTO origin_request (path) VALUES ('/');
CREATE FUNCTION origin_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO origin_log ("table", type, new, request_id) VALUES (TG_TABLE_NAME, 'I', row_to_json(NEW)::jsonb, 1);
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO origin_log ("table", type, old, new, request_id) VALUES (TG_TABLE_NAME, 'U', row_to_json(OLD)::jsonb, row_to_json(NEW)::jsonb, 1);
  ELSE
    INSERT INTO origin_log ("table", type, old, request_id) VALUES (TG_TABLE_NAME, 'D', row_to_json(OLD)::jsonb, 1);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON origin FOR EACH ROW EXECUTE FUNCTION origin_trigger();
END

my $dbh = $pg->dbh;
$dbh->do('SET synchronous_commit = off');
my %seconds;

sub clock {
    my ($what, $table, $rows, $statement) = @_;
    my $start = time;
    $dbh->do($statement);
    push @{ $seconds{$what}{$table} }, (time - $start) / $rows * 1e6;
    return;
}

# An envelope as httpd signs it with PubSubPullKey.
sub signed_envelope {
    my $time = sprintf '%012x', time * 1000;
    my $id = substr($time, 0, 8) . '-' . substr($time, 8) . '-7000-8000-' . sprintf '%012x', rand 2**32;
    my $text = qq({"id":"$id","method":"PUT","host":"shop.example","path":"/customers/4711","query":"","user":"alice","remote":"192.0.2.17",)
        . q("agent":"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0","started":"2026-01-01T00:00:00.000000Z");
    return qq($text,"signature":") . hmac_sha256_hex($text, 'key of the bench') . '"}';
}
$pg->sql([user => 'pubsubpull'], q{SELECT pubsubpull.set_keys(gen_random_uuid(), NULL, ARRAY[encode('key of the bench', 'hex')], 3600)});

for my $round (0 .. $rounds) {
    for my $table (@tables) {
        my $queue = $pg->admin->sql(q{SELECT pgq.current_event_table('bench')});
        $pg->admin->sql("TRUNCATE pubsubpull.change, $queue");
        $dbh->do("TRUNCATE origin_log, $table RESTART IDENTITY");
        clock('INSERT of 50,000 rows', $table, $bulk,
            "INSERT INTO $table (name, city, country, n, amount, flag, note) SELECT 'name ' || g, 'city ' || g % 100, 'NL', g, g * 1.5, g % 2 = 0, 'some text here ' || g FROM generate_series(1, $bulk) g");
        clock('UPDATE of 50,000 rows', $table, $bulk, "UPDATE $table SET n = n + 1, note = 'x' || note");
        $dbh->do("VACUUM $table");
        clock('UPDATE of one row', $table, $single,
            "DO \$\$ BEGIN FOR i IN 1 .. $single LOOP UPDATE $table SET n = n + 1, city = city || 'z' WHERE id = i; END LOOP; END \$\$");
        $dbh->do(q{SELECT set_config('pubsubpull.request', ?, false)}, undef, signed_envelope());
        $dbh->do("VACUUM $table");
        clock('UPDATE of one row, signed envelope', $table, $single,
            "DO \$\$ BEGIN FOR i IN 1 .. $single LOOP UPDATE $table SET n = n + 1, city = city || 'z' WHERE id = i; END LOOP; END \$\$");
        $dbh->do(q{SELECT set_config('pubsubpull.request', '', false)});
        clock('DELETE of 50,000 rows', $table, $bulk, "DELETE FROM $table");
    }
    delete @seconds{ keys %seconds } if !$round;    # the first is for warming up
}

my %limit = ('UPDATE of one row' => 1.0, 'UPDATE of one row, signed envelope' => 1.0, 'INSERT of 50,000 rows' => 0.5, 'DELETE of 50,000 rows' => 0.5, 'UPDATE of 50,000 rows' => 0.85);
for my $what ('UPDATE of one row', 'UPDATE of one row, signed envelope', 'INSERT of 50,000 rows', 'DELETE of 50,000 rows', 'UPDATE of 50,000 rows') {
    my %added = map {
        my $table = $_;
        $table => Table::median(map { $seconds{$what}{$table}[$_] - $seconds{$what}{bare}[$_] } 0 .. $rounds - 1)
    } qw(ours pgq origin);
    my $ours = sprintf '%.1f us/row', $added{ours};
    Table::row("trigger: $what", $ours, sprintf('pgq.logutriga %.1f', $added{pgq}), $added{ours} / $added{pgq}, '<=', $limit{$what});
    Table::row("trigger: $what", $ours, sprintf('django-pubsubpull %.1f', $added{origin}), $added{ours} / $added{origin}, '<=', 0.35);
}
$pg->stop;
1;
