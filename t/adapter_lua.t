# SPDX-License-Identifier: Apache-2.0
# adapter_lua.t: handlers inside httpd (mod_lua) whose connections are mod_dbd's need no change.
use PspTest;
use PspTest::Channel;

for my $mpm (qw(event prefork)) {
    my $pg = PspTest::Postgres->start;
    $pg->install_schema;
    my $program = repo('t/services/items.lua');
    my $psp = PspTest->up(pg => $pg, mpm => $mpm, config => <<"END");
DBDriver pgsql
DBDParams "@{[$pg->conninfo]}"
DBDMin 2
DBDKeep 2
DBDMax 2
LuaMapHandler "^/(lua|bare)/" "$program" handle
<Location /lua/>
    PubSubPull On
    Require valid-user
</Location>
END
    PspTest::Channel::table($psp);
    subtest $mpm => sub { PspTest::Channel::check($psp, path => '/lua', direct => $psp->httpd->url('/bare'), seconds => 2, stateless => 1) };
    $psp->httpd->stop;
    $pg->stop;
}
finish;
