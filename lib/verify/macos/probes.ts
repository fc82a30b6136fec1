/**
 * The battery on macOS: every probe, what it tries, and which are known to be open.
 * Invariant: pure data; a probe that is not in this table is never reported, one that is always is.
 *
 * Not among them, since nothing a jail is launched with decides them: raw sockets and the arguments of other users'
 * processes, which macOS gives to root alone; descriptors, which sudo closes.
 */
import type { MacPiece } from '../../launch/types.js'
import type { Probe } from '../probes.js'

const network = ['network'] as const
const profile = ['profile'] as const
const gateNames = ['gate-names'] as const

export const macProbes = [
  probe('tcp-direct', 'network', 'TCP to an address without a name, port 443', network),
  probe('tcp-port', 'network', 'TCP to a port that no grant names', network),
  probe('tcp-ipv6', 'network', 'TCP over IPv6', network),
  probe('tcp-mapped', 'network', 'TCP to an IPv4-mapped IPv6 address', network),
  probe('udp', 'network', 'UDP', network),
  probe('udp-ipv6', 'network', 'UDP over IPv6', network),
  probe('quic', 'network', 'UDP to port 443 (QUIC)', network),
  probe('icmp', 'network', 'ICMP echo with data', profile),
  probe('icmp-ipv6', 'network', 'ICMPv6 echo with data', profile),
  probe('inbound-tcp', 'network', 'TCP to a port of the command', network),
  probe('inbound-udp', 'network', 'UDP to a port of the command', network),
  probe('metadata', 'network', 'The cloud metadata address', network),
  probe('dns-other', 'names', 'A DNS server of its own choice', network),
  probe('dns-tunnel', 'names', 'Data in a name that nobody granted (DNS tunnel)', gateNames),
  probe('sni-other', 'names', "Another site's name at a granted address", gateNames),
  probe('resolver-socket', 'names', "The system resolver's socket", profile),
  probe('resolver-service', 'names', 'A name through the system resolver', profile),
  probe('loopback-tcp', 'host', 'A service on 127.0.0.1', network),
  probe('loopback-ipv6', 'host', 'A service on ::1', network),
  probe('loopback-udp', 'host', 'A UDP service on 127.0.0.1', network),
  probe('host-address', 'host', "A service on the host's own address", network),
  probe('path-socket', 'host', 'A unix socket in /var/run', profile),
  probe('setuid', 'privilege', 'A set-user-ID program', profile),
  probe('outside-programs', 'privilege', 'Programs that start others outside (open, ...)', profile),
  probe('staff', 'privilege', "Group staff, to which people's files may be open", []),
  probe('caller-files', 'files', 'Files of the caller outside the workspace', profile),
  probe('keychain', 'files', "The system's keychain file", profile),
  probe('dot-env', 'files', '.env in the workspace', profile),
  probe('git-hooks', 'files', "Hooks in the workspace's repository", profile),
  probe('own-package', 'files', 'agentjail itself, where it lies in the workspace', profile),
  probe('write-outside', 'files', 'Writing where everybody may, outside the workspace', profile),
  probe('shared-tmp', 'files', "The Mac's /tmp", profile),
  probe('leftover', 'processes', 'A process that outlives the command', ['end']),
  probe('fork-bomb', 'processes', 'Processes without a limit', []),
] as const satisfies readonly (Omit<Probe, 'opens'> & { readonly opens: readonly MacPiece[] })[]

export type MacProbeId = (typeof macProbes)[number]['id']

/** Open whatever the policy says: macOS has no means. In docs/known-issues.md. */
export const macOpen = ['staff', 'fork-bomb'] as const satisfies readonly MacProbeId[]
/** Open with `transparent: true`, which needs the system resolver. In docs/known-issues.md. */
export const openIfTransparent = [
  'resolver-socket',
  'resolver-service',
] as const satisfies readonly MacProbeId[]

function probe<const I extends string>(
  id: I,
  group: Probe['group'],
  title: string,
  opens: readonly MacPiece[],
) {
  return { id, group, title, opens } as const
}
