/**
 * What the policy says about a name, an address, a port: the one place where the gate asks.
 * Invariant: a denial wins over every grant, and an address is dialled only if the very grant that
 * is used allows it.
 */
import type { ReasonCode } from '../audit/record.js'
import { classifyAddress, contains } from '../policy/addresses.js'
import { compileMatcher, type HostMatcher } from '../policy/hosts.js'
import { plainGrant } from '../policy/plain-grant.js'
import type { CidrGrant, Deny, Grant, PortRange } from '../policy/types.js'
import type { GatePolicy } from './protocol.js'

type Proto = 'tcp' | 'udp'

/** Id of the grant that report mode makes up for a name that nothing grants. */
export const reportGrant = 'report'

export class Grants {
  readonly policy: GatePolicy
  readonly #grants: HostMatcher<Grant>
  readonly #deniedNames: HostMatcher<Deny>
  readonly #deniedCidrs: readonly Deny[]
  readonly #hostAddresses: ReadonlySet<string>
  readonly #fixed: ReadonlyMap<string, readonly string[]>

  /** `hostAddresses`: canonical addresses of the host itself, never dialled unless granted. */
  constructor(policy: GatePolicy, hostAddresses: readonly string[]) {
    this.policy = policy
    this.#grants = compileMatcher(policy.grants)
    this.#deniedNames = compileMatcher(policy.denies)
    this.#deniedCidrs = policy.denies.filter((deny) => deny.cidr !== undefined)
    this.#hostAddresses = new Set(hostAddresses)
    this.#fixed = new Map(policy.dns.hosts)
  }

  /** The grants of a normalised name, most specific first; none if a denial names it. */
  ofName(name: string): readonly Grant[] {
    return this.isDenied(name) ? [] : this.#grants.match(name)
  }

  isDenied(name: string): boolean {
    return this.#deniedNames.has(name)
  }

  /** Why a name without any grant (for what was asked) is refused. */
  refusal(name: string): ReasonCode {
    if (this.isDenied(name)) return 'name-denied'
    return this.#grants.has(name) ? 'port-not-granted' : 'name-not-granted'
  }

  /** The grants of a name for one port. */
  forPort(name: string, port: number, proto: Proto): readonly Grant[] {
    return this.ofName(name).filter((grant) => covers(grant, port, proto))
  }

  /** In report mode, for a name that nothing grants: an exact grant of this port, public addresses only. */
  reported(name: string, port: number): Grant | undefined {
    if (!this.policy.report || this.isDenied(name)) return undefined
    return plainGrant({
      id: reportGrant,
      host: { kind: 'exact', name },
      ports: [{ first: port, last: port }],
      origin: { file: 'report', line: 1, column: 1 },
    })
  }

  /** Whether any grant by name has this port. */
  hasPort(port: number, proto: Proto): boolean {
    return this.policy.grants.some((grant) => covers(grant, port, proto))
  }

  /** The grant by address for a destination, unless a denial covers it. */
  forAddress(address: string, port: number, proto: Proto): CidrGrant | undefined {
    if (this.isAddressDenied(address)) return undefined
    return this.policy.cidrs.find(
      (grant) => covers(grant, port, proto) && contains(grant.cidr, address),
    )
  }

  isAddressDenied(address: string): boolean {
    return this.#deniedCidrs.some((deny) => deny.cidr !== undefined && contains(deny.cidr, address))
  }

  /** Addresses that the policy itself gives to a name (`dns.hosts`). */
  fixedAddresses(name: string): readonly string[] | undefined {
    return this.#fixed.get(name)
  }

  /**
   * Why an address that a name resolved to must not be dialled for this grant; `undefined`: it may.
   * `port` adds what grants by address open on that port; without it, on any (a DNS answer has no port).
   */
  addressRefusal(
    name: string,
    address: string,
    grant: Grant,
    port?: number,
  ): ReasonCode | undefined {
    if (this.isAddressDenied(address)) return 'address-denied'
    if (grant.within.length > 0 && !grant.within.some((cidr) => contains(cidr, address))) {
      return 'address-outside-within'
    }
    // The policy's author wrote this address down for this name.
    if (this.#fixed.get(name)?.includes(address) === true) return undefined
    const kind = classifyAddress(address)
    if (kind === 'public' && !this.#hostAddresses.has(address)) return undefined
    const exactPrivate = grant.private && grant.host.kind === 'exact'
    if (exactPrivate && (kind === 'private' || kind === 'shared' || kind === 'public')) {
      return undefined
    }
    const byAddress = this.policy.cidrs.some(
      (cidr) =>
        contains(cidr.cidr, address) && (port === undefined || covers(cidr, port, grant.proto)),
    )
    return byAddress ? undefined : 'address-private'
  }

  /** Why no grant at all may use this address: the reason of the first grant. */
  answerRefusal(name: string, address: string, grants: readonly Grant[]): ReasonCode | undefined {
    if (grants.length === 0) return this.#reportRefusal(address)
    let first: ReasonCode | undefined
    for (const grant of grants) {
      const refusal = this.addressRefusal(name, address, grant)
      if (refusal === undefined) return undefined
      first ??= refusal
    }
    return first ?? 'address-not-granted'
  }

  /** In report mode a name may have no grant: what is not plainly public stays closed. */
  #reportRefusal(address: string): ReasonCode | undefined {
    if (this.isAddressDenied(address)) return 'address-denied'
    const isOpen = classifyAddress(address) === 'public' && !this.#hostAddresses.has(address)
    return isOpen && this.policy.report ? undefined : 'address-private'
  }

  /** A name that only wildcards grant is text that the jail can choose: it has a budget. */
  isWildcardOnly(grants: readonly Grant[]): boolean {
    return grants.every((grant) => grant.host.kind !== 'exact')
  }
}

/** Whether a grant has this port and protocol. */
function covers(
  grant: { readonly ports: readonly PortRange[]; readonly proto: Proto },
  port: number,
  proto: Proto,
): boolean {
  return (
    grant.proto === proto && grant.ports.some((range) => port >= range.first && port <= range.last)
  )
}
