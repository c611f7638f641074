# SPDX-License-Identifier: Apache-2.0
# PspTest.pm: the harness of the end-to-end tests: real PostgreSQL, httpd, services and receivers, and Test::More.
#
#   use PspTest;
#   my $psp = PspTest->up(config => <<'END');       # PostgreSQL, schema, httpd with <Location /pubsubpull>
#   …directives…
#   END
#   $psp->pg->sql('CREATE TABLE …');  $psp->httpd->put('/pubsubpull/tables/…', {}, user => 'alice');
#   my $receiver = PspTest::Receiver->start;        # …  $receiver->wait_for(1)
#   finish;                                         # stops all, judges httpd's log, done_testing
package PspTest;
use strict;
use warnings;
use Exporter ();
use Test::More ();
use Time::HiRes ();
use PspTest::Client qw(http raw_http);
use PspTest::Dns;
use PspTest::Httpd;
use PspTest::Postgres;
use PspTest::Receiver;
use PspTest::Secure;
use PspTest::Service;
use PspTest::Util qw(wait_until free_port tmp_dir repo build_dir slurp spew json to_json spawn alive slow);

our @ISA = qw(Exporter);
our @EXPORT = qw(finish http raw_http wait_until free_port tmp_dir repo build_dir slurp spew json to_json
    spawn alive slow time sleep);

# Brings strict, warnings, Test::More, and time and sleep with fractions.
sub import {
    my ($class) = @_;
    strict->import;
    warnings->import;
    Test::More->export_to_level(1, 'Test::More');
    $class->export_to_level(1, $class);
    binmode Test::More->builder->$_, ':encoding(UTF-8)' for qw(output failure_output todo_output);
    return;
}

sub time ()   { return Time::HiRes::time() }
sub sleep ($) { return Time::HiRes::sleep($_[0]) }

# up(options of Httpd; pg => {options of Postgres} or one that runs already; schema => 0: not installed)
sub up {
    my ($class, %o) = @_;
    my $pg = delete $o{pg} // {};
    my $schema = delete $o{schema} // 1;
    if (ref $pg eq 'HASH') {
        $pg = PspTest::Postgres->start(%$pg);
        $pg->install_schema if $schema;
    }
    return bless { pg => $pg, httpd => PspTest::Httpd->start(pg => $pg, %o) }, $class;
}

sub pg    { return $_[0]{pg} }
sub httpd { return $_[0]{httpd} }

# Makes a table of the service and publishes it as admin: publish('public.customer', 'id int primary key, …', {options})
sub publish {
    my ($self, $table, $columns, $options) = @_;
    $self->pg->sql("CREATE TABLE $table ($columns)") if defined $columns;
    $self->pg->publishable($table);
    my $answer = $self->httpd->put("/pubsubpull/tables/$table", $options // {}, user => 'admin');
    $answer->status =~ /^20[01]$/ or die "publish $table: " . $answer->status . ' ' . $answer->body;
    return $answer;
}

# subscribe('name', {document}, user => 'billing')
sub subscribe {
    my ($self, $name, $document, %o) = @_;
    my $answer = $self->httpd->put("/pubsubpull/subscriptions/$name", $document, user => 'billing', %o);
    $answer->status =~ /^20[01]$/ or die "subscribe $name: " . $answer->status . ' ' . $answer->body;
    return $answer;
}

# Waits until a subscription has nothing left to do, and returns what GET says of it: settled('name', 'what was to be sent', user => 'billing', within => seconds)
sub settled {
    my ($self, $name, $what, %o) = @_;
    my $within = delete $o{within} // 20;
    return PspTest::Util::wait_until {
        my $answer = $self->httpd->get("/pubsubpull/subscriptions/$name", user => 'billing', %o);
        my $s = $answer->status == 200 ? $answer->json : { pending => -1 };
        $s->{pending} == 0 && $s->{lag}{changes} == 0 && $s
    } $within, "$name: " . ($what // 'all deliveries');
}

# The end of every test.
sub finish {
    my @bad = PspTest::Httpd::complaints();
    Test::More::is(join("\n", @bad), '', 'httpd logged nothing unexpected and left nothing behind');
    Test::More::done_testing();
    return;
}

1;
