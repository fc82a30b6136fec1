/**
 * Compares what the kernel lists with what was meant.
 * Invariant: a table is intact only if every chain, set, map and rule is there, as written, in order, and nothing else.
 */
import type { Statement, Table } from './ast.js'
import { protocolName } from './protocols.js'

/**
 * The first difference between a table and `nft -j list table` of it, in words; undefined when there is none.
 * `part`: the table may hold more than this (other jails).
 */
export function findDifference(
  table: Table,
  listing: unknown,
  extent: 'whole' | 'part' = 'whole',
): string | undefined {
  const here = contentOf(listing, table.name)
  if (here === undefined) return 'the listing is not what nft prints'
  const { listed } = here
  if (listed === undefined) return `table ${table.name} is missing`
  // `dormant` switches a table off, and is no flag that ours have. nft 1.0.6 names the table instead of its flags.
  if (!table.owner && bodyOf(listed)['flags'] !== undefined)
    return `table ${table.name} is switched off`
  return (
    differChains(table, here, extent) ??
    differSets(table, here) ??
    differRules(table, here) ??
    differElements(table, here)
  )
}

type Item = Readonly<Record<string, unknown>>
type Body = Readonly<Record<string, unknown>>

/** What a listing has of one table, by name. */
interface Content {
  readonly listed: Item | undefined
  readonly chains: ReadonlyMap<unknown, Body>
  /** Sets and maps: `kind name`. */
  readonly sets: ReadonlyMap<string, Body>
  /** By chain, in order. */
  readonly rules: ReadonlyMap<unknown, readonly Body[]>
}

/** The last one sought in: with many jails, each part of them is looked for in the same. */
const contents = new WeakMap<object, Map<string, Content>>()

/** Undefined: it is no listing. */
function contentOf(listing: unknown, table: string): Content | undefined {
  const items = listedItems(listing)
  if (items === undefined) return undefined
  const known = contents.get(listing as object) ?? new Map<string, Content>()
  contents.set(listing as object, known)
  const content = known.get(table) ?? readContent(items.filter((item) => tableOf(item) === table))
  known.set(table, content)
  return content
}

function readContent(items: readonly Item[]): Content {
  const rules = new Map<unknown, Body[]>()
  const sets = new Map<string, Body>()
  const chains = new Map<unknown, Body>()
  for (const item of items) {
    const body = bodyOf(item)
    if ('chain' in item) chains.set(body['name'], body)
    else if ('rule' in item) {
      const chain = rules.get(body['chain']) ?? []
      rules.set(body['chain'], chain)
      chain.push(body)
    } else
      for (const kind of ['set', 'map'])
        if (kind in item) sets.set(`${kind} ${String(body['name'])}`, body)
  }
  return { listed: items.find((item) => 'table' in item), chains, sets, rules }
}

/** The objects of a listing without the metainfo; undefined if it is no listing. */
export function listedItems(listing: unknown): Item[] | undefined {
  if (!isItem(listing) || !Array.isArray(listing['nftables'])) return undefined
  return listing['nftables'].filter((item): item is Item => isItem(item) && !('metainfo' in item))
}

