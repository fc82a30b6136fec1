/**
 * Packets on the modelled Mac: pf's verdict by the evaluator, what tcpdump then sees on the devices, and what the sender
 * is told. Nobody beyond the Mac answers.
 */
import { isIPv4 } from 'node:net'
import { evaluate, inNet, redirect, type Packet } from './pf/eval.js'
import type { MacState } from './state.js'
import { worldOf } from './world.js'

export interface Sent {
  readonly uid: number
  readonly proto: 'tcp' | 'udp' | 'icmp'
  readonly to: string
  /** Of TCP and UDP. */
  readonly port: number
  /** Of UDP, hexadecimal. */
  readonly data?: string
}

export interface Told {
  /** `local`: it goes to a socket of this machine. `away`: it left. */
  readonly verdict: 'local' | 'away' | 'refused' | 'dropped'
  /** Where it really goes on this machine: redirected, or as it was sent. */
  readonly address: string
  readonly port: number
  /** Device and line of tcpdump. */
  readonly seen: readonly (readonly [device: string, line: string])[]
}

const fromPort = 51_234

/** `owners`: who listens at a port of this machine. */
export function traffic(state: MacState, sent: Sent, owners: ReadonlyMap<number, number>): Told {
  const { proto, to, port, uid } = sent
  const own = isOwn(state, to)
  const device = own ? 'lo0' : deviceTo(state, to)
  const from = own ? to : (sourceOf(state, device, to) ?? '192.168.1.10')
  const flags = proto === 'tcp' ? { flags: 'S' } : {}
  const ports = proto === 'icmp' ? {} : { fromPort, toPort: port }
  const packet = { proto: icmpName(proto, to), from, to, on: device, ...ports, ...flags }
  const seen: (readonly [string, string])[] = []
  const server = owners.get(port)
  const as = { seen, address: to, port }
  const packets: Packet[] = [
    { ...packet, direction: 'out', uid },
    ...(own ? [{ ...packet, direction: 'in', ...owner(server) } as const] : []),
  ]
  for (const each of packets) {
    const world = worldOf(state)
    const { action, log, label, routeTo } = evaluate(world, each)
    if (log && label !== undefined && state.interfaces.includes('pflog0'))
      seen.push(['pflog0', logLine(state, each, label)])
    if (action !== 'pass') return { ...as, verdict: action === 'return' ? 'refused' : 'dropped' }
    if (routeTo !== 'lo0') continue
    const target = redirect(world, { ...each, direction: 'in', on: 'lo0' })
    return target === undefined
      ? { ...as, verdict: 'dropped' }
      : { ...as, verdict: 'local', ...target }
  }
  if (own) return { ...as, verdict: 'local' }
  const peer = state.peers[device]
  if (peer !== undefined && state.neighbours.includes(to)) seen.push([peer, wireLine(packet, sent)])
  return { ...as, verdict: 'away' }
}

function owner(uid: number | undefined): { uid?: number } {
  return uid === undefined ? {} : { uid }
}

function icmpName(proto: Sent['proto'], to: string): Packet['proto'] {
  if (proto !== 'icmp') return proto
  return isIPv4(to) ? 'icmp' : 'ipv6-icmp'
}

function isOwn(state: MacState, address: string): boolean {
  if (address === '::1' || (isIPv4(address) && inNet(address, '127.0.0.0/8'))) return true
  return Object.values(state.addresses)
    .flat()
    .some((each) => each.split('/')[0] === address)
}

function deviceTo(state: MacState, to: string): string {
  const found = Object.entries(state.addresses).find(([, nets]) =>
    nets.some((net) => inNet(to, net)),
  )
  return found?.[0] ?? 'en0'
}

function sourceOf(state: MacState, device: string, to: string): string | undefined {
  const nets = state.addresses[device] ?? []
  return nets.find((net) => net.includes(':') === to.includes(':'))?.split('/')[0]
}

/** As `tcpdump -n` prints it. */
function wireLine(
  { from, to, ...packet }: Omit<Packet, 'direction'>,
  { data, port }: Sent,
): string {
  const ip = to.includes(':') ? 'IP6' : 'IP'
  const echo = `${ip === 'IP6' ? 'ICMP6' : 'ICMP'}${ip === 'IP6' ? ',' : ''} echo request`
  if (packet.fromPort === undefined)
    return `10:00:00.000001 ${ip} ${from} > ${to}: ${echo}, id 0, seq 1, length 12`
  const what =
    packet.proto === 'tcp'
      ? 'Flags [S], seq 1, win 65535, length 0'
      : port === 53
        ? `12345+ A? ${queryName(data ?? '')}. (50)`
        : `UDP, length ${String((data ?? '').length / 2)}`
  return `10:00:00.000001 ${ip} ${from}.${String(packet.fromPort)} > ${to}.${String(packet.toPort)}: ${what}`
}

function queryName(hex: string): string {
  const bytes = Buffer.from(hex, 'hex')
  const labels: string[] = []
  for (let at = 12; at < bytes.length && bytes[at] !== 0; at += 1 + (bytes[at] ?? 0))
    labels.push(bytes.toString('latin1', at + 1, at + 1 + (bytes[at] ?? 0)))
  return labels.join('.')
}

/** As `tcpdump -n -e` prints it: the anchor's last part, and the rule's place among its filter rules. */
function logLine(state: MacState, packet: Packet, label: string): string {
  const anchor = worldOf(state).anchors.get('com.apple/agentjail')
  const rules = (anchor?.statements ?? []).filter(({ kind }) => kind === 'filter')
  const index = rules.findIndex((rule) => rule.kind === 'filter' && rule.label === label)
  const end = (address: string, at: number | undefined): string => `${address}.${String(at)}`
  const ends = `${end(packet.from, packet.fromPort)} > ${end(packet.to, packet.toPort)}`
  const what = packet.proto === 'tcp' ? 'Flags [S], seq 1, length 0' : 'UDP, length 4'
  return `10:00:00.000001 rule 4.agentjail.${String(index)}/0(match): block ${packet.direction} on ${packet.on}: ${ends}: ${what}`
}
