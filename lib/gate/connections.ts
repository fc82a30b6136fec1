/**
 * Every relayed connection, and the grant it stands on.
 * Invariant: after a reload no connection is left whose grant is gone or has become stricter.
 */
import type { Socket } from 'node:net'
import type { Decision, Layer, ReasonCode } from '../audit/record.js'
import type { Grant } from '../policy/types.js'
import { type AnyGrant, type Budgets, grantKey } from './budgets.js'
import type { Decisions } from './decisions.js'
import { type Grants, reportGrant } from './grants.js'

/** What a connection is for; enough to judge it anew. */
export interface Purpose {
  readonly kind: 'name' | 'address' | 'loopback'
  readonly name?: string
  /** Dialled. */
  readonly address: string
  readonly port: number
  readonly layer: Layer
  readonly proto: 'tcp' | 'udp'
  readonly grant?: AnyGrant
}

export interface Connection extends Purpose {
  up: number
  down: number
  readonly cut: (reason?: ReasonCode) => void
  ended: boolean
}

export class Connections {
  readonly #live = new Set<Connection>()
  readonly #decisions: Decisions
  readonly #budgets: Budgets
  /** Over all connections, ended ones too. */
  up = 0
  down = 0

  constructor(decisions: Decisions, budgets: Budgets) {
    this.#decisions = decisions
    this.#budgets = budgets
  }

  get size(): number {
    return this.#live.size
  }

  /** The budget must have been opened; `end` closes it. `announce` reports the opening. */
  add(purpose: Purpose, cut: Connection['cut'], announce = true): Connection {
    const connection: Connection = { ...purpose, up: 0, down: 0, cut, ended: false }
    this.#live.add(connection)
    if (announce) void this.#decisions.report(allowed(connection))
    return connection
  }

  /** Counts bytes about to go up; false: the budget is crossed, everything on it was cut. */
  onUp(connection: Connection, bytes: number): boolean {
    if (connection.ended) return false
    if (!this.#budgets.upload(connection.grant, bytes)) {
      this.#cutSpent(connection)
      return false
    }
    connection.up += bytes
    this.up += bytes
    return true
  }

  /** As `onUp`, for bytes of HTTP requests, which may share a connection. */
  upload(grant: Grant, bytes: number): ReasonCode | undefined {
    if (this.#budgets.upload(grant, bytes)) return undefined
    this.#cutSpent()
    return 'budget-upload'
  }

  onDown(connection: Connection, bytes: number): void {
    connection.down += bytes
    this.down += bytes
  }

  /** Once, at the end, however it came. */
  end(connection: Connection, reason?: ReasonCode): void {
    if (connection.ended) return
    connection.ended = true
    this.#live.delete(connection)
    this.#budgets.close(connection.grant)
    const record = allowed(connection)
    void this.#decisions.report({
      ...record,
      ...(reason === undefined ? {} : { verdict: 'deny', reason }),
      up: connection.up,
      down: connection.down,
    })
  }

  /** Cuts what the new policy no longer allows, or wants to look into more closely. */
  cutWithdrawn(grants: Grants): number {
    let cut = 0
    for (const connection of [...this.#live]) if (this.cutIfWithdrawn(connection, grants)) cut++
    return cut
  }

  cutIfWithdrawn(connection: Connection, grants: Grants): boolean {
    if (isStillGranted(connection, grants)) return false
    this.#cut(connection, 'grant-withdrawn')
    return true
  }

  /** For what was seen on it. */
  cutFor(connection: Connection, reason: ReasonCode): void {
    this.#cut(connection, reason)
  }

  /** At the end of the run: an ordinary close, not a denial. */
  cutAll(): void {
    for (const connection of [...this.#live]) {
      this.end(connection)
      connection.cut()
    }
  }

  #cutSpent(cause?: Connection): void {
    for (const connection of [...this.#live]) {
      if (connection === cause || this.#budgets.isSpent(connection.grant)) {
        this.#cut(connection, 'budget-upload')
      }
    }
  }

  #cut(connection: Connection, reason: ReasonCode): void {
    this.end(connection, reason)
    connection.cut(reason)
  }
}

/** Cuts a pair of sockets at once; unsent bytes are thrown away. */
export function reset(...sockets: readonly Socket[]): void {
  for (const socket of sockets) {
    socket.on('error', () => undefined)
    // libuv refuses to reset what is being shut down, and Node would then leave it open; closing drops the rest as well.
    if (socket.writableEnded && !socket.writableFinished) socket.destroy()
    else socket.resetAndDestroy()
  }
}

function allowed(connection: Connection): Decision {
  const { layer, proto, address, port, name, grant } = connection
  return {
    verdict: 'allow',
    reason:
      grant === undefined && connection.kind !== 'loopback' ? 'address-not-granted' : 'granted',
    layer,
    direction: 'out',
    proto,
    address,
    port,
    ...(name === undefined ? {} : { name }),
    ...(grant === undefined ? {} : { grant: grant.id }),
  }
}

function isStillGranted(connection: Connection, grants: Grants): boolean {
  const { kind, name, address, port, proto, grant } = connection
  if (kind === 'loopback') return grants.policy.loopbackConnect.includes(port)
  if (grants.isAddressDenied(address)) return false
  if (grant === undefined || grant.id === reportGrant) return grants.policy.report
  if (kind === 'address' || name === undefined || !('host' in grant)) {
    return grants.forAddress(address, port, proto) !== undefined
  }
  return grants
    .forPort(name, port, proto)
    .some(
      (now) =>
        isAsLoose(now, grant) && grants.addressRefusal(name, address, now, port) === undefined,
    )
}

/** A relayed stream can't be looked into later, and HTTP already judged may now be judged otherwise. */
function isAsLoose(now: Grant, then: Grant): boolean {
  if (now.inspect !== then.inspect) return now.inspect === 'none'
  if (now.inspect !== 'http') return true
  return rulesOf(now) === rulesOf(then)
}

function rulesOf(grant: Grant): string {
  return JSON.stringify([grantKey(grant), grant.access, grant.rules, grant.credential])
}
