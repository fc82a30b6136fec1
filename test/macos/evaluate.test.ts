/**
 * What pf does with the rules, by the evaluator: a table of flows, random policies against their own meaning, and
 * the mistakes of the ruleset that is often published for this purpose.
 */
import { readdirSync } from 'node:fs'
import fc from 'fast-check'
import t from 'tap'
import { listedRedirects, listedRules, printRuleset } from '../../lib/backend/pf/print.js'
import { pinTable } from '../../lib/backend/pf/names.js'
import { loadPolicy } from '../../lib/policy/loader.js'
import { meaning, play, type Flow, type Held, type Outcome } from './flows.js'
import { admin, anchor, held, idle, isJudgeable, lan, lan6, machine, machines } from './machines.js'
import { evaluate } from './model/pf/eval.js'
import { formatRule } from './model/pf/format.js'
import { goldenPolicies, grant, policy } from './policies.js'
import { jailOf, reserved, rulesetOf, stockMain, uidOf, world } from './rulesets.js'

// AGENTJAIL_RUNS=10000 takes a minute.
t.setTimeout(600_000)

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

t.test('the published ruleset and its mistakes', async (t) => {
  const uid = uidOf(2)
  const environment = {
    hosts: new Map([['api.telegram.org', ['203.0.113.5', '2001:db8::5']]]),
    users: new Map(),
  }
  const text = (
    table: string,
  ) => `pass out quick proto { tcp udp } from any to any port 53 user = ${String(uid)}
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
    kind: 'connect',
    client: uid,
    from: lan,
    to: '203.0.113.66',
    port: 443,
    ...more,
  })

  t.throws(
    () => published('table <allowed> persist {\n  api.telegram.org,\n  api.openai.com\n}'),
    { message: /syntax error/ },
    'table over several lines',
  )
  t.match(
    printRuleset(
      rulesetOf([
        jailOf(policy('x', { grants: [grant('g1', 'a.example', { inspect: 'none' })] }), 0),
      ]),
    ).split('\n')[0],
    /^table <\S+> persist$/,
  )

  t.throws(
    () => world([[anchor, text(oneLine)]]),
    { message: /no IP address found/ },
    'a name that does not resolve at load: nothing is loaded at all',
  )
  t.notMatch(
    printRuleset(rulesetOf(goldenPolicies.map(jailOf))),
    /[a-z]\.(com|org)\b/,
    'no name is ever printed',
  )

  t.equal(play(published(), flow({ to: '203.0.113.66' })), 'hangs', 'block drop hangs')
  t.equal(play(ours(), flow({})), 'refused')

  const cgnat = flow({ from: '100.64.0.7', via: 'utun4' })
  t.equal(
    play(published(), cgnat),
    'passes',
    'the blocks are not quick: a later pass overtakes them, for the jail too',
  )
  t.equal(play(published(), { ...cgnat, from: '100.1.2.3' }), 'passes', '100/8 is more than CGNAT')
  t.equal(play(ours(), cgnat), 'refused')

  const utun = flow({ from: '10.9.9.9', via: 'utun4', client: admin })
  t.equal(play(published(), utun), 'passes')
  t.equal(
    evaluate(published(), {
      direction: 'out',
      on: 'utun4',
      proto: 'tcp',
      from: '10.9.9.9',
      fromPort: 1,
      to: '203.0.113.9',
      toPort: 9,
      flags: 'S',
      uid: admin,
    }).by,
    '',
    'utun+ matches nothing',
  )
  t.equal(play(ours(), utun), 'passes')

  t.equal(
    play(published(), flow({ kind: 'send', to: '203.0.113.66', port: 53 })),
    'passes',
    'udp/53 to any server',
  )
  t.equal(play(ours(), flow({ kind: 'send', to: '203.0.113.66', port: 53 })), 'refused')

  const icmp = {
    direction: 'out',
    on: 'en0',
    proto: 'icmp',
    from: lan,
    to: '203.0.113.66',
    uid,
  } as const
  t.equal(evaluate(published(), icmp).action, 'pass', 'ICMP is open: pf cannot tell whose it is')
  t.equal(evaluate(ours(), icmp).action, 'pass', 'here too: the sandbox profile closes it')

  const loopback = flow({
    from: '127.0.0.1',
    to: '127.0.0.1',
    port: 8080,
    client: admin,
    server: uid,
  })
  t.equal(play(published(), loopback), 'hangs', 'servers of the jail fall silent')

  const stateful = published()
  t.equal(play(stateful, flow({ to: '203.0.113.5' })), 'passes')
  const emptied = { ...stateful, tables: new Map(stateful.tables).set(`${anchor}\0allowed`, []) }
  t.equal(play(emptied, flow({ to: '203.0.113.5' })), 'passes', 'a state outlives its address')

  const deep = world([[`${anchor}/503`, printRuleset(rulesetOf([jailOf(policy('x'), 2)]))]])
  t.equal(play(deep, flow({})), 'passes', 'an anchor two levels deep is never evaluated')
})

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
