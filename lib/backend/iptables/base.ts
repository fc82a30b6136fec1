/**
 * The chains all jails share: checked, put back, and what leads from them to one jail. Pure.
 * Invariant: a shared chain holds leads to jails of the range and then its deny; anything else is not intact.
 */
import type { UidRange } from '../types.js'
import { printRule } from './ast.js'
import type { Change, Chain, Family, Rule, SharedRule, Table, TableName } from './ast.js'
import { chainOf, findDifference, isFirst } from './readback.js'
import type { Listing } from './readback.js'
import {
  chains,
  entry,
  flowsEnd,
  gateRules,
  heldEnd,
  jailNames,
  leads,
  main,
  staticTables,
  uidOfChain,
} from './tables.js'

/** Uids that a listing leads to jails' chains, of the range, each once. */
function leadUids(listing: Listing, table: TableName, chain: string): number[] {
  const found = (chainOf(listing, table, chain)?.rules ?? []).flatMap((text) => {
    const target = / ?-g (\S+)$/.exec(text)?.[1]
    const uid = target === undefined ? undefined : uidOfChain(target)
    return uid === undefined ? [] : [uid]
  })
  return [...new Set(found)]
}

/** Uids that have a chain of their own, held or not. */
export function jailUids(listing: Listing): number[] {
  const found = ['filter', 'nat'].flatMap((table) =>
    [...(listing.get(table)?.keys() ?? [])].flatMap((chain) => uidOfChain(chain) ?? []),
  )
  return [...new Set(found)]
}

/** Whether the gates' ports are protected, as while any jail runs in `uid` isolation. */
export const hasGates = (listing: Listing): boolean =>
  (chainOf(listing, 'filter', chains.gates)?.rules.length ?? 0) > 0

const inRange = (uid: number, { first, last }: UidRange): boolean => first <= uid && uid <= last

/** The shared chains as they are to be, with the leads that the listing has and that lead somewhere. */
function sharedTables(range: UidRange, listing: Listing, withGates: boolean): Table[] {
  const exists = (table: TableName, uid: number): boolean =>
    inRange(uid, range) && chainOf(listing, table, `AJ-${uid}`) !== undefined
  const held = leadUids(listing, 'filter', chains.held).filter((uid) => exists('filter', uid))
  const flows = leadUids(listing, 'filter', chains.flows).filter((uid) => exists('filter', uid))
  const [security, filter] = staticTables(range)
  if (security === undefined || filter === undefined) return []
  return [
    security,
    {
      name: 'filter',
      chains: [
        ...filter.chains,
        { name: chains.held },
        { name: chains.flows },
        { name: chains.gates },
      ],
      rules: [
        ...filter.rules,
        ...held.map((uid) => leads(uid, range).held),
        heldEnd,
        ...flows.map((uid) => leads(uid, range).flow),
        flowsEnd,
        ...(withGates ? gateRules : []),
      ],
    },
  ]
}

/** The redirects' way in, with the leads that lead somewhere. */
function natTable(range: UidRange, listing: Listing): Table {
  const uids = leadUids(listing, 'nat', main).filter(
    (uid) => inRange(uid, range) && chainOf(listing, 'nat', jailNames(uid).nat) !== undefined,
  )
  const rules = uids.map((uid) => leads(uid, range).nat)
  return { name: 'nat', chains: [{ name: main }], rules }
}

/**
 * What of the base is not in force, in words. `gates`: the protection of the gates' ports and the redirects are meant
 * to be there, as while any jail runs in `uid` isolation.
 */
export function findBaseProblem(
  family: Family,
  range: UidRange,
  listing: Listing,
  gates: 'needed' | 'either',
): string | undefined {
  const tables = [
    ...sharedTables(range, listing, gates === 'needed' || hasGates(listing)),
    ...(gates === 'needed' ? [natTable(range, listing)] : []),
  ]
  const needed: TableName[] =
    gates === 'needed' ? ['security', 'filter', 'nat'] : ['security', 'filter']
  const outOfPlace = needed.find((table) => !isFirst(family, table, entry(table, range), listing))
  if (outOfPlace !== undefined)
    return `the first IPv${family} rule of OUTPUT in table ${outOfPlace} is not agentjail's`
  return findDifference(family, tables, listing)
}

/** Puts the base in place, in an order in which nothing is open in between: the deny first. */
export function baseChanges(
  family: Family,
  range: UidRange,
  listing: Listing,
  withGates: boolean,
): Change[] {
  const tables = [
    ...sharedTables(range, listing, withGates),
    ...(withGates ? [natTable(range, listing)] : []),
  ]
  return tables.map((table) => ({
    table,
    before: [],
    after: entryChanges(family, table.name, range, listing),
  }))
}

/** Our jump first, and once. */
function entryChanges(
  family: Family,
  table: TableName,
  range: UidRange,
  listing: Listing,
): SharedRule[] {
  const rule = entry(table, range)
  if (isFirst(family, table, rule, listing)) return []
  const stale = count(family, table, rule, listing)
  return [
    ...Array.from({ length: stale }, (): SharedRule => ({ op: 'delete', rule })),
    { op: 'insert', rule },
  ]
}

function count(family: Family, table: TableName, rule: Rule, listing: Listing): number {
  const text = printRule(family, rule)
  return (chainOf(listing, table, rule.chain)?.rules ?? []).filter((one) => one === text).length
}

/** Deletions of a rule, as often as the listing has it. */
export function deletions(
  family: Family,
  table: TableName,
  rule: Rule,
  listing: Listing,
): SharedRule[] {
  return Array.from({ length: count(family, table, rule, listing) }, () => ({ op: 'delete', rule }))
}

/** What only running jails need, out again: the gates' protection and the redirects. The deny stays. */
export function idleChanges(family: Family, range: UidRange, listing: Listing): Change[] {
  const nat: Table = { name: 'nat', chains: [], rules: [] }
  const before = deletions(family, 'nat', entry('nat', range), listing)
  const gone = chainOf(listing, 'nat', main) === undefined ? [] : [main]
  const redirects =
    before.length + gone.length === 0 ? [] : [{ table: nat, before, after: [], gone }]
  return [...baseChanges(family, range, listing, false), ...redirects]
}

/** Everything of ours, in all tables, for an uninstall. */
export function removalOfAll(family: Family, range: UidRange, listing: Listing): Change[] {
  // What opens goes last but one, what denies last of all: nothing of it matters any more when no jail runs.
  const order: TableName[] = ['nat', 'filter', 'security']
  return order.flatMap((name): Change[] => {
    const ours = [...(listing.get(name)?.keys() ?? [])].filter(
      (chain) => chain === main || chain.startsWith(`${main}_`) || uidOfChain(chain) !== undefined,
    )
    const before = deletions(family, name, entry(name, range), listing)
    if (ours.length === 0 && before.length === 0) return []
    const table: { name: TableName; chains: Chain[]; rules: Rule[] } = {
      name,
      chains: [],
      rules: [],
    }
    return [{ table, before, after: [], gone: ours }]
  })
}
