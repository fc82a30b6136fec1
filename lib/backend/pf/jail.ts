/**
 * What pf has to know of one jail, and how that follows from its policy.
 * Invariant: only grants that the gate does not serve become kernel rules; everything else stays closed.
 */
import { JailError } from '../../errors.js'
import type { Cidr, Policy, PortRange } from '../../policy/types.js'

/** A destination that the kernel lets through without the gate. */
export interface PfDirect {
  /** Grant id of the policy (`g1`, `c1`, ...). */
  readonly id: string
  readonly proto: 'tcp' | 'udp'
  readonly ports: readonly PortRange[]
  /** Fixed for a CIDR grant; for a name the addresses that it has now. Canonical. */
  readonly addresses: readonly string[]
}

/** The ports of the jail's gate on loopback. */
export interface PfGatePorts {
  /** CONNECT and SOCKS5h, on 127.0.0.1. */
  readonly proxy: number
  /** Transparent: inspected port -> listener of the gate, on 127.0.0.1 and ::1. */
  readonly redirects: readonly { readonly port: number; readonly to: number }[]
}

export interface PfJail {
  readonly name: string
  readonly uid: number
  readonly gate: PfGatePorts
  readonly direct: readonly PfDirect[]
  /** CIDRs that the policy denies: they win over every direct grant. */
  readonly denied: readonly string[]
  readonly loopback: { readonly connect: readonly number[]; readonly listen: readonly number[] }
  readonly ipv6: boolean
}

/** Above this, a transparent policy would need one listener for each of too many ports. */
const maxRedirectedPorts = 16

/** `addresses` are the current addresses of each direct grant by name, keyed by grant id. */
export function pfJail(
  policy: Policy,
  uid: number,
  gate: PfGatePorts,
  addresses: ReadonlyMap<string, readonly string[]>,
): PfJail {
  const named = policy.grants
    .filter((grant) => grant.inspect === 'none')
    .map(({ id, proto, ports }) => ({ id, proto, ports, addresses: addresses.get(id) ?? [] }))
  const fixed = policy.cidrs.map(({ id, proto, ports, cidr }) => ({
    id,
    proto,
    ports,
    addresses: [cidrText(cidr)],
  }))
  return {
    name: policy.name,
    uid,
    gate,
    direct: [...named, ...fixed],
    denied: policy.denies.flatMap((deny) => (deny.cidr === undefined ? [] : [cidrText(deny.cidr)])),
    loopback: policy.loopback,
    ipv6: policy.ipv6,
  }
}

/** The ports that a transparent policy takes over: those of grants that the gate inspects. */
export function redirectedPorts(policy: Policy): readonly number[] {
  if (!policy.transparent) return []
  const ports = new Set<number>()
  for (const grant of policy.grants) {
    if (grant.inspect === 'none') continue
    for (const { first, last } of grant.ports) {
      if (last - first >= maxRedirectedPorts) throw tooMany(policy)
      for (let port = first; port <= last; port++) ports.add(port)
    }
  }
  if (ports.size > maxRedirectedPorts) throw tooMany(policy)
  return [...ports].sort((a, b) => a - b)
}

/** `192.0.2.1` for a whole address, `192.0.2.0/24` otherwise: as pfctl shows table entries. */
export function cidrText({ family, address, prefix }: Cidr): string {
  return prefix === (family === 4 ? 32 : 128) ? address : `${address}/${String(prefix)}`
}

function tooMany(policy: Policy): JailError {
  return new JailError(
    'POLICY_INVALID',
    `${policy.source}: transparent: more than ${String(maxRedirectedPorts)} inspected ports`,
    { hint: 'name fewer ports in network.allow, or drop "transparent" and use the proxy gate' },
  )
}
