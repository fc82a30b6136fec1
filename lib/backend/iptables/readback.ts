/**
 * Reads what iptables-save and `ipset save` print and compares it with what was meant. Pure.
 * Invariant: a chain is as meant only if its rules are all there, as written, in order, and nothing else.
 */
import { printRule } from './ast.js'
import type { Family, Rule, Table } from './ast.js'

/** Table to chain to rules, each without `-A CHAIN`. */
export type Listing = ReadonlyMap<string, ReadonlyMap<string, ListedChain>>

export interface ListedChain {
  /** `-` for chains that are not built in. */
  readonly policy: string
  readonly rules: readonly string[]
}

/** Lines that are no listing are skipped: what is then missing is a difference. */
export function parseListing(text: string): Listing {
  const tables = new Map<string, Map<string, { policy: string; rules: string[] }>>()
  let table = new Map<string, { policy: string; rules: string[] }>()
  for (const line of text.split('\n')) {
    const words = line.trim().split(/\s+/)
    const [first = '', second = ''] = words
    if (first.startsWith('*')) {
      table = new Map()
      tables.set(first.slice(1), table)
    } else if (first.startsWith(':')) {
      table.set(first.slice(1), { policy: second, rules: [] })
    } else if (first === '-A') {
      table.get(second)?.rules.push(words.slice(2).join(' '))
    }
  }
  return tables
}

export const chainOf = (listing: Listing, table: string, chain: string): ListedChain | undefined =>
  listing.get(table)?.get(chain)

/** The first difference in words; undefined when all chains of `table` are as meant. */
export function findDifference(
  family: Family,
  tables: readonly Table[],
  listing: Listing,
): string | undefined {
  for (const table of tables) {
    for (const chain of table.chains) {
      const where = `IPv${family} chain ${chain.name} of table ${table.name}`
      const found = chainOf(listing, table.name, chain.name)
      if (found === undefined) return `${where} is missing`
      if (found.policy !== (chain.policy ?? '-')) return `the policy of ${where} is another`
      const meant = table.rules
        .filter((rule) => rule.chain === chain.name)
        .map((rule) => printRule(family, rule))
      if (meant.length !== found.rules.length)
        return `${where} has ${found.rules.length} rules instead of ${meant.length}`
      const wrong = meant.findIndex((text, index) => text !== found.rules[index])
      if (wrong >= 0)
        return `rule ${wrong + 1} of ${where} reads back differently: ${found.rules[wrong] ?? ''}`
    }
  }
  return undefined
}

export function hasRule(family: Family, table: string, rule: Rule, listing: Listing): boolean {
  return chainOf(listing, table, rule.chain)?.rules.includes(printRule(family, rule)) ?? false
}

/** Whether it is the chain's first rule, and there once. */
export function isFirst(family: Family, table: string, rule: Rule, listing: Listing): boolean {
  const rules = chainOf(listing, table, rule.chain)?.rules ?? []
  const text = printRule(family, rule)
  return rules[0] === text && rules.lastIndexOf(text) === 0
}

export interface ListedElement {
  readonly set: string
  readonly key: string
  readonly packets: number
}

/** Set name to the words after it, and all elements, of `ipset save`. */
export function parseSets(text: string): {
  readonly sets: ReadonlyMap<string, readonly string[]>
  readonly elements: readonly ListedElement[]
} {
  const sets = new Map<string, readonly string[]>()
  const elements: ListedElement[] = []
  for (const line of text.split('\n')) {
    const [verb, set, ...rest] = line.trim().split(/\s+/)
    if (set === undefined) continue
    if (verb === 'create') sets.set(set, rest)
    if (verb === 'add' && rest[0] !== undefined) {
      const packets = Number(rest[rest.indexOf('packets') + 1] ?? '')
      elements.push({ set, key: rest[0], packets: rest.includes('packets') ? packets : 0 })
    }
  }
  return { sets, elements }
}
