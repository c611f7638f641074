# SPDX-License-Identifier: Apache-2.0
# Postgres.pm: a private PostgreSQL cluster on loopback and a unix socket, gone when the test ends.
package PspTest::Postgres;
use strict;
use warnings;
use DBI;
use PspTest::Util qw(at_exit tmp_dir spawn stop_child alive signal_group wait_until free_port repo slurp spew);

# start(fsync => 1, config => "more lines", dir => where, socket => dir, log => file, port => n)
# Database `app`. Roles are those of a hosted server and of sql/roles.sql, and all may connect without a password:
#   service           owns the database and what it makes there: the services
#   pubsubpull_httpd  the module's role: httpd, and nobody else
#   pubsubpull        owns the module's schema; nobody connects as it, `user => 'pubsubpull'` is the administrator in that role
#   administrator     has CREATEROLE and CREATE on the database: runs sql/roles.sql and sql/install.sql
#   postgres          superuser: only through ->admin, for what the administrator of a server does
sub start {
    my ($class, %o) = @_;
    my $tmp = $o{socket} // tmp_dir();
    my $self = bless {
        %o,
        dir    => $o{dir} // "$tmp/pg",
        socket => $o{socket} // "$tmp/s",
        port   => $o{port} // free_port(),
        bin    => bin_dir(),
        user   => $> == 0 ? 'postgres' : undef,    # the server refuses to run as root
        owner  => $$,
    }, $class;
    for my $dir ($self->{dir}, $self->{socket}) {
        -d $dir or mkdir $dir, 0700 or die "$dir: $!";
        if (defined $self->{user}) {
            my (undef, undef, $uid, $gid) = getpwnam $self->{user} or die "no user $self->{user}";
            chown $uid, $gid, $dir or die "$dir: $!";
        }
        chmod $dir eq $self->{socket} ? 0755 : 0700, $dir or die "$dir: $!";
    }
    $self->initdb;
    at_exit(sub { $self->stop('immediate') if $self->{owner} == $$ });
    $self->launch;
    my $admin = $self->admin(db => 'postgres');
    $admin->sql($_) for 'CREATE ROLE service LOGIN', 'CREATE ROLE administrator LOGIN CREATEROLE', 'CREATE DATABASE app OWNER service';
    $self->roles;
    return $self;
}

sub bin_dir {
    my ($dir) = sort { ($b =~ /(\d+)/)[0] <=> ($a =~ /(\d+)/)[0] } glob '/usr/lib/postgresql/*/bin';
    return $dir // die 'PostgreSQL is not installed: make deps-test';
}

