/**
 * Which granted names gave which addresses, and until when.
 * Invariant: a pin's end is never moved forward in time by a later, shorter answer, and the store is bounded.
 */

/** Cilium keeps 50 a name, the Kubernetes proposal asks for at least 100. */
const maxPerName = 100
const maxPins = 1024

export interface Pin {
  readonly name: string
  readonly address: string
  /** Monotonic milliseconds. */
  expires: number
}

export class Pins {
  readonly #byAddress = new Map<string, Map<string, Pin>>()
  readonly #byName = new Map<string, Map<string, Pin>>()
  readonly #now: () => number
  #size = 0

  constructor(now: () => number) {
    this.#now = now
  }

  /** Unexpired or not yet swept. */
  get size(): number {
    return this.#size
  }

  /** Keeps the later of the old and the new end. */
  add(name: string, address: string, expires: number): void {
    const known = this.#byName.get(name)?.get(address)
    if (known !== undefined) {
      known.expires = Math.max(known.expires, expires)
      return
    }
    const ofName = this.#byName.get(name)
    if (ofName !== undefined && ofName.size >= maxPerName) this.#evict(ofName.values())
    if (this.#size >= maxPins) this.#evict(this.all())
    const pin: Pin = { name, address, expires }
    place(this.#byName, name, address, pin)
    place(this.#byAddress, address, name, pin)
    this.#size++
  }

  /** Whether this pin stands until then already. */
  has(name: string, address: string, expires: number): boolean {
    const known = this.#byName.get(name)?.get(address)
    return known !== undefined && known.expires >= expires
  }

  /** Names that have this address now, the freshest first. */
  namesOf(address: string): string[] {
    const now = this.#now()
    const pins = [...(this.#byAddress.get(address)?.values() ?? [])]
    return pins
      .filter((pin) => pin.expires > now)
      .sort((a, b) => b.expires - a.expires)
      .map((pin) => pin.name)
  }

  /** Every pin in force. */
  live(): Pin[] {
    const now = this.#now()
    return [...this.all()].filter((pin) => pin.expires > now)
  }

  *all(): Generator<Pin> {
    for (const pins of this.#byName.values()) yield* pins.values()
  }

  /** Forgets what has expired. */
  sweep(): void {
    const now = this.#now()
    for (const pin of [...this.all()]) if (pin.expires <= now) this.#remove(pin)
  }

  /** A relayed connection does not need its pin any more, so the one that ends first goes. */
  #evict(pins: Iterable<Pin>): void {
    let first: Pin | undefined
    for (const pin of pins) if (first === undefined || pin.expires < first.expires) first = pin
    if (first !== undefined) this.#remove(first)
  }

  #remove(pin: Pin): void {
    take(this.#byName, pin.name, pin.address)
    take(this.#byAddress, pin.address, pin.name)
    this.#size--
  }
}

function place(map: Map<string, Map<string, Pin>>, outer: string, inner: string, pin: Pin): void {
  const found = map.get(outer)
  if (found === undefined) map.set(outer, new Map([[inner, pin]]))
  else found.set(inner, pin)
}

function take(map: Map<string, Map<string, Pin>>, outer: string, inner: string): void {
  const found = map.get(outer)
  found?.delete(inner)
  if (found?.size === 0) map.delete(outer)
}
