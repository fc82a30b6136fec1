/** Whole machines for the evaluators: jails with names pinned, rules loaded; and random ones, with flows to play. */
import fc from 'fast-check'
import { pinTable } from '../../lib/backend/pf/names.js'
import { printRuleset } from '../../lib/backend/pf/print.js'
import { isGated } from '../../lib/plan/network.js'
import type { Policy } from '../../lib/policy/types.js'
import { anyPort, type Flow, type Held } from './flows.js'
import type { PfWorld } from './model/pf/eval.js'
import { cidrGrant, denyCidr, grant, policy } from './policies.js'
import { jailOf, reserved, rulesetOf, stockMain, uidOf, world } from './rulesets.js'

export const anchor = 'com.apple/agentjail'
export const admin = 501
export const idle = reserved.last
export const lan = '192.168.1.10'
export const lan6 = '2001:db8:f::10'

/** A machine with all these jails running and their names pinned. */
export function machine(jails: readonly Held[], path = anchor, main = stockMain): PfWorld {
  const ruleset = rulesetOf(jails.map(({ policy }, index) => jailOf(policy, index)))
  const built = world([[path, printRuleset(ruleset)]], main)
  const tables = new Map(built.tables)
  for (const { policy, uid, pins } of jails)
    for (const { id } of policy.grants) {
      const addresses = (pins.get(id) ?? []).filter((each) => policy.ipv6 || !each.includes(':'))
      tables.set(`${path}\0${pinTable(uid, id)}`, addresses)
    }
  return { ...built, tables }
}

export function held(policy: Policy, index: number, pins: Record<string, string[]> = {}): Held {
  const proxy = jailOf(policy, index).proxy ?? 0
  return { policy, uid: uidOf(index), proxy, pins: new Map(Object.entries(pins)) }
}

const addresses = [
  ...['203.0.113.5', '203.0.113.6', '198.51.100.7', '198.51.100.66', '2001:db8::5'],
  ...['2001:db8:5::6', '169.254.169.254', '100.64.0.9', '10.0.0.5'],
]
const locals = ['127.0.0.1', '::1', lan, lan6, '127.0.0.5']
const port = fc.constantFrom(
  ...[22, 53, 80, 443, 853, 3000, 5432, 8000, 8010, 49_100, 49_101, 49_500, 65_535, 1],
)
const range = fc.tuple(port, port).map(([a, b]) => ({
  first: Math.min(a, b),
  last: Math.min(Math.max(a, b), Math.min(a, b) + 20),
}))
const proto = fc.constantFrom('tcp' as const, 'udp' as const)
const cidrTexts = [
  ...['198.51.100.0/24', '198.51.100.66', '2001:db8:5::/48', '0.0.0.0/0', '::/0', '203.0.113.5'],
]
const few = fc.uniqueArray(port, { maxLength: 2 })
const jail = fc.record({
  grants: fc.array(
    fc.record({
      proto,
      inspect: fc.constantFrom('none' as const, 'sni' as const, 'http' as const),
      ports: fc.array(range, { minLength: 1, maxLength: 2 }),
    }),
    { maxLength: 4 },
  ),
  cidrs: fc.array(fc.record({ cidr: fc.constantFrom(...cidrTexts), port, proto }), {
    maxLength: 3,
  }),
  denies: fc.array(fc.constantFrom(...cidrTexts.filter((text) => !text.endsWith('/0'))), {
    maxLength: 2,
  }),
  connect: few,
  listen: few,
  ipv6: fc.boolean(),
  transparent: fc.boolean(),
  pins: fc.array(fc.uniqueArray(fc.constantFrom(...addresses)), { minLength: 4, maxLength: 4 }),
})
const who = fc.constantFrom(
  ...[uidOf(0), uidOf(1), idle, reserved.first, admin, 0, reserved.first - 1, reserved.last + 1],
)
const flow = fc.record({
  kind: fc.constantFrom('connect' as const, 'send' as const),
  client: fc.option(who, { nil: undefined }),
  server: fc.option(who, { nil: undefined }),
  near: fc.constantFrom(...locals),
  far: fc.constantFrom(...addresses),
  other: fc.constantFrom(...locals),
  loopback: fc.boolean(),
  port,
  fromPort: fc.constantFrom(anyPort, anyPort, 3000, 5432),
  via: fc.constantFrom('en0', 'utun4'),
})

/** One or two jails of random policies, and forty flows. */
export const machines: fc.Arbitrary<{ readonly jails: Held[]; readonly flows: Flow[] }> = fc
  .tuple(
    fc.array(jail, { minLength: 1, maxLength: 2 }),
    fc.array(flow, { minLength: 40, maxLength: 40 }),
  )
  .map(([descriptions, flows]) => ({
    jails: descriptions.map(makeJail),
    flows: flows.flatMap((one) => makeFlow(one) ?? []),
  }))

type Described<T> = T extends fc.Arbitrary<infer U> ? U : never

function makeJail(one: Described<typeof jail>, index: number): Held {
  const own = (list: readonly number[]) => list.filter((p) => p !== 49_100 && p !== 49_101)
  const made = policy(`j${String(index)}`, {
    grants: one.grants.map((each, at) =>
      grant(`g${String(at)}`, `h${String(at)}.example`, {
        ...each,
        inspect: each.proto === 'udp' ? 'none' : each.inspect,
      }),
    ),
    cidrs: one.cidrs.map((each, at) =>
      cidrGrant(`c${String(at)}`, each.cidr, each.port, each.proto),
    ),
    denies: one.denies.map(denyCidr),
    loopback: { connect: own(one.connect), listen: own(one.listen) },
    ipv6: one.ipv6,
    // Two transparent jails are refused; one is enough to be judged here.
    transparent: one.transparent && index === 0,
  })
  return held(made, index, Object.fromEntries(one.pins.map((pin, at) => [`g${String(at)}`, pin])))
}

/** Undefined: no such flow can be. */
function makeFlow(one: Described<typeof flow>): Flow | undefined {
  const { kind, port: at, via, fromPort } = one
  const server = one.server === undefined ? {} : { server: one.server }
  const common = { kind, port: at, fromPort }
  if (one.loopback) {
    if (one.client === undefined || one.near.includes(':') !== one.other.includes(':'))
      return undefined
    return { ...common, client: one.client, ...server, from: one.near, to: one.other }
  }
  const near = one.far.includes(':') ? lan6 : lan
  if (one.client !== undefined)
    return { ...common, client: one.client, from: near, to: one.far, via }
  // The owner of a packet sent by another machine is not known here; such a flow needs a server.
  if (one.server === undefined) return undefined
  return { ...common, server: one.server, from: one.far, to: near, via }
}

/** UDP has no direction: what is heard from a granted address and port is the answer to the jail's question. */
export function isJudgeable(flow: Flow, jails: readonly Held[]): boolean {
  const takesOver = jails.some(({ policy: p, uid }) => p.transparent && uid === flow.client)
  if (takesOver && flow.port >= 49_500) return false
  if (flow.client !== undefined || flow.kind === 'connect') return true
  return (
    flow.fromPort === anyPort &&
    !jails.every(({ policy: p }) => p.grants.every((each) => isGated(each, flow.port)))
  )
}
