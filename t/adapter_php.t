# SPDX-License-Identifier: Apache-2.0
# adapter_php.t: PHP under php-fpm, over fcgi, is attributed by configuration alone, also where it keeps connections.
use PspTest;
use PspTest::Channel;

my $pg = PspTest::Postgres->start;
$pg->install_schema;
my $prepend = 'php_admin_value[auto_prepend_file] = ' . repo('conf/backends/php/pubsubpull.php') . "\n";
my $fpm = PspTest::Service->php_fpm($prepend . "php_admin_flag[pgsql.allow_persistent] = off\n");
my $once = PspTest::Service->php_fpm($prepend . "pm.max_requests = 1\n");

my %env = $pg->env;
my %kinds = (
    pdo => [$fpm, 'items_pdo.php', ''],
    pconnect => [$fpm, 'items_pg.php', ''],
    persistent => [$once, 'items_pdo.php', 'SetEnv ITEMS_PERSISTENT 1'],
);
my $config = join '', map { "SetEnv $_ $env{$_}\n" } sort keys %env;
for my $kind (sort keys %kinds) {
    my ($service, $program, $more) = @{ $kinds{$kind} };
    my $proxy = 'ProxyPass fcgi://127.0.0.1:' . $service->port . repo("t/services/$program/") . "\n$more";
    $config .= <<"END";
<Location /$kind/>
    PubSubPull On
    Require valid-user
    $proxy
</Location>
<Location /bare/$kind/>
    $proxy
</Location>
END
}
my $psp = PspTest->up(pg => $pg, config => $config);
PspTest::Channel::table($psp);
for my $kind (sort keys %kinds) {
    subtest $kind => sub {
        PspTest::Channel::check($psp, path => "/$kind", direct => $psp->httpd->url("/bare/$kind"), seconds => 2,
            $kind eq 'pconnect' ? (only => ['items']) : ());
    };
}
finish;
