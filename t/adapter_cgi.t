# SPDX-License-Identifier: Apache-2.0
# adapter_cgi.t: CGI programs on psql and on DBD::Pg need no change.
use PspTest;
use PspTest::Channels;

PspTest::Channels->up([qw(psql dbd)])->check;
finish;
