# SPDX-License-Identifier: Apache-2.0
# demo.t: `make demo DEMO=once` sees all that it shows, and leaves no process behind.
use PspTest;

my $dir = tmp_dir();
my $log = "$dir/log";
my $pid = spawn(
    cmd => [$^X, '-I' . repo('t/lib'), repo('t/demo/demo')],
    env => { DEMO => 'once', DEMO_RUN => "$dir/run" }, log => $log, death => 'TERM');
wait_until { !alive($pid) } 120, 'the demo to end';
is($?, 0, 'exit status') or diag slurp($log);
like(slurp($log), qr/^Everything was seen$/m, 'it says so');
is(scalar(grep { m{\Q$dir\E} } map { eval { slurp($_) } // '' } glob '/proc/[0-9]*/cmdline'), 0, 'no process is left');
finish;
