/**
 * Policies against their own meaning, by the evaluator: each bundled one, and random ones. AGENTJAIL_RUNS: how many sets
 * of random policies.
 */
import { readdirSync } from 'node:fs'
import fc from 'fast-check'
import t from 'tap'
import { listedRedirects, listedRules, printRuleset } from '../../lib/backend/pf/print.js'
import { loadPolicy } from '../../lib/policy/loader.js'
import { meaning, play, type Flow } from './flows.js'
import { admin, anchor, held, idle, isJudgeable, lan, lan6, machine, machines } from './machines.js'
import { formatRule } from './model/pf/format.js'
import { policy } from './policies.js'
import { jailOf, reserved, rulesetOf, uidOf } from './rulesets.js'

// AGENTJAIL_RUNS=10000 takes a minute.
t.setTimeout(600_000)

t.test('every bundled policy means the same to pf as to itself', async (t) => {
  const names = readdirSync(new URL('../../../policies/', import.meta.url))
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => file.slice(0, -'.yaml'.length))
  const near = (to: string): string => (to.includes(':') ? lan6 : lan)
  for (const name of names) {
    const bundled = await loadPolicy(name)
    const pins = Object.fromEntries(
      bundled.grants.map(({ id }, at) => [
        id,
        [`203.0.113.${String(at + 1)}`, `2001:db8::${String(at + 1)}`],
      ]),
    )
    const jails = [held(bundled, 0, pins), held(policy('other'), 1)]
    const pf = machine(jails)
    const ports = new Set([
      53,
      80,
      443,
      853,
      ...bundled.grants.flatMap((one) => one.ports.map(({ first }) => first)),
    ])
    const targets = [
      ...Object.values(pins).flat().slice(0, 12),
      '198.51.100.200',
      '169.254.169.254',
      '10.0.0.1',
      '100.64.0.1',
    ]
    let judged = 0
    for (const client of [uidOf(0), uidOf(1), idle, admin])
      for (const to of targets)
        for (const port of ports)
          for (const kind of ['connect', 'send'] as const) {
            const flow: Flow = {
              kind,
              client,
              from: near(to),
              to,
              port,
              via: to.startsWith('100.') ? 'utun4' : 'en0',
            }
            const outcome = play({ ...pf, states: [] }, flow)
            const result = typeof outcome === 'string' ? outcome : 'gate'
            judged++
            if (result !== meaning(jails, reserved, flow))
              t.fail(`${name}: ${JSON.stringify(flow)}: pf ${result}`)
          }
    t.ok(judged > 100, `${name}: ${String(judged)} flows`)
  }
})

t.test('random policies mean the same to pf as to themselves', { timeout: 600_000 }, async (t) => {
  const runs = Number(process.env['AGENTJAIL_RUNS'] ?? 300)
  let judged = 0
  const seen = new Map<string, number>()
  fc.assert(
    fc.property(machines, ({ jails, flows }) => {
      const pf = machine(jails)
      const ruleset = rulesetOf(jails.map(({ policy: p }, index) => jailOf(p, index)))
      const listed = (kind: string) =>
        (pf.anchors.get(anchor)?.statements ?? [])
          .filter((rule) => rule.kind === kind)
          .map((rule) => formatRule(rule, new Map()))
      const expected = [...listedRules(ruleset), ...listedRedirects(ruleset)]
      if ([...listed('filter'), ...listed('rdr')].join('\n') !== expected.join('\n'))
        throw new Error(`not listed as expected:\n${printRuleset(ruleset)}`)
      for (const flow of flows) {
        if (!isJudgeable(flow, jails)) continue
        const outcome = play({ ...pf, states: [] }, flow)
        const result = typeof outcome === 'string' ? outcome : 'gate'
        judged++
        seen.set(result, (seen.get(result) ?? 0) + 1)
        const meant = meaning(jails, reserved, flow)
        if (meant !== result)
          throw new Error(
            `${JSON.stringify(flow)}: pf ${result}, the policy ${meant}\n${printRuleset(ruleset)}`,
          )
      }
    }),
    { numRuns: runs },
  )
  t.ok(judged > runs * 10, `${String(judged)} flows of ${String(runs)} sets of policies judged`)
  for (const result of ['passes', 'refused', 'gate'])
    t.ok((seen.get(result) ?? 0) > 0, `${result}: ${String(seen.get(result))}`)
})
