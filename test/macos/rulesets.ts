/** Rulesets of the test policies as agentjail loads them, and the stock ruleset of macOS around them. */
import { compilePf, type UidRange } from '../../lib/backend/pf/compile.js'
import { pfJail, redirectedPorts, type PfJail } from '../../lib/backend/pf/jail.js'
import type { PfRuleset } from '../../lib/backend/pf/types.js'
import type { Policy } from '../../lib/policy/types.js'
import type { Parsed } from './model/pf/ast.js'
import type { PfWorld } from './model/pf/eval.js'
import { parsePf, type ParseEnvironment } from './model/pf/parse.js'

export const reserved: UidRange = { first: 1_900_000_000, last: 1_900_099_999 }
export const selfAddresses = ['192.168.1.10', 'fe80::1', '2001:db8:f::10']

export function jailOf(
  policy: Policy,
  index: number,
  addresses: Record<string, readonly string[]>,
): PfJail {
  const redirects = redirectedPorts(policy).map((port, at) => ({
    port,
    to: 49_500 + index * 20 + at,
  }))
  return pfJail(
    policy,
    reserved.first + 1 + index,
    { proxy: 49_100 + index, redirects },
    new Map(Object.entries(addresses)),
  )
}

export function rulesetOf(jails: readonly PfJail[]): PfRuleset {
  return compilePf(jails, reserved, selfAddresses)
}

/** Rules that stock macOS has in its main ruleset after boot. */
export const stockMain = `scrub-anchor "com.apple/*" all fragment reassemble
nat-anchor "com.apple/*" all
rdr-anchor "com.apple/*" all
dummynet-anchor "com.apple/*" all
anchor "com.apple/*" all
`
export const stockAnchors: readonly [string, string][] = [
  ['com.apple', 'anchor "200.AirDrop/*" all\nanchor "250.ApplicationFirewall/*" all\n'],
  ['com.apple/200.AirDrop', ''],
  ['com.apple/250.ApplicationFirewall', ''],
]

export const noNames: ParseEnvironment = { hosts: new Map(), users: new Map() }

/** A machine with these texts loaded; `main` after the stock ruleset where given as rules to append. */
export function world(
  anchors: readonly [string, string][],
  main = stockMain,
  environment: ParseEnvironment = noNames,
): PfWorld {
  const parsed = new Map<string, Parsed>()
  for (const [path, text] of [...stockAnchors, ...anchors])
    parsed.set(path, parsePf(text, environment))
  const mainRules = parsePf(main, environment)
  const tables = new Map<string, readonly string[]>()
  for (const [path, { tables: own }] of [...parsed, ['', mainRules] as const])
    for (const { name, entries } of own) tables.set(`${path}\0${name}`, entries ?? [])
  return { enabled: true, main: mainRules, anchors: parsed, tables, states: [] }
}
