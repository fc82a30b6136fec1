/**
 * Relays accepted TCP connections along their routes.
 * Invariant: every connection ends in exactly one of a refusal or an allow with its closing record,
 * and a refused one is reset at once, so that the client does not wait.
 */
import type { Server, Socket } from 'node:net'
import type { Decision, ReasonCode } from '../audit/record.js'
import { onAccepted } from './accept.js'
import { errnoCode, errorMessage } from '../errors.js'
import { unmapAddress } from '../policy/addresses.js'
import type { Grant } from '../policy/types.js'
import type { AnyGrant, Budgets } from './budgets.js'
import { type Connections, type Purpose, reset } from './connections.js'
import type { Decisions } from './decisions.js'
import { cutEvent } from './cut-event.js'
import { dialAddresses, type Dialled } from './dial.js'
import { Lane } from './lane.js'
import type { Names } from './names.js'
import { chooseRoute, type Route } from './route.js'
import { RetryWatch } from './sni/retry.js'
import { splice } from './splice.js'

/** What one side may send ahead of the other's reading; larger costs memory, smaller throughput. */
const highWaterMark = 256 * 1024

/** How a server must be made whose connections come here. */
export const serverOptions = {
  allowHalfOpen: true,
  pauseOnConnect: true,
  noDelay: true,
  highWaterMark,
} as const

/** The HTTP gate, for connections that it looks into. */
export interface HttpHandlers {
  serveTls(socket: Socket, name: string, head: Buffer, port: number): void
  servePlain(socket: Socket, port: number, head: Buffer): void
}

/** How a client that speaks a proxy protocol is told. */
export interface Replies {
  readonly ready: () => void
  readonly refused: (reason: ReasonCode) => void
}

/** A refusal on the way to a destination. */
class Refusal extends Error {
  readonly reason: ReasonCode

  constructor(reason: ReasonCode, detail?: string) {
    super(detail ?? reason)
    this.reason = reason
  }
}

export interface RelayParts {
  readonly names: Names
  readonly connections: Connections
  readonly budgets: Budgets
  readonly decisions: Decisions
  readonly http: HttpHandlers
}

export class Relay {
  readonly #parts: RelayParts

  constructor(parts: RelayParts) {
    this.#parts = parts
  }

  /** `port` 0: the port that the client dialled. `isRedirected`: the local address means nothing. */
  serve(server: Server, port: number, isRedirected: boolean): void {
    onAccepted(server, (socket) => {
      const destination = isRedirected ? undefined : unmapAddress(socket.localAddress ?? '')
      const meant = port === 0 ? (socket.localPort ?? 0) : port
      // Gone before we looked, or an address of no form we know.
      if (destination === undefined && !isRedirected) reset(socket)
      else void this.accept(socket, destination, meant)
    })
  }

  /** Handles one connection to its end. Never rejects. */
  async accept(socket: Socket, destination: string | undefined, port: number): Promise<void> {
    socket.on('error', () => undefined)
    const route = await chooseRoute(socket, destination, port, this.#parts.names)
    await this.follow(socket, route, destination, port)
  }

  /** Takes a connection along a route that was chosen for it. Without `replies` a refusal is a reset. */
  async follow(
    socket: Socket,
    route: Route,
    destination: string | undefined,
    port: number,
    replies?: Replies,
  ): Promise<void> {
    switch (route.kind) {
      case 'gone':
        socket.destroy()
        return
      case 'refused':
        this.#refuse(socket, route, destination, port, replies)
        return
      case 'https':
        this.#parts.http.serveTls(socket, route.name, route.head, port)
        return
      case 'http':
        this.#parts.http.servePlain(socket, port, route.head)
        return
      case 'loopback': {
        const purpose = { kind: 'loopback', port, layer: 'tcp', proto: 'tcp' } as const
        await this.#connect(socket, [route.address], purpose, noBytes, replies)
        return
      }
      case 'address': {
        const { address, grant, name, layer } = route
        const purpose = {
          kind: 'address',
          port,
          layer,
          proto: 'tcp',
          ...optional(grant, name),
        } as const
        const isByName = name !== undefined
        await this.#connect(
          socket,
          [address],
          isByName ? { ...purpose, kind: 'name' } : purpose,
          route.head,
          replies,
        )
        return
      }
      case 'name': {
        const { grant, name, layer } = route
        const found = await this.#parts.names.toDial(name, port, grant)
        if ('reason' in found) {
          this.#refuse(socket, { ...found, layer, name, grant }, destination, port, replies)
          return
        }
        const purpose = {
          kind: 'name',
          port,
          layer,
          proto: 'tcp',
          ...optional(grant, name),
        } as const
        await this.#connect(socket, found.addresses, purpose, route.head, replies)
      }
    }
  }