sub initdb {
    my ($self) = @_;
    my $log = "$self->{socket}/initdb.log";
    my $pid = spawn(
        cmd => ["$self->{bin}/initdb", '-D', $self->{dir}, '-U', 'postgres', '-A', 'trust',
            '-E', 'UTF8', '--locale=C.UTF-8', '--no-sync', '--no-instructions'],
        user => $self->{user}, log => $log, cwd => '/');
    waitpid $pid, 0;
    die "initdb failed:\n" . slurp($log) if $?;

    my $fsync = $self->{fsync} ? 'on' : 'off';
    my $conf = slurp("$self->{dir}/postgresql.conf") . <<"END" . ($self->{config} // '');

listen_addresses = '127.0.0.1'
port = $self->{port}
unix_socket_directories = '$self->{socket}'
max_connections = 300
shared_buffers = 64MB
max_wal_size = 2GB
fsync = $fsync
full_page_writes = $fsync
synchronous_commit = $fsync
wal_level = minimal
max_wal_senders = 0
max_prepared_transactions = 10
jit = off
log_line_prefix = '%m [%p] %q%u@%d %a '
log_min_duration_statement = -1
END
    spew("$self->{dir}/postgresql.conf", $conf);
    return;
}

# A hot standby of this server, which is restarted for it.
sub standby {
    my ($self) = @_;
    $self->admin(db => 'postgres')->sql("ALTER SYSTEM SET $_")
        for 'wal_level = replica', 'max_wal_senders = 4', 'hot_standby_feedback = on', 'wal_keep_size = 64';
    $self->{dbh} = {};
    $self->restart;
    my $tmp = tmp_dir();
    my $standby = bless { dir => "$tmp/pg", socket => "$tmp/s", port => free_port(), bin => $self->{bin}, user => $self->{user}, owner => $$ }, ref $self;
    mkdir $_ or die "$_: $!" for $standby->{dir}, $standby->{socket};
    if (defined $self->{user}) {
        my (undef, undef, $uid, $gid) = getpwnam $self->{user};
        chown $uid, $gid, @{$standby}{qw(dir socket)};
    }
    my $pid = spawn(cmd => ["$self->{bin}/pg_basebackup", '-R', '-c', 'fast', '-h', $self->{socket}, '-p', $self->{port}, '-U', 'postgres', '-D', $standby->{dir}],
        user => $self->{user}, log => "$standby->{socket}/basebackup.log", cwd => '/');
    waitpid $pid, 0;
    die 'pg_basebackup failed: ' . slurp("$standby->{socket}/basebackup.log") if $?;
    chmod 0700, $standby->{dir};
    spew("$standby->{dir}/postgresql.conf", slurp("$standby->{dir}/postgresql.conf") . "port = $standby->{port}\nunix_socket_directories = '$standby->{socket}'\n");
    at_exit(sub { $standby->stop('immediate') if $standby->{owner} == $$ });
    $standby->launch;
    return $standby;
}

# Wait until a standby has all that this server has committed.
sub wait_for_standby {
    my ($self, $standby) = @_;
    my $lsn = $self->admin->sql('SELECT pg_current_wal_insert_lsn()');
    wait_until { $standby->admin->sql('SELECT pg_last_wal_replay_lsn() >= $1', $lsn) } 20, 'the standby';
    return;
}

sub launch {
    my ($self) = @_;
    $self->{pid} = spawn(
        cmd => ["$self->{bin}/postgres", '-D', $self->{dir}],
        user => $self->{user}, death => 'QUIT', log => $self->log_file, cwd => '/');
    wait_until {
        die "PostgreSQL did not start:\n" . slurp($self->log_file) if !alive($self->{pid});
        DBI->connect($self->dsn('postgres'), 'postgres', '',
            { RaiseError => 0, PrintError => 0, AutoInactiveDestroy => 1 });
    } 30, 'PostgreSQL to accept connections';
    return;
}

sub log_file { return $_[0]{log} // "$_[0]{socket}/postgresql.log" }
sub log      { return slurp($_[0]->log_file) }
sub port     { return $_[0]{port} }
sub pid      { return $_[0]{pid} }

# stop('fast' | 'immediate' | 'smart')
sub stop {
    my ($self, $how) = @_;
    my %signal = (fast => 'INT', immediate => 'QUIT', smart => 'TERM');
    my $pid = delete $self->{pid} or return;
    stop_child($pid, $signal{ $how // 'fast' }, 20);
    return;
}

sub restart {
    my ($self, $how) = @_;
    $self->stop($how);
    $self->launch;
    return;
}

# STOP or CONT for the whole server: a database that hangs.
sub signal {
    my ($self, $signal) = @_;
    for my $pid ($self->{pid}, split ' ', `pgrep -P $self->{pid}`) { kill $signal, $pid }
    return;
}

# Through TCP by default, since services usually connect so; the socket with socket => 1.
sub conninfo {
    my ($self, %o) = @_;
    my $host = $o{socket} ? $self->{socket} : '127.0.0.1';
    return sprintf 'host=%s port=%d dbname=%s user=%s', $host, $self->{port}, $o{db} // 'app', $o{user} // 'service';
}

sub dsn {
    my ($self, $db) = @_;
    return sprintf 'dbi:Pg:host=%s;port=%d;dbname=%s', $self->{socket}, $self->{port}, $db // 'app';
}

# What a child process needs in its environment to connect with any libpq program.
sub env {
    my ($self, %o) = @_;
    return (PGHOST => '127.0.0.1', PGPORT => $self->{port}, PGDATABASE => $o{db} // 'app',
        PGUSER => $o{user} // 'service');
}

# A new connection: dbh(user => 'service', db => 'app', attributes of DBI …)
sub dbh {
    my ($self, %o) = @_;
    my $user = delete $o{user} // 'service';
    my $db   = delete $o{db};
    my $dsn  = $self->dsn($db);
    not_super($user, delete $o{admin});
    ($user, $dsn) = ('administrator', "$dsn;options=-crole=pubsubpull") if $user eq 'pubsubpull';
    return DBI->connect($dsn, $user, '',
        { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1, AutoInactiveDestroy => 1, %o });
}

sub not_super {
    my ($user, $admin) = @_;
    die "no test runs as superuser; what an administrator of the server does goes through \$pg->admin\n" if $user eq 'postgres' && !$admin;
    return;
}

# What only the superuser can do: admin->sql(…), admin(db => 'postgres')->rows(…), admin->dbh, admin->psql([…])
sub admin {
    my ($self, %o) = @_;
    return PspTest::Postgres::Admin->new($self, %o);
}

# sql($statement, @values): first column of the first row. sql([user => …, db => …], $statement, @values): as somebody else.
sub sql {
    my ($self, @args) = @_;
    return $self->rows(@args)->[0][0];
}

# The same: all rows, a list of lists. A statement without rows gives an empty list.
sub rows {
    my ($self, @args) = @_;
    my %as = ref $args[0] eq 'ARRAY' ? @{ shift @args } : ();
    my ($statement, @values) = @args;
    my $key = join '/', $$, $as{user} // 'service', $as{db} // 'app';
    my $dbh = $self->{dbh}{$key};
    $dbh = $self->{dbh}{$key} = $self->dbh(%as) if !$dbh || !$dbh->ping;
    my $query = $dbh->prepare($statement, { pg_direct => @values ? 0 : 1 });
    $query->execute(@values);
    return $query->{NUM_OF_FIELDS} ? $query->fetchall_arrayref : [];
}

# psql(['-c', …], user => …, db => …): output of the real program; dies when it fails.
sub psql {
    my ($self, $args, %o) = @_;
    my $out = "$self->{socket}/psql.out";
    unlink $out;
    not_super($o{user} // 'service', $o{admin});
    my %as = ($o{user} // '') eq 'pubsubpull' ? (PGUSER => 'administrator', PGOPTIONS => '-c role=pubsubpull') : ();
    my $pid = spawn(
        cmd => ["$self->{bin}/psql", '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', @$args],
        env => { $self->env(%o), PGHOST => $self->{socket}, %as, %{ $o{env} // {} } }, log => $out);
    waitpid $pid, 0;
    my $status = $?;
    my $text = slurp($out);
    die "psql @$args:\n$text" if $status;
    return $text;
}

# The roles and the empty schema, as the README says. The server's superuser lets the administrator make schemas.
sub roles {
    my ($self, %o) = @_;
    my $db = $o{db} // 'app';
    $self->admin(db => $db)->sql("GRANT CREATE ON DATABASE $db TO administrator");
    return $self->psql(['-f', repo('sql/roles.sql')], user => 'administrator', %o);
}

sub install_schema {
    my ($self, %o) = @_;
    return $self->psql(['-f', repo('sql/install.sql')], user => 'administrator', %o);
}

# As it was before there was roles.sql: one role owns the schema, and httpd connects as it.
sub install_earlier {
    my ($self, $file) = @_;
    $self->admin->sql('ALTER ROLE pubsubpull LOGIN; GRANT CREATE ON DATABASE app TO pubsubpull');
    return $self->psql(['-f', $file], user => 'pubsubpull');
}

# What an owner does before a table, or a view, can be published.
sub publishable {
    my ($self, @tables) = @_;
    $self->sql("GRANT TRIGGER ON $_ TO pubsubpull; GRANT SELECT ON $_ TO pubsubpull_httpd") for @tables;
    return;
}

# Statements of a role's or application's sessions end in an error: kill_backend("application_name ~ 'notifier'")
sub kill_backend {
    my ($self, $where) = @_;
    return scalar @{ $self->admin(db => 'postgres')->rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND ($where)") };
}

package PspTest::Postgres::Admin;
use strict;
use warnings;

sub new {
    my ($class, $pg, %o) = @_;
    return bless { pg => $pg, as => [user => 'postgres', admin => 1, %o] }, $class;
}

sub sql  { my ($self, @statement) = @_; return $self->{pg}->sql($self->{as}, @statement) }
sub rows { my ($self, @statement) = @_; return $self->{pg}->rows($self->{as}, @statement) }
sub dbh  { my ($self, %o) = @_; return $self->{pg}->dbh(@{ $self->{as} }, %o) }
sub psql { my ($self, $args, %o) = @_; return $self->{pg}->psql($args, @{ $self->{as} }, %o) }

1;
