# SPDX-License-Identifier: Apache-2.0
# upgrade.t: the schema of an earlier version, with subscriptions in flight, is upgraded under load. Servers with the earlier module
# and servers with this one say what is wrong as long as the schema is not theirs, proxy on, and in the end nothing is lost.
use PspTest;
use PspTest::Soak;

# An earlier version of this project, as it was: t/upgrade/README
my $dir = tmp_dir();
my $build = spew("$dir/build.log", '');
system("tar -xJf '${\ repo('t/upgrade/version-2.tar.xz')}' -C '$dir' && make -s -C '$dir/version-2' all >'$build' 2>&1") == 0 or die slurp($build);
chmod 0755, $dir;

my $seed = $ENV{SOAK_SEED} // int rand 1_000_000;
diag("SOAK_SEED=$seed");
my $soak = PspTest::Soak->start(seconds => 30, seed => $seed, schema => "$dir/version-2/sql/install.sql",
    module => "$dir/version-2/build/mod_pubsubpull.so", config => "PubSubPullSpool $dir/spool-{n} 64M\n");
my ($pg, @servers) = ($soak->{pg}, @{ $soak->{servers} });
my $earlier = $pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.schema_version()');
sub said { my ($server, $pattern, $what) = @_; return ok(eval { $server->wait_for_log($pattern, 30) }, $what) }
sub serves { my ($server, $what) = @_; return ok(eval { wait_until { $server->put('/service/tx', {}, user => 'alice')->status == 200 } 10 }, $what) }
sub parked { return $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.delivery') }

# The earlier version at work
wait_until { parked() > 20 } 30, 'deliveries that failed and wait';
$soak->subscribe('beginning', delete $soak->{later}{beginning});
$soak->measure;
cmp_ok(parked(), '>', 0, "version $earlier has deliveries that wait for their next try");

# A server with this module comes too early
my $new = PspTest::Httpd->start(pg => $pg, database => $servers[0]{database}, config => $servers[0]{config} =~ s/spool-1/spool-3/r);
$new->expect_log(qr/./);
said($new, qr/PSP0415.*version $earlier.*install\.sql/, 'this module tells what the earlier schema needs');
is($new->get('/pubsubpull/tables/', user => 'alice')->status, 503, 'and serves nothing of it');
serves($new, 'and proxies');

# The upgrade, under load, with roles of its own for httpd from now on
my $fault = { name => 'database upgraded', from => time };
push @{ $soak->{faults} }, $fault;
$pg->roles;
$pg->install_schema;
my $took = time - $fault->{from};
note(sprintf 'installing took %.1f s', $took);
cmp_ok($pg->sql([user => 'pubsubpull'], 'SELECT pubsubpull.schema_version()'), '>', $earlier, 'the schema is upgraded under load');
wait_until { $new->get('/pubsubpull/tables/', user => 'alice')->status == 200 } 30, 'this module to serve';
said($_, qr/PSP0415.*needs $earlier/, 'the earlier module tells that the schema is not its own') for @servers;
serves($_, 'and proxies') for @servers;

# The servers get this module, one after the other
for my $server (@servers) {
    $server->{module} = 1;
    $server->{database} = $pg->conninfo(user => 'pubsubpull_httpd', socket => 1);
    $server->write_config;
    $server->restart;
    is($server->get('/pubsubpull/tables/', user => 'alice')->status, 200, 'a server with this module');
}
$new->stop;
$pg->admin->sql('ALTER ROLE pubsubpull NOLOGIN');
$fault->{to} = time;
push @{ $soak->{faults} }, { name => 'server_restarted', from => $fault->{to}, to => $fault->{to} };
$soak->subscribe('restarted', delete $soak->{later}{restarted});
my $logged = $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.change');
wait_until { $pg->sql([user => 'pubsubpull'], 'SELECT count(*) FROM pubsubpull.change') > $logged + 100 } 30, 'more changes';
$soak->settle;
$soak->account;
finish;
