# SPDX-License-Identifier: Apache-2.0
# unit.t: builds and runs the C tests in t/unit; each program is a subtest.
use PspTest;
use File::Glob qw(bsd_glob);
use TAP::Parser;

my @sources = map { s{.*/}{}r } bsd_glob(repo('t/unit/test_*.c'));
BAIL_OUT('there are no unit tests') if !@sources;

# `make test` and `make asan` have built them with their own flags; a run by hand builds them here.
my @programs = map { build_dir() . '/t/unit/' . s/\.c$//r } @sources;
if (!$ENV{PSP_BUILT}) {
    delete @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};
    my $output = qx{cd '@{[repo()]}' && make -s unit 2>&1};
    is($?, 0, 'built') or diag $output;
}

for my $program (@programs) {
    subtest $program =~ s{.*/}{}r => sub {
        -x $program or return fail('it is not built');
        # env: a lone command with a blank in its path would go through the shell
        open my $out, '-|', 'env', $program or die "$program: $!";
        my $parser = TAP::Parser->new({ iterator => TAP::Parser::Iterator::Stream->new($out) });
        while (my $result = $parser->next) {
            if ($result->is_test && $result->has_skip) { note $result->as_string; pass($result->description) }
            elsif ($result->is_test) { ok($result->is_ok, $result->description =~ s/^- //r) }
            elsif (!$result->is_plan) { note $result->as_string }
        }
        close $out;
        is($?, 0, 'exit status');
        ok(!$parser->parse_errors, 'complete') or diag $parser->parse_errors;
    };
}

done_testing;
