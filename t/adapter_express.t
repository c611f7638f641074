# SPDX-License-Identifier: Apache-2.0
# adapter_express.t: an Express service on pg with conf/backends/express, over http.
use PspTest;
use PspTest::Channels;

PspTest::Channels->up(['express'])->check;
finish;
