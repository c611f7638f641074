# SPDX-License-Identifier: Apache-2.0
# Channels.pm: services of every kind behind httpd, each as its users would set it up; what is asked of them is in Channel.pm.
#
#   my $channels = PspTest::Channels->up(['flask', 'lua'], mpm => 'event');    # all of names() if none are named
#   $channels->check;                                                          # each by PspTest::Channel::check
#   $channels->psp, ->pg, ->all (what check is given)
package PspTest::Channels;
use strict;
use warnings;
use Test::More;
use PspTest ();
use PspTest::Channel;
use PspTest::Util qw(free_port repo slurp tmp_dir);

# What stands before a service: location('/path/', 'directives', …)
sub location {
    my ($path, @lines) = @_;
    return join "\n", "<Location $path>", map({ "    $_" } 'PubSubPull On', 'Require valid-user', @lines), '</Location>', '';
}

sub environment { my (%env) = @_; return map { "SetEnv $_ $env{$_}" } sort keys %env }

# A service that is behind httpd at /name/ and can be asked past it.
sub proxied {
    my ($name, $service, @more) = @_;
    return (path => "/$name", direct => $service->url, config => location("/$name/", 'ProxyPass ' . $service->url('/') . ' ttl=2', @more));    # some close idle connections after 5 s
}

# A program of php-fpm; /bare/name/ is the same without us.
sub fpm {
    my ($name, $service, $program, @more) = @_;
    my @lines = ('ProxyPass fcgi://127.0.0.1:' . $service->port . repo("t/services/$program/"), @more);
    return (path => "/$name", bare => "/bare/$name", config => location("/$name/", @lines) . join "\n", "<Location /bare/$name/>", @lines, '</Location>', '');
}

sub cgi {
    my ($name, $text, $pg_env, %o) = @_;
    return (path => "/cgi-bin/$name", cgi => { $name => $text }, config => location("/cgi-bin/$name", environment(%$pg_env)), %o);
}

sub program { my ($name) = @_; return slurp(repo("t/services/$name")) }

# Services that several channels share are started once.
sub shared {
    my ($self, $name, $start) = @_;
    return $self->{shared}{$name} //= $start->();
}

sub flask {
    my ($self, %env) = @_;
    return PspTest::Service->wsgi('flask_items:app', env => { $self->pg->env, %env }, workers => 1, threads => 8,
        path => [repo('t/services'), repo('conf/backends/sqlalchemy')]);
}

sub prepend { my ($file) = @_; return 'php_admin_value[auto_prepend_file] = ' . repo("conf/backends/php/$file") . "\n" }

sub kept_fpm {
    my ($self) = @_;
    return $self->shared('php', sub { PspTest::Service->php_fpm(prepend('pubsubpull.php') . "php_admin_flag[pgsql.allow_persistent] = off\n") });
}

# One uWSGI speaks three protocols.
sub uwsgi {
    my ($self) = @_;
    return $self->shared('uwsgi', sub {
        my %port = map { $_ => free_port() } qw(uwsgi scgi);
        my %env = ($self->pg->env, PYTHONDONTWRITEBYTECODE => 1, PYTHONPATH => join ':', repo('t/services'), repo('conf/backends/sqlalchemy'));
        my $service = PspTest::Service->start(env => \%env, cwd => '/',
            cmd => [qw(uwsgi --plugin python3 --module flask_items:app --master --lazy-apps --processes 1 --threads 16 --die-on-term),
                '--http-socket' => '127.0.0.1:{port}', '--socket' => "127.0.0.1:$port{uwsgi}", '--scgi-socket' => "127.0.0.1:$port{scgi}"]);
        return { service => $service, port => \%port };
    });
}

sub by_type {
    my ($type, $port, %o) = @_;
    return (path => "/$type", config => location("/$type/", "ProxyPass $type://127.0.0.1:$port/"), %o);
}

sub pgbouncer {
    my ($self) = @_;
    return $self->shared('pgbouncer', sub { PspTest::Service->pgbouncer($self->pg, 2) });
}

