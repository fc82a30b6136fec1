/**
 * Reads the addresses of a name out of an answer, following its CNAME chain (pure).
 * Invariant: a record counts only if its owner is the name asked or the target of the chain so far.
 */
import type { DecodedPacket } from 'dns-packet'
import { canonicalAddress } from '../../policy/addresses.js'
import { normaliseName } from '../../policy/hosts.js'
import type { Answered } from './upstream.js'
import type { SrvRecord } from './wire.js'

/** As OpenShell's resolver has it. */
const maxHops = 8
const maxAddresses = 16
/** RFC 2308 section 5 says hours; a bot's retry wants minutes. Seconds. */
const maxNegativeTtl = 300
/** For a negative answer without an SOA. Seconds. */
const defaultNegativeTtl = 5

export type AddressType = 'A' | 'AAAA'

export type Reading =
  | { readonly kind: 'addresses'; readonly addresses: readonly string[]; readonly ttl: number }
  | { readonly kind: 'srv'; readonly records: readonly SrvRecord[]; readonly ttl: number }
  /** The chain leaves this answer: ask for `target`. */
  | { readonly kind: 'alias'; readonly target: string; readonly hops: number; readonly ttl: number }
  | { readonly kind: 'nodata' | 'nxdomain'; readonly ttl: number }
  | { readonly kind: 'failed'; readonly detail: string }

/** `hops`: aliases followed before this answer. */
export function readAnswer(
  answer: Answered,
  name: string,
  type: AddressType | 'SRV',
  hops = 0,
): Reading {
  const code = answer.rcode
  if (code !== 'NOERROR' && code !== 'NXDOMAIN') {
    return { kind: 'failed', detail: `upstream answered ${code}` }
  }
  const records = answer.answers ?? []
  let owner = name
  let ttl = Infinity
  let followed = hops
  for (;;) {
    const own = records.filter((record) => ownerOf(record) === owner)
    const found = own.filter((record) => record.type === type && 'data' in record)
    for (const record of found) ttl = Math.min(ttl, ttlOf(record))
    if (found.length > 0) return readRecords(found, type, ttl)
    const alias = own.find((record) => record.type === 'CNAME')
    if (alias === undefined) break
    if (++followed > maxHops) return { kind: 'failed', detail: 'CNAME chain too long' }
    const target =
      'data' in alias && typeof alias.data === 'string' ? normaliseName(alias.data) : undefined
    if (target === undefined)
      return { kind: 'failed', detail: 'CNAME to something not a host name' }
    ttl = Math.min(ttl, ttlOf(alias))
    owner = target
  }
  if (code === 'NXDOMAIN') return { kind: 'nxdomain', ttl: negativeTtl(answer) }
  if (owner !== name && !hasSoa(answer))
    return { kind: 'alias', target: owner, hops: followed, ttl }
  return { kind: 'nodata', ttl: negativeTtl(answer) }
}

type AnyRecord = NonNullable<DecodedPacket['answers']>[number]

function ownerOf(record: AnyRecord): string {
  return record.name.toLowerCase()
}

function ttlOf(record: AnyRecord): number {
  return 'ttl' in record && typeof record.ttl === 'number' ? record.ttl : 0
}

function readRecords(found: readonly AnyRecord[], type: AddressType | 'SRV', ttl: number): Reading {
  if (type === 'SRV') {
    const records = found.flatMap((record) => {
      if (record.type !== 'SRV') return []
      const target = normaliseName(record.data.target)
      const { priority = 0, weight = 0, port } = record.data
      return target === undefined ? [] : [{ priority, weight, port, target }]
    })
    return { kind: 'srv', records: records.slice(0, maxAddresses), ttl }
  }
  const addresses = new Set<string>()
  for (const record of found) {
    if (record.type !== type) continue
    const address = canonicalAddress(record.data)
    if (address !== undefined) addresses.add(address)
  }
  return { kind: 'addresses', addresses: [...addresses].slice(0, maxAddresses), ttl }
}

function hasSoa(answer: DecodedPacket): boolean {
  return (answer.authorities ?? []).some((record) => record.type === 'SOA')
}

/** RFC 2308 section 5: the lesser of the SOA's own TTL and its minimum field. */
function negativeTtl(answer: DecodedPacket): number {
  for (const record of answer.authorities ?? []) {
    if (record.type !== 'SOA') continue
    return Math.min(ttlOf(record), record.data.minimum ?? 0, maxNegativeTtl)
  }
  return defaultNegativeTtl
}
