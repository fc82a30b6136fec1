/**
 * What the gate's tests share: policies made by hand, a small authoritative DNS server, the gate's
 * parts put together without a process.
 */
import dgram from 'node:dgram'
import net from 'node:net'
import { performance } from 'node:perf_hooks'
import packet, { type Answer, type DecodedPacket, type Packet } from 'dns-packet'
import type { Decision } from '../lib/audit/record.js'
import { onAccepted } from '../lib/gate/accept.js'
import { Budgets } from '../lib/gate/budgets.js'
import { Connections } from '../lib/gate/connections.js'
import { Decisions } from '../lib/gate/decisions.js'
import { DnsFilter } from '../lib/gate/dns/filter.js'
import { Resolver } from '../lib/gate/dns/resolver.js'
import { type Ask, createAsk } from '../lib/gate/dns/upstream.js'
import { Grants } from '../lib/gate/grants.js'
import { Names, type PinInKernel } from '../lib/gate/names.js'
import type { GatePolicy } from '../lib/gate/protocol.js'
import { type HttpHandlers, Relay, serverOptions } from '../lib/gate/relay.js'
import { parseCidr } from '../lib/policy/addresses.js'
import { parseHostPattern } from '../lib/policy/hosts.js'
import { isProblem } from '../lib/policy/problem.js'
import type { Cidr, CidrGrant, Deny, Grant, HostPattern } from '../lib/policy/types.js'
import { plainGrant } from '../lib/policy/plain-grant.js'

const origin = { file: 'test', line: 1, column: 1 }
let grantNumber = 0

export function host(text: string): HostPattern {
  const pattern = parseHostPattern(text)
  if (isProblem(pattern)) throw new Error(`bad pattern ${text}`)
  return pattern
}

export function cidr(text: string): Cidr {
  const parsed = parseCidr(text)
  if (isProblem(parsed)) throw new Error(`bad CIDR ${text}`)
  return parsed
}

export function grant(text: string, port: number, more: Partial<Grant> = {}): Grant {
  return {
    ...plainGrant({
      id: `g${++grantNumber}`,
      host: host(text),
      ports: [{ first: port, last: port }],
      origin,
    }),
    inspect: port === 443 ? 'sni' : 'none',
    ...more,
  }
}

export function cidrGrant(text: string, port: number, proto: 'tcp' | 'udp' = 'tcp'): CidrGrant {
  return {
    id: `g${++grantNumber}`,
    cidr: cidr(text),
    ports: [{ first: port, last: port }],
    proto,
    origin,
  }
}

export function deny(text: string): Deny {
  return /^[\d:/.]+$/.test(text) ? { cidr: cidr(text), origin } : { host: host(text), origin }
}

export function policy(
  more: Partial<Omit<GatePolicy, 'dns'>> & { readonly dns?: Partial<GatePolicy['dns']> } = {},
): GatePolicy {
  return {
    grants: [],
    cidrs: [],
    denies: [],
    loopbackConnect: [],
    ipv6: true,
    report: false,
    credentials: [],
    ...more,
    dns: {
      upstream: [],
      types: ['A', 'AAAA'],
      maxTtl: 60,
      pinExtra: 120,
      rate: 50,
      wildcard: { labels: 3, labelLength: 32, newNames: 50 },
      hosts: [],
      ...more.dns,
    },
  }
}

export interface Parts {
  readonly names: Names
  readonly filter: DnsFilter
  readonly relay: Relay
  readonly connections: Connections
  readonly budgets: Budgets
  /** Everything reported so far. */
  decisions(): Promise<readonly Decision[]>
  update(policy: GatePolicy): number
}

/** Puts a gate together. `upstream`: a port of a DNS server on loopback, or a stand-in for asking. */
export function assemble(
  given: GatePolicy,
  options: {
    readonly upstream?: number | Ask
    readonly now?: () => number
    readonly pin?: PinInKernel
    readonly http?: HttpHandlers
    readonly hostAddresses?: readonly string[]
  } = {},
): Parts {
  const now = options.now ?? (() => performance.now())
  const reported: Decision[] = []
  const decisions = new Decisions((batch) => {
    reported.push(...batch)
    return Promise.resolve()
  })
  let current = given
  const { upstream = 1 } = options
  const ask =
    typeof upstream === 'function'
      ? upstream
      : createAsk(() => [{ address: '127.0.0.1', port: upstream }])
  const hostAddresses = options.hostAddresses ?? []
  const names = new Names({
    grants: new Grants(given, hostAddresses),
    resolver: new Resolver({ ask, maxTtl: () => current.dns.maxTtl, now }),
    now,
    ...(options.pin === undefined ? {} : { pinInKernel: options.pin }),
  })
  const filter = new DnsFilter(names, decisions, now)
  const budgets = new Budgets(given.egressBytes, now)
  const connections = new Connections(decisions, budgets)
  const closed: HttpHandlers = {
    serveTls: (socket) => socket.destroy(),
    servePlain: (socket) => socket.destroy(),
  }
  const relay = new Relay({ names, connections, budgets, decisions, http: options.http ?? closed })
  return {
    names,
    filter,
    relay,
    connections,
    budgets,
    decisions: async () => {
      await decisions.flush()
      return reported
    },
    update: (next) => {
      current = next
      const grants = new Grants(next, hostAddresses)
      names.update(grants)
      filter.update()
      budgets.update(next.egressBytes)
      return connections.cutWithdrawn(grants)
    },
  }
}

