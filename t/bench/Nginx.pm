# SPDX-License-Identifier: Apache-2.0
# Nginx.pm: nginx as a service or receiver that costs little: answers everything from memory.
package Nginx;
use strict;
use warnings;
use PspTest;

# start('return 204;', 'more directives;'): what location / does. Its log, if asked for, is $dir/access.log.
sub start {
    my ($class, $answer, $more) = @_;
    my $dir  = tmp_dir();
    $more =~ s/DIR/$dir/g if defined $more;
    my $port = free_port();
    $more = 'access_log off; ' . ($more // '') if ($more // '') !~ /access_log/;
    return PspTest::Service->start(
        dir  => $dir,
        port => $port,
        cmd  => ['/usr/sbin/nginx', '-p', $dir, '-c', spew("$dir/nginx.conf", <<"END"), '-g', 'daemon off;']);
worker_processes 1;
error_log stderr;
pid $dir/nginx.pid;
events { worker_connections 8192; }
http { @{[$more // '']} keepalive_requests 100000000; keepalive_timeout 600;
  client_body_temp_path $dir/b; proxy_temp_path $dir/p; fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
  server { listen 127.0.0.1:$port backlog=4096; location / { $answer } } }
END
}

1;
