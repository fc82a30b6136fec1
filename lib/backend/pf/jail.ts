/**
 * What pf has to know of one jail, and how that follows from its network plan. Pure.
 * Invariant: only what the gate does not serve becomes a kernel rule; everything else stays closed.
 */
import type { Cidr, PortRange } from '../../policy/types.js'
import type { GatePort, KernelGrant, NetworkPlan } from '../types.js'

/** A grant by name that the kernel lets through: its addresses live in a table of their own. */
interface PfPinned {
  readonly grant: string
  readonly proto: 'tcp' | 'udp'
  readonly ports: readonly PortRange[]
}

/** A port that is taken over: destination port meant, to the gate's listener on 127.0.0.1 and ::1. */
export interface PfTakeover {
  readonly proto: 'tcp' | 'udp'
  readonly port: number
  readonly to: number
}

export interface PfJail {
  readonly name: string
  readonly uid: number
  /** CONNECT and SOCKS5h on 127.0.0.1; absent until the gate listens. */
  readonly proxy?: number
  /** Only where the policy says `transparent`. */
  readonly takeovers: readonly PfTakeover[]
  readonly pinned: readonly PfPinned[]
  readonly kernel: readonly KernelGrant[]
  /** They win over every grant. */
  readonly denied: readonly Cidr[]
  readonly loopback: { readonly connect: readonly number[]; readonly listen: readonly number[] }
  readonly ipv6: boolean
}

/** `gate`: the ports on which the gate listens; none before it does. */
export function pfJail(plan: NetworkPlan, gate: readonly GatePort[]): PfJail {
  const proxy = gate.find(({ role }) => role === 'proxy')
  return {
    name: plan.jail,
    uid: plan.uid,
    ...(proxy === undefined ? {} : { proxy: proxy.gatePort }),
    takeovers: gate
      .filter(({ role }) => role !== 'proxy')
      .map(({ proto, port, gatePort }) => ({ proto, port, to: gatePort })),
    pinned: plan.pinned.map(({ grant, proto, ports }) => ({ grant, proto, ports })),
    kernel: plan.kernel,
    denied: plan.denied ?? [],
    loopback: { connect: plan.loopbackConnect, listen: plan.loopbackListen },
    ipv6: plan.ipv6,
  }
}
