/**
 * The ruleset that is often published for this purpose, mistake by mistake: what it does, by the evaluator, and what
 * agentjail's rules do instead.
 */
import t from 'tap'
import { printRuleset } from '../../lib/backend/pf/print.js'
import { play, type Flow } from './flows.js'
import { admin, anchor, held, lan, machine } from './machines.js'
import { evaluate, type Packet } from './model/pf/eval.js'
import { goldenPolicies, grant, policy } from './policies.js'
import { jailOf, rulesetOf, stockMain, uidOf, world } from './rulesets.js'

const uid = uidOf(2)
const environment = {
  hosts: new Map([['api.telegram.org', ['203.0.113.5', '2001:db8::5']]]),
  users: new Map(),
}
const text = (table: string): string =>
  `pass out quick proto { tcp udp } from any to any port 53 user = ${String(uid)}
${table}
pass out quick proto tcp from any to <allowed> port 443 user = ${String(uid)}
block drop out log proto tcp all user = ${String(uid)}
block drop out log proto udp all user = ${String(uid)}
pass quick on utun+ all
pass quick inet proto tcp from 100.0.0.0/8 to any
`
const oneLine = 'table <allowed> persist { api.telegram.org }'
const published = (more = oneLine) => world([[anchor, text(more)]], stockMain, environment)
const ours = () =>
  machine([
    held(policy('closed'), 0),
    held(policy('closed-too'), 1),
    held(policy('bot', { grants: [grant('g1', 'api.telegram.org', { inspect: 'none' })] }), 2, {
      g1: ['203.0.113.5'],
    }),
  ])
const flow = (more: Partial<Flow>): Flow => ({
  ...{ kind: 'connect', client: uid, from: lan, to: '203.0.113.66', port: 443 },
  ...more,
})

t.test('a table over several lines is no table', async (t) => {
  const lines = 'table <allowed> persist {\n  api.telegram.org,\n  api.openai.com\n}'
  t.throws(() => published(lines), { message: /syntax error/ })
  const grants = [grant('g1', 'a.example', { inspect: 'none' })]
  const [first] = printRuleset(rulesetOf([jailOf(policy('x', { grants }), 0)])).split('\n')
  t.match(first, /^table <\S+> persist$/, 'here each is one line')
})

t.test('names are resolved at load only, and one that is not fails all of it', async (t) => {
  t.throws(() => world([[anchor, text(oneLine)]]), { message: /no IP address found/ })
  const later = published()
  t.equal(play(later, flow({ to: '203.0.113.5' })), 'passes')
  t.not(
    play(later, flow({ to: '203.0.113.6' })),
    'passes',
    'the name moved: its new address is closed',
  )
  const all = printRuleset(rulesetOf(goldenPolicies.map(jailOf)))
  t.notMatch(all, /[a-z]\.(com|org)\b/, 'here no name is ever printed')
})

t.test('block drop hangs', async (t) => {
  t.equal(play(published(), flow({})), 'hangs')
  t.equal(play(ours(), flow({})), 'refused')
})

t.test('a block that is not quick is overtaken by a later pass', async (t) => {
  const tunnel = flow({ from: '100.64.0.7', via: 'utun4' })
  t.equal(play(published(), tunnel), 'passes', 'for the jail too')
  t.equal(play(ours(), tunnel), 'refused')
  const later = `${stockMain}pass out all no state\n`
  t.equal(play(world([[anchor, text(oneLine)]], later, environment), flow({})), 'passes')
  const own = machine(
    [held(policy('a'), 0), held(policy('b'), 1), held(policy('c'), 2)],
    anchor,
    later,
  )
  t.equal(play(own, flow({})), 'refused')
})

t.test('100.0.0.0/8 is more than the tailnet', async (t) => {
  const outside = flow({ from: '100.1.2.3', via: 'utun4' })
  t.equal(play(published(), outside), 'passes')
  t.equal(play(ours(), outside), 'refused')
})

t.test('utun+ matches nothing', async (t) => {
  const through = flow({ from: '10.9.9.9', via: 'utun4', client: admin })
  t.equal(play(published(), through), 'passes')
  const packet: Packet = {
    direction: 'out',
    on: 'utun4',
    proto: 'tcp',
    ...{ from: '10.9.9.9', fromPort: 1 },
    ...{ to: '203.0.113.9', toPort: 9, flags: 'S', uid: admin },
  }
  t.equal(evaluate(published(), packet).by, '', 'by no rule')
  t.equal(play(ours(), through), 'passes')
  t.notMatch(printRuleset(rulesetOf(goldenPolicies.map(jailOf))), /utun/, 'here no rule needs it')
})

t.test('port 53 to any server is a tunnel', async (t) => {
  for (const kind of ['send', 'connect'] as const) {
    const dns = flow({ kind, to: '203.0.113.66', port: 53 })
    t.equal(play(published(), dns), 'passes')
    t.equal(play(ours(), dns), 'refused')
  }
})

t.test('ICMP has no user', async (t) => {
  const icmp: Packet = {
    direction: 'out',
    on: 'en0',
    proto: 'icmp',
    ...{ from: lan, to: '203.0.113.66', uid },
  }
  t.equal(evaluate(published(), icmp).action, 'pass', 'it is open: pf cannot tell whose it is')
  t.equal(evaluate(ours(), icmp).action, 'pass', 'here too: the sandbox profile closes it')
})

t.test('its own servers fall silent', async (t) => {
  const at = { from: '127.0.0.1', to: '127.0.0.1', port: 3000, client: admin, server: uid }
  t.equal(play(published(), flow(at)), 'hangs')
  const listening = policy('c', { loopback: { connect: [], listen: [3000] } })
  const own = machine([held(policy('a'), 0), held(policy('b'), 1), held(listening, 2)])
  t.equal(play(own, flow(at)), 'passes', 'here where the policy says so')
})

t.test('a state outlives the address that made it', async (t) => {
  const to = { to: '203.0.113.5' }
  for (const [pf, table, after] of [
    [published(), 'allowed', 'passes'],
    [ours(), `aj_${String(uid)}_g1`, 'refused'],
  ] as const) {
    t.equal(play(pf, flow(to)), 'passes')
    const withdrawn = { ...pf, tables: new Map(pf.tables).set(`${anchor}\0${table}`, []) }
    t.equal(play(withdrawn, flow(to)), after)
  }
})

t.test('an anchor two levels deep is never evaluated', async (t) => {
  const rules = printRuleset(rulesetOf([jailOf(policy('x'), 2)]))
  t.equal(play(world([[`${anchor}/503`, rules]]), flow({})), 'passes')
  t.equal(play(world([[anchor, rules]]), flow({})), 'refused', 'directly below com.apple it is')
})
