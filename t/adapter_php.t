# SPDX-License-Identifier: Apache-2.0
# adapter_php.t: PHP under php-fpm, over fcgi, is attributed by configuration alone, also where it keeps connections.
use PspTest;
use PspTest::Channels;

PspTest::Channels->up([qw(pdo pconnect persistent)])->check(seconds => 2);
finish;
