# SPDX-License-Identifier: Apache-2.0
# Httpd.pm: a private httpd on loopback with the module, watched: what it logs and what it leaves behind counts.
package PspTest::Httpd;
use strict;
use warnings;
use Digest::SHA qw(sha1);
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);
use PspTest::Client qw(http);
use PspTest::Util qw(at_exit tmp_dir spawn stop_child alive signal_group wait_until free_port listening
    build_dir slurp spew);

my $modules = '/usr/lib/apache2/modules';
my @modules = qw(authn_core authn_file authz_core authz_host authz_user authz_groupfile auth_basic
    access_compat alias dir mime env headers setenvif rewrite include status filter actions
    slotmem_shm proxy proxy_http proxy_fcgi proxy_ajp proxy_scgi proxy_uwsgi lua dbd);
my @users = (qw(alice bob admin billing comms auditor), map { "user$_" } 6 .. 50);
my @instances;

# start(pg => $pg, config => "more lines", …). Options, all but pg rarely needed:
#   mpm => 'event' | 'prefork'; module => 0: without mod_pubsubpull, or the file of another one; log_level => 'notice pubsubpull:debug';
#   database => conninfo (default: pg's, role pubsubpull_httpd); dir, port; env => {}; load => ['more', 'modules'];
#   allow => 'cidr …' that callbacks may have, default 127.0.0.0/8; mounts => { '/etc/hosts' => file that stands for it };
#   files => limit of open files;
#   location => 0: no <Location /pubsubpull>, or directives to put into it instead of `Require valid-user`.
# Users (passwords are their names): alice bob admin billing comms auditor user6 … user50; `Require valid-user` works anywhere.
sub start {
    my ($class, %o) = @_;
    my $self = bless { mpm => 'event', module => 1, %o, owner => $$, expected => [] }, $class;
    $self->{dir}  //= tmp_dir();
    $self->{port} //= free_port();
    $self->{database} //= $self->{pg}->conninfo(user => 'pubsubpull_httpd', socket => 1) if $self->{pg};
    $self->{htdocs} = "$self->{dir}/htdocs";
    for my $dir ($self->{htdocs}, "$self->{dir}/cgi-bin") { -d $dir or mkdir $dir or die "$dir: $!" }
    spew("$self->{dir}/users", join '', map { "$_:{SHA}" . encode_base64(sha1($_)) } @users);
    $self->write_config;
    push @instances, $self;
    at_exit(sub { $self->stop if $self->{owner} == $$ });
    $self->launch if !$o{stopped};
    return $self;
}

