/**
 * Flows as people think of them, played packet by packet through the evaluator; and what a policy itself says of
 * the same flow. The two know nothing of each other.
 */
import type { Cidr, Policy, PortRange } from '../../lib/policy/types.js'
import { isGated } from '../../lib/plan/network.js'
import { evaluate, inNet, redirect, type Packet, type PfWorld } from './model/pf/eval.js'
import { selfAddresses } from './rulesets.js'

export interface Flow {
  /** `connect`: a TCP connection, to its first data. `send`: one UDP datagram and its answer. */
  readonly kind: 'connect' | 'send'
  /** Owner of the socket that starts it; undefined: it comes from another machine. */
  readonly client?: number
  /** Owner of the socket that it meets on this machine, if any. */
  readonly server?: number
  readonly from: string
  readonly to: string
  readonly port: number
  /** The client's own; default: one that nothing else has. */
  readonly fromPort?: number
  /** Interface of the default route, for what is not this machine. */
  readonly via?: string
}

export type Outcome = 'passes' | 'refused' | 'hangs' | { readonly gate: number }

export const anyPort = 51_234

export function play(world: PfWorld, flow: Flow): Outcome {
  const proto = flow.kind === 'connect' ? 'tcp' : 'udp'
  const local = isLocal(flow.to) && isLocal(flow.from)
  const clientPort = flow.fromPort ?? anyPort
  const via = local ? 'lo0' : (flow.via ?? 'en0')
  const there = {
    proto,
    from: flow.from,
    fromPort: clientPort,
    to: flow.to,
    toPort: flow.port,
  } as const
  const back = {
    proto,
    from: flow.to,
    fromPort: flow.port,
    to: flow.from,
    toPort: clientPort,
  } as const
  const tcp = (flags: string): { flags?: string } => (proto === 'tcp' ? { flags } : {})
  const exchange: (typeof there | typeof back)[] = []
  const flags: string[] = []
  const say = (packet: typeof there | typeof back, flag: string): void => {
    exchange.push(packet)
    flags.push(flag)
  }
  say(there, 'S')
  say(back, 'SA')
  say(there, 'A')
  say(there, 'PA')
  say(back, 'PA')
  say(back, 'R')
  const outgoing = flow.client !== undefined
  for (const [index, packet] of exchange.entries()) {
    const byClient = packet === there
    const base = { ...packet, ...tcp(flags[index] ?? ''), on: via }
    const ownerOf = (ofClient: boolean): { uid?: number } => {
      const uid = ofClient ? flow.client : flow.server
      return uid === undefined ? {} : { uid }
    }
    const steps: Packet[] = []
    // Owner of the local socket of each side that is on this machine: it sends, or it receives.
    if (local || byClient === outgoing)
      steps.push({ ...base, direction: 'out', ...ownerOf(byClient) })
    if (local || byClient !== outgoing)
      steps.push({ ...base, direction: 'in', ...ownerOf(!byClient) })
    for (const step of steps) {
      const verdict = evaluate(world, step)
      if (verdict.action === 'return') return 'refused'
      if (verdict.action === 'drop')
        return isV6(step) && step.direction === 'out' ? 'refused' : 'hangs'
      if (verdict.routeTo === 'lo0' && step.direction === 'out') return throughGate(world, step)
    }
  }
  return 'passes'
}

/** The packet comes in again on lo0, where a redirect must take it: else it would be forwarded, or lost. */
function throughGate(world: PfWorld, packet: Packet): Outcome {
  const target = redirect(world, { ...packet, direction: 'in', on: 'lo0' })
  return target === undefined ? 'hangs' : { gate: target.port }
}

export function isLocal(address: string): boolean {
  return inNet(address, '127.0.0.0/8') || address === '::1' || selfAddresses.includes(address)
}

function isV6(packet: Packet): boolean {
  return packet.from.includes(':')
}

/** A jail as its policy sees it. */
export interface Held {
  readonly policy: Policy
  readonly uid: number
  readonly proxy: number
  /** Addresses that each grant by name has now. */
  readonly pins: ReadonlyMap<string, readonly string[]>
}

