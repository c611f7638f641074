# SPDX-License-Identifier: Apache-2.0
# adapter_pgbouncer.t: services behind pgbouncer in transaction mode, which lends few sessions to all of them: with the setting
# local to the transaction (SQLAlchemy), and with application_name (PHP, CGI).
use PspTest;
use PspTest::Channels;

my $channels = PspTest::Channels->up([qw(pgbouncer_flask pgbouncer_php pgbouncer_cgi)]);
$channels->check(seconds => 2);
cmp_ok($channels->pg->sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'service' AND client_port <> -1 AND pid <> pg_backend_pid()}), '<=', 2,
    'all of them shared two sessions');
finish;
