# Traffic from one plain socket loop, so that what the kernel does per packet shows.
# serve ADDRESS PORT | udp|connects|bytes|refused ADDRESS PORT SECONDS PID...
# A rate is by the CPU time of both sides, this process and those that serve (PID): who does the kernel's work for a
# packet changes with all that delays one of them.
use strict; use warnings; use Socket qw(:all); use Time::HiRes qw(time clock_gettime CLOCK_PROCESS_CPUTIME_ID);
my ($mode, $host, $port, $seconds, @servers) = @ARGV;
my $to = pack_sockaddr_in($port, inet_aton($host));
if ($mode eq 'serve') {
  socket(my $u, AF_INET, SOCK_DGRAM, 0) or die; bind($u, $to) or die "udp: $!";
  my @s;
  for my $n (0, 1) {
    socket(my $s, AF_INET, SOCK_STREAM, 0) or die; setsockopt($s, SOL_SOCKET, SO_REUSEADDR, pack 'i', 1);
    bind($s, pack_sockaddr_in($port + $n, inet_aton($host))) or die "tcp: $!"; listen($s, 4096); push @s, $s;
  }
  my $reader = fork;
  if (!$reader) { while (accept(my $c, $s[1])) { my $b; 1 while sysread($c, $b, 1 << 18) } exit }
  syswrite STDOUT, "$$ $reader\n";
  while (accept(my $c, $s[0])) { close $c }
  exit;
}
my ($n, $end, @times) = (0, time + $seconds);
# The clock of another process, as clock_getcpuclockid(3) makes its number.
sub cpu { my $sum = clock_gettime(CLOCK_PROCESS_CPUTIME_ID); $sum += clock_gettime(2 - 8 * ($_ + 1)) for @servers; $sum }
if ($mode eq 'udp') {
  socket(my $s, AF_INET, SOCK_DGRAM, 0) or die; connect($s, $to) or die "connect: $!";
  my $began = cpu();
  do { for (1 .. 200) { defined send($s, 'x' x 100, 0) or die "send: $!"; $n++ } } while time < $end;
  printf "%d\n", $n / (cpu() - $began);
} elsif ($mode eq 'connects') {
  my $began = cpu();
  do {
    socket(my $s, AF_INET, SOCK_STREAM, 0) or die; setsockopt($s, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0);
    connect($s, $to) or die "connect: $!"; close $s; $n++;
  } while time < $end;
  printf "%d\n", $n / (cpu() - $began);
} elsif ($mode eq 'bytes') {
  socket(my $s, AF_INET, SOCK_STREAM, 0) or die;
  connect($s, pack_sockaddr_in($port + 1, inet_aton($host))) or die "connect: $!";
  my ($b, $began) = ('x' x (1 << 17), cpu());
  do { $n += syswrite($s, $b) // die "write: $!" } while time < $end;
  printf "%d\n", $n / 1e6 / (cpu() - $began);
} elsif ($mode eq 'refused') {
  do {
    socket(my $s, AF_INET, SOCK_STREAM, 0) or die; my $t = time;
    connect($s, $to) and die "not refused\n"; push @times, (time - $t) * 1000; select undef, undef, undef, 0.002;
  } while time < $end;
  @times = sort { $a <=> $b } @times; printf "%.4f\n", $times[@times / 2];
}
