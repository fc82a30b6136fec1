/**
 * One jail's part of the shared firewall: how it goes in, how it comes out. Pure.
 * Invariant: the uid's lead goes in last and comes out first; a half-made jail has nothing.
 */
import type { GatePort, NetworkPlan, UidRange } from '../types.js'
import type { Change, Family, Rule, SharedRule, Table, TableName } from './ast.js'
import { deletions } from './base.js'
import { chainOf, findDifference, hasRule } from './readback.js'
import type { Listing } from './readback.js'
import { jailNames, jailTables, leads } from './tables.js'

export interface JailPart {
  readonly plan: NetworkPlan
  readonly gate: readonly GatePort[]
  readonly round: number
}

/** Replaces the jail's own chains; what leads to them is added where it is not there yet. */
export function jailChanges(family: Family, part: JailPart, listing: Listing): Change[] {
  const { plan, gate, round } = part
  return jailTables(family, plan, gate, round).map((table) => ({
    table,
    before: [],
    after: leadsIn(table.name, plan).flatMap((rule): SharedRule[] =>
      hasRule(family, table.name, rule, listing) ? [] : [{ op: 'insert', rule }],
    ),
  }))
}

/** In the order in which they go in. */
function leadsIn(table: TableName, { uid, range }: { uid: number; range: UidRange }): Rule[] {
  const { held, flow, nat } = leads(uid, range)
  return table === 'nat' ? [nat] : table === 'filter' ? [flow, held] : []
}

/** What of the jail is not in force, in words. */
export function findJailProblem(
  family: Family,
  part: JailPart,
  listing: Listing,
): string | undefined {
  const tables = jailTables(family, part.plan, part.gate, part.round)
  const lost = tables.find(({ name }) =>
    leadsIn(name, part.plan).some((rule) => !hasRule(family, name, rule, listing)),
  )
  if (lost !== undefined) return `nothing leads to the jail's IPv${family} chains in ${lost.name}`
  return findDifference(family, tables, listing)
}

/** Everything of a uid's jail that the listing has; what opens first. */
export function jailRemoval(
  family: Family,
  uid: number,
  range: UidRange,
  listing: Listing,
): Change[] {
  const { isChain } = jailNames(uid)
  return (['filter', 'nat'] as const).flatMap((name): Change[] => {
    const gone = [...(listing.get(name)?.keys() ?? [])].filter(isChain)
    const before = leadsIn(name, { uid, range })
      .reverse()
      .flatMap((rule) => deletions(family, name, rule, listing))
    if (gone.length === 0 && before.length === 0) return []
    const table: Table = { name, chains: [], rules: [] }
    return [{ table, before, after: [], gone }]
  })
}

/** The ports of the jail's gate, from its own rules: what the shared sets of them still hold for it. */
export function listedGatePorts(
  uid: number,
  listing: Listing,
): { proto: 'tcp' | 'udp'; port: number }[] {
  const rules = chainOf(listing, 'filter', jailNames(uid).chain)?.rules ?? []
  return rules.flatMap((text) => {
    const found = /-p (tcp|udp) -m \1 --dport (\d{1,5}) -m conntrack --ctstate DNAT /.exec(text)
    return found === null
      ? []
      : [{ proto: found[1] === 'tcp' ? 'tcp' : 'udp', port: Number(found[2]) } as const]
  })
}
