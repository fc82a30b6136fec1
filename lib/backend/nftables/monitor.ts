/**
 * Hears of changes to agentjail's tables as the kernel announces them, instead of listing the tables over and over:
 * with a hundred jails one listing takes a fifth of a second.
 * Node has no netlink sockets and `nft monitor` keeps a copy of the whole ruleset; perl-base, which opens the gate's
 * sockets too, reads the announcements in a few lines. It decides nothing: whoever is told looks for himself.
 * On a machine that is overloaded what looks and restores would wait for its turn a dozen times: from a change on it goes
 * before other programs (SCHED_RR), for some seconds, where the machine lets it; what it starts meanwhile does not.
 * Invariant: what it cannot read, or lost (ENOBUFS), counts as a change; its end is told.
 */
import type { Session, System } from '../../system/types.js'
import type { RuleMonitor } from '../types.js'

/** What concerns one jail. */
export interface MonitorFilter {
  /** Tables of which every change concerns it. */
  readonly tables: readonly string[]
  /** A table that others change too, and the part of it that concerns this jail. */
  readonly shared?: {
    readonly table: string
    readonly chains: readonly string[]
    /** Maps of which an element that holds the uid concerns it. */
    readonly maps: readonly string[]
    readonly uid: number
  }
}

/** Numbers of sched_getscheduler and sched_setscheduler (asm/unistd_64.h; asm-generic/unistd.h for arm64). */
const schedulers: Readonly<Partial<Record<NodeJS.Architecture, readonly [number, number]>>> = {
  x64: [145, 144],
  arm64: [120, 119],
}
/** Seconds after a change that what answers it goes first. */
const hurrySeconds = 3

/**
 * argv: TABLES CHAINS MAPS (comma-separated) SHARED UID GET,SET,SECONDS PIDS. Writes `ready`, then `change` for each batch
 * that concerns it. Numbers are of linux/netlink.h, linux/netfilter/nfnetlink.h, nf_tables.h, and of linux/sched.h: 2 is
 * SCHED_RR, 0x40000000 has what is forked then begin as usual. Ends with its standard input.
 */
const script = String.raw`
use strict; use warnings; $| = 1;
my ($tables, $chains, $maps, $shared, $uid, $scheduler, $pids) = @ARGV;
my ($get, $set, $seconds) = split /,/, $scheduler;
my ($first, $last) = map { pack('i', $_) } 1, 0;
# Only what has a usual policy, and goes back to it.
my %usual = map { my $policy = $get ? syscall($get, $_ + 0) : -1; $policy =~ /^[035]$/ ? ($_ => $policy) : () } split /,/, $pids;
my $until = 0;
sub hurry {
  $until = time + $seconds;
  syscall($set, $_ + 0, 2 | 0x40000000, $first) for keys %usual;
}
sub relax {
  $until = 0;
  syscall($set, $_ + 0, $usual{$_}, $last) for keys %usual;
}
syscall($set, 0, 2 | 0x40000000, $first) if $set;
my ($own, $chain, $map) = map { my %h = map { $_ => 1 } split /,/; \%h } $tables, $chains, $maps;
my $key = pack('L', $uid);
socket(my $s, 16, 3, 12) or die "netlink: $!\n";
setsockopt($s, 1, 33, pack('i', 1 << 20)) or setsockopt($s, 1, 8, pack('i', 1 << 20));
bind($s, pack('S S L L', 16, 0, 0, 1 << 6)) or die "netlink: $!\n";
print "ready\n";
sub concerns {
  my ($type, $body) = @_;
  my ($family, $at, $flags, %name) = (unpack('C', $body), 4, '');
  while ($at + 4 <= length $body) {
    my ($len, $kind) = unpack('S S', substr($body, $at, 4));
    return 1 if $len < 4;
    $name{$kind & 0x3fff} //= unpack('Z*', substr($body, $at + 4, $len - 4));
    $flags = substr($body, $at + 4, 4) if ($kind & 0x3fff) == 2;
    $at += ($len + 3) & ~3;
  }
  my $table = $name{1} // '';
  # 0 and 2: a table; 3 and 5: a chain; 6 and 8: a rule; 11: a set; 14: an element. New sets and elements open nothing.
  return $type =~ /^(0|2|3|5|6|8|11|14)$/ if $own->{$table};
  return 0 if $table ne $shared;
  # A table that is announced with flags may be switched off (dormant).
  return $type == 2 || $flags =~ /[^\0]/ if $type == 0 or $type == 2;
  return $chain->{$name{3} // ''} if $type == 3 or $type == 5;
  return $chain->{$name{2} // ''} if $type == 6 or $type == 8;
  return $map->{$name{2} // ''} if $type == 11;
  return $type == 14 && $map->{$name{2} // ''} && index($body, $key) >= 0;
}
while (1) {
  my $in = '';
  vec($in, 0, 1) = 1; vec($in, fileno $s, 1) = 1;
  my $left = $until - time;
  if ($until and $left <= 0 || $left > $seconds) { relax(); next; }
  select($in, undef, undef, $until ? $left : undef) > 0 or next;
  if (vec($in, 0, 1)) { sysread(STDIN, my $gone, 64) or last; }
  next unless vec($in, fileno $s, 1);
  my $told = 0;
  while (1) {
    my $got = recv($s, my $data, 1 << 17, 0x40);
    if (!defined $got) { last if $!{EAGAIN}; $told = 1 if $!{ENOBUFS}; last unless $!{ENOBUFS}; next; }
    for (my $at = 0; !$told && $at + 20 <= length $data;) {
      my ($len, $type) = unpack('L S', substr($data, $at, 6));
      if ($len < 20) { $told = 1; last; }
      $told = concerns($type & 255, substr($data, $at + 16, $len - 16)) if $type >> 8 == 10;
      $at += ($len + 3) & ~3;
    }
  }
  if ($told) { hurry(); print "change\n"; }
}
relax();
`

/**
 * @param hurried processes that answer a change. Throws where it cannot be started.
 */
export function openMonitor(
  system: System,
  perl: string,
  { tables, shared }: MonitorFilter,
  onChange: () => void,
  onEnd: () => void,
  hurried: readonly number[] = [],
): RuleMonitor {
  const session: Session = system.open([
    ...[perl, '-MErrno', '-e', script, '--', tables.join(',')],
    ...[shared?.chains.join(',') ?? '', shared?.maps.join(',') ?? ''],
    ...[shared?.table ?? '', String(shared?.uid ?? 0)],
    ...[[...(schedulers[process.arch] ?? [0, 0]), hurrySeconds].join(','), hurried.join(',')],
  ] as unknown as Parameters<System['open']>[0])
  let stopped = false
  // Ready counts as a change: what happened before it listened is looked for once.
  session.onLine(() => {
    if (!stopped) onChange()
  })
  session.onErrorText(() => undefined)
  session.onExit(() => {
    if (!stopped) onEnd()
  })
  return {
    stop: () => {
      stopped = true
      session.kill()
    },
  }
}
