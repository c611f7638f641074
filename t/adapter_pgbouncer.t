# SPDX-License-Identifier: Apache-2.0
# adapter_pgbouncer.t: services behind pgbouncer in transaction mode, which lends few sessions to all of them: with the setting
# local to the transaction (SQLAlchemy), and with application_name (PHP, CGI).
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $pool = PspTest::Service->pgbouncer($pg, 2);
my %env = ($pg->env, PGPORT => $pool->port);
my $flask = PspTest::Service->wsgi('flask_items:app', env => { %env, ITEMS_TRANSACTIONS => 1 },
    path => [repo('t/services'), repo('conf/backends/sqlalchemy')], workers => 1, threads => 8);
my $fpm = PspTest::Service->php_fpm('php_admin_value[auto_prepend_file] = ' . repo('conf/backends/php/pubsubpull_pgbouncer.php'));
my $php = 'ProxyPass fcgi://127.0.0.1:' . $fpm->port . repo('t/services/items_pdo.php/');

my $psp = PspTest->up(pg => $pg, config => join "\n", map({ "SetEnv $_ $env{$_}" } sort keys %env), <<"END");
PubSubPullRecord all
<LocationMatch "^/(flask|php|cgi-bin)/">
    PubSubPull On
    Require valid-user
</LocationMatch>
<Location /flask/>
    ProxyPass @{[$flask->url('/')]}
</Location>
<Location /php/>
    $php
    SetEnv ITEMS_EMULATE 1
</Location>
<Location /bare/>
    $php
    SetEnv ITEMS_EMULATE 1
</Location>
END
PspTest::Channel::table($psp);
my $cgi = $psp->httpd->cgi('items', slurp(repo('t/services/items-psql.cgi')) =~ s/^name=/export PGAPPNAME="psp:\$PUBSUBPULL_REQUEST_ID"\nname=/mr);

subtest 'SQLAlchemy' => sub { PspTest::Channel::check($psp, path => '/flask', direct => $flask->url, seconds => 2) };
subtest 'PHP' => sub {
    PspTest::Channel::check($psp, path => '/php', direct => $psp->httpd->url('/bare'), channel => 'application_name', seconds => 2);
};
subtest 'CGI' => sub { PspTest::Channel::check($psp, path => $cgi, channel => 'application_name', seconds => 2) };
cmp_ok($pg->sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'service' AND client_port <> -1 AND pid <> pg_backend_pid()}), '<=', 2,
    'all of them shared two sessions');
finish;
