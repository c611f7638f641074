# SPDX-License-Identifier: Apache-2.0
# Parts.pm: what the demo runs: PostgreSQL, three services and httpd, under ./run/ and on loopback.
package Parts;
use strict;
use warnings;
use File::Basename qw(dirname);
use File::Path qw(remove_tree);
use PspTest::Httpd;
use PspTest::Postgres;
use PspTest::Service;
use PspTest::Util qw(at_exit alive free_port repo slurp spew tmp_dir);
use Show qw(title say_so);
use Time::HiRes qw(sleep);

sub start {
    my ($class) = @_;
    my $self = bless { dir => run_dir() }, $class;
    title('Starting, under ./run/ and on 127.0.0.1 only');
    my $pg = $self->{pg} = PspTest::Postgres->start(
        dir => "$self->{dir}/pg", log => "$self->{dir}/postgresql.log");
    $pg->install_schema;
    $pg->admin(db => 'postgres')->sql($_)
        for 'CREATE ROLE billing LOGIN', 'CREATE DATABASE billing OWNER billing';
    say_so('PostgreSQL                    port ' . $pg->port . ', databases app and billing, schema pubsubpull in app',
        'Its roles, made by sql/roles.sql: pubsubpull owns the log, httpd connects as pubsubpull_httpd; the services are service and billing');

    $self->{customers} = PspTest::Service->customers($pg, log => "$self->{dir}/customers.log");
    say_so('customers (Django)            ' . $self->{customers}->url('/customers/'));
    $self->{billing} = PspTest::Service->wsgi('billing',
        path => [repo('t/demo/billing')], env => { $pg->env(db => 'billing', user => 'billing') },
        log => "$self->{dir}/billing.log");
    say_so('billing (another team)        ' . $self->{billing}->url('/customers/'));

    $self->{comms} = PspTest::Service->wsgi('comms', path => [repo('t/demo/comms')], workers => 1, log => "$self->{dir}/comms.log");
    say_so('comms (writes mails)          ' . $self->{comms}->url('/welcome/'));

    my $port = (map { free_port($_) // () } 8080 .. 8089)[0] // free_port();
    $self->{httpd} = PspTest::Httpd->start(
        pg => $pg, dir => "$self->{dir}/httpd", port => $port, config => $self->config, unwatched => 1);
    say_so('httpd with mod_pubsubpull     ' . $self->{httpd}->url('/pubsubpull/') . ', and customers at '
            . $self->{httpd}->url('/customers/'),
        'Users of httpd (the password is the name): alice bob admin billing comms auditor');
    return $self;
}

sub config {
    my ($self) = @_;
    my $customers = $self->{customers}->url('/customers/');
    return <<"END";
ProxyPass "/customers/" "$customers" ttl=60
<Location "/customers/">
    Require valid-user
    PubSubPull On
</Location>
END
}

# ./run, new. Where postgres and www-data cannot get to it (a clone below /root), a link to a directory in /tmp.
sub run_dir {
    my $run = $ENV{DEMO_RUN} // repo('run');
    if (-e "$run/demo.pid" && kill 0, my $pid = 0 + slurp("$run/demo.pid")) {
        die "the demo runs already (process $pid)\n";
    }
    if (-l $run) {
        my $target = readlink $run;
        remove_tree($target) if $target =~ m{^/tmp/psp-\w+$};
        unlink $run or die "$run: $!";
    }
    remove_tree($run);
    if (reachable(dirname($run))) { mkdir $run, 0755 or die "$run: $!" }
    else {
        my $dir = File::Temp::tempdir('psp-XXXXXX', DIR => '/tmp');
        symlink $dir, $run or die "$run: $!";
        $run = $dir;
    }
    chmod 0755, $run or die "$run: $!";
    mkdir "$run/httpd" or die "$run/httpd: $!";
    spew("$run/demo.pid", "$$\n");
    my $owner = $$;
    at_exit(sub { unlink "$run/demo.pid" if $owner == $$ });
    return $run;
}

sub reachable {
    my ($dir) = @_;
    return 1 if $> != 0;
    return !system 'setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups', 'test', '-x', $dir;
}

sub dir     { return $_[0]{dir} }
sub httpd   { return $_[0]{httpd} }
sub billing { return $_[0]{billing} }
sub comms   { return $_[0]{comms} }

# The service's own role in the service's own database, as a person would type it.
sub psql {
    my ($self) = @_;
    return sprintf 'psql -X -h 127.0.0.1 -p %d -U service app', $self->{pg}->port;
}

sub billing_puts {
    my ($self) = @_;
    return grep { /^billing got PUT/ } split /\n/, $self->{billing}->log_text;
}

sub comms_lines { my ($self, $pattern) = @_; return grep { $_ =~ $pattern } split /\n/, $self->{comms}->log_text }

sub to_try {
    my ($self) = @_;
    my $psp = $self->{httpd}->url('/pubsubpull');
    my $table = "$psp/tables/public.customers_customer";
    return (
        "curl -u alice:alice $psp/",
        "curl -u alice:alice -X POST " . $self->{httpd}->url('/customers/') . ' -d '
            . q('{"name":"Mary","email":"mary@example.com","city":"Oslo","country":"NO"}'),
        "curl -u comms:comms $table/rows/",
        "curl -u comms:comms $psp/changes/",
        "curl -u auditor:auditor '$psp/requests/?user=alice'",
        "curl -u billing:billing $psp/subscriptions/billing",
        "curl -u comms:comms $psp/subscriptions/welcome",
        'curl ' . $self->{billing}->url('/customers/'),
        $self->psql,
        "less $self->{dir}/httpd/error.log",
    );
}

# Print what billing gets and comms does, until interrupted or a part has ended.
sub follow {
    my ($self) = @_;
    my $seen = () = ($self->billing_puts, $self->comms_lines(qr/^comms: /));
    while (1) {
        my @puts = ($self->billing_puts, $self->comms_lines(qr/^comms: /));
        print map { "$_\n" } @puts[$seen .. $#puts];
        $seen = @puts;
        for my $part (qw(pg customers billing comms httpd)) {
            alive($self->{$part}{pid}) or die "$part has ended by itself: see $self->{dir}\n";
        }
        sleep 0.3;
    }
    return;
}

1;
