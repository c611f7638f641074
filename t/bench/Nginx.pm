# SPDX-License-Identifier: Apache-2.0
# Nginx.pm: nginx as a service or receiver that costs little: answers everything from memory.
package Nginx;
use strict;
use warnings;
use PspTest;

# start('return 204;'): what location / does
sub start {
    my ($class, $answer) = @_;
    my $dir  = tmp_dir();
    my $port = free_port();
    return PspTest::Service->start(
        port => $port,
        cmd  => ['/usr/sbin/nginx', '-p', $dir, '-c', spew("$dir/nginx.conf", <<"END"), '-g', 'daemon off;']);
worker_processes 1;
error_log stderr;
pid $dir/nginx.pid;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 600;
  client_body_temp_path $dir/b; proxy_temp_path $dir/p; fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
  server { listen 127.0.0.1:$port backlog=4096; location / { $answer } } }
END
}

1;
