/**
 * Opens the gate's listening sockets before the gate exists.
 * Node cannot enter a network namespace, and a Node helper that could pass handles costs 30 ms; perl-base is essential
 * on Debian and Ubuntu and does it in 3. It runs as root, reads nothing from anybody, and ends by exec.
 *
 * argv: ADDRESSES(comma) SPEC... -- PROGRAM ARGS...; SPEC is `tcp:PORT` or `udp:PORT`, port 0 for any; reports on
 * descriptor 4, one line a socket: `PROTO FAMILY FD ACTUALPORT`, then `end`.
 */
export const listenScript = String.raw`
use strict; use warnings; use Socket qw(:all);
$^F = 65535;
open(my $report, '>&=', 4) or die "descriptor 4: $!\n";
my @hosts = split /,/, shift @ARGV;
my @kept;
while (@ARGV) {
  my $spec = shift @ARGV;
  last if $spec eq '--';
  $spec =~ /^(tcp|udp):([0-9]{1,5})$/ or die "bad listener\n";
  my ($proto, $port) = ($1, $2);
  for my $host (@hosts) {
    my $v6 = $host =~ /:/;
    socket(my $s, $v6 ? AF_INET6 : AF_INET, $proto eq 'tcp' ? SOCK_STREAM : SOCK_DGRAM, 0) or do {
      # EAFNOSUPPORT: the kernel was started without IPv6.
      next if $host eq '::1' && $! == 97;
      die "socket: $!\n";
    };
    setsockopt($s, SOL_SOCKET, SO_REUSEADDR, pack('i', 1)) if $proto eq 'tcp';
    setsockopt($s, IPPROTO_IPV6, IPV6_V6ONLY, pack('i', $host eq '::' ? 0 : 1)) if $v6;
    my $address = $v6 ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $host)) : pack_sockaddr_in($port, inet_pton(AF_INET, $host));
    unless (bind($s, $address)) {
      # EADDRNOTAVAIL: IPv6 is switched off here, as in docker's containers.
      next if $host eq '::1' && $! == 99;
      die "$proto port $port on $host: $!\n";
    }
    if ($proto eq 'tcp') { listen($s, 4096) or die "listen: $!\n"; }
    my $name = getsockname($s);
    my $actual = $v6 ? (unpack_sockaddr_in6($name))[0] : (unpack_sockaddr_in($name))[0];
    # IPv4 took any port: IPv6 takes the same, so that one redirect serves both.
    $port = $actual;
    push @kept, $s;
    print $report "$proto " . ($v6 ? 6 : 4) . " " . fileno($s) . " $actual\n";
  }
}
print $report "end\n";
close $report;
exec { $ARGV[0] } @ARGV or die "exec: $!\n";
`
