/**
 * Hears of changes to agentjail's tables as the kernel announces them, instead of listing the tables over and over:
 * with a hundred jails one listing takes a fifth of a second.
 * Node has no netlink sockets and `nft monitor` keeps a copy of the whole ruleset; perl-base, which opens the gate's
 * sockets too, reads the announcements in a few lines. It decides nothing: whoever is told looks for himself.
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

/**
 * argv: TABLES CHAINS MAPS (comma-separated) SHARED UID. Writes `ready`, then `change` for each batch that concerns it.
 * Numbers are of linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h. Ends with its standard input.
 */
const script = String.raw`
use strict; use warnings; $| = 1;
my ($tables, $chains, $maps, $shared, $uid) = @ARGV;
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
  select($in, undef, undef, undef) > 0 or next;
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
  print "change\n" if $told;
}
`

/** Throws where it cannot be started. */
export function openMonitor(
  system: System,
  perl: string,
  { tables, shared }: MonitorFilter,
  onChange: () => void,
  onEnd: () => void,
): RuleMonitor {
  const session: Session = system.open([
    ...[perl, '-MErrno', '-e', script, '--', tables.join(',')],
    ...[shared?.chains.join(',') ?? '', shared?.maps.join(',') ?? ''],
    ...[shared?.table ?? '', String(shared?.uid ?? 0)],
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
