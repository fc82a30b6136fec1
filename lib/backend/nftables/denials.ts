/**
 * Reads the kernel's sets of refused destinations and says what is new since the last reading.
 * Invariant: counters only grow here; an element that vanished (its time ran out) was read before, once a second.
 */
import type { Decision } from '../../audit/record.js'
import { deniedSet, deniedSize } from './tables.js'
import { listedItems } from './readback.js'

/** Turns successive listings of a jail's denied sets into decisions with counts. */
export class DenialReader {
  readonly #seen = new Map<string, number>()
  readonly #suffix: string
  #isFull = false
  readonly #overflow: string

  constructor(suffix: string, overflow: string) {
    this.#suffix = suffix
    this.#overflow = overflow
  }

  /** A set was full at some reading: from then on the overflow may count. */
  get isFull(): boolean {
    return this.#isFull
  }

  /** `listing` is `nft -j list table` or of single sets. */
  read(listing: unknown): Decision[] {
    const decisions: Decision[] = []
    for (const item of listedItems(listing) ?? []) {
      const set = record(item['set'])
      const counter = record(item['counter'])
      if (set !== undefined) decisions.push(...this.#readSet(set))
      if (counter?.['name'] === this.#overflow) decisions.push(...this.#readOverflow(counter))
    }
    return decisions
  }

  #readSet(set: Readonly<Record<string, unknown>>): Decision[] {
    const name = set['name']
    const families = [4, 6] as const
    const match = families
      .flatMap((family) => (['port', 'other'] as const).map((kind) => ({ family, kind })))
      .find(({ family, kind }) => deniedSet(family, kind, this.#suffix) === name)
    if (match === undefined || !Array.isArray(set['elem'])) return []
    this.#isFull ||= set['elem'].length >= deniedSize
    return set['elem'].flatMap((one: unknown): Decision[] => {
      const elem = record(record(one)?.['elem'])
      const key = record(elem?.['val'])?.['concat']
      const packets = record(elem?.['counter'])?.['packets']
      if (!Array.isArray(key) || typeof packets !== 'number') return []
      const id = `${match.family}${match.kind} ${key.join(' ')}`
      const count = this.#grown(id, packets)
      return count === 0 ? [] : [denial(key, count)]
    })
  }

  #readOverflow(counter: Readonly<Record<string, unknown>>): Decision[] {
    const packets = counter['packets']
    if (typeof packets !== 'number') return []
    const count = this.#grown('overflow', packets)
    if (count === 0) return []
    const detail = 'more destinations than are kept apart'
    return [{ ...common, proto: 'any', reason: 'address-not-granted', count, detail }]
  }

  /** How many more than at the last reading; an element that expired and came back starts anew. */
  #grown(id: string, packets: number): number {
    const before = this.#seen.get(id) ?? 0
    this.#seen.set(id, packets)
    return packets >= before ? packets - before : packets
  }
}

const common = { verdict: 'deny', layer: 'kernel', direction: 'out' } as const

function denial(key: readonly unknown[], count: number): Decision {
  const [address, protocol, port] = key
  const proto = String(protocol)
  const where = { address: String(address), count, proto: proto === 'ipv6-icmp' ? 'icmpv6' : proto }
  if (typeof port !== 'number') return { ...common, ...where, reason: 'protocol-not-granted' }
  return {
    ...common,
    ...where,
    port,
    reason: proto === 'tcp' || proto === 'udp' ? 'port-not-granted' : 'protocol-not-granted',
  }
}

function record(value: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, unknown>>)
    : undefined
}
