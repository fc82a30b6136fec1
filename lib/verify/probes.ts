/**
 * The battery: every probe of `agentjail verify`, what it tries, and which probes are known to be open where.
 * Invariant: pure data; a probe that is not in this table is never reported, one that is always is.
 */
import type { HardeningPiece } from '../launch/types.js'
import type { Isolation } from '../policy/types.js'

export interface Probe {
  readonly id: string
  readonly group: 'network' | 'names' | 'host' | 'privilege' | 'kernel' | 'files' | 'processes'
  /** What the probe tries, for people. */
  readonly title: string
  /** Leaving out these pieces of the hardening together opens it, in either isolation: how the probe is tested. */
  readonly opens: readonly HardeningPiece[]
}

const network = ['network'] as const
const mounts = ['mount-namespace'] as const
const filter = ['seccomp'] as const

export const probes = [
  probe('tcp-direct', 'network', 'TCP to an address without a name, port 443', network),
  probe('tcp-port', 'network', 'TCP to a port that no grant names', network),
  probe('tcp-ipv6', 'network', 'TCP over IPv6', network),
  probe('tcp-mapped', 'network', 'TCP to an IPv4-mapped IPv6 address', network),
  probe('tcp-device', 'network', 'TCP from a socket bound to a network device', network),
  probe('mptcp', 'network', 'Multipath TCP', ['seccomp', 'network']),
  probe('udp', 'network', 'UDP', network),
  probe('udp-ipv6', 'network', 'UDP over IPv6', network),
  probe('quic', 'network', 'UDP to port 443 (QUIC)', network),
  probe('udp-lite', 'network', 'UDP-Lite', ['seccomp', 'network']),
  probe('icmp', 'network', 'ICMP echo with data', ['seccomp', 'network']),
  probe('icmp-ipv6', 'network', 'ICMPv6 echo with data', ['seccomp', 'network']),
  probe('multicast', 'network', 'Joining a multicast group on the host', ['seccomp', 'network']),
  probe('inbound-tcp', 'network', 'TCP from outside to a port of the command', network),
  probe('inbound-udp', 'network', 'UDP from outside to a port of the command', network),
  probe('metadata', 'network', 'The cloud metadata address', network),
  probe('dns-other', 'names', 'A DNS server of its own choice', network),
  probe('dns-tunnel', 'names', 'Data in a name that nobody granted (DNS tunnel)', ['gate-names']),
  probe('sni-other', 'names', "Another site's name at a granted address", ['gate-names']),
  probe('loopback-tcp', 'host', 'A service on 127.0.0.1', network),
  probe('loopback-ipv6', 'host', 'A service on ::1', network),
  probe('loopback-udp', 'host', 'A UDP service on 127.0.0.1', network),
  probe('host-address', 'host', "A service on the host's own address", network),
  probe('abstract-socket', 'host', 'An abstract unix socket of another user', [
    'network',
    'scopes',
  ]),
  probe('path-socket', 'host', 'A unix socket in /run', mounts),
  probe('setuid', 'privilege', 'A set-user-ID program', ['no-new-privs']),
  probe('file-capability', 'privilege', 'A program with a file capability', [
    'no-new-privs',
    'capabilities',
  ]),
  probe('capabilities', 'privilege', 'Capabilities in any set', ['capabilities']),
  probe('no-new-privs', 'privilege', 'no_new_privs not set', ['no-new-privs']),
  probe('groups', 'privilege', 'Supplementary groups of the caller', ['groups']),
  probe('user-namespace', 'kernel', 'A new user namespace', filter),
  probe('raw-socket', 'kernel', 'Raw and packet sockets, also in a user namespace', filter),
  probe('socket-families', 'kernel', 'Other socket families (vsock, netlink, ...)', filter),
  probe('io-uring', 'kernel', 'io_uring, which no system call filter sees', filter),
  probe('keyring', 'kernel', "The kernel's keyrings", filter),
  probe('terminal-injection', 'kernel', 'Typing into a terminal (TIOCSTI)', filter),
  probe('caller-files', 'files', 'Files of the caller outside the workspace', mounts),
  probe('dot-env', 'files', '.env in the workspace', mounts),
  probe('git-hooks', 'files', "Hooks in the workspace's repository", mounts),
  probe('own-package', 'files', 'agentjail itself, where it lies in the workspace', mounts),
  probe('shared-tmp', 'files', "The host's /tmp", mounts),
  probe('fill-tmp', 'files', 'A /tmp without a size', mounts),
  probe('other-processes', 'processes', 'Command lines of processes outside', ['pid-namespace']),
  probe('leftover', 'processes', 'A process that outlives the command', [
    'pid-namespace',
    'network',
  ]),
  probe('system-v', 'processes', "System V IPC of the host's", ['ipc-namespace']),
  probe('descriptors', 'processes', 'Descriptors above 2', ['close-descriptors']),
  probe('core-dump', 'processes', 'Core dumps', ['limits']),
  probe('fork-bomb', 'processes', 'Processes without a limit', ['limits']),
] as const satisfies readonly Probe[]

export type ProbeId = (typeof probes)[number]['id']

/** What of the machine closes a probe where the jail is on the host's network, and since when Linux has it. */
export const means = {
  'abstract-socket': 'Landlock scopes (Linux 6.12)',
  'inbound-udp': 'nftables with sockets by control group (version 2, Linux 5.13)',
} as const satisfies Partial<Record<ProbeId, string>>

export type Means = keyof typeof means

/** Known to be open on this machine. @param present what of `means` it has. */
export function knownOpen(isolation: Isolation, present: ReadonlySet<Means>): readonly ProbeId[] {
  return documented[isolation].filter((id) => !(present as ReadonlySet<string>).has(id))
}

/** What `docs/known-issues.md` says is open where the machine lacks the means; `verify` shows it, and does not fail for it. */
export const documented: Readonly<Record<Isolation, readonly ProbeId[]>> = {
  namespace: [],
  uid: ['abstract-socket', 'inbound-udp'],
  basic: [
    ...([
      'abstract-socket',
      'inbound-udp',
      'path-socket',
      'caller-files',
      'dot-env',
      'git-hooks',
    ] as const),
    ...(['own-package', 'shared-tmp', 'fill-tmp'] as const),
  ],
}

function probe<const I extends string>(
  id: I,
  group: Probe['group'],
  title: string,
  opens: readonly HardeningPiece[],
): Probe & { readonly id: I } {
  return { id, group, title, opens }
}
