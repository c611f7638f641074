# SPDX-License-Identifier: Apache-2.0
# adapter_proxies.t: each type of proxy carries the identity and nothing that a client sends in its name: uwsgi and scgi
# (uWSGI), ajp, h2c. For http and fcgi it is asked by the tests of most services and of PHP.
use PspTest;
use PspTest::Channels;

PspTest::Channels->up([qw(uwsgi scgi ajp h2c)])->check(seconds => 1, clients => 6);
finish;
