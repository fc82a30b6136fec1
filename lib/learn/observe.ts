/**
 * What a command did while everything public was open: decisions folded to destinations. Pure.
 * Invariant: nothing of a request is kept but its method and path, and of a path nothing that could be a key.
 */
import type { Decision, ReasonCode } from '../audit/record.js'
import { normaliseName } from '../policy/hosts.js'

export interface Destination {
  /** The name, or else the address. */
  readonly host: string
  readonly isName: boolean
  readonly port: number
  readonly proto: 'tcp' | 'udp'
  connections: number
  up: number
  down: number
  /** Port 443 without a server name, or with what is no TLS. */
  uninspectable: boolean
  /** `METHOD path`, where requests were seen. */
  readonly requests: Set<string>
}

export interface Refused {
  readonly host: string
  readonly port: number | undefined
  readonly proto: string
  readonly reason: ReasonCode
  count: number
}

export interface Observed {
  readonly destinations: readonly Destination[]
  /** Names that were asked for and never connected to. */
  readonly lookedUp: readonly string[]
  readonly refused: readonly Refused[]
}

/** The id of grants that report mode makes up; others are of a policy that the run had already. */
const madeUp = 'report'

export class Observer {
  readonly #destinations = new Map<string, Destination>()
  readonly #refused = new Map<string, Refused>()
  readonly #names = new Set<string>()
  /** Names that a policy of the run grants: nothing to learn. */
  readonly #granted = new Set<string>()

  add(decisions: readonly Decision[]): void {
    for (const decision of decisions) this.#one(decision)
  }

  #one(decision: Decision): void {
    const { direction, verdict, layer, grant, name } = decision
    if (direction !== 'out') return
    if (grant !== undefined && grant !== madeUp) {
      if (name !== undefined) this.#granted.add(name)
      return
    }
    if (layer === 'dns') {
      if (verdict === 'allow' && name !== undefined) this.#names.add(name)
      else if (verdict === 'deny') this.#refuse(decision)
      return
    }
    if (verdict === 'deny') this.#refuse(decision)
    else this.#allow(decision)
  }

  #allow(decision: Decision): void {
    const { layer, port, proto, up, down, method, path, count } = decision
    const name = decision.name === undefined ? undefined : normaliseName(decision.name)
    const host = name ?? decision.address
    if (host === undefined || port === undefined || (proto !== 'tcp' && proto !== 'udp')) return
    const key = `${proto} ${host} ${String(port)}`
    const known = this.#destinations.get(key)
    const destination: Destination = known ?? {
      host,
      isName: name !== undefined,
      port,
      proto,
      connections: 0,
      up: 0,
      down: 0,
      uninspectable: false,
      requests: new Set(),
    }
    this.#destinations.set(key, destination)
    if (up === undefined) destination.connections += count ?? 1
    destination.up += up ?? 0
    destination.down += down ?? 0
    if (layer === 'tcp' && port === 443) destination.uninspectable = true
    if (method !== undefined && path !== undefined) destination.requests.add(`${method} ${path}`)
  }

  #refuse({ name, address, port, proto, reason, count }: Decision): void {
    const host = name ?? address
    // A rule set's overflow counter names nobody.
    if (host === undefined || host === '') return
    const key = `${proto} ${host} ${String(port)} ${reason}`
    const known = this.#refused.get(key)
    if (known === undefined) {
      this.#refused.set(key, { host, port, proto, reason, count: count ?? 1 })
    } else known.count += count ?? 1
  }

  /** In the order of names and ports, whatever the order of events was. */
  result(): Observed {
    const destinations = [...this.#destinations.values()].sort(byHost)
    const connected = new Set(destinations.map(({ host }) => host))
    return {
      destinations,
      lookedUp: [...this.#names]
        .filter((name) => !connected.has(name) && !this.#granted.has(name))
        .sort(),
      refused: [...this.#refused.values()].sort(byHost),
    }
  }
}

function byHost(
  a: { host: string; port: number | undefined; proto: string },
  b: { host: string; port: number | undefined; proto: string },
): number {
  return compare(a.host, b.host) || (a.port ?? 0) - (b.port ?? 0) || compare(a.proto, b.proto)
}

/** By code unit: the same everywhere, whatever the locale. */
const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)
