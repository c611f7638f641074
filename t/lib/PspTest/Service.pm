# SPDX-License-Identifier: Apache-2.0
# Service.pm: any program that listens on a port, for the time of a test.
package PspTest::Service;
use strict;
use warnings;
use PspTest::Util qw(at_exit tmp_dir spawn stop_child alive wait_until free_port listening repo slurp spew);

# start(cmd => ['program', '--port', '{port}'], env => {}, cwd => dir, log => file, port => n, user => name)
sub start {
    my ($class, %o) = @_;
    my $self = bless { port => free_port(), %o, owner => $$ }, $class;
    $self->{log} //= tmp_dir() . '/service.log';
    at_exit(sub { $self->stop if $self->{owner} == $$ });
    $self->launch;
    return $self;
}

sub launch {
    my ($self) = @_;
    my @cmd = map { s/\{port\}/$self->{port}/gr } @{ $self->{cmd} };
    $self->{pid} = spawn(cmd => \@cmd, env => $self->{env}, cwd => $self->{cwd}, log => $self->{log}, death => 'TERM',
        user => $self->{user});
    wait_until {
        die "@cmd did not start:\n" . $self->log_text if !alive($self->{pid});
        listening($self->{port});
    } 20, "@cmd to listen";
    return;
}

sub stop {
    my ($self) = @_;
    stop_child(delete $self->{pid}, 'TERM', 5);
    return;
}

sub port     { return $_[0]{port} }
sub pid      { return $_[0]{pid} }
sub url      { return "http://127.0.0.1:$_[0]{port}" . ($_[1] // '') }
sub log_text { return slurp($_[0]{log}) }

# A WSGI application under gunicorn: wsgi('module:application', path => [directories], env => {}, threads => 16)
sub wsgi {
    my ($class, $application, %o) = @_;
    my %env = (%{ delete $o{env} // {} }, PYTHONDONTWRITEBYTECODE => 1, PYTHONPATH => join ':', @{ delete $o{path} });
    return $class->start(
        cmd => ['/usr/bin/python3', '-m', 'gunicorn', '--bind', '127.0.0.1:{port}', '--workers', $o{workers} // 2,
            '--threads', $o{threads} // 8, '--keep-alive', 75, '--graceful-timeout', 1, $application],
        cwd => '/', env => \%env, %o);
}

# A program of Node.js: node('program.js', require => ['more.js'], env => {})
sub node {
    my ($class, $program, %o) = @_;
    my %env = (%{ delete $o{env} // {} }, NODE_PATH => repo('build/node/node_modules'));
    return $class->start(cmd => ['node', map({ ('--require', $_) } @{ delete $o{require} // [] }), $program, '{port}'],
        cwd => '/', env => \%env, %o);
}

# php-fpm with one pool: php_fpm('more lines of the pool', children => 4)
sub php_fpm {
    my ($class, $pool, %o) = @_;
    my ($program) = sort { $b cmp $a } glob '/usr/sbin/php-fpm*';
    my $dir = tmp_dir();
    my $port = free_port();
    my $children = delete $o{children} // 4;
    spew("$dir/fpm.conf", <<"END");
[global]
error_log = $dir/service.log
daemonize = no
[www]
listen = 127.0.0.1:$port
pm = static
pm.max_children = $children
catch_workers_output = yes
$pool
END
    return $class->start(cmd => [$program, '--nodaemonize', '--fpm-config', "$dir/fpm.conf", $> == 0 ? '--allow-to-run-as-root' : ()],
        cwd => '/', port => $port, log => "$dir/service.log", %o);
}

# pgbouncer in transaction mode before $pg, with so many sessions: pgbouncer($pg, 2)
sub pgbouncer {
    my ($class, $pg, $sessions) = @_;
    my ($dir, $port) = (tmp_dir(), free_port());
    my %env = $pg->env;
    spew("$dir/users", qq("$env{PGUSER}" ""\n));
    spew("$dir/pgbouncer.ini", <<"END");
[databases]
* = host=$env{PGHOST} port=$env{PGPORT}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/users
pool_mode = transaction
default_pool_size = $sessions
ignore_startup_parameters = extra_float_digits, options
server_reset_query = RESET application_name
server_reset_query_always = 1
END
    spew("$dir/service.log", '');
    chmod 0666, "$dir/service.log" or die "$dir: $!";
    return $class->start(cmd => ['/usr/sbin/pgbouncer', "$dir/pgbouncer.ini"], cwd => '/', port => $port,
        log => "$dir/service.log", $> == 0 ? (user => 'postgres') : ());    # it refuses to run as root
}

# The customers service of the demo on the tables of database app, its tables made:
# customers($pg, adapter => 0: without the adapter, …); table public.customers_customer, resource /customers/
sub customers {
    my ($class, $pg, %o) = @_;
    my %env = ($pg->env, %{ delete $o{env} // {} });
    $env{CUSTOMERS_ADAPTER} = '' if exists $o{adapter} && !delete $o{adapter};
    my @path = (repo('t/demo/customers'), repo('conf/backends/django'));
    my $log = $o{log} // tmp_dir() . '/customers.log';
    my $pid = spawn(
        cmd => ['/usr/bin/python3', '-B', repo('t/demo/customers/manage.py'), 'migrate', '--verbosity', 1],
        env => { %env, PYTHONPATH => join ':', @path }, log => $log, cwd => '/');
    waitpid $pid, 0;
    die 'manage.py migrate: ' . slurp($log) if $?;
    return $class->wsgi('project.wsgi', path => \@path, env => \%env, log => $log, %o);
}

1;