my %make = (
    psql => sub { my ($self) = @_; return cgi('psql', program('items-psql.cgi'), { $self->pg->env }) },
    dbd  => sub { my ($self) = @_; return cgi('dbd', program('items-dbd.cgi'), { $self->pg->env }) },
    pdo        => sub { my ($self) = @_; return fpm('pdo', $self->kept_fpm, 'items_pdo.php', environment($self->pg->env)) },
    pconnect   => sub { my ($self) = @_; return (fpm('pconnect', $self->kept_fpm, 'items_pg.php', environment($self->pg->env)), only => ['items']) },
    persistent => sub {
        my ($self) = @_;
        my $once = PspTest::Service->php_fpm(prepend('pubsubpull.php') . "pm.max_requests = 1\n");
        return fpm('persistent', $once, 'items_pdo.php', environment($self->pg->env, ITEMS_PERSISTENT => 1));
    },
    lua => sub {
        my ($self) = @_;
        my $handler = repo('t/services/items.lua');
        return (path => '/lua', bare => '/bare', stateless => 1, config => <<"END" . location('/lua/') . "<Location /lua/items/kept>\nLuaScope thread\n</Location>\n");
DBDriver pgsql
DBDParams "@{[$self->pg->conninfo]}"
DBDMin 2
DBDKeep 2
DBDMax 2
LuaMapHandler "^/(lua|bare)/items" "$handler" handle
END
    },
    flask   => sub { my ($self) = @_; return proxied('flask', $self->flask) },
    django  => sub {
        my ($self) = @_;
        return proxied('django', PspTest::Service->wsgi('django_items', env => { $self->pg->env }, workers => 2, threads => 8,
                path => [repo('t/services'), repo('conf/backends/django')]));
    },
    mod_wsgi => sub {
        my ($self) = @_;
        my $path = join ':', repo('t/services'), repo('conf/backends/django');
        return (path => '/wsgi', load => ['wsgi'], env => { $self->pg->env, PYTHONDONTWRITEBYTECODE => 1 }, config => <<"END" . location('/wsgi/'));
WSGIDaemonProcess items processes=2 threads=8 python-path=$path
WSGISocketPrefix @{[tmp_dir()]}/wsgi
WSGIScriptAlias /wsgi @{[repo('t/services/django_items.py')]} process-group=items application-group=%{GLOBAL}
<Directory @{[repo('t/services')]}>
    <Files django_items.py>
        Require all granted
    </Files>
</Directory>
END
    },
    fastapi => sub {
        my ($self) = @_;
        return proxied('fastapi', PspTest::Service->start(
            cmd => ['/usr/bin/python3', '-m', 'uvicorn', '--port', '{port}', '--no-access-log', 'fastapi_items:app'],
            env => { $self->pg->env, PYTHONDONTWRITEBYTECODE => 1, PYTHONPATH => join ':', repo('t/services'), repo('conf/backends/asyncpg') }));
    },
    express => sub {
        my ($self) = @_;
        return proxied('express', PspTest::Service->node(repo('t/services/node/items.js'),
                env => { $self->pg->env, ITEMS_ADAPTER => repo('conf/backends/express/pubsubpull.js') }));
    },
    otel => sub {
        my ($self) = @_;
        my $service = PspTest::Service->node(repo('t/services/node/items.js'), require => [repo('conf/backends/otel/tracing.js')], env => { $self->pg->env });
        return (proxied('otel', $service, 'PubSubPullRecord all'), channel => 'comment');
    },
    rack => sub {
        my ($self) = @_;
        return proxied('rack', PspTest::Service->start(
            cmd => ['puma', '--bind', 'tcp://127.0.0.1:{port}', '--threads', '8:8', '--environment', 'production', repo('t/services/items.ru')],
            cwd => tmp_dir(), env => { $self->pg->env, RUBYLIB => repo('conf/backends/rack') }));
    },
    uwsgi => sub { my ($self) = @_; return by_type('uwsgi', $self->uwsgi->{port}{uwsgi}, direct => $self->uwsgi->{service}->url) },
    scgi  => sub {
        my ($self) = @_;
        my %channel = by_type('scgi', $self->uwsgi->{port}{scgi}, direct => $self->uwsgi->{service}->url);
        return (%channel, config => "SetEnvIf Request_URI ^/scgi/ proxy-scgi-pathinfo\n$channel{config}");
    },
    ajp => sub {
        my ($self) = @_;
        my %env = ($self->pg->env, PYTHONDONTWRITEBYTECODE => 1, PYTHONPATH => join ':', repo('t/services'), repo('conf/backends/sqlalchemy'));
        return by_type('ajp', PspTest::Service->start(cmd => ['/usr/bin/python3', repo('t/services/ajp.py'), '{port}', 'flask_items:app'], env => \%env)->port);
    },
    h2c => sub {
        my ($self) = @_;
        my $service = PspTest::Service->node(repo('t/services/node/h2c.js'), env => { $self->pg->env, ITEMS_ADAPTER => repo('conf/backends/express/pubsubpull.js') });
        return by_type('h2c', $service->port, only => ['items'], load => [qw(http2 proxy_http2)]);
    },
    pgbouncer_flask => sub { my ($self) = @_; return proxied('pgbouncer_flask', $self->flask(PGPORT => $self->pgbouncer->port, ITEMS_TRANSACTIONS => 1)) },
    pgbouncer_php   => sub {
        my ($self) = @_;
        my $service = PspTest::Service->php_fpm(prepend('pubsubpull_pgbouncer.php'));
        return (fpm('pgbouncer_php', $service, 'items_pdo.php', 'PubSubPullRecord all', environment($self->pg->env, PGPORT => $self->pgbouncer->port, ITEMS_EMULATE => 1)),
            channel => 'application_name');
    },
    pgbouncer_cgi => sub {
        my ($self) = @_;
        my $text = program('items-psql.cgi') =~ s/^name=/export PGAPPNAME="psp:\$PUBSUBPULL_REQUEST_ID"\nname=/mr;
        my %channel = cgi('pgbouncer', $text, { $self->pg->env, PGPORT => $self->pgbouncer->port }, channel => 'application_name');
        return (%channel, config => $channel{config} =~ s/PubSubPull On/PubSubPull On\nPubSubPullRecord all/r);
    },
);

