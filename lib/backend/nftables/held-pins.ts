/**
 * The pins of one jail that the kernel should have, with the time at which each runs out.
 * Invariant: an address is never held for longer than the last pin of it said.
 */
import type { NetworkPlan, Pin } from '../types.js'
import type { Element } from './ast.js'
import { jailNames } from './uid-base.js'

export class HeldPins {
  /** Pin set to address to when it runs out, in monotonic milliseconds. */
  #sets = new Map<string, Map<string, number>>()
  readonly #now: () => number

  constructor(monotonic: () => number) {
    this.#now = monotonic
  }

  /** As the kernel is to have it. Of two for one address the longer counts. */
  add(jail: string, pin: Pin): Element {
    const set = jailNames(jail).pins(pin.address.includes(':') ? 6 : 4, pin.grant)
    const pins = this.#sets.get(set) ?? new Map<string, number>()
    this.#sets.set(set, pins)
    const now = this.#now()
    for (const [address, until] of pins) if (until <= now) pins.delete(address)
    const until = Math.max(now + pin.seconds * 1000, pins.get(pin.address) ?? 0)
    pins.set(pin.address, until)
    return elementOf(set, pin.address, until - now)
  }

  /** Those for grants that the plan `to` has unchanged, under their new names. */
  carriedTo(to: NetworkPlan, from: NetworkPlan): HeldPins {
    const names = jailNames(to.jail)
    const carried = new HeldPins(this.#now)
    for (const grant of to.pinned) {
      const before = from.pinned.find(({ key }) => key === grant.key)
      if (before === undefined) continue
      for (const family of [4, 6] as const) {
        const pins = this.#sets.get(names.pins(family, before.grant))
        if (pins !== undefined) carried.#sets.set(names.pins(family, grant.grant), pins)
      }
    }
    return carried
  }

  become(other: HeldPins): void {
    this.#sets = new Map(other.#sets)
  }

  /** As they are now: what is added later is not in it. */
  copy(): HeldPins {
    const copy = new HeldPins(this.#now)
    for (const [set, pins] of this.#sets) copy.#sets.set(set, new Map(pins))
    return copy
  }

  /** All that have not run out. */
  elements(): Element[] {
    const now = this.#now()
    return [...this.#sets].flatMap(([set, pins]) =>
      [...pins]
        .filter(([, until]) => until > now)
        .map(([address, until]) => elementOf(set, address, until - now)),
    )
  }
}

/** @param left milliseconds. */
function elementOf(set: string, address: string, left: number): Element {
  return { kind: 'set', set, key: [address], timeout: Math.ceil(left / 1000) }
}
