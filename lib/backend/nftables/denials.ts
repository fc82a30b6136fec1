/**
 * Reads the kernel's sets of refused destinations and says what is new since the last reading.
 * Invariant: a counter is told once; one whose element ran out and came back starts anew.
 */
import type { Decision } from '../../audit/record.js'
import { deniedSet, deniedSize } from './refusals.js'
import { protocolName } from './protocols.js'
import { listedItems } from './readback.js'

/** Turns successive listings of a jail's denied sets into decisions with counts. */
export class DenialReader {
  /** Set -> element -> packets, at the last reading. */
  readonly #seen = new Map<string, ReadonlyMap<string, number>>()
  #seenOverflow = 0
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

  /** The sets were made anew: what they count has not been told. */
  forget(): void {
    this.#seen.clear()
    this.#seenOverflow = 0
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
    const families = [4, 6] as const
    const name = families
      .flatMap((family) =>
        (['port', 'other'] as const).map((kind) => deniedSet(family, kind, this.#suffix)),
      )
      .find((one) => one === set['name'])
    if (name === undefined) return []
    // nft leaves it out where there is none.
    const elements: readonly unknown[] = Array.isArray(set['elem']) ? set['elem'] : []
    this.#isFull ||= elements.length >= deniedSize
    const before = this.#seen.get(name)
    const seen = new Map<string, number>()
    this.#seen.set(name, seen)
    return elements.flatMap((one): Decision[] => {
      const elem = record(record(one)?.['elem'])
      const key = record(elem?.['val'])?.['concat']
      const packets = record(elem?.['counter'])?.['packets']
      if (!Array.isArray(key) || typeof packets !== 'number') return []
      const id = key.join(' ')
      seen.set(id, packets)
      const count = grown(before?.get(id) ?? 0, packets)
      return count === 0 ? [] : [denial(key, count)]
    })
  }

  #readOverflow(counter: Readonly<Record<string, unknown>>): Decision[] {
    const packets = counter['packets']
    if (typeof packets !== 'number') return []
    const count = grown(this.#seenOverflow, packets)
    this.#seenOverflow = packets
    if (count === 0) return []
    const detail = 'more destinations than are kept apart'
    return [{ ...common, proto: 'any', reason: 'address-not-granted', count, detail }]
  }
}

/** How many more than at the last reading; a lower count began anew. */
function grown(before: number, packets: number): number {
  return packets >= before ? packets - before : packets
}

const common = { verdict: 'deny', layer: 'kernel', direction: 'out' } as const

function denial(key: readonly unknown[], count: number): Decision {
  const [address, protocol, port] = key
  const proto = String(protocolName(protocol))
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
