/**
 * The pins of one jail, as they stand in the kernel: so that a restore or a reload can put them into new sets. Pure.
 * Invariant: a pin never ends earlier than it was asked for, and is carried only for a grant that is unchanged.
 */
import type { NetworkPlan, Pin } from '../types.js'
import type { Family, SetElement } from './ast.js'
import { jailNames } from './tables.js'

const familyOf = (address: string): Family => (address.includes(':') ? 6 : 4)

export class Pins {
  /** Grant to address to when it runs out, in monotonic milliseconds. */
  #grants = new Map<string, Map<string, number>>()

  /** The element to add; the longer of two times counts. */
  remember(pin: Pin, uid: number, round: number, now: number): SetElement {
    const pins = this.#grants.get(pin.grant) ?? new Map<string, number>()
    this.#grants.set(pin.grant, pins)
    for (const [address, until] of pins) if (until <= now) pins.delete(address)
    const until = Math.max(now + pin.seconds * 1000, pins.get(pin.address) ?? 0)
    pins.set(pin.address, until)
    return element(pin.grant, pin.address, until, uid, round, now)
  }

  /** Keeps those of grants that the next plan has unchanged, under the names they have there. */
  carry(before: NetworkPlan, next: NetworkPlan): void {
    const kept = new Map<string, Map<string, number>>()
    for (const { grant, key } of next.pinned) {
      const same = before.pinned.find((one) => one.key === key)
      const pins = same === undefined ? undefined : this.#grants.get(same.grant)
      if (pins !== undefined) kept.set(grant, pins)
    }
    this.#grants = kept
  }

  /** All that stand. */
  elements(uid: number, round: number, now: number): SetElement[] {
    return [...this.#grants].flatMap(([grant, pins]) =>
      [...pins]
        .filter(([, until]) => until > now)
        .map(([address, until]) => element(grant, address, until, uid, round, now)),
    )
  }

  clear(): void {
    this.#grants.clear()
  }
}

function element(
  grant: string,
  address: string,
  until: number,
  uid: number,
  round: number,
  now: number,
): SetElement {
  return {
    set: jailNames(uid).pins(familyOf(address), grant, round),
    key: address,
    timeout: Math.ceil((until - now) / 1000),
  }
}