/**
 * The policy's own meaning, for a flow that one of the jails' sockets starts or receives. `gate`: the flow goes to
 * the gate, whatever it then decides.
 */
export function meaning(
  jails: readonly Held[],
  reserved: { first: number; last: number },
  flow: Flow,
): 'passes' | 'refused' | 'gate' {
  const isReserved = (uid: number | undefined): boolean =>
    uid !== undefined && uid >= reserved.first && uid <= reserved.last
  const client = jails.find(({ uid }) => uid === flow.client)
  const server = jails.find(({ uid }) => uid === flow.server)
  const gates = jails.find(
    ({ proxy }) => flow.kind === 'connect' && flow.to === '127.0.0.1' && flow.port === proxy,
  )
  if (gates !== undefined && flow.client !== undefined && isLocal(flow.from))
    return gates.uid === flow.client &&
      flow.from === '127.0.0.1' &&
      !isReserved(flow.server) &&
      // From a port that it may serve nothing is opened.
      !gates.policy.loopback.listen.includes(flow.fromPort ?? anyPort)
      ? 'passes'
      : 'refused'
  if (isReserved(flow.client)) {
    if (client === undefined) return 'refused'
    const out = mayReach(client, flow)
    if (out !== 'passes') return out
  }
  if (isReserved(flow.server)) {
    if (server === undefined) return 'refused'
    return mayServe(server, flow) ? 'passes' : 'refused'
  }
  return 'passes'
}

function mayReach(held: Held, flow: Flow): 'passes' | 'refused' | 'gate' {
  const { policy, pins } = held
  const proto = flow.kind === 'connect' ? 'tcp' : 'udp'
  if (isLocal(flow.to)) {
    if (proto !== 'tcp' || !['127.0.0.1', '::1'].includes(flow.to) || flow.from !== flow.to)
      return 'refused'
    if (flow.to === '::1' && !policy.ipv6) return 'refused'
    // From a port that it may serve nothing is opened.
    if (policy.loopback.listen.includes(flow.fromPort ?? anyPort)) return 'refused'
    return policy.loopback.connect.includes(flow.port) ? 'passes' : 'refused'
  }
  if (policy.denies.some((deny) => deny.cidr !== undefined && inCidr(flow.to, deny.cidr)))
    return 'refused'
  const isClosed = flow.to.includes(':') && !policy.ipv6
  const fixed = policy.cidrs.some(
    (grant) =>
      grant.proto === proto && inPorts(grant.ports, flow.port) && inCidr(flow.to, grant.cidr),
  )
  if (fixed && !isClosed) return 'passes'
  const gated = policy.grants.some(
    (grant) => proto === 'tcp' && isGated(grant, flow.port) && inPorts(grant.ports, flow.port),
  )
  if (policy.transparent && (gated || flow.port === 53)) return 'gate'
  if (isClosed) return 'refused'
  const named = policy.grants.some(
    (grant) =>
      grant.proto === proto &&
      !isGated(grant, flow.port) &&
      inPorts(grant.ports, flow.port) &&
      (pins.get(grant.id) ?? []).includes(flow.to),
  )
  return named ? 'passes' : 'refused'
}

/** Only TCP, only from this machine's loopback, only on a port the policy lists. */
function mayServe({ policy }: Held, flow: Flow): boolean {
  return (
    flow.kind === 'connect' &&
    flow.client !== undefined &&
    ['127.0.0.1', '::1'].includes(flow.to) &&
    flow.from === flow.to &&
    (flow.to !== '::1' || policy.ipv6) &&
    policy.loopback.listen.includes(flow.port)
  )
}

function inPorts(ports: readonly PortRange[], port: number): boolean {
  return ports.some(({ first, last }) => first <= port && port <= last)
}

function inCidr(address: string, cidr: Cidr): boolean {
  return inNet(address, `${cidr.address}/${String(cidr.prefix)}`)
}