sub names { return sort keys %make }

# up([names], options of PspTest->up; pg => one that runs already)
sub up {
    my ($class, $names, %o) = @_;
    my $table = !$o{pg};
    my $self = bless { pg => $o{pg} }, $class;
    if ($table) {
        $self->{pg} = PspTest::Postgres->start;
        $self->{pg}->install_schema;
    }
    my %made = map { $_ => { $make{$_}->($self) } } @{ $names // [names()] };
    $self->{all} = [map { { name => $_, %{ $made{$_} } } } sort keys %made];
    $self->{psp} = PspTest->up(%o, pg => $self->{pg}, load => [map { @{ $_->{load} // [] } } @{ $self->{all} }],
        env => { map { %{ $_->{env} // {} } } @{ $self->{all} } }, config => join '', $o{config} // '', map { $_->{config} } @{ $self->{all} });
    for my $channel (@{ $self->{all} }) {
        $self->{psp}->httpd->cgi(%{ $channel->{cgi} }) if $channel->{cgi};
        $channel->{direct} //= $self->{psp}->httpd->url($channel->{bare}) if $channel->{bare};
    }
    PspTest::Channel::table($self->{psp}) if $table;
    return $self;
}

sub psp { return $_[0]{psp} }
sub pg  { return $_[0]{pg} }
sub all { return @{ $_[0]{all} } }

sub check {
    my ($self, %o) = @_;
    for my $channel ($self->all) {
        subtest $channel->{name} => sub { PspTest::Channel::check($self->psp, %$channel, %o) };
    }
    return;
}

1;
