# Counts its requests in a worker, which serves none but the process that it took for its peer when it began.
use strict;
use warnings;
use IO::Handle;
use IO::Socket::INET;
use Socket;

my $peercred = 17;
sub peer { join " ", unpack("lLL", getsockopt($_[0], SOL_SOCKET, $peercred)) }

socketpair(my $front, my $back, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
$_->autoflush(1) for $front, $back;
my $own = "$$ $> " . (split " ", $))[0];
my $worker = fork // die "fork: $!";
if ($worker == 0) {
    close $front;
    my @words = map { "word $_" } 0 .. 49_999;
    my $count = 0;
    while (readline $back) {
        my $now = peer($back);
        $count += 1;
        print $back $now eq $own ? "$count $words[$count * 7919 % @words]\n" : "not $own but $now\n";
    }
    exit 0;
}
close $back;
my $server = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 64, ReuseAddr => 1) or die "listen: $!";
open(my $port, ">", "draft") or die "draft: $!";
print $port $server->sockport;
close $port;
rename "draft", "port";
while (my $client = $server->accept) {
    sysread $client, my $request, 4096;
    print $front "next\n";
    print $client "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" . readline($front);
    close $client;
}
