/**
 * Resolves names for the filter and for the gate's own dials: one cache, one query in flight a question.
 * Invariant: it knows nothing of grants; callers ask only for names that were admitted first.
 */
import type { Ask } from './upstream.js'
import { type AddressType, type Reading, readAnswer } from './chain.js'
import type { SrvRecord } from './wire.js'

export interface Resolution {
  readonly status: 'ok' | 'nodata' | 'nxdomain' | 'failed'
  readonly addresses: readonly string[]
  readonly srv: readonly SrvRecord[]
  /** Monotonic milliseconds. */
  readonly expires: number
  readonly detail?: string
}

/** Answers kept at most; names are bounded by the policy and the wildcard budget. */
const maxCached = 4096
/** Below this a TTL is raised: it bounds the rate of queries upstream. Seconds. */
const minTtl = 5

export class Resolver {
  readonly #ask: Ask
  readonly #maxTtl: () => number
  readonly #now: () => number
  readonly #cache = new Map<string, Resolution>()
  readonly #inFlight = new Map<string, Promise<Resolution>>()

  /** `maxTtl` in seconds, `now` in monotonic milliseconds. */
  constructor(options: {
    readonly ask: Ask
    readonly maxTtl: () => number
    readonly now: () => number
  }) {
    this.#ask = options.ask
    this.#maxTtl = options.maxTtl
    this.#now = options.now
  }

  /** What is known without asking. */
  cached(name: string, type: AddressType | 'SRV'): Resolution | undefined {
    const known = this.#cache.get(`${type} ${name}`)
    return known !== undefined && known.expires > this.#now() ? known : undefined
  }

  /** Never rejects: a failure is a status. */
  lookup(name: string, type: AddressType | 'SRV'): Promise<Resolution> {
    const known = this.cached(name, type)
    if (known !== undefined) return Promise.resolve(known)
    const key = `${type} ${name}`
    const running = this.#inFlight.get(key)
    if (running !== undefined) return running
    const started = this.#resolve(name, type)
      .then((resolution) => {
        if (resolution.status !== 'failed') this.#keep(key, resolution)
        return resolution
      })
      .finally(() => this.#inFlight.delete(key))
    this.#inFlight.set(key, started)
    return started
  }

  async #resolve(name: string, type: AddressType | 'SRV'): Promise<Resolution> {
    let owner = name
    let hops = 0
    let ttl = Infinity
    for (;;) {
      let reading: Reading
      try {
        reading = readAnswer(await this.#ask(owner, type), owner, type, hops)
      } catch (error) {
        return this.#make('failed', 0, { detail: error instanceof Error ? error.message : '' })
      }
      switch (reading.kind) {
        case 'alias':
          owner = reading.target
          hops = reading.hops
          ttl = Math.min(ttl, reading.ttl)
          continue
        case 'failed':
          return this.#make('failed', 0, { detail: reading.detail })
        case 'nodata':
        case 'nxdomain':
          return this.#make(reading.kind, Math.min(ttl, reading.ttl))
        case 'srv':
          return this.#make('ok', this.#clamp(Math.min(ttl, reading.ttl)), { srv: reading.records })
        case 'addresses':
          return this.#make('ok', this.#clamp(Math.min(ttl, reading.ttl)), {
            addresses: reading.addresses,
          })
      }
    }
  }

  #clamp(ttl: number): number {
    return Math.min(Math.max(ttl, minTtl), Math.max(this.#maxTtl(), minTtl))
  }

  #make(
    status: Resolution['status'],
    ttl: number,
    rest: Partial<Pick<Resolution, 'addresses' | 'srv' | 'detail'>> = {},
  ): Resolution {
    return { status, addresses: [], srv: [], expires: this.#now() + ttl * 1000, ...rest }
  }

  #keep(key: string, resolution: Resolution): void {
    if (this.#cache.size >= maxCached) {
      const now = this.#now()
      for (const [old, value] of this.#cache) if (value.expires <= now) this.#cache.delete(old)
      const oldest = this.#cache.keys().next()
      if (this.#cache.size >= maxCached && oldest.done !== true) this.#cache.delete(oldest.value)
    }
    this.#cache.delete(key)
    this.#cache.set(key, resolution)
  }
}
