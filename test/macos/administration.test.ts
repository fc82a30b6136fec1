/** A Mac that is administered from afar stays so, and no jail gets into its tunnels: by the evaluator. */
import t from 'tap'
import { play, type Flow } from './flows.js'
import { admin, held, idle, lan, lan6, machine } from './machines.js'
import { goldenPolicies } from './policies.js'
import { uidOf, world } from './rulesets.js'

const pinned = { g1: ['203.0.113.25', '2001:db8::25'], g2: ['203.0.113.22'], g3: ['203.0.113.123'] }
const golden = goldenPolicies.map((each, index) => held(each, index, pinned))
const transparent = uidOf(4)

/** Of a Mac that is administered over SSH and Tailscale. */
const administration: readonly [name: string, flow: Flow][] = [
  ['ssh in', { kind: 'connect', server: 0, from: '203.0.113.66', to: lan, port: 22 }],
  ['ssh in, IPv6', { kind: 'connect', server: 0, from: '2001:db8::66', to: lan6, port: 22 }],
  [
    'ssh in through the tailnet',
    { kind: 'connect', server: 0, from: '100.64.0.9', to: '100.64.0.7', port: 22, via: 'utun4' },
  ],
  [
    'ssh in through the tailnet, IPv6',
    {
      ...{ kind: 'connect', server: 0, from: 'fd7a:115c:a1e0::9', to: 'fd7a:115c:a1e0::7' },
      ...{ port: 22, via: 'utun4' },
    },
  ],
  ['ssh out', { kind: 'connect', client: admin, from: lan, to: '203.0.113.22', port: 22 }],
  [
    'ssh out through the tailnet',
    {
      kind: 'connect',
      client: admin,
      from: '100.64.0.7',
      to: '100.64.0.9',
      port: 22,
      via: 'utun4',
    },
  ],
  ['WireGuard out', { kind: 'send', client: 0, from: lan, to: '203.0.113.77', port: 41_641 }],
  ['WireGuard in', { kind: 'send', server: 0, from: '203.0.113.77', to: lan, port: 41_641 }],
  ['STUN', { kind: 'send', client: 0, from: lan, to: '203.0.113.78', port: 3478 }],
  ['DERP', { kind: 'connect', client: 0, from: lan, to: '203.0.113.78', port: 443 }],
  [
    'MagicDNS',
    {
      ...{ kind: 'send', client: 65, from: '100.64.0.7', to: '100.100.100.100' },
      ...{ port: 53, via: 'utun4' },
    },
  ],
  ['DNS of the resolver', { kind: 'send', client: 65, from: lan, to: '8.8.8.8', port: 53 }],
  [
    'screen sharing in',
    { kind: 'connect', server: 501, from: '192.168.1.20', to: lan, port: 5900 },
  ],
  [
    'forwarded for a virtual machine',
    { kind: 'connect', from: '10.0.2.5', to: '203.0.113.9', port: 443 },
  ],
]

t.test('SSH and Tailscale of other users are as without agentjail', async (t) => {
  const without = world([])
  for (const jails of [golden, golden.slice(0, 1), []])
    for (const [name, flow] of administration) {
      const pf = machine(jails)
      t.equal(play({ ...pf, states: [] }, flow), 'passes', `${name}, ${String(jails.length)} jails`)
      t.equal(play(without, flow), 'passes', `${name}: without`)
      t.strictSame(pf.states, [], `${name}: and no state is made of it`)
    }
})

t.test('a jail gets nothing through a tunnel but what its policy grants', async (t) => {
  const pf = machine(golden)
  const near = { 4: '100.64.0.7', 6: 'fd7a:115c:a1e0::7' }
  for (const { uid } of [...golden, { uid: idle }, { uid: uidOf(77) }])
    for (const to of ['100.64.0.9', '100.100.100.100', 'fd7a:115c:a1e0::9', '203.0.113.200'])
      for (const port of [22, 25, 443, 465, 587, 853, 5432, 8443, 41_641])
        for (const kind of ['connect', 'send'] as const) {
          const from = to.includes(':') ? near[6] : near[4]
          const flow: Flow = { kind, client: uid, from, to, port, via: 'utun4' }
          const outcome = play({ ...pf, states: [] }, flow)
          const isTaken = uid === transparent && kind === 'connect' && port === 443
          if (isTaken) t.match(outcome, { gate: Number }, `${to} ${String(port)}: the gate judges`)
          else t.equal(outcome, 'refused', `${String(uid)} ${kind} ${to} ${String(port)}`)
          const inward: Flow = { kind, server: uid, from: to, to: from, port, via: 'utun4' }
          t.equal(play({ ...pf, states: [] }, inward), 'refused', `in from ${to} ${String(port)}`)
        }
})
