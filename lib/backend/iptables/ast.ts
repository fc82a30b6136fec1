/**
 * iptables rules and ipset sets as data, and the one printer of both. Pure.
 * Invariant: every word of a rule comes from a typed field; what is printed is what iptables-save prints back.
 */
import type { PortRange } from '../../policy/types.js'
import type { UidRange } from '../types.js'

export type Family = 4 | 6
export type TableName = 'security' | 'filter' | 'nat'

export type Target =
  | { readonly jump: string }
  | { readonly goto: string }
  | { readonly verdict: 'ACCEPT' | 'DROP' | 'RETURN' }
  | { readonly reject: 'tcp-reset' | 'prohibited' }
  | { readonly redirect: number }
  | { readonly setMark: number }
  | { readonly setConnmark: number }
  /** Adds what the packet has at `by` to a set; one that is there keeps its counters unless `refresh` (seconds). */
  | { readonly addTo: string; readonly by: SetKey; readonly refresh?: number }
  /** Counts only. */
  | 'none'

/** Which address and port of the packet: destination first. */
type SetKey = 'dst' | 'dst,dst' | 'dst,src'

/** One rule; the fields stand in the order in which iptables-save prints them. */
export interface Rule {
  readonly chain: string
  readonly to?: { readonly address: string; readonly prefix: number }
  readonly in?: 'lo'
  readonly out?: 'lo' | 'not lo'
  readonly proto?: 'tcp' | 'udp'
  /** With `proto`. */
  readonly sport?: PortRange
  readonly dport?: PortRange
  readonly owner?: UidRange
  /** Of a flow's two sides, the one that opened it; `false`: the other. */
  readonly isOriginal?: boolean
  readonly isRedirected?: true
  /** No packet that opens a flow. */
  readonly goesOn?: true
  readonly connmark?: { readonly value: number; readonly mask: number }
  readonly mark?: number
  readonly notMark?: number
  readonly inSet?: { readonly name: string; readonly by: SetKey; readonly uncounted?: true }
  readonly then: Target
}

export interface Chain {
  readonly name: string
  /** Of a built-in chain; absent for our own. */
  readonly policy?: 'ACCEPT' | 'DROP'
}

/** Chains of one table that are replaced whole. */
export interface Table {
  readonly name: TableName
  readonly chains: readonly Chain[]
  readonly rules: readonly Rule[]
}

export interface IpSet {
  readonly name: string
  readonly type: 'hash:ip' | 'hash:ip,port' | 'hash:net' | 'bitmap:port'
  /** Absent for `bitmap:port`, which serves both. */
  readonly family?: Family
  readonly maxElements?: number
  /** Seconds; an element may carry its own. */
  readonly timeout?: number
  readonly counters?: true
}

export interface SetElement {
  readonly set: string
  readonly key: string | number
  /** Seconds. */
  readonly timeout?: number
}

/** Lines for `iptables-restore --noflush`: each table is one transaction, its chains emptied and written anew. */
export function printTables(family: Family, tables: readonly Table[]): string[] {
  return tables.flatMap((table) => printChange(family, { table, before: [], after: [] }))
}

/** A table's chains replaced, with changes to chains that others share. */
export interface Change {
  readonly table: Table
  /** `-D`, `-I`: before and after the chains are filled. */
  readonly before: readonly SharedRule[]
  readonly after: readonly SharedRule[]
  /** Chains deleted at the end. */
  readonly gone?: readonly string[]
}

export interface SharedRule {
  readonly op: 'insert' | 'delete'
  readonly rule: Rule
}

export function printChange(family: Family, change: Change): string[] {
  const { table, before, after, gone = [] } = change
  return [
    `*${table.name}`,
    ...table.chains.map(({ name, policy }) => `:${name} ${policy ?? '-'} [0:0]`),
    // Declared, a chain of our own is emptied; a built-in one is not.
    ...table.chains.flatMap(({ name, policy }) => (policy === undefined ? [] : [`-F ${name}`])),
    // Emptied, it can be deleted.
    ...gone.map((name) => `:${name} - [0:0]`),
    ...before.map((shared) => printShared(family, shared)),
    ...table.rules.map((rule) => `-A ${rule.chain} ${printRule(family, rule)}`.trimEnd()),
    ...after.map((shared) => printShared(family, shared)),
    ...gone.map((name) => `-X ${name}`),
    'COMMIT',
  ]
}

function printShared(family: Family, { op, rule }: SharedRule): string {
  const where = op === 'insert' ? `-I ${rule.chain} 1` : `-D ${rule.chain}`
  return `${where} ${printRule(family, rule)}`
}

