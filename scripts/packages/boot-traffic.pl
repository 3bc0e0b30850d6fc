# Copyright The SmartNat Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Traffic for the boot tests, in perl, the only interpreter on that Debian.
#   serve PORT               echoes each line
#   send PORT FILE ADDRESS...  sends a datagram to each address, fifty times per second, and writes a line each time
#   ask ADDRESS PORT FILE    asks ten times per second, by a new connection and by a long-lived one, and writes a line for each
use strict;
use warnings;
use IO::Socket::INET;
use IO::Socket::IP;

$| = 1;
my $what = shift;
if ($what eq 'serve') {
    my $server = IO::Socket::INET->new(LocalPort => shift, Listen => 100, ReuseAddr => 1) or die "serve: $!";
    $SIG{CHLD} = 'IGNORE';
    while (my $client = $server->accept) {
        next if fork;
        while (my $line = <$client>) { print $client $line; $client->flush }
        exit;
    }
}
if ($what eq 'send') {
    my ($port, $file, @addresses) = @ARGV;
    my @sockets = map { IO::Socket::IP->new(PeerHost => $_, PeerPort => $port, Proto => 'udp') or die "$_: $!" } @addresses;
    open my $log, '>', $file or die "$file: $!";
    $log->autoflush;
    for (my $n = 0;; $n++) {
        $_->send("$n\n") for @sockets;
        print $log "$n\n";
        select undef, undef, undef, 0.02;
    }
}
my ($address, $port, $file) = @ARGV;
open my $log, '>', $file or die "$file: $!";
$log->autoflush;
sub ask {
    my ($socket, $n) = @_;
    return "no connection: $!" unless $socket;
    $socket->autoflush;
    local $SIG{ALRM} = sub { die "no answer\n" };
    my $answer = eval { alarm 5; print $socket "$n\n"; my $line = <$socket>; alarm 0; $line };
    alarm 0;
    return defined $answer && $answer eq "$n\n" ? '' : 'no answer';
}
my $lasting = IO::Socket::INET->new(PeerAddr => $address, PeerPort => $port, Timeout => 5);
for (my $n = 0;; $n++) {
    my $new = IO::Socket::INET->new(PeerAddr => $address, PeerPort => $port, Timeout => 5);
    my $trouble = ask($new, $n) || ask($lasting, $n);
    print $log $trouble ? "FAILED $n $trouble\n" : "ok $n\n";
    select undef, undef, undef, 0.1;
}
