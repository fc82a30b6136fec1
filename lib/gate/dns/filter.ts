/**
 * Answers one DNS query by the policy.
 * Invariant: every query is answered at once or after the pin is in force; nothing is forwarded,
 * only asked anew, and never for a name that is not granted.
 */
import { type Decision, type ReasonCode, reasons } from '../../audit/record.js'
import { parseAddress } from '../../policy/addresses.js'
import { normaliseName } from '../../policy/hosts.js'
import type { Grant } from '../../policy/types.js'
import type { Decisions } from '../decisions.js'
import type { Found, Names } from '../names.js'
import {
  addressRecords,
  type Answer,
  extendedError,
  parseQuery,
  printAnswer,
  printError,
  type Query,
  rcode,
  recordType,
  srvRecords,
  typeName,
} from './wire.js'

type Transport = 'udp' | 'tcp'

/** How a query came. */
interface Asker {
  readonly transport: Transport
  /** The port of the client's own socket. */
  readonly port: number | undefined
}

/** An answer kept ready; its pins outlive it. */
interface Ready {
  readonly records: Buffer
  readonly count: number
  /** Monotonic milliseconds. */
  readonly expires: number
  readonly decision: Decision
}

const maxReady = 4096

export class DnsFilter {
  readonly #names: Names
  readonly #decisions: Decisions
  readonly #now: () => number
  /** By type, then by name: the hot path. */
  readonly #ready = new Map<number, Map<string, Ready>>([
    [recordType.A, new Map()],
    [recordType.AAAA, new Map()],
    [recordType.SRV, new Map()],
  ])
  queries = 0

  constructor(names: Names, decisions: Decisions, now: () => number) {
    this.#names = names
    this.#decisions = decisions
    this.#now = now
  }

  /** The policy changed: no kept answer is good any more. */
  update(): void {
    for (const kept of this.#ready.values()) kept.clear()
  }

  /** The answer's bytes; `undefined`: none is due. Never rejects. `port`: of the client's own socket. */
  answer(
    message: Buffer,
    transport: Transport,
    port?: number,
  ): Buffer | undefined | Promise<Buffer> {
    this.queries++
    const query = parseQuery(message)
    if (query.kind === 'drop') return undefined
    if (query.kind === 'bad') {
      void this.#deny('query-malformed', '', undefined, { transport, port })
      return printError(query.id, query.rcode, query.edns)
    }
    const ready = this.#ready.get(query.type)?.get(query.name)
    if (ready !== undefined) {
      const left = ready.expires - this.#now()
      if (left > 0) {
        this.#decisions.reportShared(ready.decision)
        const answer = { rcode: rcode.ok, ...ready, ttl: secondsUp(left) }
        const look = this.#lookGranted(query.name, { transport, port }, true)
        if (look === undefined) return printAnswer(message, query, answer, transport)
        return look.then(() => printAnswer(message, query, answer, transport))
      }
    }
    const answer = this.#judge(query, { transport, port })
    if (!(answer instanceof Promise)) return printAnswer(message, query, answer, transport)
    // The datagram's buffer is ours alone (dgram gives a fresh one a message), so it may be kept.
    return answer.then((late) => printAnswer(message, query, late, transport))
  }

  /** A port that the name is not granted for is refused where no process is known: who asked is remembered. */
  #lookGranted(
    name: string,
    { transport, port }: Asker,
    isReady: boolean,
  ): Promise<void> | undefined {
    return this.#decisions.lookGranted(name, transport, port, isReady)
  }

  #judge(query: Query, asker: Asker): Answer | Promise<Answer> {
    const local = localhostAnswer(query)
    if (local !== undefined) return local
    const name = query.plain ? normaliseName(query.name) : undefined
    const type = typeName(query.type)
    if (name === undefined) {
      return this.#deny('name-not-granted', query.name, type, asker)
    }
    const { grants, report } = this.#policyOf(name)
    const fixed = this.#names.grants.fixedAddresses(name)
    if (grants.length === 0 && fixed !== undefined && !this.#names.grants.isDenied(name)) {
      return fixedAnswer(fixed, query, this.#names.grants.policy.dns.maxTtl)
    }
    if (grants.length === 0 && !report) {
      return this.#deny(this.#names.grants.refusal(name), name, type, asker)
    }
    // Refused types take nothing from the budget of new names: they are not asked upstream.
    const wanted = this.#wantedType(query.type)
    if (wanted === 'refused') {
      void this.#deny('record-type-refused', name, type, asker, grants[0])
      return { rcode: rcode.ok, error: errorOf('record-type-refused') }
    }
    if (wanted === 'closed-family') return { rcode: rcode.ok }
    const admission = this.#names.admit(name)
    if ('reason' in admission) {
      return this.#deny(admission.reason, name, admission.detail ?? type, asker)
    }
    const policy = this.#names.grants
    // Beside the question upstream.
    const look = grants.length === 0 ? undefined : this.#lookGranted(name, asker, false)
    const find = this.#names.find(name, wanted, admission.grants)
    const both = look === undefined ? find : look.then(() => find)
    return both.then((found) =>
      // The policy changed while this answer was on its way: judge again.
      policy === this.#names.grants
        ? this.#finish(found, query, name, type, asker, grants)
        : this.#judge(query, asker),
    )
  }

  #policyOf(name: string): { readonly grants: readonly Grant[]; readonly report: boolean } {
    const { grants } = this.#names
    return {
      grants: grants.ofName(name),
      report: grants.policy.report && !grants.isDenied(name),
    }
  }

  #wantedType(type: number): 'A' | 'AAAA' | 'SRV' | 'refused' | 'closed-family' {
    const { types } = this.#names.grants.policy.dns
    if (type === recordType.A && types.includes('A')) return 'A'
    if (type === recordType.AAAA) {
      return types.includes('AAAA') && this.#names.grants.policy.ipv6 ? 'AAAA' : 'closed-family'
    }
    if (type === recordType.A) return 'closed-family'
    if (type === recordType.SRV && types.includes('SRV')) return 'SRV'
    return 'refused'
  }

  #finish(
    found: Found,
    query: Query,
    name: string,
    type: string,
    asker: Asker,
    grants: readonly Grant[],
  ): Answer | Promise<Answer> {
    switch (found.kind) {
      case 'nodata':
        return { rcode: rcode.ok }
      case 'nxdomain':
        return { rcode: rcode.nxDomain }
      case 'refused':
        return this.#deny(found.reason, name, found.detail ?? type, asker, grants[0])
      case 'srv':
        return this.#keep(query, name, type, asker, grants, found.expires, {
          records: srvRecords(found.records),
          count: found.records.length,
        })
      case 'addresses': {
        for (const [address, reason] of found.refused) {
          const decision = {
            ...base(asker.transport),
            verdict: 'deny',
            reason,
            name,
            address,
          } as const
          void this.#decisions.report(decision, asker.port)
        }
        const bytes = found.addresses.flatMap((address) => parseAddress(address) ?? [])
        // Which name an address belongs to is what a later denial of the kernel cannot know.
        const told = [type, ...found.addresses].join(' ')
        return this.#keep(query, name, told, asker, grants, found.expires, {
          records: addressRecords(bytes),
          count: bytes.length,
        })
      }
    }
  }

  #keep(
    query: Query,
    name: string,
    detail: string,
    asker: Asker,
    grants: readonly Grant[],
    expires: number,
    body: { readonly records: Buffer; readonly count: number },
  ): Answer {
    const [grant] = grants
    const decision: Decision = {
      ...base(asker.transport),
      verdict: 'allow',
      reason: grant === undefined ? this.#names.grants.refusal(name) : 'granted',
      name,
      detail,
      ...(grant === undefined ? {} : { grant: grant.id }),
    }
    this.#decisions.reportShared(decision)
    const kept = this.#ready.get(query.type)
    if (kept !== undefined) {
      if (kept.size >= maxReady) kept.clear()
      kept.set(query.name, { ...body, expires, decision })
    }
    return { rcode: rcode.ok, ...body, ttl: secondsUp(expires - this.#now()) }
  }

  /** Reports, and gives the answer that makes resolvers stop at once: NXDOMAIN, or SERVFAIL where a retry may help. */
  #deny(
    reason: ReasonCode,
    name: string,
    detail: string | undefined,
    asker: Asker,
    grant?: Grant,
  ): Answer | Promise<Answer> {
    const decision: Decision = {
      ...base(asker.transport),
      verdict: 'deny',
      reason,
      ...(name === '' ? {} : { name }),
      ...(detail === undefined ? {} : { detail }),
      ...(grant === undefined ? {} : { grant: grant.id }),
    }
    const look = this.#decisions.report(decision, asker.port)
    const isTransient = reason === 'upstream-failed' || reason === 'query-rate'
    const answer = { rcode: isTransient ? rcode.servFail : rcode.nxDomain, error: errorOf(reason) }
    return look === undefined ? answer : look.then(() => answer)
  }
}

