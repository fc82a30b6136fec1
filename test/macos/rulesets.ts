/** Rulesets of the test policies as agentjail loads them, and the stock ruleset of macOS around them. */
import { compilePf } from '../../lib/backend/pf/compile.js'
import { pfJail, type PfJail } from '../../lib/backend/pf/jail.js'
import type { PfRuleset } from '../../lib/backend/pf/types.js'
import type { GatePort, NetworkPlan, UidRange } from '../../lib/backend/types.js'
import { networkPlan } from '../../lib/plan/network.js'
import type { Policy } from '../../lib/policy/types.js'
import type { Parsed } from './model/pf/ast.js'
import type { PfWorld } from './model/pf/eval.js'
import { parsePf, type ParseEnvironment } from './model/pf/parse.js'

export const reserved: UidRange = { first: 1_900_000_000, last: 1_900_099_999 }
export const selfAddresses = ['192.168.1.10', 'fe80::1', '2001:db8:f::10']

/** The network plan of a policy, as `run` makes it, and the gate's ports as a session would report them. */
export function jailOf(policy: Policy, index: number): PfJail {
  const plan = networkOf(policy, index)
  const gate: GatePort[] = [
    { proto: 'tcp', port: 49_100 + index, gatePort: 49_100 + index, role: 'proxy' },
  ]
  if (policy.transparent)
    for (const [proto, ranges] of [
      ['tcp', plan.gateTcp],
      ['udp', plan.gateUdp],
    ] as const)
      for (const { first, last } of ranges)
        for (let port = first; port <= last; port++)
          gate.push({ proto, port, gatePort: 49_500 + index * 20 + gate.length })
  return pfJail(plan, gate)
}

export function networkOf(policy: Policy, index: number): NetworkPlan {
  const request = {
    jail: policy.name,
    uid: uidOf(index),
    range: reserved,
    isolation: 'uid',
  } as const
  return networkPlan(policy, request)
}

export function uidOf(index: number): number {
  return reserved.first + 1 + index
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
