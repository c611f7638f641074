# SPDX-License-Identifier: Apache-2.0
# soak.t: mixed load and random faults for SOAK_SECONDS, and then the books: nothing is lost, nothing is out of order.
use PspTest;
use PspTest::Soak;

my $seed = $ENV{SOAK_SEED} // int rand 1_000_000;
my $seconds = $ENV{SOAK_SECONDS} // 60;
diag("SOAK_SEED=$seed SOAK_SECONDS=$seconds");
my $soak = PspTest::Soak->start(seconds => $seconds, seed => $seed);
$soak->run;
$soak->settle;
$soak->account;
finish;
