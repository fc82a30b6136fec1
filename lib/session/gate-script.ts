/**
 * What a gate on Linux does before it is one.
 */
import { dummyAddresses } from '../backend/namespace-addresses.js'
import { fenceSub } from '../launch/fence-script.js'
import { parseAddress } from '../policy/addresses.js'

/** In network byte order, as hexadecimal digits. */
const ownAddresses = [dummyAddresses.v4, dummyAddresses.v6].map((text) =>
  Buffer.from(parseAddress(text) ?? []).toString('hex'),
)

/**
 * The first step of a gate on Linux: perl-base, essential on Debian and Ubuntu, does in 3 ms what a Node helper does
 * in 30. It reads nothing from the network, and ends by becoming the gate.
 *
 * Its sockets are opened in the jail's network namespace, whose loopback it brings up before: not sooner than it is told
 * that the namespace's rules are read back. Then it is on the host's network again, and waits: Node starts when the
 * warden has said what to serve, or when somebody in the jail wants something, whichever is first. A command that ends
 * at once needs no gate at all.
 *
 * argv: CALLS PARENT_PID BOXED(1|0: in namespaces of its own) NETNS(path, or `-`) SPEC... -- PROGRAM ARGS...; SPEC is `tcp:PORT` or `udp:PORT`,
 * port 0 for any. Without NETNS the sockets are on the loopback of the families there are. Descriptors: 3 the gate's IPC;
 * 4 reports, one line a socket: `PROTO FAMILY FD ACTUALPORT`, then `end`, then `active` if it becomes the gate; 5 hears
 * `go` (the rules are in) and `end` (become the gate only if something waits, else end).
 */
