# SPDX-License-Identifier: Apache-2.0
# Soak.pm: mixed load and random faults for a while; afterwards everything has to add up.
#
#   my $soak = PspTest::Soak->start(seconds => 60, seed => 1);    # PostgreSQL, two httpd servers, a receiver, subscriptions, load
#                                    schema => 'install.sql' of before roles.sql, module => 'mod_pubsubpull.so', config => 'of server {n}': others than these
#   $soak->run;                                                   # faults
#   $soak->settle;                                                # faults and load end; wait until all is delivered
#   $soak->account;                                               # see Soak/Account.pm
package PspTest::Soak;
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Test::More ();
use Time::HiRes qw(time sleep);
use PspTest ();
use PspTest::Client qw(http);
use PspTest::Soak::Account;
use PspTest::Soak::Faults;
use PspTest::Soak::Writer;
use PspTest::Util qw(at_exit tmp_dir wait_until free_port alive slurp);

our @ISA = qw(PspTest::Soak::Account PspTest::Soak::Faults);

my @user = (user => 'billing');
my %retry = (retry => { first => 1, max => 2 }, timeout => 3);
my ($true, $false) = (JSON::PP::true(), JSON::PP::false());

# Below /f/ the receiver fails at random. wants: what accounting has to know beside the document.
my %subscriptions = (
    plain   => { table => 'plain', callback => '/plain/{id}' },
    pair    => { table => 'pair',  callback => '/pair/{a}/{b}' },
    part    => { table => 'part',  callback => '/part/{region}/{id}', concurrency => 2 },
    batch   => { table => 'plain', callback => '/batch/{table}', batch => 10 },
    latest  => { table => 'plain', callback => '/f/latest/{id}', latest => $true },
    rate    => { table => 'pair',  callback => '/rate/{a}/{b}', rate => 100 },
    when    => { table => 'plain', callback => '/f/when/{id}', when => '$.new.n > 4', on => ['insert', 'update'] },
    columns => { table => 'plain', callback => '/columns/{id}', columns => ['id', 'n'] },
    events  => { table => 'pair',  callback => '/f/events', batch => 5, format => 'cloudevents' },
    delete  => { table => 'plain', callback => '/f/delete/{id}', delete => 'DELETE' },
    flaky   => { table => 'plain', callback => '/f/flaky/{id}' },
    flakier => { table => 'part',  callback => '/f/flakier', batch => 10, concurrency => 3 },
    newest  => { table => 'plain', callback => '/f/newest', batch => 5, latest => $true },
    changed => { table => 'plain', callback => '/f/changed', batch => 7 },
    paused  => { table => 'plain', callback => '/f/paused/{id}' },
);
my %later = (beginning => { table => 'plain', callback => '/f/beginning/{id}', since => 'beginning' },
    restarted => { table => 'pair', callback => '/f/restarted', since => 'beginning', batch => 10 });

