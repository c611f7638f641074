# SPDX-License-Identifier: Apache-2.0
# channels.t: 200 clients as 50 users ask services of every kind at once for 30 s; not one change has another's request.
use PspTest;
use PspTest::Channels;

my $channels = PspTest::Channels->up;
PspTest::Channel::together($channels->psp, [$channels->all], clients => 200, seconds => 30);
finish;