function isItem(value: unknown): value is Item {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** What a listed object says: the value of its only member. */
export function bodyOf(item: Item): Item {
  const value = Object.values(item)[0]
  return isItem(value) ? value : {}
}

function tableOf(item: Item): unknown {
  return 'table' in item ? bodyOf(item)['name'] : bodyOf(item)['table']
}

function differChains(
  table: Table,
  { chains: listed }: Content,
  extent: 'whole' | 'part',
): string | undefined {
  for (const chain of table.chains) {
    const found = listed.get(chain.name)
    if (found === undefined) return `chain ${chain.name} is missing`
    const same =
      chain.hook === undefined
        ? found['hook'] === undefined
        : found['type'] === chain.hook.type &&
          found['hook'] === chain.hook.hook &&
          found['prio'] === chain.hook.prio &&
          found['policy'] === chain.hook.policy
    if (!same) return `chain ${chain.name} reads back differently`
  }
  return extent === 'part' || listed.size === table.chains.length
    ? undefined
    : 'there are chains that are not ours'
}

function differSets(table: Table, { sets }: Content): string | undefined {
  for (const set of table.sets) {
    const found = sets.get(`${set.kind} ${set.name}`)
    if (found === undefined) return `${set.kind} ${set.name} is missing`
    const { type } = found
    const listed = Array.isArray(type) ? type : [type]
    if (listed.join('.') !== set.type.join('.'))
      return `${set.kind} ${set.name} reads back differently`
  }
  return undefined
}

function differRules(table: Table, { rules }: Content): string | undefined {
  for (const chain of table.chains) {
    const meant = table.rules.filter((rule) => rule.chain === chain.name)
    const listed = rules.get(chain.name) ?? []
    if (meant.length !== listed.length) {
      return `chain ${chain.name} has ${listed.length} rules instead of ${meant.length}`
    }
    for (const [index, rule] of meant.entries()) {
      const found = listed[index]
      if (found === undefined || !sameStatements(rule.expr, found['expr'])) {
        return `rule ${index + 1} of chain ${chain.name} reads back differently`
      }
    }
  }
  return undefined
}

function differElements(table: Table, { sets }: Content): string | undefined {
  for (const element of table.elements.filter(({ timeout }) => timeout === undefined)) {
    const listed = sets.get(`${element.kind} ${element.set}`)?.['elem']
    const key = JSON.stringify(element.key.length === 1 ? element.key[0] : { concat: element.key })
    const present =
      Array.isArray(listed) &&
      listed.some((one: unknown) =>
        element.verdict === undefined
          ? JSON.stringify(one) === key
          : Array.isArray(one) &&
            JSON.stringify(one[0]) === key &&
            JSON.stringify(one[1]) === JSON.stringify({ goto: { target: element.verdict } }),
      )
    if (!present) return `an element of ${element.set} is missing`
  }
  return undefined
}

/** Whether a table's listed map has a verdict for a key. */
export function hasElement(listing: unknown, table: string, map: string, key: number): boolean {
  const elements = contentOf(listing, table)?.sets.get(`map ${map}`)?.['elem']
  return Array.isArray(elements) && elements.some((one) => Array.isArray(one) && one[0] === key)
}

/** Whether a table's listed set has an element with a time-out. */
export function hasTimed(
  listing: unknown,
  table: string,
  set: string,
  key: string | number,
): boolean {
  const elements = contentOf(listing, table)?.sets.get(`set ${set}`)?.['elem']
  return (
    Array.isArray(elements) &&
    elements.some((one) => isItem(one) && isItem(one['elem']) && one['elem']['val'] === key)
  )
}

function sameStatements(meant: readonly Statement[], listed: unknown): boolean {
  return (
    Array.isArray(listed) && JSON.stringify(normalise(listed)) === JSON.stringify(normalise(meant))
  )
}

/**
 * nft leaves out a match on the protocol that another expression implies (`tcp dport`), and releases differ in when:
 * so the protocol is taken out of both forms and stated once, in front.
 */
function normalise(statements: readonly unknown[]): unknown {
  let transport = ''
  const rest = statements.filter((statement) => {
    const match = isItem(statement) && isItem(statement['match']) ? statement['match'] : undefined
    if (match?.['op'] !== '==' || !isProtocol(match['left'])) return true
    const name = protocolName(match['right'])
    if (typeof name !== 'string') return true
    transport = name
    return false
  })
  const text = JSON.stringify(rest.map(canonical)).replace(
    /"protocol":"(tcp|udp)"/g,
    (_, name: string) => {
      transport = name
      return '"protocol":"th"'
    },
  )
  return [transport, text]
}

function isProtocol(value: unknown): boolean {
  return JSON.stringify(value) === '{"meta":{"key":"l4proto"}}'
}

/**
 * Object members in one order; protocols by name; a control group as nft lists it: its path bare, its level left out by
 * some releases.
 */
function canonical(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical)
  if (!isItem(value)) return value
  if (isProtocol(value['left']) && isItem(value['right']) && Array.isArray(value['right']['set'])) {
    const right = { set: value['right']['set'].map(protocolName) }
    return canonical({ ...value, left: 'protocol', right })
  }
  if (typeof value['path'] === 'string') return value['path']
  if (isItem(value['socket'])) return { socket: { key: value['socket']['key'] } }
  const entries = Object.entries(value).map(([key, member]): [string, unknown] => [
    key,
    canonical(member),
  ])
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}