sub start {
    my ($class, %o) = @_;
    my $self = bless { %o, dir => tmp_dir(), later => { %later }, faults => [], owner => $$, loads => [] }, $class;
    srand $self->{seed};
    my $pg = $self->{pg} = PspTest::Postgres->start(fsync => 1, config => "deadlock_timeout = 200ms\n");
    $o{schema} ? $pg->install_earlier($o{schema}) : $pg->install_schema;
    my $role = $o{schema} ? 'pubsubpull' : 'pubsubpull_httpd';
    my $config = $self->service . ($o{config} // '');
    $self->{receiver} = PspTest::Receiver->start(script => 'soak_receiver.py');
    $self->{receiver}->reply(status => 204, flaky => 0.2);
    $self->{servers} = [map { PspTest::Httpd->start(pg => $pg, database => $pg->conninfo(user => $role, socket => 1), config => $config =~ s/\{n\}/$_/gr, module => $o{module} // 1) } 1, 2];
    $_->expect_log(qr/./) for @{ $self->{servers} };    # accounting looks at the log itself
    $pg->sql($_) for PspTest::Soak::Writer::tables();
    $self->publish($_) for qw(plain pair part);
    $self->subscribe($_, $subscriptions{$_}) for sort keys %subscriptions;
    at_exit(sub { $self->stop_load if $self->{owner} == $$ });
    $self->load;
    return $self;
}

sub publish {
    my ($self, $table) = @_;
    $self->{pg}->publishable($table, $table eq 'part' ? qw(part_1 part_2) : ());
    my $answer = $self->{servers}[0]->put("/pubsubpull/tables/public.$table", {}, user => 'admin');
    $answer->status == 201 or die "publish $table: " . $answer->body;
    return;
}

# Creates or changes; tried until it is done, for faults are under way.
sub subscribe {
    my ($self, $name, $document) = @_;
    my $whole = { %$document, %retry, callback => $self->{receiver}->url($document->{callback}) };
    my $s = $self->{subscriptions}{$name} //= { %$document, name => $name };
    my $answer;
    wait_until {
        $s->{asked_at} //= time;
        $answer = $self->any_server->put("/pubsubpull/subscriptions/$name", $whole, @user);
        die "subscribe $name: " . $answer->status . ' ' . $answer->body if $answer->status =~ /^4/;
        $answer->status =~ /^20[01]$/
    } 60, "subscription $name";
    $s->{made_at} //= time;
    $s->{id} //= wait_until { eval { $self->{pg}->sql([user => 'pubsubpull'], 'SELECT id FROM pubsubpull.subscription WHERE name = ?', $name) } } 60;
    return;
}

sub any_server { my ($self) = @_; return $self->{servers}[rand 2] }

# --- Load: processes that write until a file is there ---

sub stopping { return -e "$_[0]{dir}/stop" || getppid != $_[0]{owner} }

sub fork_load {
    my ($self, $code) = @_;
    my $pid = fork // die "fork: $!";
    if ($pid) {
        push @{ $self->{loads} }, $pid;
        return;
    }
    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
    eval { $code->(); 1 } or print STDERR "# load: $@";
    POSIX::_exit(0);
}

sub writer {
    my ($self, %o) = @_;
    my $number = ++$self->{writers};
    return sub { return PspTest::Soak::Writer->new(pg => $self->{pg}, seed => $self->{seed}, dir => $self->{dir}, number => $number, %o) };
}

sub load {
    my ($self) = @_;
    for my $hold (0, 0, 3) {
        my $make = $self->writer(hold => $hold);
        $self->fork_load(sub {
            my $writer = $make->();
            until ($self->stopping) {
                $writer->transaction;
                sleep rand 0.3;
            }
        });
    }
    my $make = $self->writer(hold => 0);
    $self->fork_load(sub {
        my $writer = $make->();
        until ($self->stopping) {
            $writer->psql;
            sleep 0.3 + rand;
        }
    });
    $self->fork_load(sub { $self->client($_[0]) }) for 1 .. 2;
    $self->fork_load(sub { $self->follow });
    return;
}

# The service behind httpd: any request is a transaction; its name is the answer.
sub service {
    my ($self) = @_;
    my $port = free_port();
    my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 128, ReuseAddr => 1) or die "port $port: $!";
    for (1 .. 3) {
        my $make = $self->writer(hold => 0);
        $self->fork_load(sub {
            my $writer = $make->();
            my $select = IO::Select->new($listen);
            $listen->blocking(0);
            while (getppid == $self->{owner}) {
                my $client = $select->can_read(1) && $listen->accept or next;
                $client->blocking(1);
                $self->serve($client, $writer);
            }
        });
    }
    return <<"END";
<Location "/service/">
    PubSubPull On
    PubSubPullRecord all
    ProxyPass "http://127.0.0.1:$port/" disablereuse=on
</Location>
END
}

sub serve {
    my ($self, $client, $writer) = @_;
    my $head = '';
    while (defined(my $line = <$client>)) {
        $head .= $line;
        last if $line eq "\r\n";
    }
    my ($envelope) = $head =~ /^PubSubPull-Request: (.*?)\r$/mi;
    my $tx = $writer->transaction(sub { $_[0]->do(q{SELECT set_config('pubsubpull.request', ?, true)}, undef, $envelope // '') });
    my ($status, $text) = defined $tx ? ('200 OK', $tx) : ('503 Not Now', '');
    print {$client} "HTTP/1.1 $status\r\nConnection: close\r\nContent-Length: " . length($text) . "\r\n\r\n$text";
    close $client;
    return;
}

# What clients know of their requests: id, status, transaction, when the answer was there.
sub client {
    my ($self) = @_;
    srand $self->{seed} + $$;
    open my $out, '>>', "$self->{dir}/requests-$$" or die $!;
    $out->autoflush(1);
    until ($self->stopping) {
        my $answer = $self->any_server->put('/service/tx', {}, user => 'alice');
        print {$out} join("\t", $answer->header('X-Request-Id') // '-', $answer->status, $answer->body =~ /^(w[\d-]+)$/ ? $1 : '-', time), "\n";
        sleep rand 0.3;
    }
    return;
}

# Follows the feed by pages, from the beginning to the end, and writes down the id of each change.
sub follow {
    my ($self) = @_;
    srand $self->{seed} - 1;
    open my $out, '>>', "$self->{dir}/feed" or die $!;
    my $path = '/pubsubpull/changes/?limit=100';
    while (getppid == $self->{owner}) {
        my $last = -e "$self->{dir}/last";
        my $answer = $self->any_server->get($path, user => 'auditor');
        if ($answer->status == 200 && !$answer->{truncated}) {
            my $page = $answer->body;
            print {$out} map { "$_\n" } $page =~ /"id":(\d+),"table":/g;
            my ($next) = $page =~ /"next":"([^"]*)","more":(?:true|false)\}\s*\z/ or die "a page without next: $page";
            ($path) = $next =~ m{^http://[^/]*(/.*)};
            last if $last && $page =~ /"changes":\[\]/;
        }
        elsif ($answer->status =~ /^4/) { die 'the feed answers ' . $answer->status . ' ' . $answer->body }
        sleep 0.05;
    }
    close $out or die $!;
    return;
}

sub stop_load {
    my ($self) = @_;
    kill KILL => @{ $self->{loads} };
    waitpid $_, 0 for @{ $self->{loads} };
    $self->{loads} = [];
    return;
}

# --- The end ---

sub touch { my ($self, $name) = @_; PspTest::Util::spew("$self->{dir}/$name", ''); return }

sub settle {
    my ($self) = @_;
    $self->mend;
    $self->touch('stop');
    $self->{receiver}->reply(status => 204);
    my $pg = $self->{pg};
    my $state = '';
    my $quiet = 0;
    eval {
        wait_until {
            $state = join ' ', map {
                my $s = $self->any_server->get("/pubsubpull/subscriptions/$_", @user);
                my $d = $s->status == 200 ? $s->json : { lag => { changes => $s->status }, pending => '?', failed => 0, state => '?' };
                $d->{lag}{changes} . $d->{pending} . $d->{failed} eq '000' ? () : "$_: lag $d->{lag}{changes}, pending $d->{pending}, failed $d->{failed}, $d->{state};"
            } sort keys %{ $self->{subscriptions} };
            $quiet = $state eq '' && !$self->writing ? $quiet + 1 : 0;
            $quiet >= 3
        } 120 + $self->{seconds} / 2, 'all deliveries';
        1;
    } or Test::More::fail("everything is delivered in the end: $state"), $self->show_stuck;
    $self->touch('last');
    eval { wait_until { -s "$self->{dir}/feed" && !grep { alive($_) } $self->{loads}[-1] } 60, 'the follower to see the end'; 1 } or Test::More::fail($@);
    return;
}

sub show_stuck {
    my ($self) = @_;
    Test::More::diag(join '|', map { $_ // '-' } @$_) for @{ $self->{pg}->rows([user => 'pubsubpull'], q{SELECT s.name, x.* FROM pubsubpull.subscription s CROSS JOIN LATERAL (
        SELECT d.change, d.lane, d.state, d.attempts, d.next_at, d.first_at, d.batch, d.error FROM pubsubpull.delivery d WHERE d.subscription = s.id ORDER BY d.change LIMIT 5) x}) };
    Test::More::diag(join '|', map { $_ // '-' } @$_) for @{ $self->{pg}->rows([user => 'pubsubpull'], 'SELECT * FROM pubsubpull.progress') };
    return;
}

sub writing { my ($self) = @_; return scalar grep { alive($_) } @{ $self->{loads} }[3 .. $#{ $self->{loads} } - 1] }

1;
