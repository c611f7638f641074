# SPDX-License-Identifier: Apache-2.0
# adapter_davical.t: DAViCal, the calendar server of Debian's package, unchanged, is attributed by configuration alone.
use PspTest;

my $pg = PspTest::Postgres->start;
my $log = tmp_dir() . '/create.log';
my %env = ($pg->env, PGHOST => $pg->{socket}, PGUSER => 'postgres', PGDATABASE => 'postgres');
my $pid = spawn(cmd => ['/usr/share/davical/dba/create-database.sh', 'davical', 'admin'], env => \%env, log => $log, cwd => '/');
waitpid $pid, 0;
is($?, 0, "DAViCal's own script makes its database") or diag slurp($log);
$pg->roles(db => 'davical');
my @davical = ([user => 'davical_dba', db => 'davical']);    # owns its tables
$pg->sql(@davical, $_) for 'GRANT TRIGGER ON caldav_data, collection TO pubsubpull', 'GRANT SELECT ON caldav_data, collection TO pubsubpull_httpd';
$pg->install_schema(db => 'davical');

# A pool of php-fpm as the READMEs of conf/backends/php and DAViCal have it; only the database is elsewhere.
my $fpm = PspTest::Service->php_fpm(join "\n", 'php_admin_flag[pgsql.allow_persistent] = off',
    'php_admin_value[auto_prepend_file] = ' . repo('conf/backends/php/pubsubpull.php'), "env[PGHOST] = $env{PGHOST}", "env[PGPORT] = $env{PGPORT}");
my $httpd = PspTest::Httpd->start(pg => $pg, database => $pg->conninfo(user => 'pubsubpull_httpd', db => 'davical', socket => 1), config => <<"END");
Alias /davical /usr/share/davical/htdocs
<Directory /usr/share/davical/htdocs>
    Require all granted
    CGIPassAuth On
    <FilesMatch "\\.php\$">
        SetHandler "proxy:fcgi://127.0.0.1:@{[$fpm->port]}"
    </FilesMatch>
</Directory>
<Location /davical>
    PubSubPull On
    Require valid-user
</Location>
END
for my $table (qw(caldav_data collection)) {
    is($httpd->put("/pubsubpull/tables/public.$table", {}, user => 'admin')->status, 201, "$table is published");
}

for my $user (qw(alice bob)) {
    $pg->rows(@davical, q{INSERT INTO usr (username, password, fullname, email) VALUES ($1, '**' || $1, $1, $1 || '@example.org')}, $user);
    $pg->rows(@davical, q{INSERT INTO principal (type_id, user_no, displayname) SELECT 1, user_no, username FROM usr WHERE username = $1}, $user);
    my $made = $httpd->request('MKCALENDAR', "/davical/caldav.php/$user/work/", user => $user);
    is($made->status, 201, "$user makes a calendar") or diag $made->body;
}

my %requests;    # name of the event => [request, user]
for my $n (1 .. 20) {
    my $user = $n % 2 ? 'alice' : 'bob';
    my $event = join "\r\n", 'BEGIN:VCALENDAR', 'VERSION:2.0', 'PRODID:test', 'BEGIN:VEVENT', "UID:event-$n", 'DTSTAMP:20261123T120000Z',
        'DTSTART:20261124T120000Z', 'DTEND:20261124T130000Z', "SUMMARY:Meeting $n", 'END:VEVENT', 'END:VCALENDAR', '';
    my $answer = $httpd->request('PUT', "/davical/caldav.php/$user/work/event-$n.ics", user => $user, body => $event,
        headers => ['Content-Type' => 'text/calendar', 'PubSubPull-Request' => '{"id":"01a20a04-dead-7000-8000-0123456789ab"}']);
    is($answer->status, 201, "$user writes an event") or diag $answer->body;
    $requests{"/$user/work/event-$n.ics"} = [$answer->header('X-Request-Id'), $user, 'PUT', 'setting'];
}
my $changes = $pg->rows([user => 'pubsubpull', db => 'davical'],
    q{SELECT c.new->>'dav_name', c.request, r."user", r.method, c.channel FROM pubsubpull.change c LEFT JOIN pubsubpull.request r ON r.id = c.request
      WHERE c.type = 'I' AND c.new->>'caldav_data' IS NOT NULL});
is_deeply({ map { shift @$_, $_ } @$changes }, \%requests, 'each event in the log has the request and the user who wrote it');
is_deeply($pg->rows([user => 'pubsubpull', db => 'davical'],
        q{SELECT DISTINCT r.method, r."user" FROM pubsubpull.change c JOIN pubsubpull.request r ON r.id = c.request
          WHERE c.new->>'dav_name' LIKE '/%/work/' AND c.type = 'I' ORDER BY 2}),
    [['MKCALENDAR', 'alice'], ['MKCALENDAR', 'bob']], 'and so have the calendars');
is($pg->sql([user => 'pubsubpull', db => 'davical'], 'SELECT count(*) FROM pubsubpull.change WHERE request IS NULL'), 0, 'no change is without a request');
finish;
