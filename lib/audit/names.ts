/**
 * Remembers which names an address was looked up for, so that a denial of the kernel, which knows
 * addresses only, can say the name that the command meant.
 * Invariant: bounded; an address that several names share gets all of them, since it is not known which was meant.
 */
import { canonicalAddress } from '../policy/addresses.js'
import type { Decision } from './record.js'

/** Addresses remembered; the oldest go first. */
const maxAddresses = 4_096
/** Names kept of one address: the first. */
const maxShared = 4

export class NameBook {
  readonly #names = new Map<string, readonly string[]>()

  /** Learns from what was allowed, and names what was denied without one. */
  name(decisions: readonly Decision[]): readonly Decision[] {
    for (const decision of decisions) this.#learn(decision)
    return decisions.map((decision) => {
      const { verdict, name, address } = decision
      if (verdict !== 'deny' || name !== undefined || address === undefined) return decision
      const [known, ...more] = this.#names.get(address) ?? []
      if (known === undefined) return decision
      return more.length === 0
        ? { ...decision, name: known }
        : { ...decision, names: [known, ...more] }
    })
  }

  #learn({ verdict, layer, name, address, detail }: Decision): void {
    if (verdict !== 'allow' || name === undefined) return
    // The DNS filter tells type and addresses: `A 192.0.2.1 192.0.2.2`.
    const texts = layer === 'dns' ? (detail ?? '').split(' ').slice(1) : [address ?? '']
    for (const text of texts) {
      const known = canonicalAddress(text)
      if (known !== undefined) this.#add(known, name)
    }
  }

  #add(address: string, name: string): void {
    const known = this.#names.get(address)
    if (known !== undefined) {
      if (!known.includes(name) && known.length < maxShared)
        this.#names.set(address, [...known, name])
      return
    }
    if (this.#names.size >= maxAddresses) {
      const [oldest] = this.#names.keys()
      if (oldest !== undefined) this.#names.delete(oldest)
    }
    this.#names.set(address, [name])
  }
}
