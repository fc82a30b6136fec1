/** What pf does with the rules, by the evaluator: a table of flows of jails and of everybody else. */
import t from 'tap'
import { pinTable } from '../../lib/backend/pf/names.js'
import { meaning, play, type Flow, type Held, type Outcome } from './flows.js'
import { admin, anchor, held, idle, lan, lan6, machine } from './machines.js'
import { evaluate } from './model/pf/eval.js'
import { goldenPolicies } from './policies.js'
import { reserved, stockMain } from './rulesets.js'

const pinned = { g1: ['203.0.113.25', '2001:db8::25'], g2: ['203.0.113.22'], g3: ['203.0.113.123'] }
const golden = goldenPolicies.map((each, index) => held(each, index, pinned))
const [closed, , mail, local, transparent] = golden as [Held, Held, Held, Held, Held]

t.test('a table of flows', async (t) => {
  const pf = machine(golden)
  const out = (client: number, to: string, port: number, more: Partial<Flow> = {}): Flow => ({
    kind: 'connect',
    client,
    from: to.includes(':') ? lan6 : lan,
    to,
    port,
    ...more,
  })
  const lo = (client: number, port: number, server: number, at = '127.0.0.1'): Flow => ({
    ...out(client, at, port),
    from: at,
    server,
  })
  const udp = { kind: 'send' } as const
  const inward = (server: number, port: number, more: Partial<Flow> = {}): Flow => ({
    kind: 'connect',
    server,
    from: '203.0.113.66',
    to: lan,
    port,
    ...more,
  })
  const gateUser = 450
  const cases: [string, Flow, Outcome][] = [
    ['closed jail: any address', out(closed.uid, '203.0.113.25', 443), 'refused'],
    ['closed jail: IPv6', out(closed.uid, '2001:db8::25', 443), 'refused'],
    ['closed jail: its gate', lo(closed.uid, closed.proxy, gateUser), 'passes'],
    ["closed jail: another jail's gate", lo(closed.uid, mail.proxy, gateUser), 'refused'],
    ["admin: a jail's gate", lo(admin, mail.proxy, gateUser), 'refused'],
    ["root: a jail's gate", lo(0, mail.proxy, gateUser), 'refused'],
    ['idle uid: a gate', lo(idle, mail.proxy, gateUser), 'refused'],
    ['idle uid: anywhere', out(idle, '203.0.113.25', 465), 'refused'],
    ['idle uid: udp', out(idle, '203.0.113.25', 53, udp), 'refused'],
    ['mail jail: its server', out(mail.uid, '203.0.113.25', 465), 'passes'],
    ['mail jail: second port', out(mail.uid, '203.0.113.25', 587), 'passes'],
    ['mail jail: its server by IPv6', out(mail.uid, '2001:db8::25', 465), 'passes'],
    ['mail jail: other port', out(mail.uid, '203.0.113.25', 443), 'refused'],
    ['mail jail: other address', out(mail.uid, '203.0.113.26', 465), 'refused'],
    ["mail jail: another grant's address", out(mail.uid, '203.0.113.22', 465), 'refused'],
    ['mail jail: QUIC', out(mail.uid, '203.0.113.25', 465, udp), 'refused'],
    ['mail jail: NTP', out(mail.uid, '203.0.113.123', 123, udp), 'passes'],
    ['mail jail: tcp to the NTP address', out(mail.uid, '203.0.113.123', 123), 'refused'],
    ['mail jail: DNS to anyone', out(mail.uid, '8.8.8.8', 53, udp), 'refused'],
    ['mail jail: DNS over tcp', out(mail.uid, '8.8.8.8', 53), 'refused'],
    ['mail jail: DNS over TLS', out(mail.uid, '8.8.8.8', 853), 'refused'],
    ['mail jail: metadata', out(mail.uid, '169.254.169.254', 80), 'refused'],
    ['mail jail: CIDR grant', out(mail.uid, '198.51.100.7', 5432), 'passes'],
    ['mail jail: CIDR grant by IPv6', out(mail.uid, '2001:db8:5::7', 5432), 'passes'],
    ['mail jail: denied within the CIDR', out(mail.uid, '198.51.100.66', 5432), 'refused'],
    ['mail jail: other port of the CIDR', out(mail.uid, '198.51.100.7', 22), 'refused'],
    [
      'mail jail: granted address through a tunnel',
      out(mail.uid, '203.0.113.25', 465, { via: 'utun4' }),
      'passes',
    ],
    [
      'mail jail: tailnet through utun',
      out(mail.uid, '100.100.1.1', 22, { via: 'utun4' }),
      'refused',
    ],
    [
      'mail jail: 100/8 source through utun',
      out(mail.uid, '198.18.0.1', 443, { via: 'utun4', from: '100.64.0.7' }),
      'refused',
    ],
    ['mail jail: loopback service', lo(mail.uid, 5432, admin), 'refused'],
    ['mail jail: loopback service by IPv6', lo(mail.uid, 5432, admin, '::1'), 'refused'],
    ["mail jail: service on the machine's own address", lo(mail.uid, 8080, admin, lan), 'refused'],
    ['mail jail: inbound', inward(mail.uid, 465), 'refused'],
    [
      'mail jail: inbound from a granted address',
      inward(mail.uid, 8080, { from: '203.0.113.25' }),
      'refused',
    ],
    ['mail jail: inbound udp', inward(mail.uid, 4000, udp), 'refused'],
    ['local jail: granted loopback port', lo(local.uid, 5432, admin), 'passes'],
    ['local jail: no IPv6 on loopback either', lo(local.uid, 5432, admin, '::1'), 'refused'],
    ['local jail: other loopback port', lo(local.uid, 5433, admin), 'refused'],
    ['local jail: its server, from the admin', lo(admin, 3000, local.uid), 'passes'],
    ['local jail: its server, from the network', inward(local.uid, 3000), 'refused'],
    ['local jail: other server', lo(admin, 3001, local.uid), 'refused'],
    ['local jail: its server, from another jail', lo(mail.uid, 3000, local.uid), 'refused'],
    ['local jail: no IPv6', out(local.uid, '2001:db8::25', 8000), 'refused'],
    ['local jail: range', out(local.uid, '203.0.113.25', 8010), 'passes'],
    [
      'transparent jail: inspected port',
      out(transparent.uid, '203.0.113.99', 443),
      { gate: 49_583 },
    ],
    [
      'transparent jail: inspected port by IPv6',
      out(transparent.uid, '2001:db8::99', 443),
      { gate: 49_583 },
    ],
    ['transparent jail: DNS', out(transparent.uid, '8.8.8.8', 53, udp), { gate: 49_584 }],
    ['transparent jail: other port', out(transparent.uid, '203.0.113.99', 8443), 'refused'],
    ["transparent jail: somebody's 443 on loopback", lo(transparent.uid, 443, admin), 'refused'],
    [
      'transparent jail: the listener behind the redirect',
      lo(transparent.uid, 49_583, gateUser),
      'refused',
    ],
    ['admin: own service on 443, its own address', lo(admin, 443, admin, lan), 'passes'],
    ['admin: own service on 443, loopback', lo(admin, 443, admin), 'passes'],
    ['admin: the web', out(admin, '203.0.113.99', 443), 'passes'],
    ['admin: DNS', out(admin, '8.8.8.8', 53, udp), 'passes'],
    ['admin: ssh in', inward(0, 22), 'passes'],
    [
      'admin: ssh in through utun',
      inward(0, 22, { via: 'utun4', from: '100.64.0.9', to: '100.64.0.7' }),
      'passes',
    ],
    [
      'admin: tailnet out',
      out(admin, '100.64.0.9', 22, { via: 'utun4', from: '100.64.0.7' }),
      'passes',
    ],
    ['tailscaled: wireguard', out(0, '203.0.113.77', 41_641, udp), 'passes'],
    ['nobody listens', { kind: 'connect', from: '203.0.113.66', to: lan, port: 9 }, 'passes'],
  ]
  for (const [name, flow, outcome] of cases) {
    t.strictSame(play({ ...pf, states: [] }, flow), outcome, name)
    const meant = meaning(golden, reserved, flow)
    const seen = typeof outcome === 'string' ? outcome : 'gate'
    t.equal(meant, seen, `${name}: the policy says the same`)
  }
})