export const gateScript: string =
  `my @own = map { pack 'H*', $_ } qw(${ownAddresses.join(' ')});` +
  String.raw`
my %nr = split /[=,]/, shift @ARGV;
my ($parent, $boxed, $netns) = splice @ARGV, 0, 3;
sub call { my ($n, @a) = @_; return syscall($nr{$n} // $n, @a) }
sub refuse { print STDERR "$_[0]\n"; exit 1 }
call('prctl', 1, 9, 0, 0, 0) == 0 or refuse("parent-death signal: $!");
getppid() == $parent or refuse('the warden has ended');
open my $ipc, '+<&=', 3 or exit 1;
open my $report, '>&=', 4 or refuse("descriptor 4: $!");
open my $word, '<&=', 5 or refuse("descriptor 5: $!");
fcntl $_, 2, 1 for $report, $word;
my $heard = '';
sub hear { sysread $word, $heard, 64, length $heard or exit 0; $heard =~ s/^go\n// }

sub enter {
  my ($ns, $what) = @_;
  call('setns', fileno $ns, 0x40000000) == 0 or refuse("$what: $!");
}
# rtnetlink(7): one request, and the kernel's answer.
sub ask {
  my ($type, $flags, $body, $what, $v6) = @_;
  socket my $s, 16, 3, 0 or refuse("netlink: $!");
  send $s, pack('LSSLL', 16 + length $body, $type, 5 | $flags, 1, 0) . $body, 0, pack('SSLL', 16, 0, 0, 0)
    or refuse("$what: $!");
  defined recv $s, my $answer, 4096, 0 or refuse("$what: $!");
  my ($kind, $error) = unpack 'x4 S x10 l', $answer;
  $! = -$error;
  # EEXIST: there already. EOPNOTSUPP, EACCES: no IPv6 in this kernel, or here; then nothing of it gets anywhere.
  $kind == 2 && ($error == 0 || $error == -17 || $v6 && ($error == -95 || $error == -13)) or refuse("$what: $!");
}
my $home;
if ($netns ne '-') {
  open $home, '<', '/proc/self/ns/net' or refuse("network namespace: $!");
  my $here = readlink '/proc/self/ns/net';
  # The process that holds it is just making it.
  for (my $tries = 0; (readlink $netns // refuse("$netns: $!")) eq $here; $tries++) {
    refuse('the network namespace does not come') if $tries > 5000;
    select undef, undef, undef, 0.001;
  }
  open my $jail, '<', $netns or refuse("network namespace: $!");
  until (hear()) { exit 0 if $heard =~ /^end\n/ }
  enter($jail, 'network namespace');
  # A datagram over IPv6 is translated on its way to the gate: its answer may come as late as the gate waits for one.
  if (open my $seconds, '>', '/proc/sys/net/netfilter/nf_conntrack_udp_timeout') { syswrite $seconds, 120 }
  # RTM_NEWLINK: lo, which is always the first, up. RTM_NEWADDR: IFA_LOCAL and IFA_ADDRESS.
  # RTM_NEWROUTE in table local, of type local, scope host.
  ask(16, 0, pack('CxSlLL', 0, 0, 1, 1, 1), 'lo');
  for my $address (@own) {
    my $long = length $address > 4;
    my $attribute = pack 'SS a*', 4 + length $address, 2, $address;
    substr(my $second = $attribute, 2, 2) = pack 'S', 1;
    ask(20, 0x600, pack('C4 L', $long ? 10 : 2, 8 * length $address, 0, 0, 1) . $attribute . $second, 'addresses', $long);
  }
  ask(24, 0x600, pack('C8 L SSL', $_, 0, 0, 0, 255, 3, 254, 2, 0, 8, 4, 1), 'local routes', $_ == 10) for 2, 10;
}
my %any = ('::' => "\0" x 16, '::1' => "\0" x 15 . "\1", '127.0.0.1' => pack('C4', 127, 0, 0, 1), '0.0.0.0' => "\0" x 4);
# EAFNOSUPPORT: the kernel was started without IPv6.
my $has6 = socket(my $try, 10, 2, 0) || $! != 97;
my @hosts = $home ? ($has6 ? '::' : '0.0.0.0') : ('127.0.0.1', $has6 ? '::1' : ());
my (@kept, $text);
while (@ARGV) {
  my $spec = shift @ARGV;
  last if $spec eq '--';
  my ($proto, $port) = $spec =~ /^(tcp|udp):([0-9]{1,5})$/ or refuse('bad listener');
  for my $host (@hosts) {
    my $v6 = $host =~ /:/;
    socket my $s, $v6 ? 10 : 2, $proto eq 'tcp' ? 1 : 2, 0 or refuse("socket: $!");
    setsockopt $s, 1, 2, pack 'i', 1 if $proto eq 'tcp';
    setsockopt $s, 41, 26, pack 'i', $home ? 0 : 1 if $v6;
    unless (bind $s, $v6 ? pack 'S n N a16 N', 10, $port, 0, $any{$host}, 0 : pack 'S n a4 x8', 2, $port, $any{$host}) {
      # EADDRNOTAVAIL: IPv6 is switched off here, as in docker's containers. Nothing of it gets anywhere.
      next if $host eq '::1' && $! == 99;
      refuse("$proto port $port on $host: $!");
    }
    $proto eq 'udp' or listen $s, 4096 or refuse("listen: $!");
    # IPv4 took any port: IPv6 takes the same, so that one redirect serves both.
    $port = unpack 'x2 n', getsockname $s;
    push @kept, $s;
    $text .= join(' ', $proto, $v6 ? 6 : 4, fileno $s, $port) . "\n";
  }
}
enter($home, 'the host') if $home;
syswrite $report, $text . "end\n";

my $want = '';
vec($want, fileno $_, 1) = 1 for @kept;
for (;;) {
  my $in = $want;
  vec($in, fileno $_, 1) = 1 for $ipc, $word;
  # It may have come with the word before it.
  my $ended = $heard =~ /end\n/;
  next if select($in, undef, undef, $ended ? 0 : undef) < 0;
  last if grep vec($in, fileno $_, 1), @kept;
  exit 0 if $ended;
  hear() if vec $in, fileno $word, 1;
  if (vec $in, fileno $ipc, 1) {
    # MSG_PEEK: the word is the gate's. Nothing: the warden has ended.
    defined recv $ipc, my $byte, 1, 2 or exit 0;
    exit 0 if $byte eq '';
    last;
  }
}
syswrite $report, "active\n";
if ($boxed) {
  # bubblewrap in a fence: it looks its child up in /proc.
  call('unshare', 0x20000) == 0 or refuse("mount namespace: $!");
  call('mount', "none\0", "/\0", 0, 0x4000 | 0x80000, 0) == 0 or refuse("mount namespace: $!");
  fence('agentjail-gate-fence', 1);
}
fcntl $_, 2, 0 for $ipc, @kept;
exec { $ARGV[0] } @ARGV or refuse("$ARGV[0]: $!");
` +
  fenceSub