  /** For the HTTP gate: a connection to a granted name, counted and cut like any other. */
  async dial(name: string, port: number, grant: Grant): Promise<Socket> {
    const { names, budgets, connections } = this.#parts
    const found = await names.toDial(name, port, grant)
    if ('reason' in found) throw new Refusal(found.reason, found.detail)
    const spent = budgets.open(grant)
    if (spent !== undefined) throw new Refusal(spent)
    let dialled: Dialled
    try {
      dialled = await dialAddresses(found.addresses, port)
    } catch (error) {
      budgets.close(grant)
      throw new Refusal('dial-failed', describe(error))
    }
    const { socket: upstream, address } = dialled
    const connection = connections.add(
      {
        kind: 'name',
        name,
        address,
        port,
        layer: 'http',
        proto: 'tcp',
        grant,
      },
      (reason) => {
        if (!upstream.emit(cutEvent, reason)) reset(upstream)
      },
      false,
    )
    upstream.on('error', () => undefined)
    upstream.on('close', () => {
      connection.up = upstream.bytesWritten
      connection.down = upstream.bytesRead
      connections.up += connection.up
      connections.down += connection.down
      connections.end(connection)
    })
    if (connections.cutIfWithdrawn(connection, names.grants)) throw new Refusal('grant-withdrawn')
    return upstream
  }

  async #connect(
    socket: Socket,
    addresses: readonly string[],
    purpose: Omit<Purpose, 'address'>,
    head: Buffer,
    replies: Replies | undefined,
  ): Promise<void> {
    const { budgets, connections, names } = this.#parts
    const { grant, port, layer } = purpose
    const about = { layer, name: purpose.name, grant }
    const spent = budgets.open(grant)
    if (spent !== undefined) {
      this.#refuse(socket, { reason: spent, ...about }, addresses[0], port, replies)
      return
    }
    const down = new Lane()
    let dialled: Dialled
    try {
      dialled = await dialAddresses(addresses, port, { onread: down.onread, client: socket })
    } catch (error) {
      budgets.close(grant)
      if (socket.destroyed) return
      const detail = describe(error)
      this.#refuse(socket, { reason: 'dial-failed', detail, ...about }, addresses[0], port, replies)
      return
    }
    const { socket: upstream, address } = dialled
    let cut = (): void => {
      reset(socket, upstream)
    }
    const connection = connections.add({ ...purpose, address }, () => {
      cut()
    })
    // A reload while we resolved or dialled could not cut what was not there yet.
    if (connections.cutIfWithdrawn(connection, names.grants)) return
    if (socket.destroyed) {
      upstream.destroy()
      connections.end(connection)
      return
    }
    replies?.ready()
    const isHello = layer === 'sni' && purpose.name !== undefined
    const watch = isHello ? new RetryWatch(purpose.name) : undefined
    const judge = (isGood: boolean): boolean => {
      if (!isGood) connections.cutFor(connection, 'sni-mismatch')
      return isGood
    }
    const onUp = (bytes: Uint8Array): boolean => connections.onUp(connection, bytes.length)
    const spliced = splice(socket, upstream, down, head, {
      onHead: onUp,
      onUp: (bytes) =>
        (watch === undefined || watch.isOver || judge(watch.up(bytes))) && onUp(bytes),
      onDown: (bytes) => {
        connections.onDown(connection, bytes.length)
        return watch === undefined || watch.isOver || judge(watch.down(bytes))
      },
      onEnd: () => {
        connections.end(connection)
      },
    })
    cut = spliced.cut
    spliced.start()
  }

  #refuse(
    socket: Socket,
    refusal: {
      readonly reason: ReasonCode
      readonly layer: Decision['layer']
      readonly name?: string | undefined
      readonly detail?: string | undefined
      readonly grant?: AnyGrant | undefined
    },
    address: string | undefined,
    port: number,
    replies?: Replies,
  ): void {
    const { reason, layer, name, detail, grant } = refusal
    // Before the reset: whose socket it was is known only while it lives.
    const look = this.#parts.decisions.report(
      {
        verdict: 'deny',
        reason,
        layer,
        direction: 'out',
        proto: 'tcp',
        port,
        ...(address === undefined ? {} : { address }),
        ...(name === undefined ? {} : { name }),
        ...(detail === undefined ? {} : { detail }),
        ...(grant === undefined ? {} : { grant: grant.id }),
      },
      socket.remotePort,
    )
    const answer = (): void => {
      if (replies === undefined) reset(socket)
      else replies.refused(refusal.reason)
    }
    if (look === undefined) answer()
    else void look.then(answer)
  }
}

const noBytes = Buffer.alloc(0)

function optional<G extends AnyGrant>(
  grant: G | undefined,
  name: string | undefined,
): { readonly grant?: G; readonly name?: string } {
  return {
    ...(grant === undefined ? {} : { grant }),
    ...(name === undefined ? {} : { name }),
  }
}

function describe(error: unknown): string {
  return errnoCode(error) ?? errorMessage(error)
}
