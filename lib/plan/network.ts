/**
 * Policy to kernel: which ports the gate serves, which destinations go straight through. Pure.
 * Invariant: a port is served or opened only because a grant names it.
 */
import { JailError } from '../errors.js'
import type { KernelGrant, NetworkPlan, UidRange } from '../backend/types.js'
import type { Grant, Isolation, Policy, PortRange } from '../policy/types.js'
import { reportPorts } from './report-ports.js'

export interface NetworkRequest {
  readonly jail: string
  readonly uid: number
  readonly range: UidRange
  readonly isolation: Isolation
  /** See `Facts.groups`. */
  readonly groups?: string | undefined
}

/** Listening sockets one gate may need; beyond it a policy asks for `isolation: uid`. */
const maxListeners = 1024
const dnsPort: PortRange = { first: 53, last: 53 }

/** Ports by name that the gate must see: inspected ones, and plain HTTP, whose Host it checks. */
export function isGated(grant: Grant, port: number): boolean {
  return grant.proto === 'tcp' && (grant.inspect !== 'none' || port === 80)
}

export function networkPlan(policy: Policy, request: NetworkRequest): NetworkPlan {
  const isolation = request.isolation === 'namespace' ? 'namespace' : 'uid'
  const common = {
    jail: request.jail,
    uid: request.uid,
    range: request.range,
    isolation,
    ipv6: policy.ipv6,
    loopbackListen: policy.loopback.listen,
  } as const
  const plan = isolation === 'namespace' ? namespacePorts(policy) : uidPorts(policy)
  const listeners = [...plan.gateTcp, ...plan.gateUdp].reduce(
    (sum, { first, last }) => sum + last - first + 1,
    0,
  )
  if (listeners > maxListeners) {
    throw new JailError(
      'POLICY_INVALID',
      `the policy grants ${listeners} ports to the gate; it can serve ${maxListeners}`,
      {
        hint: 'name fewer ports, or use isolation: uid with inspect: none',
      },
    )
  }
  const denied = policy.denies.flatMap(({ cidr }) => (cidr === undefined ? [] : [cidr]))
  if (isolation === 'namespace') return { ...common, ...plan }
  return {
    ...common,
    ...plan,
    ...(denied.length > 0 ? { denied } : {}),
    ...(request.groups === undefined ? {} : { groups: request.groups }),
  }
}

type Ports = Pick<NetworkPlan, 'gateTcp' | 'gateUdp' | 'pinned' | 'kernel' | 'loopbackConnect'>

/** Everything goes through the gate: it listens on every granted port. */
function namespacePorts(policy: Policy): Ports {
  const of = (proto: 'tcp' | 'udp'): PortRange[] =>
    [...policy.grants, ...policy.cidrs]
      .filter((grant) => grant.proto === proto)
      .flatMap((grant) => grant.ports)
  const loopback = policy.loopback.connect.map((port) => ({ first: port, last: port }))
  return {
    gateTcp: union([dnsPort, ...of('tcp'), ...loopback, ...(policy.report ? reportPorts : [])]),
    gateUdp: union([dnsPort, ...of('udp')]),
    pinned: [],
    kernel: [],
    loopbackConnect: [],
  }
}

/** Only DNS and inspected ports are redirected; the rest goes to pinned addresses through the kernel. */
function uidPorts(policy: Policy): Ports {
  const split = policy.grants.map((grant) => ({ grant, ...splitPorts(grant) }))
  return {
    gateTcp: union([dnsPort, ...split.flatMap(({ gated }) => gated)]),
    gateUdp: [dnsPort],
    pinned: split
      .filter(({ direct }) => direct.length > 0)
      .map(({ grant, direct }) => ({
        grant: grant.id,
        key: grantKey(grant),
        proto: grant.proto,
        ports: direct,
      })),
    kernel: policy.cidrs
      .filter(({ cidr }) => policy.ipv6 || cidr.family === 4)
      .map((grant): KernelGrant => ({
        grant: grant.id,
        cidr: grant.cidr,
        proto: grant.proto,
        ports: grant.ports,
      })),
    loopbackConnect: policy.loopback.connect,
  }
}

function splitPorts(grant: Grant): { gated: PortRange[]; direct: PortRange[] } {
  if (grant.proto === 'udp') return { gated: [], direct: [...grant.ports] }
  if (grant.inspect !== 'none') return { gated: [...grant.ports], direct: [] }
  // Plain HTTP shares addresses by Host as TLS does by server name: port 80 is never let through by address alone.
  const gated = grant.ports.some(({ first, last }) => first <= 80 && 80 <= last)
    ? [{ first: 80, last: 80 }]
    : []
  const direct = grant.ports.flatMap(({ first, last }): PortRange[] =>
    first <= 80 && 80 <= last
      ? [...(first < 80 ? [{ first, last: 79 }] : []), ...(last > 80 ? [{ first: 81, last }] : [])]
      : [{ first, last }],
  )
  return { gated, direct }
}

/** Everything of a grant that makes it the same grant after a reload; its place in the file does not. */
function grantKey(grant: Grant): string {
  const { host, ports, proto, inspect, within, private: isPrivate } = grant
  return JSON.stringify([host.kind, host.name, ports, proto, inspect, within, isPrivate])
}

/** Sorted, overlapping and adjacent ranges joined. */
function union(ranges: readonly PortRange[]): PortRange[] {
  const joined: { first: number; last: number }[] = []
  for (const { first, last } of [...ranges].sort((a, b) => a.first - b.first || a.last - b.last)) {
    const previous = joined.at(-1)
    if (previous !== undefined && first <= previous.last + 1)
      previous.last = Math.max(previous.last, last)
    else joined.push({ first, last })
  }
  return joined
}
