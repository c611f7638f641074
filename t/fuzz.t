# SPDX-License-Identifier: Apache-2.0
# fuzz.t: the C parsers under libFuzzer (t/fuzz), each for a moment from its corpus; `make fuzz` goes on for longer.
use PspTest;
use File::Glob qw(bsd_glob);

my $build = repo('build/fuzz');
my $seconds = $ENV{FUZZ_SECONDS} // 1;
my $seed = $ENV{FUZZ_SEED} // (exists $ENV{FUZZ_SECONDS} ? int(time) : 1);
my @targets = map { m{fuzz_(\w+)\.c$} } bsd_glob(repo('t/fuzz/fuzz_*.c'));
BAIL_OUT('there are no fuzz targets') if !@targets;
if (!$ENV{PSP_BUILT}) {
    delete @ENV{qw(MAKEFLAGS MFLAGS MAKELEVEL)};
    system("cd '@{[repo()]}' && make -s build-fuzz") == 0 or BAIL_OUT('the fuzz targets are not built');
}

# What it finds is kept below build/fuzz/found, what it learns on the way is not.
my $found = "$build/found";
-d $found or mkdir $found or die "$found: $!";
note "FUZZ_SEED=$seed";
for my $target (@targets) {
    my ($corpus, $log) = (repo("t/fuzz/corpus/$target"), tmp_dir() . "/$target.log");
    my @seeds = bsd_glob("$corpus/*");
    cmp_ok(scalar @seeds, '>', 1, "$target has a corpus");
    my $work = tmp_dir();
    my $pid = spawn(log => $log, cwd => $work, cmd => ["$build/t/fuzz/fuzz_$target", $work, $corpus, "-seed=$seed", "-max_total_time=$seconds",
        '-timeout=10', '-max_len=20000', "-artifact_prefix=$found/$target-", '-verbosity=1', '-print_final_stats=1']);
    waitpid $pid, 0;
    my $status = $?;
    my $text = slurp($log);
    is($status, 0, "$target: nothing broke") or diag substr $text, -4000;
    my ($runs) = $text =~ /stat::number_of_executed_units:\s*(\d+)/;
    cmp_ok($runs // 0, '>', @seeds, "$target: inputs were made and tried") or diag substr $text, -4000;
}
finish;