/** A test to tidy up after. */
export interface Tap {
  teardown(tidy: () => void): void
}

export interface Setup {
  readonly parts: Parts
  /** Connects as the jail would, to this destination. */
  readonly connect: (destination: string | undefined, port?: number) => net.Socket
}

/** A relay on loopback. */
export async function setUp(t: Tap, given: GatePolicy): Promise<Setup> {
  const parts = assemble(given)
  let next: { destination: string | undefined; port: number } | undefined
  const server = net.createServer(serverOptions)
  onAccepted(server, (socket) => {
    void parts.relay.accept(socket, next!.destination, next!.port)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const sockets: net.Socket[] = []
  t.teardown(() => {
    server.close()
    parts.connections.cutAll()
    for (const socket of sockets) socket.destroy()
  })
  return {
    parts,
    connect: (destination, port = 443) => {
      next = { destination, port }
      const socket = net.connect({
        host: '127.0.0.1',
        port: (server.address() as net.AddressInfo).port,
        allowHalfOpen: true,
      })
      sockets.push(socket)
      return socket
    },
  }
}

/** Everything until the end, or the error's code. */
export function outcome(socket: net.Socket): Promise<Buffer | string> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk)).resume()
    socket.on('end', () => resolve(Buffer.concat(chunks)))
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'))
  })
}

/** `dns.hosts` that lead to loopback. */
export function fixed(...names: string[]): readonly (readonly [string, readonly string[]])[] {
  return names.map((name) => [name, ['127.0.0.1']] as const)
}

/** Asks a filter as a client would. */
export async function query(
  filter: DnsFilter,
  name: string,
  type: string,
  more: Partial<Packet> & { readonly transport?: 'udp' | 'tcp' } = {},
): Promise<DecodedPacket & { rcode: string }> {
  const { transport = 'udp', ...packetFields } = more
  const message = packet.encode({
    type: 'query',
    id: 4711,
    flags: packet.RECURSION_DESIRED,
    questions: [{ name, type: type as 'A', class: 'IN' }],
    ...packetFields,
  })
  const answer = await filter.answer(message, transport)
  if (answer === undefined) throw new Error('no answer')
  return packet.decode(answer) as DecodedPacket & { rcode: string }
}

export const edns: Packet['additionals'] = [
  {
    type: 'OPT',
    name: '.',
    udpPayloadSize: 4096,
    extendedRcode: 0,
    ednsVersion: 0,
    flags: 0,
    flag_do: false,
    options: [],
  },
]

export type Zone = (
  name: string,
  type: string,
  transport: 'udp' | 'tcp',
) =>
  | { readonly answers?: Answer[]; readonly authorities?: Answer[]; readonly flags?: number }
  | 'silent'

export interface TestDns {
  readonly port: number
  /** What arrived, as it was spelt. */
  readonly queries: {
    readonly name: string
    readonly type: string
    readonly bytes: Buffer
    readonly sourcePort: number
  }[]
  close(): void
}

/** An authoritative server on loopback, over UDP and TCP; `zone` gets names in lower case. */
export async function startDns(zone: Zone): Promise<TestDns> {
  const queries: { name: string; type: string; bytes: Buffer; sourcePort: number }[] = []
  const respond = (
    bytes: Buffer,
    transport: 'udp' | 'tcp',
    sourcePort: number,
  ): Buffer | undefined => {
    const asked = packet.decode(bytes)
    const question = asked.questions?.[0]
    if (question === undefined) return undefined
    queries.push({ name: question.name, type: question.type, bytes, sourcePort })
    const reply = zone(question.name.toLowerCase(), question.type, transport)
    if (reply === 'silent') return undefined
    return packet.encode({
      type: 'response',
      id: asked.id ?? 0,
      questions: [question],
      ...reply,
    })
  }
  const udp = dgram.createSocket('udp4')
  udp.on('message', (message, peer) => {
    const answer = respond(message, 'udp', peer.port)
    if (answer !== undefined) udp.send(answer, peer.port, peer.address)
  })
  const tcp = net.createServer((socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (chunk: Buffer) => {
      const answer = respond(chunk.subarray(2), 'tcp', socket.remotePort ?? 0)
      if (answer === undefined) return
      const length = Buffer.alloc(2)
      length.writeUInt16BE(answer.length)
      socket.end(Buffer.concat([length, answer]))
    })
  })
  await new Promise<void>((resolve) => tcp.listen(0, '127.0.0.1', resolve))
  const { port } = tcp.address() as net.AddressInfo
  await new Promise<void>((resolve) => udp.bind(port, '127.0.0.1', resolve))
  return {
    port,
    queries,
    close: () => {
      udp.close()
      tcp.close()
    },
  }
}

export function a(name: string, address: string, ttl = 30): Answer {
  return { type: 'A', name, ttl, class: 'IN', data: address }
}

export function aaaa(name: string, address: string, ttl = 30): Answer {
  return { type: 'AAAA', name, ttl, class: 'IN', data: address }
}

export function cname(name: string, target: string, ttl = 30): Answer {
  return { type: 'CNAME', name, ttl, class: 'IN', data: target }
}

/** Flags of a plain answer with this code. */
export function code(rcode: 'NXDOMAIN' | 'SERVFAIL' | 'REFUSED'): number {
  return { NXDOMAIN: 3, SERVFAIL: 2, REFUSED: 5 }[rcode]
}
