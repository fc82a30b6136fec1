/**
 * Relays datagrams of UDP grants. On the jail's loopback, where every address is local, a client's
 * source address equals the destination it meant, so `rinfo.address` is the destination.
 * (Over IPv6 the kernel picks ::1 as source instead, and the jail's rules make it the destination.)
 * Invariant: a flow stands on a grant for its address and port, is bounded in number, and ends when
 * idle; port 53 is never relayed.
 */
import dgram from 'node:dgram'
import { unmapAddress } from '../policy/addresses.js'
import type { Grant } from '../policy/types.js'
import type { AnyGrant, Budgets } from './budgets.js'
import type { Connection, Connections } from './connections.js'
import type { Decisions } from './decisions.js'
import type { Names } from './names.js'
import { pinnedGrants } from './route.js'

/** RFC 4787 section 4.3: a UDP mapping must not expire in less than two minutes. */
const idleMs = 120_000
const sweepMs = 10_000
const maxFlows = 1024
/** Datagrams kept while a flow's socket is being connected, a matter of microseconds. */
const maxWaiting = 16

interface Flow {
  readonly upstream: dgram.Socket
  readonly connection: Connection
  /** Idempotent: silence, a withdrawn grant and the gate's own end may all come to it. */
  readonly close: () => void
  /** Until the socket is connected; then `undefined`. */
  waiting: Buffer[] | undefined
  last: number
}

export interface UdpParts {
  readonly names: Names
  readonly connections: Connections
  readonly budgets: Budgets
  readonly decisions: Decisions
  readonly now: () => number
}

/** Serves one inherited socket, opened for `port` inside the jail's namespace. */
export function relayUdp(inside: dgram.Socket, port: number, parts: UdpParts): { close(): void } {
  const flows = new Map<string, Flow>()
  const sweeper = setInterval(() => {
    for (const flow of flows.values()) {
      if (parts.now() - flow.last > idleMs) flow.close()
    }
  }, sweepMs)

  inside.on('error', () => undefined)
  inside.on('message', (message, peer) => {
    const key = `${peer.address} ${String(peer.port)}`
    const flow = flows.get(key) ?? open(key, peer)
    if (flow === undefined) return
    flow.last = parts.now()
    if (!parts.connections.onUp(flow.connection, message.length)) return
    if (flow.waiting === undefined) flow.upstream.send(message)
    else if (flow.waiting.length < maxWaiting) flow.waiting.push(message)
  })

  const open = (key: string, peer: dgram.RemoteInfo): Flow | undefined => {
    const address = unmapAddress(peer.address)
    if (address === undefined) return undefined
    const found = grantFor(parts.names, address, port)
    const about = { layer: 'udp', direction: 'out', proto: 'udp', address, port } as const
    if (found === undefined) {
      const reason = parts.names.grants.isAddressDenied(address)
        ? 'address-denied'
        : 'address-not-granted'
      void parts.decisions.report({ verdict: 'deny', reason, ...about }, peer.port)
      return undefined
    }
    const { grant, name } = found
    const spent = flows.size >= maxFlows ? 'budget-connections' : parts.budgets.open(grant)
    if (spent !== undefined) {
      void parts.decisions.report(
        { verdict: 'deny', reason: spent, ...about, grant: grant.id },
        peer.port,
      )
      return undefined
    }
    const upstream = dgram.createSocket(address.includes(':') ? 'udp6' : 'udp4')
    const close = closer(upstream)
    const connection = parts.connections.add(
      {
        kind: name === undefined ? 'address' : 'name',
        ...(name === undefined ? {} : { name }),
        address,
        port,
        layer: 'udp',
        proto: 'udp',
        grant,
      },
      close,
    )
    const flow: Flow = { upstream, connection, close, waiting: [], last: parts.now() }
    flows.set(key, flow)
    upstream.on('error', () => {
      // An ICMP refusal: the client learns by silence, as it would behind any NAT.
    })
    upstream.on('close', () => {
      flows.delete(key)
      parts.connections.end(connection)
    })
    upstream.on('message', (message) => {
      flow.last = parts.now()
      parts.connections.onDown(connection, message.length)
      inside.send(message, peer.port, peer.address, () => undefined)
    })
    // Connected: only the destination's datagrams come back.
    // Where connect(2) fails, as without a route, Node tells the callback alone.
    upstream.connect(port, address, (error?: Error) => {
      if (error !== undefined) {
        close()
        return
      }
      const waiting = flow.waiting ?? []
      flow.waiting = undefined
      if (!connection.ended) for (const message of waiting) upstream.send(message)
    })
    return flow
  }

  return {
    close: () => {
      clearInterval(sweeper)
      for (const flow of flows.values()) flow.close()
      inside.close()
    },
  }
}

/** dgram throws when it is closed a second time. */
function closer(socket: dgram.Socket): () => void {
  let isOpen = true
  return () => {
    if (isOpen) socket.close()
    isOpen = false
  }
}

function grantFor(
  names: Names,
  address: string,
  port: number,
): { readonly grant: AnyGrant; readonly name?: string } | undefined {
  const { grants } = names
  if (port === 53 || grants.isAddressDenied(address)) return undefined
  const byAddress = grants.forAddress(address, port, 'udp')
  if (byAddress !== undefined) return { grant: byAddress }
  const [first] = pinnedGrants(names, address, port, 'udp')
  if (first === undefined) return undefined
  const [name, grant]: readonly [string, Grant] = first
  return { grant, name }
}
