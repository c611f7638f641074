# SPDX-License-Identifier: Apache-2.0
# adapter_rack.t: a Rack service on pg with conf/backends/rack under puma, over http.
use PspTest;
use PspTest::Channels;

PspTest::Channels->up(['rack'])->check;
finish;
