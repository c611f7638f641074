# SPDX-License-Identifier: Apache-2.0
# docs.t: every directive, log code, resource and SQL function is documented; every file says what it is for.
use PspTest;
use File::Glob qw(bsd_glob);

my $readme = slurp(repo('README.md'));
my $conf   = slurp(repo('conf/pubsubpull.conf'));
my @c      = (repo('mod_pubsubpull.c'), bsd_glob(repo('src/*/*.[ch]')));
my %text   = map { $_ => slurp($_) } @c;

my @directives = slurp(repo('src/config/directives.c')) =~ /"(PubSubPull\w*)"/g;
cmp_ok(scalar @directives, '>', 10, 'directives are found');
for my $name (do { my %seen; grep { !$seen{$_}++ } @directives }) {
    like($readme, qr/`\Q$name\E\b/, "$name is in the README");
    like($conf, qr/\b\Q$name\E\b/, "$name is in conf/pubsubpull.conf");
}

my %codes;
for my $file (@c) {
    $codes{$1}++ while $text{$file} =~ /"(PSP\d{4})\b/g;
}
cmp_ok(scalar keys %codes, '>', 20, 'log codes are found');
is(join(' ', grep { $readme !~ /\b$_\b/ } sort keys %codes), '', 'every log code is in the README');
is(join(' ', grep { $codes{$_} > 1 } sort keys %codes), '', 'and stands for one message');

for my $file (@c, bsd_glob(repo('sql/*.sql')), bsd_glob(repo('t/*.t')), bsd_glob(repo('t/fault/*.t')), bsd_glob(repo('t/lib/PspTest/*.pm'))) {
    my ($first, $second, $third) = split /\n/, slurp($file);
    $second = $third if $first =~ /^#!/;
    my ($name) = $file =~ m{([^/]+)$};
    like("$first\n$second", qr/SPDX-License-Identifier: Apache-2\.0.*\n.*\b\Q$name\E: \S/s, "$name has its licence and its purpose");
}

# Includes go down: rooms, then web and config, then db, then core; one external library per file
for my $file (grep { m{/src/core/} } @c) { unlike($text{$file}, qr{#include [<"](?:httpd|http_|libpq|curl|db/|web/|config/|record/|notify/)}, "$file includes nothing from above") }
is(join(' ', grep { $text{$_} =~ /<libpq-fe\.h>/ && !m{/src/db/} } @c), '', 'libpq is known in db/ only');
is(join(' ', map { s{.*/}{}r } grep { $text{$_} =~ m{<curl/curl\.h>} } @c), 'deliver.c', 'libcurl in one file only');
is(join(' ', map { s{.*/}{}r } grep { $text{$_} =~ m{<openssl/} } @c), 'pem.c sign.c seal.c', 'and libcrypto in one file of its room');
is(join(' ', grep { m{/src/notify/} && $text{$_} =~ m{#include "(?:publish|subscribe|pull|audit)/} } @c), '', 'notify knows no room with resources');

# Tests that the README refers to are there, and each promise of the threat model has one
my @tests = $readme =~ m{\b(t/[\w/]+\.t)\b}g;
is(join(' ', grep { !-e repo($_) } @tests), '', 'the README names tests that exist');
my ($model) = $readme =~ /^## Threat model\n(.*?)^## /ms;
my @parties = grep { /^\| (?!who \||-)/ } split /\n/, $model =~ s/^\|---.*\n//mr;
cmp_ok(scalar @parties, '>=', 9, 'the threat model names those it is about');
is(join("\n", grep { (split / \| /)[2] !~ m{\[t/} } @parties), '', 'and what shows that it holds');

my $pg = PspTest::Postgres->start;
$pg->install_schema;
is(join(' ', map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], q{SELECT p.oid::regprocedure FROM pg_proc p
    WHERE p.pronamespace = 'pubsubpull'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL}) }), '', 'every SQL function has a comment');
is(join(' ', map { $_->[0] } @{ $pg->rows([user => 'pubsubpull'], q{SELECT c.oid::regclass FROM pg_class c
    WHERE c.relnamespace = 'pubsubpull'::regnamespace AND c.relkind = 'r' AND obj_description(c.oid, 'pg_class') IS NULL}) }), '', 'and every table');
finish;