t.test('what pf cannot tell apart is never cut', async (t) => {
  const pf = machine(golden)
  for (const proto of ['icmp', 'ipv6-icmp'] as const)
    for (const direction of ['in', 'out'] as const)
      t.equal(
        evaluate(pf, { direction, on: 'en0', proto, from: lan, to: '8.8.8.8' }).action,
        'pass',
        `${proto} ${direction}`,
      )
  for (const proto of ['tcp', 'udp'] as const)
    for (const direction of ['in', 'out'] as const)
      t.equal(
        evaluate(pf, { direction, on: 'en0', proto, from: lan, to: '8.8.8.8', fragment: true })
          .action,
        'pass',
        `fragment ${proto} ${direction}`,
      )
})

t.test('withdrawn means closed at the next packet', async (t) => {
  const pf = machine(golden)
  const established = {
    direction: 'out',
    on: 'en0',
    proto: 'tcp',
    from: lan,
    fromPort: 50_000,
    to: '203.0.113.25',
    toPort: 465,
    flags: 'PA',
    uid: mail.uid,
  } as const
  t.equal(evaluate(pf, { ...established, flags: 'S' }).action, 'pass')
  t.equal(evaluate(pf, established).action, 'pass')
  t.strictSame(pf.states, [], 'no state was made')
  const withdrawn = {
    ...pf,
    tables: new Map(pf.tables).set(`${anchor}\0${pinTable(mail.uid, 'g1')}`, []),
  }
  t.equal(evaluate(withdrawn, established).action, 'return')
  const reply = {
    ...established,
    direction: 'in',
    from: established.to,
    fromPort: 465,
    to: lan,
    toPort: 50_000,
  } as const
  t.equal(evaluate(withdrawn, reply).action, 'return', 'nor is anything heard from it')
})

t.test('a later pass of another anchor does not overtake, an earlier quick one does', async (t) => {
  const flow: Flow = { kind: 'connect', client: mail.uid, from: lan, to: '203.0.113.66', port: 443 }
  const after = machine(golden, anchor, `${stockMain}pass out quick all no state\n`)
  t.equal(play(after, flow), 'refused')
  const before = machine(
    golden,
    anchor,
    stockMain.replace('\nanchor "com', '\npass quick all no state\nanchor "com'),
  )
  t.equal(
    play(before, flow),
    'passes',
    'which is why the order of the main ruleset is checked before a launch',
  )
  const own = machine(golden, 'agentjail', `${stockMain}anchor "agentjail" all\n`)
  t.equal(play(own, flow), 'refused', 'an anchor of its own in the main ruleset')
})