sub write_config {
    my ($self) = @_;
    spew("$self->{dir}/httpd.conf", join "\n", $self->base_config, $self->module_config, $self->{config} // '', '');
    return;
}

sub base_config {
    my ($self) = @_;
    my $dir = $self->{dir};
    my $cgi = $self->{mpm} eq 'prefork' ? 'cgi' : 'cgid';
    my $load = join "\n", map { "LoadModule ${_}_module $modules/mod_$_.so" }
        "mpm_$self->{mpm}", @modules, $cgi, @{ $self->{load} // [] };
    my $user = $> == 0 ? "User www-data\nGroup www-data" : '';
    my $processes = $self->{mpm} eq 'prefork'
        ? "StartServers 4\nServerLimit 256\nMaxRequestWorkers 256\nMinSpareServers 2\nMaxSpareServers 32"
        : "StartServers 2\nServerLimit 8\nThreadsPerChild 64\nMaxRequestWorkers 512\n"
        . "MinSpareThreads 64\nMaxSpareThreads 256";
    my $level = $self->{log_level} // 'notice pubsubpull:info';
    $level =~ s/\S*pubsubpull:\S+// if !$self->{module};
    return <<"END";
ServerRoot "$dir"
DefaultRuntimeDir "$dir"
PidFile "$dir/httpd.pid"
ServerName 127.0.0.1
Listen 127.0.0.1:$self->{port}
$load
$user
$processes
@{[$cgi eq 'cgid' ? qq{ScriptSock "$dir/cgid.sock"} : '']}
ErrorLog "$dir/error.log"
LogLevel $level
LogFormat "%t %h %u \\"%r\\" %>s %B %D" psp
CustomLog "$dir/access.log" psp
Timeout 60
KeepAlive On
MaxKeepAliveRequests 0
GracefulShutdownTimeout 10
ExtendedStatus On
DocumentRoot "$self->{htdocs}"
TypesConfig /etc/mime.types
<Directory />
    AllowOverride None
    Require all denied
</Directory>
<Directory "$self->{htdocs}">
    Options +Includes
    Require all granted
</Directory>
ScriptAlias /cgi-bin/ "$dir/cgi-bin/"
<Directory "$dir/cgi-bin">
    Require all granted
</Directory>
<Location />
    AuthType Basic
    AuthName "pubsubpull"
    AuthBasicProvider file
    AuthUserFile "$dir/users"
    Require all granted
</Location>
<Location /server-status>
    SetHandler server-status
    Require all granted
</Location>
END
}

sub module_config {
    my ($self) = @_;
    return '' if !$self->{module};
    my $file = $self->{module} eq 1 ? build_dir() . '/mod_pubsubpull.so' : $self->{module};
    my $config = "LoadModule pubsubpull_module \"$file\"\n";
    return $config if !defined $self->{database};
    $config .= "PubSubPullDatabase \"$self->{database}\"\n";
    my $allow = $self->{allow} // '127.0.0.0/8';
    $config .= "PubSubPullCallbackAllow $allow\n" if $allow;
    my $access = $self->{location} // "Require valid-user\n    PubSubPullAdmin \"%{REMOTE_USER} == 'admin'\"";
    $config .= "<Location \"/pubsubpull\">\n    SetHandler pubsubpull\n    $access\n</Location>\n" if $access;
    return $config;
}

sub environment {
    my ($self) = @_;
    my %env = %{ $self->{env} // {} };
    if (my $preload = $ENV{PSP_PRELOAD}) {
        $env{LD_PRELOAD} = join ' ', $preload, $env{LD_PRELOAD} // ();    # sanitizers want to be first
        $env{ASAN_OPTIONS} //= 'detect_leaks=0:abort_on_error=1';
    }
    return \%env;
}

sub launch {
    my ($self) = @_;
    $self->{pid} = spawn(
        cmd => [$self->surroundings, command(), '-D', 'FOREGROUND', '-d', $self->{dir}, '-f', "$self->{dir}/httpd.conf"],
        log => "$self->{dir}/stderr.log", env => $self->environment, death => 'TERM', cwd => '/');
    wait_until {
        die "httpd did not start:\n", $self->output if !alive($self->{pid});
        listening($self->{port}) && $self->log =~ /resuming normal operations/;
    } 20, 'httpd to serve';
    return;
}

# What makes its view of the machine, and becomes httpd.
sub surroundings {
    my ($self) = @_;
    my @command;
    if (my $mounts = $self->{mounts}) {
        my $script = join ' && ', map({ "mount --bind '$mounts->{$_}' '$_'" } sort keys %$mounts), 'exec "$@"';
        push @command, 'unshare', '--mount', $> == 0 ? () : qw(--map-current-user --keep-caps), '--', 'sh', '-c', $script, 'sh';
    }
    push @command, 'prlimit', "--nofile=$self->{files}" if $self->{files};
    push @command, split ' ', $ENV{PSP_UNDER} // '';    # valgrind; what it finds is in stderr.log
    return @command;
}

sub command { return (grep { -x } qw(/usr/sbin/apache2 /usr/sbin/httpd))[0] // die 'httpd is not installed' }

# configtest: (true or false, what it printed)
sub configtest {
    my ($self) = @_;
    my $log = "$self->{dir}/configtest.log";
    unlink $log;
    my $pid = spawn(cmd => [command(), '-t', '-d', $self->{dir}, '-f', "$self->{dir}/httpd.conf"],
        log => $log, env => $self->environment, cwd => '/');
    waitpid $pid, 0;
    return ($? == 0, slurp($log));
}

# stop('TERM'), or stop('WINCH') for graceful-stop.
# By default gracefully first: at SIGTERM the event MPM closes sockets of workers that are closing them, too, and at times
# dies of it (close_worker_sockets), whatever modules there are.
sub stop {
    my ($self, $signal) = @_;
    my $pid = delete $self->{pid} or return;
    local ($?, $@);
    if (alive($pid)) {
        if (!$signal && $self->{mpm} eq 'event') {
            kill WINCH => $pid;
            eval { wait_until { !alive($pid) } 4, 'httpd to end gracefully'; 1 } or kill TERM => $pid;
        }
        else { kill $signal // 'TERM', $pid }
    }
    else { push @{ $self->{complaints} }, "httpd ended by itself (status $?)" }
    return $self->ended($pid);
}

# It ended, or is about to, for a test told it to: nothing of its process group may be left a moment later.
sub ended {
    my ($self, $pid) = @_;
    $pid //= delete $self->{pid};
    eval { wait_until { !alive($pid) } 20, 'httpd to end'; 1 } or push @{ $self->{complaints} }, 'httpd did not end in 20 s';
    eval { wait_until { !signal_group($pid, 0) } 3, 'its children'; 1 }
        or push @{ $self->{complaints} }, 'httpd left processes behind: ' . join ', ', group_members($pid);
    signal_group($pid, 'KILL');
    stop_child($pid, 'KILL');
    return;
}

# kill -9 of every process it has, all at once.
sub kill_tree {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill STOP => $pid;    # or it would start others meanwhile
    kill KILL => $pid, notifier_pids({ pid => $pid }), map { (split)[0] } group_members($pid);
    stop_child($pid, 'KILL');
    return;
}

# Graceful restart; returns when the new generation serves.
sub graceful {
    my ($self) = @_;
    my $before = () = $self->log =~ /resuming normal operations/g;
    kill 'USR1', $self->{pid};
    wait_until { (() = $self->log =~ /resuming normal operations/g) > $before } 30, 'the graceful restart';
    return;
}

sub restart {
    my ($self) = @_;
    $self->stop;
    $self->launch;
    return;
}

# Replace what start's config => said; takes effect with graceful or restart.
sub configure {
    my ($self, $config) = @_;
    $self->{config} = $config;
    $self->write_config;
    return;
}

sub group_members {
    my ($group) = @_;
    return map { chomp; $_ } `pgrep -l -g $group`;
}

# All children of httpd called psp-notifier; notifier_pid waits until there is one.
sub notifier_pids {
    my ($self) = @_;
    my @pids;
    for my $dir (glob '/proc/[0-9]*') {
        open my $in, '<', "$dir/stat" or next;
        my $stat = <$in> // next;
        my ($pid, $name, $state, $parent) = $stat =~ /^(\d+) \((.*)\) (\S) (\d+)/ or next;
        push @pids, $pid if $parent == $self->{pid} && $name eq 'psp-notifier' && $state ne 'Z';
    }
    return @pids;
}

sub notifier_pid {
    my ($self) = @_;
    return wait_until { ($self->notifier_pids)[0] } 5, 'the notifier to run';
}

sub pid    { return $_[0]{pid} }
sub port   { return $_[0]{port} }
sub dir    { return $_[0]{dir} }
sub htdocs { return $_[0]{htdocs} }
sub url    { return "http://127.0.0.1:$_[0]{port}" . ($_[1] // '') }
sub log        { return -e "$_[0]{dir}/error.log" ? slurp("$_[0]{dir}/error.log") : '' }
sub access_log { return slurp("$_[0]{dir}/access.log") }
sub output     { return slurp("$_[0]{dir}/stderr.log") . $_[0]->log }

# A CGI program: its name below /cgi-bin/ and its text.
sub cgi {
    my ($self, $name, $text) = @_;
    my $file = spew("$self->{dir}/cgi-bin/$name", $text);
    chmod 0755, $file or die "$file: $!";
    return "/cgi-bin/$name";
}

# $httpd->get('/path', user => 'alice', …): see PspTest::Client::http. A full URL on this server will do, too.
sub request {
    my ($self, $method, $path, %o) = @_;
    return http($method, $path =~ /^http:/ ? $path : $self->url($path), %o);
}
sub get    { my ($self, $path, %o) = @_; return $self->request('GET',    $path, %o) }
sub delete { my ($self, $path, %o) = @_; return $self->request('DELETE', $path, %o) }
sub head   { my ($self, $path, %o) = @_; return $self->request('HEAD',   $path, %o) }
sub put    { my ($self, $path, $json, %o) = @_; return $self->request('PUT',  $path, %o, json => $json) }
sub post   { my ($self, $path, $json, %o) = @_; return $self->request('POST', $path, %o, json => $json) }

# --- What it logged ---

# Lines that match are fine, however bad they look. A crash has to be named: qr/exit signal Abort/
sub expect_log {
    my ($self, @patterns) = @_;
    push @{ $self->{expected} }, @patterns;
    return;
}

# Wait until a line matches (all lines since the start count).
sub wait_for_log {
    my ($self, $pattern, $seconds) = @_;
    return wait_until { $self->log =~ $pattern } $seconds, "a log line like $pattern";
}

# Warnings and worse, crashed children, and whatever is not in httpd's own format (sanitizers, libc, other libraries).
sub unexpected_log_lines {
    my ($self) = @_;
    my @bad = @{ $self->{complaints} // [] };
    for my $line (split /\n/, $self->output) {
        next if $line eq '';
        next if $ENV{PSP_UNDER} && $line =~ /^--\d+-- /;    # valgrind says what it cannot do
        next if $line =~ /^\[[^\]]+\] \[[\w-]*:(?:notice|info|debug|trace\d)\]/
            && $line !~ /exit signal|Segmentation|Abort/;
        my @allowed = @{ $self->{expected} };
        @allowed = grep { index("$_", $1) >= 0 } @allowed if $line =~ /exit (signal (?!Kill|Term)\w{3})/;
        push @bad, $line if !grep { $line =~ $_ } @allowed;
    }
    return @bad;
}

# Of all servers of this test; each is stopped first. For PspTest::finish.
sub complaints {
    my @bad;
    for my $self (grep { $_->{owner} == $$ } @instances) {
        $self->stop;
        push @bad, $self->unexpected_log_lines;
        $self->{judged} = 1;
    }
    return @bad;
}

# A test that ended without finish is judged all the same.
END {
    if (my @left = grep { $_->{owner} == $$ && !$_->{judged} && !$_->{unwatched} } @instances) {
        my $status = $?;
        my @bad = complaints();
        print STDERR map { "# httpd: $_\n" } @bad;
        $? = $status || (@bad ? 1 : 0);
    }
}

1;
