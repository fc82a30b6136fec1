/**
 * The only way from a name to its addresses, for DNS answers and for the gate's own dials alike.
 * Invariant: nothing is asked upstream for a name that no grant has, nor beyond the rate and the
 * budget of new names; an address is pinned before anybody hears of it.
 */
import type { ReasonCode } from '../audit/record.js'
import type { Grant } from '../policy/types.js'
import { Pins } from './dns/pins.js'
import type { Resolution, Resolver } from './dns/resolver.js'
import type { SrvRecord } from './dns/wire.js'
import type { Grants } from './grants.js'
import { TokenBucket } from './rate.js'
import type { AddressType } from './dns/chain.js'

/** Hands pins to the kernel, through the warden; false: not in force. */
export type PinInKernel = (
  grant: string,
  name: string,
  pins: readonly { readonly address: string; readonly seconds: number }[],
) => Promise<boolean>

export type Found =
  | {
      readonly kind: 'addresses'
      readonly addresses: readonly string[]
      /** Monotonic milliseconds; the answer is good until then. */
      readonly expires: number
      /** Addresses left out, and why. */
      readonly refused: ReadonlyMap<string, ReasonCode>
    }
  | { readonly kind: 'srv'; readonly records: readonly SrvRecord[]; readonly expires: number }
  | { readonly kind: 'nodata' | 'nxdomain' }
  | { readonly kind: 'refused'; readonly reason: ReasonCode; readonly detail?: string }

export type Admission =
  { readonly grants: readonly Grant[] } | { readonly reason: ReasonCode; readonly detail?: string }

/** Longest life of a pin whatever the TTL. Seconds. */
const maxPinSeconds = 3600
const dayMs = 86_400_000

export class Names {
  readonly pins: Pins
  readonly #resolver: Resolver
  readonly #now: () => number
  readonly #pinInKernel: PinInKernel | undefined
  readonly #bucket: TokenBucket
  #grants: Grants
  #newNames = new Set<string>()
  #newNamesSince: number

  constructor(options: {
    readonly grants: Grants
    readonly resolver: Resolver
    readonly now: () => number
    /** Absent: the gate's own memory is all there is. */
    readonly pinInKernel?: PinInKernel
  }) {
    this.#grants = options.grants
    this.#resolver = options.resolver
    this.#now = options.now
    this.#pinInKernel = options.pinInKernel
    this.pins = new Pins(options.now)
    this.#newNamesSince = options.now()
    const { rate } = options.grants.policy.dns
    this.#bucket = new TokenBucket(rate, 2 * rate, options.now)
  }

  get grants(): Grants {
    return this.#grants
  }

  update(grants: Grants): void {
    this.#grants = grants
    this.#bucket.set(grants.policy.dns.rate, 2 * grants.policy.dns.rate)
  }

  /** Whether a normalised name may be resolved at all. Takes from the budget of new names. */
  admit(name: string): Admission {
    const grants = this.#grants.ofName(name)
    if (grants.length === 0) {
      if (this.#grants.policy.report && !this.#grants.isDenied(name)) return { grants: [] }
      return { reason: this.#grants.refusal(name) }
    }
    if (!this.#grants.isWildcardOnly(grants)) return { grants }
    return this.#admitWildcard(name, grants)
  }

  #admitWildcard(name: string, grants: readonly Grant[]): Admission {
    const { labels, labelLength, newNames } = this.#grants.policy.dns.wildcard
    // The longest pattern leaves the least text to the jail's choice.
    const suffix = Math.max(...grants.map((grant) => grant.host.name.length))
    const chosen = name.slice(0, -suffix - 1).split('.')
    if (chosen.length > labels) {
      return { reason: 'wildcard-budget', detail: `more than ${String(labels)} labels` }
    }
    if (chosen.some((label) => label.length > labelLength)) {
      return { reason: 'wildcard-budget', detail: `a label over ${String(labelLength)} characters` }
    }
    if (this.#now() - this.#newNamesSince > dayMs) {
      this.#newNames = new Set()
      this.#newNamesSince = this.#now()
    }
    if (!this.#newNames.has(name)) {
      if (this.#newNames.size >= newNames) {
        return {
          reason: 'wildcard-budget',
          detail: `more than ${String(newNames)} new names a day`,
        }
      }
      this.#newNames.add(name)
    }
    return { grants }
  }

  /** Addresses of an admitted name, filtered and pinned. Never rejects. */
  async find(name: string, type: AddressType | 'SRV', grants: readonly Grant[]): Promise<Found> {
    const fixed = this.#grants.fixedAddresses(name)
    if (fixed !== undefined && type !== 'SRV') return this.#fixed(name, type, fixed, grants)
    if (this.#resolver.cached(name, type) === undefined && !this.#bucket.take()) {
      return { kind: 'refused', reason: 'query-rate' }
    }
    const resolution = await this.#resolver.lookup(name, type)
    switch (resolution.status) {
      case 'failed':
        return {
          kind: 'refused',
          reason: 'upstream-failed',
          ...(resolution.detail === undefined ? {} : { detail: resolution.detail }),
        }
      case 'nodata':
      case 'nxdomain':
        return { kind: resolution.status }
      case 'ok':
        return type === 'SRV'
          ? this.#srv(resolution)
          : await this.#filterAndPin(name, resolution.addresses, resolution.expires, grants)
    }
  }

  #fixed(
    name: string,
    type: AddressType,
    fixed: readonly string[],
    grants: readonly Grant[],
  ): Promise<Found> | Found {
    const family = fixed.filter((address) => address.includes(':') === (type === 'AAAA'))
    if (family.length === 0) return { kind: 'nodata' }
    const expires = this.#now() + this.#grants.policy.dns.maxTtl * 1000
    return this.#filterAndPin(name, family, expires, grants)
  }

  /** Only targets that are granted names: others could not be resolved anyway. */
  #srv(resolution: Resolution): Found {
    const records = resolution.srv.filter(
      (record) => this.#grants.policy.report || this.#grants.ofName(record.target).length > 0,
    )
    if (records.length === 0) return { kind: 'nodata' }
    return { kind: 'srv', records, expires: resolution.expires }
  }