/** A rule without its chain, as iptables-save prints it. */
export function printRule(family: Family, rule: Rule): string {
  const { to, proto, sport, dport, owner, connmark, mark, notMark, inSet } = rule
  const words = [
    ...(to === undefined ? [] : ['-d', `${to.address}/${to.prefix}`]),
    ...(rule.in === undefined ? [] : ['-i', rule.in]),
    ...(rule.out === undefined ? [] : rule.out === 'lo' ? ['-o', 'lo'] : ['!', '-o', 'lo']),
    ...(proto === undefined ? [] : ['-p', proto]),
    ...(sport === undefined && dport === undefined ? [] : ['-m', proto ?? 'tcp']),
    ...(sport === undefined ? [] : ['--sport', printPorts(sport)]),
    ...(dport === undefined ? [] : ['--dport', printPorts(dport)]),
    ...(owner === undefined ? [] : ['-m', 'owner', '--uid-owner', printUids(owner)]),
    ...(rule.isOriginal === undefined
      ? []
      : ['-m', 'conntrack', '--ctdir', rule.isOriginal ? 'ORIGINAL' : 'REPLY']),
    ...(rule.isRedirected ? ['-m', 'conntrack', '--ctstate', 'DNAT'] : []),
    ...(rule.goesOn ? ['-m', 'conntrack', '!', '--ctstate', 'NEW'] : []),
    ...(connmark === undefined ? [] : ['-m', 'connmark', '--mark', printMasked(connmark)]),
    ...(mark === undefined ? [] : ['-m', 'mark', '--mark', hex(mark)]),
    ...(notMark === undefined ? [] : ['-m', 'mark', '!', '--mark', hex(notMark)]),
    ...(inSet === undefined ? [] : ['-m', 'set', '--match-set', inSet.name, inSet.by]),
    ...(inSet?.uncounted ? ['!', '--update-counters'] : []),
    ...printTarget(family, rule.then),
  ]
  return words.join(' ')
}

function printTarget(family: Family, target: Target): string[] {
  if (target === 'none') return []
  if ('jump' in target) return ['-j', target.jump]
  if ('goto' in target) return ['-g', target.goto]
  if ('verdict' in target) return ['-j', target.verdict]
  if ('reject' in target) {
    const prohibited = family === 4 ? 'icmp-admin-prohibited' : 'icmp6-adm-prohibited'
    return [
      '-j',
      'REJECT',
      '--reject-with',
      target.reject === 'tcp-reset' ? 'tcp-reset' : prohibited,
    ]
  }
  if ('redirect' in target) return ['-j', 'REDIRECT', '--to-ports', String(target.redirect)]
  if ('setMark' in target) return ['-j', 'MARK', '--set-xmark', `${hex(target.setMark)}/0xffffffff`]
  if ('setConnmark' in target)
    return ['-j', 'CONNMARK', '--set-xmark', `${hex(target.setConnmark)}/0xffffffff`]
  const refresh =
    target.refresh === undefined ? [] : ['--exist', '--timeout', String(target.refresh)]
  return ['-j', 'SET', '--add-set', target.addTo, target.by, ...refresh]
}

const hex = (value: number): string => `0x${value.toString(16)}`
const printPorts = ({ first, last }: PortRange): string =>
  first === last ? String(first) : `${first}:${last}`
const printUids = ({ first, last }: UidRange): string =>
  first === last ? String(first) : `${first}-${last}`
const printMasked = ({ value, mask }: { value: number; mask: number }): string =>
  mask === 0xffffffff ? hex(value) : `${hex(value)}/${hex(mask)}`

/** The arguments of `create`, without `create NAME`, as `ipset save` starts to print them. */
function printSetType(set: IpSet): string[] {
  if (set.type === 'bitmap:port') return [set.type, 'range', '0-65535']
  return [
    set.type,
    'family',
    set.family === 6 ? 'inet6' : 'inet',
    'hashsize',
    '64',
    'maxelem',
    String(set.maxElements ?? 65_536),
    ...(set.timeout === undefined ? [] : ['timeout', String(set.timeout)]),
    ...(set.counters ? ['counters'] : []),
  ]
}

/** Lines for `ipset -exist restore`. */
export function printSets(sets: readonly IpSet[], elements: readonly SetElement[]): string[] {
  return [
    ...sets.map((set) => `create ${set.name} ${printSetType(set).join(' ')}`),
    ...elements.map(
      ({ set, key, timeout }) =>
        `add ${set} ${key}${timeout === undefined ? '' : ` timeout ${timeout}`}`,
    ),
  ]
}