function base(transport: Transport): Pick<Decision, 'layer' | 'direction' | 'proto' | 'port'> {
  return { layer: 'dns', direction: 'out', proto: transport, port: 53 }
}

function errorOf(reason: ReasonCode): NonNullable<Answer['error']> {
  const code = reason === 'upstream-failed' ? extendedError.networkError : extendedError.blocked
  return { code, text: `agentjail: ${reason}: ${reasons[reason]}` }
}

function secondsUp(milliseconds: number): number {
  return Math.max(1, Math.ceil(milliseconds / 1000))
}

/** RFC 6761 section 6.3: `localhost` and below are loopback, whatever anybody says. */
function localhostAnswer(query: Query): Answer | undefined {
  if (query.name !== 'localhost' && !(query.plain && query.name.endsWith('.localhost'))) {
    return undefined
  }
  return fixedAnswer(['127.0.0.1', '::1'], query, 60)
}

function fixedAnswer(addresses: readonly string[], query: Query, ttl: number): Answer {
  const length = query.type === recordType.A ? 4 : query.type === recordType.AAAA ? 16 : 0
  const bytes = addresses.flatMap((address) => parseAddress(address) ?? [])
  const family = bytes.filter((each) => each.length === length)
  return { rcode: rcode.ok, records: addressRecords(family), count: family.length, ttl }
}