  async #filterAndPin(
    name: string,
    addresses: readonly string[],
    expires: number,
    grants: readonly Grant[],
  ): Promise<Found> {
    const refused = new Map<string, ReasonCode>()
    const allowed = addresses.filter((address) => {
      const refusal = this.#grants.answerRefusal(name, address, grants)
      if (refusal !== undefined) refused.set(address, refusal)
      return refusal === undefined
    })
    const [first] = refused.values()
    if (allowed.length === 0) {
      return { kind: 'refused', reason: first ?? 'address-not-granted', detail: detailOf(refused) }
    }
    const pinned = await this.#pin(name, allowed, expires, grants)
    if (!pinned) return { kind: 'refused', reason: 'upstream-failed', detail: 'pin refused' }
    return { kind: 'addresses', addresses: allowed, expires, refused }
  }

  async #pin(
    name: string,
    addresses: readonly string[],
    expires: number,
    grants: readonly Grant[],
  ): Promise<boolean> {
    const { pinExtra } = this.#grants.policy.dns
    const now = this.#now()
    const end = Math.min(expires + pinExtra * 1000, now + maxPinSeconds * 1000)
    // Under the cap the end moves with the clock: half of it is near enough, if it outlives the answer.
    const needed = Math.max(Math.min(end, now + maxPinSeconds * 500), Math.min(end, expires))
    const isNew = addresses.some((address) => !this.pins.has(name, address, needed))
    if (this.#pinInKernel !== undefined && isNew) {
      for (const grant of grants) {
        if (grant.inspect !== 'none') continue
        const pins = addresses
          .filter((address) => this.#grants.addressRefusal(name, address, grant) === undefined)
          .map((address) => ({ address, seconds: secondsUntil(end, now) }))
        if (pins.length > 0 && !(await this.#pinInKernel(grant.id, name, pins))) return false
      }
    }
    for (const address of addresses) this.pins.add(name, address, end)
    return true
  }

  /** After a reload grants have new ids: every pin in force is asked for again, under the new ones. */
  async repin(): Promise<void> {
    this.pins.sweep()
    if (this.#pinInKernel === undefined) return
    const now = this.#now()
    for (const { name, address, expires } of this.pins.live()) {
      for (const grant of this.#grants.ofName(name)) {
        if (grant.inspect !== 'none') continue
        if (this.#grants.addressRefusal(name, address, grant) !== undefined) continue
        const seconds = secondsUntil(expires, now)
        await this.#pinInKernel(grant.id, name, [{ address, seconds }])
      }
    }
  }

  /**
   * Addresses to dial for a grant, both families (one with `ipv6: false`), v6 and v4 in turn.
   * With no grant (report mode) every public address may be dialled.
   */
  async toDial(
    name: string,
    port: number,
    grant: Grant | undefined,
  ): Promise<
    | { readonly addresses: readonly string[] }
    | { readonly reason: ReasonCode; readonly detail?: string }
  > {
    const admission = this.admit(name)
    if ('reason' in admission) return admission
    const types: AddressType[] = this.#grants.policy.ipv6 ? ['AAAA', 'A'] : ['A']
    const found = await Promise.all(types.map((type) => this.find(name, type, admission.grants)))
    const lists = found.map((each) =>
      each.kind === 'addresses'
        ? each.addresses.filter(
            (address) =>
              grant === undefined ||
              this.#grants.addressRefusal(name, address, grant, port) === undefined,
          )
        : [],
    )
    const addresses = interleave(lists)
    if (addresses.length > 0) return { addresses }
    for (const each of found) {
      if (each.kind === 'refused') {
        return {
          reason: each.reason,
          ...(each.detail === undefined ? {} : { detail: each.detail }),
        }
      }
    }
    const resolved = found.some((each) => each.kind === 'addresses')
    return resolved
      ? { reason: 'address-private' }
      : { reason: 'upstream-failed', detail: 'no address' }
  }
}

/** Whole seconds, never above the cap: fractions of milliseconds must not lift it. */
function secondsUntil(end: number, now: number): number {
  return Math.min(maxPinSeconds, Math.max(1, Math.ceil((end - now) / 1000)))
}

function detailOf(refused: ReadonlyMap<string, ReasonCode>): string {
  return [...refused.keys()].slice(0, 4).join(' ')
}

function interleave(lists: readonly (readonly string[])[]): string[] {
  const longest = Math.max(0, ...lists.map((list) => list.length))
  return Array.from({ length: longest }, (_, index) =>
    lists.flatMap((list) => list[index] ?? []),
  ).flat()
}
