/** The pf backend against the modelled Mac: life of a jail, other tools' doings, and a failure at every step. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { pfBackend } from '../../lib/backend/pf/index.js'
import { parseLogLine } from '../../lib/backend/pf/log.js'
import { parseReferences, parseServices, parseStates } from '../../lib/backend/pf/listing.js'
import type { Backend, GatePort, NetworkHold } from '../../lib/backend/types.js'
import type { Policy } from '../../lib/policy/types.js'
import { play, type Flow, type Outcome } from './flows.js'
import { reboot } from './model/state.js'
import { FakeMac } from './model/system.js'
import { worldOf } from './model/world.js'
import { cidrGrant, goldenPolicies, grant, policy } from './policies.js'
import { networkOf, reserved, selfAddresses, uidOf } from './rulesets.js'

const proxy: GatePort[] = [{ proto: 'tcp', port: 49_100, gatePort: 49_100, role: 'proxy' }]
const mail = policy('mail', {
  grants: [
    grant('g1', 'smtp.example.com', { inspect: 'none', ports: [{ first: 465, last: 465 }] }),
  ],
  cidrs: [cidrGrant('c1', '198.51.100.0/24', 5432)],
})
const server = '203.0.113.25'

function setUp(mac = new FakeMac()): { mac: FakeMac; backend: Backend; warnings: string[] } {
  const warnings: string[] = []
  const backend = pfBackend({
    system: mac,
    stateDir: '/var/run/agentjail',
    range: reserved,
    ownAddresses: () => selfAddresses,
    warn: (text) => warnings.push(text),
  })
  return { mac, backend, warnings }
}

async function openJail(backend: Backend, policy: Policy, index = 0): Promise<NetworkHold> {
  const hold = await backend.open(networkOf(policy, index))
  await hold.connectGate(proxy.map((port) => ({ ...port, gatePort: port.gatePort + index })))
  return hold
}

function tcp(mac: FakeMac, to: string, port: number, index = 0): Outcome {
  const flow: Flow = { kind: 'connect', client: uidOf(index), from: '192.168.1.10', to, port }
  return play(worldOf(mac.state), flow)
}

/** What must be as before: pf, files, interfaces. */
function snapshot({ state }: FakeMac): string {
  const { enabled, tokens, main, anchors, tables } = state.pf
  const { 'com.apple/agentjail': own = '', ...others } = anchors
  return JSON.stringify({
    enabled,
    tokens,
    main,
    own,
    others,
    tables,
    files: Object.keys(state.files),
    interfaces: state.interfaces,
  })
}

t.test('the life of a jail', async (t) => {
  const { mac, backend, warnings } = setUp()
  const start = snapshot(mac)
  const hold = await openJail(backend, mail)
  t.equal(mac.state.pf.enabled, true)
  t.equal(mac.state.pf.tokens.length, 1, 'one reference')
  t.equal(tcp(mac, server, 465), 'refused', 'no address before it is pinned')
  await hold.pin([{ address: server, grant: 'g1', seconds: 60 }])
  t.equal(tcp(mac, server, 465), 'passes')
  t.equal(tcp(mac, server, 25), 'refused')
  t.equal(tcp(mac, '198.51.100.9', 5432), 'passes')
  t.equal(await hold.intact(), true, 'reads back, service names and all')
  await hold.pin([{ address: server, grant: 'g1', seconds: 10 }])
  mac.time += 30_000
  t.equal(await hold.intact(), true)
  t.equal(tcp(mac, server, 465), 'passes', 'a shorter answer does not shorten a pin')
  mac.time += 31_000
  t.equal(await hold.intact(), true)
  t.equal(tcp(mac, server, 465), 'refused', 'expired')
  await hold.close()
  t.equal(snapshot(mac), start, 'as before, pf off and no file left')
  t.strictSame(warnings, [])
  t.ok(
    mac.sessions.every(({ killed }) => killed),
    'no tcpdump left',
  )
})

t.test('several jails share the anchor, the reference and the end', async (t) => {
  const { mac, backend } = setUp()
  const start = snapshot(mac)
  const one = await openJail(backend, mail)
  await one.pin([{ address: server, grant: 'g1', seconds: 60 }])
  const two = await openJail(backend, policy('closed'), 1)
  t.equal(mac.state.pf.tokens.length, 1, 'still one reference')
  t.equal(tcp(mac, server, 465), 'passes', "the second load left the first jail's pins")
  t.equal(tcp(mac, server, 465, 1), 'refused')
  t.equal(await one.intact(), true)
  await one.close()
  t.equal(tcp(mac, server, 465), 'refused')
  t.equal(await two.intact(), true)
  await two.close()
  t.equal(snapshot(mac), start)
})

t.test('addresses of a jail that died are not those of the next one with its uid', async (t) => {
  const { mac, backend } = setUp()
  const before = snapshot(mac)
  const tables = (): string[] => Object.keys(mac.state.pf.tables)
  const first = await openJail(backend, mail)
  await first.pin([{ address: server, grant: 'g1', seconds: 600 }])
  await backend.collect({ name: 'mail', uid: uidOf(0), isolation: 'uid' })
  t.strictSame(tables(), [], 'a load leaves persist tables: they are removed')
  t.equal(snapshot(mac), before)

  await openJail(backend, mail)
  await setUp(mac).backend.collect({ name: 'mail', uid: uidOf(0), isolation: 'uid' })
  mac.state.pf.tables[`com.apple/agentjail\0aj_${String(uidOf(0))}_g1`] = {
    addresses: [server],
    persist: true,
  }
  mac.state.pf.tables['com.apple/agentjail\0somebodys'] = { addresses: [], persist: true }
  const second = await openJail(backend, mail)
  t.equal(tcp(mac, server, 465), 'refused', 'what is left all the same is emptied')
  t.equal(await second.intact(), true)
  await second.close()
  t.strictSame(tables(), ['com.apple/agentjail\0somebodys'], 'what is not ours stays')
})

t.test('the static deny stands without a jail, and goes with uninstall', async (t) => {
  const { mac, backend } = setUp()
  const start = snapshot(mac)
  await backend.ensureStaticDeny(reserved)
  await backend.ensureStaticDeny(reserved)
  t.equal(tcp(mac, server, 465, 77), 'refused')
  t.equal(mac.state.pf.tokens.length, 1)
  const hold = await openJail(backend, mail)
  await t.rejects(backend.uninstall(), { code: 'STATE', message: /jails still run: mail/ })
  await hold.close()
  t.equal(tcp(mac, server, 465), 'refused', 'an idle uid')
  reboot(mac.state)
  t.equal(tcp(mac, server, 465), 'passes', 'pf is off after a restart')
  await backend.ensureStaticDeny(reserved)
  t.equal(tcp(mac, server, 465), 'refused', 'until the boot job has run')
  await backend.uninstall()
  t.equal(snapshot(mac), start.replaceAll('B0071D00', 'B0071D00'))
})

t.test("only agentjail's own calls", async (t) => {
  const { mac, backend } = setUp()
  const hold = await openJail(backend, mail)
  await hold.pin([{ address: server, grant: 'g1', seconds: 60 }])
  await hold.update(networkOf(mail, 0))
  await hold.intact()
  await hold.restore()
  await hold.close()
  for (const call of mac.state.calls.filter(([program]) => program === '/sbin/pfctl')) {
    const text = call.slice(1).join(' ')
    t.notMatch(text, /(^| )-[deR]( |$)/, text)
    t.notMatch(text, /-F/, text)
    if (/-f|-T/.test(text)) t.match(text, /-a com\.apple\/agentjail/, text)
    if (text.includes('-f')) t.match(text, /-o none/, text)
    if (text.includes('-E')) t.notMatch(text, /-q/, 'with -q the token would be lost')
  }
})

t.test('a reload withdraws at once', async (t) => {
  const { mac, backend } = setUp()
  const hold = await openJail(backend, mail)
  await hold.pin([{ address: server, grant: 'g1', seconds: 60 }])
  mac.state.pf.states = [
    { proto: 'tcp', from: '192.168.1.10:50000', to: `${server}:465` },
    { proto: 'tcp', from: '192.168.1.10:50001', to: '203.0.113.99:443' },
  ]
  await hold.update(networkOf(mail, 0))
  t.equal(tcp(mac, server, 465), 'passes', 'an unchanged grant keeps its pins')
  t.equal(mac.state.pf.states.length, 2)
  const other = policy('mail', {
    grants: [
      grant('g1', 'imap.example.com', { inspect: 'none', ports: [{ first: 465, last: 465 }] }),
    ],
  })
  await hold.update(networkOf(other, 0))
  t.equal(tcp(mac, server, 465), 'refused', 'the same id for another name inherits nothing')
  t.equal(tcp(mac, '198.51.100.9', 5432), 'refused')
  t.strictSame(
    mac.state.pf.states.map(({ to }) => to),
    ['203.0.113.99:443'],
    "states of the withdrawn address ended, nobody else's",
  )
  mac.state.quirks.loseRule = '993'
  const broken = policy('mail', { cidrs: [cidrGrant('c1', '198.51.100.0/24', 993)] })
  await t.rejects(hold.update(networkOf(broken, 0)), { code: 'VERIFY_FAILED' })
  delete mac.state.quirks.loseRule
  t.equal(tcp(mac, '198.51.100.9', 993), 'refused', 'the old policy is in force')
  t.equal(await hold.intact(), true)
})

t.test('what other tools do is noticed and mended, or said', async (t) => {
  const cases: [string, (mac: FakeMac) => void, 'mended' | RegExp][] = [
    [
      'pfctl -d',
      ({ state: { pf } }) => Object.assign(pf, { enabled: false, tokens: [] }),
      'mended',
    ],
    [
      'pfctl -d and -e',
      ({ state: { pf } }) => Object.assign(pf, { enabled: true, tokens: [], anonymous: 1 }),
      'mended',
    ],
    [
      'the anchor is flushed',
      ({ state: { pf } }) => Reflect.deleteProperty(pf.anchors, 'com.apple/agentjail'),
      'mended',
    ],
    [
      'one rule is gone',
      ({ state: { pf } }) =>
        (pf.anchors['com.apple/agentjail'] = (pf.anchors['com.apple/agentjail'] ?? '').replace(
          /block return out[^\n]*deny-out-tcp"\n/,
          '',
        )),
      'mended',
    ],
    [
      'a rule was put in',
      ({ state: { pf } }) =>
        (pf.anchors['com.apple/agentjail'] =
          `pass quick all no state\n${pf.anchors['com.apple/agentjail'] ?? ''}`),
      'mended',
    ],
    [
      'a pin was put in',
      ({ state: { pf } }) =>
        pf.tables['com.apple/agentjail\0aj_1900000001_g1']?.addresses.push('203.0.113.66'),
      'mended',
    ],
    ['the tables are gone', ({ state: { pf } }) => (pf.tables = {}), 'mended'],
    [
      'the state file is gone',
      ({ state: { files } }) => Reflect.deleteProperty(files, '/var/run/agentjail/pf.json'),
      'mended',
    ],
    [
      'the main ruleset was replaced',
      ({ state: { pf } }) => (pf.main = 'pass all no state\n'),
      /no line: anchor "com\.apple\/\*"/,
    ],
    [
      'a quick pass stands first',
      ({ state: { pf } }) =>
        (pf.main = pf.main.replace('\nanchor', '\npass quick on en0 all no state\nanchor')),
      /overtakes/,
    ],
    [
      'the state file is nonsense',
      ({ state: { files } }) =>
        (files['/var/run/agentjail/pf.json'] = {
          kind: 'file',
          text: '{"v":9}',
          mode: 0o600,
          uid: 0,
          gid: 0,
        }),
      /state file .* cannot be used/,
    ],
  ]
  for (const [name, harm, result] of cases) {
    const { mac, backend } = setUp()
    const hold = await openJail(backend, mail)
    await hold.pin([{ address: server, grant: 'g1', seconds: 600 }])
    t.equal(await hold.intact(), true)
    harm(mac)
    if (result === 'mended') {
      t.equal(await hold.intact(), false, `${name}: noticed`)
      await hold.restore()
      t.equal(await hold.intact(), true, `${name}: mended`)
      t.equal(tcp(mac, server, 465), 'passes', name)
      t.equal(tcp(mac, '203.0.113.66', 465), 'refused', name)
    } else {
      const seen = await hold.intact().catch(() => false)
      t.equal(seen, false, `${name}: noticed`)
      await t.rejects(hold.restore(), { message: result }, name)
    }
  }
})

t.test('bad input: one clear message, nothing left', async (t) => {
  const cases: [
    string,
    (mac: FakeMac) => void,
    { code?: string; message: RegExp; hint?: RegExp },
  ][] = [
    [
      'anchor call missing',
      ({ state: { pf } }) => (pf.main = 'pass all no state\n'),
      { code: 'BACKEND', message: /no line: anchor "com.apple\/\*"/, hint: /restart the Mac/ },
    ],
    [
      'overtaken',
      ({ state: { pf } }) =>
        (pf.main = `pass out quick all no state\n${pf.main}`.replace(
          /^(.*\n)(scrub[^]*dummynet[^\n]*\n)/,
          '$2$1',
        )),
      { code: 'BACKEND', message: /overtakes/ },
    ],
    [
      'not root',
      ({ state }) => (state.euid = 501),
      { code: 'BACKEND', message: /Permission denied/, hint: /run as root/ },
    ],
    [
      'forbidden by management',
      ({ state }) => (state.quirks.pfRefused = true),
      { code: 'BACKEND', message: /Operation not permitted/, hint: /profile/ },
    ],
    [
      'a rule is lost',
      ({ state }) => (state.quirks.loseRule = 'deny-out-udp'),
      { code: 'VERIFY_FAILED', message: /deny-out-udp/ },
    ],
    ['always busy', ({ state }) => (state.quirks.busyLoads = 99), { message: /Resource busy/ }],
  ]
  for (const [name, harm, error] of cases) {
    const { mac, backend } = setUp()
    harm(mac)
    const before = snapshot(mac)
    await t.rejects(openJail(backend, mail), error, name)
    if (mac.state.quirks.busyLoads === 0) t.equal(snapshot(mac), before, `${name}: as before`)
  }
  const { mac, backend } = setUp()
  mac.state.quirks.busyLoads = 3
  await openJail(backend, mail)
  t.equal(tcp(mac, server, 25), 'refused', 'busy for a moment is waited out')
  await t.rejects(backend.open({ ...networkOf(mail, 1), isolation: 'namespace' }), {
    code: 'PLATFORM',
  })
  const { backend: bare, mac: without, warnings } = setUp()
  without.state.interfaces = without.state.interfaces.filter((each) => each !== 'pflog0')
  const stderr = 'ifconfig: SIOCIFCREATE2: Operation not permitted\n'
  without.intercept = ([program]) =>
    program === '/sbin/ifconfig' ? { code: 1, stdout: '', stderr } : undefined
  await openJail(bare, mail)
  t.match(warnings, [/no pflog0 .*not permitted.*sudo ifconfig pflog0 create/])
  t.throws(
    () =>
      pfBackend({
        system: mac,
        stateDir: '/x',
        range: reserved,
        ownAddresses: () => [],
        anchor: 'com.apple/a/b',
      }),
    { code: 'USAGE' },
  )
})

t.test('pflog0 goes with the last jail, where agentjail made it', async (t) => {
  const { mac, backend } = setUp()
  const has = (): boolean => mac.state.interfaces.includes('pflog0')
  await backend.ensureStaticDeny(reserved)
  const before = snapshot(mac)
  const [first, second] = [await openJail(backend, mail), await openJail(backend, policy('two'), 1)]
  t.equal(has(), true)
  await first.close()
  t.equal(has(), true, 'another jail reads it')
  await second.close()
  t.equal(has(), false)
  t.equal(snapshot(mac), before)

  mac.state.interfaces.push('pflog0')
  await (await openJail(backend, mail)).close()
  t.equal(has(), true, "somebody else's stays")
  mac.state.interfaces = mac.state.interfaces.filter((name) => name !== 'pflog0')

  await openJail(backend, mail)
  await setUp(mac).backend.collect({ name: 'mail', uid: uidOf(0), isolation: 'uid' })
  t.equal(has(), false, 'also after a crash')
  t.equal(snapshot(mac), before)
})

t.test('transparent: only one jail can take a port', async (t) => {
  const { mac, backend } = setUp()
  const transparent = goldenPolicies[4] as Policy
  const ports: GatePort[] = [{ proto: 'tcp', port: 443, gatePort: 49_600 }]
  const one = await backend.open(networkOf({ ...transparent, name: 'one' }, 0))
  await one.connectGate(ports)
  t.strictSame(tcp(mac, server, 443), { gate: 49_600 })
  const two = await backend.open(networkOf({ ...transparent, name: 'two' }, 1))
  await t.rejects(two.connectGate([{ proto: 'tcp', port: 443, gatePort: 49_601 }]), {
    code: 'BACKEND',
    message: /one and two both take over port tcp\/443/,
  })
  t.equal(await one.intact(), true)
  t.equal(tcp(mac, server, 443, 1), 'refused')
  mac.state.pf.tables['com.apple/agentjail\0aj_self'] = { addresses: [], persist: true }
  t.equal(await one.intact(), true)
  t.ok(
    mac.state.pf.tables['com.apple/agentjail\0aj_self'].addresses.includes('192.168.1.10'),
    'own addresses are kept fresh',
  )
})

t.test('denials of the kernel', async (t) => {
  const { mac, backend } = setUp()
  const hold = await openJail(backend, mail)
  await openJail(backend, policy('other'), 1)
  const rules = (mac.state.pf.anchors['com.apple/agentjail'] ?? '')
    .split('\n')
    .filter((line) => /^(pass|block)/.test(line))
  const line = (uid: number, what: string, packet: string): string => {
    const index = rules.findIndex((rule) => rule.includes(`"aj:${String(uid)}:${what}"`))
    return `13:00:00.000001 rule 4.agentjail.${String(index)}/0(match): block ${what.includes('-in-') ? 'in' : 'out'} on en0: ${packet}`
  }
  const session = mac.sessions[0]
  session?.say(
    line(
      uidOf(0),
      'deny-out-tcp',
      '192.168.1.10.51234 > 203.0.113.66.443: Flags [S], seq 1, length 0',
    ),
  )
  session?.say(
    line(
      uidOf(0),
      'deny-out-tcp',
      '192.168.1.10.51234 > 203.0.113.66.443: Flags [S], seq 1, length 0',
    ),
  )
  session?.say(
    line(
      uidOf(0),
      'deny-out-tcp',
      '2001:db8:f::10.51234 > 2001:db8::66.465: Flags [S], seq 1, length 0',
    ),
  )
  session?.say(
    line(uidOf(0), 'deny-out-udp', '192.168.1.10.5353 > 8.8.8.8.53: 4660+ A? evil.example. (30)'),
  )
  session?.say(line(uidOf(0), 'deny-in-udp', '203.0.113.66.9 > 192.168.1.10.4000: UDP, length 3'))
  session?.say(line(uidOf(1), 'deny-out-tcp', '192.168.1.10.1 > 203.0.113.77.443: Flags [S]'))
  session?.say(
    '13:00:00.000001 rule 3/0(match): block out on en0: 192.168.1.10.1 > 203.0.113.78.443: Flags [S]',
  )
  session?.say('tcpdump: nonsense')
  const common = { verdict: 'deny', layer: 'kernel', direction: 'out', count: 1 }
  t.strictSame(await hold.denials(), [
    {
      ...common,
      proto: 'tcp',
      address: '203.0.113.66',
      port: 443,
      reason: 'port-not-granted',
      count: 2,
    },
    { ...common, proto: 'tcp', address: '2001:db8::66', port: 465, reason: 'address-not-granted' },
    { ...common, proto: 'udp', address: '8.8.8.8', port: 53, reason: 'port-not-granted' },
    {
      ...common,
      direction: 'in',
      proto: 'udp',
      address: '203.0.113.66',
      port: 4000,
      reason: 'port-not-granted',
    },
  ])
  t.strictSame(await hold.denials(), [])
  t.equal(
    parseLogLine(
      '13:00:00.000001 rule 4.agentjail.1/0(match): block out on en0: $(x) > 1.1.1.1.443: Flags',
    ),
    undefined,
  )
})

t.test('a failure at every step leaves what was, or denial', async (t) => {
  const script = async (
    mac: FakeMac,
    until: 'open' | 'pin' | 'update' | 'close',
    failFrom: string,
    at: number,
  ): Promise<boolean> => {
    const { backend } = setUp(mac)
    const arm = (name: string): void => {
      if (name === failFrom) mac.failAt = mac.steps + at
    }
    let failed = false
    const attempt = async (name: string, work: () => Promise<unknown>): Promise<void> => {
      arm(name)
      const before = mac.failAt
      try {
        await work()
      } catch {
        failed = true
      }
      if (name === failFrom) {
        failed ||= before !== undefined && mac.steps >= before
        mac.failAt = undefined
      }
    }
    let hold: NetworkHold | undefined
    await attempt('open', async () => {
      hold = await openJail(backend, mail)
    })
    if (hold === undefined || until === 'open') {
      await hold?.close()
      await backend.collect({ name: 'mail', uid: uidOf(0), isolation: 'uid' })
      return failed
    }
    const held = hold
    await attempt('pin', () => held.pin([{ address: server, grant: 'g1', seconds: 60 }]))
    await attempt('update', () => held.update(networkOf(policy('mail'), 0)))
    await attempt('close', () => held.close())
    return failed
  }
  for (const phase of ['open', 'pin', 'update', 'close'] as const) {
    let tried = 0
    for (let at = 1; ; at++) {
      const mac = new FakeMac()
      await setUp(mac).backend.ensureStaticDeny(reserved)
      const start = snapshot(mac)
      const failed = await script(mac, phase, phase, at)
      if (!failed) break
      tried++
      t.ok(at < 200, 'bounded')
      const end = snapshot(mac)
      const refused = ['203.0.113.66', server].every((to) => tcp(mac, to, 443) === 'refused')
      t.ok(end === start || refused, `${phase}, step ${String(at)}: as before, or denying`)
      t.equal(mac.state.pf.enabled, true, `${phase}, step ${String(at)}: pf is on`)
      // Any later command clears what is left.
      const { backend } = setUp(mac)
      await backend.collect({ name: 'mail', uid: uidOf(0), isolation: 'uid' })
      await backend.ensureStaticDeny(reserved)
      t.equal(snapshot(mac), start, `${phase}, step ${String(at)}: cleared afterwards`)
      if (at >= 200) break
    }
    t.ok(tried > 0, `${phase}: ${String(tried)} steps failed one by one`)
  }
})

t.test('a crash at every step of the start denies, and is cleared', async (t) => {
  for (let at = 1; at < 200; at++) {
    const mac = new FakeMac()
    await setUp(mac).backend.ensureStaticDeny(reserved)
    const start = snapshot(mac)
    Object.assign(mac, { failAt: mac.steps + at, crash: true })
    const done = await openJail(setUp(mac).backend, mail).then(
      () => true,
      () => false,
    )
    Object.assign(mac, { failAt: undefined, crash: false })
    if (done) {
      t.ok(at > 10, `${String(at - 1)} instants`)
      return
    }
    t.equal(tcp(mac, '203.0.113.66', 443), 'refused', `step ${String(at)}`)
    const { backend } = setUp(mac)
    await backend.collect({ name: 'mail', uid: uidOf(0), isolation: 'uid' })
    await backend.ensureStaticDeny(reserved)
    const { tokens } = mac.state.pf
    t.equal(tokens.length, 1, 'no reference is lost')
    t.equal(snapshot(mac), start, `step ${String(at)}: cleared`)
  }
  t.fail('never finished')
})

t.test('a crash at every step of the first start and of the end loses no reference', async (t) => {
  for (let at = 1; at < 200; at++) {
    const mac = new FakeMac()
    const start = snapshot(mac)
    Object.assign(mac, { failAt: at, crash: true })
    const { backend } = setUp(mac)
    const done = await backend
      .ensureStaticDeny(reserved)
      .then(() => backend.uninstall())
      .then(
        () => true,
        () => false,
      )
    Object.assign(mac, { failAt: undefined, crash: false })
    if (done) {
      t.ok(at > 25, `${String(at - 1)} instants`)
      return
    }
    const next = setUp(mac).backend
    await next.ensureStaticDeny(reserved)
    t.equal(mac.state.pf.tokens.length, 1, `step ${String(at)}: one reference`)
    await next.uninstall()
    t.equal(snapshot(mac), start, `step ${String(at)}: as before`)
  }
  t.fail('never finished')
})

t.test('pfctl ended between taking a reference and saying so: found by its pid', async (t) => {
  const mac = new FakeMac()
  mac.state.pf.tokens.push({ value: '15000000000000000001', pid: 77, name: 'pfctl' })
  mac.state.pf.enabled = true
  const start = snapshot(mac)
  const journal = '/var/run/agentjail/pf-enable'
  mac.intercept = (argv) => {
    if (argv[0] !== '/usr/bin/perl') return undefined
    mac.intercept = undefined
    void mac.run(argv as [string, ...string[]])
    const file = mac.state.files[journal]
    if (file !== undefined) file.text = file.text.replace(/\n[^]*/, '\n')
    return { code: 1, stdout: '', stderr: '' }
  }
  await t.rejects(setUp(mac).backend.ensureStaticDeny(reserved), { code: 'BACKEND' })
  t.equal(mac.state.pf.tokens.length, 1, "taken back at once; another tool's stays")
  t.equal(snapshot(mac), start)
})

t.test('the script that takes a reference, by the real perl', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'agentjail-perl-'))
  t.teardown(() => {
    rmSync(dir, { recursive: true })
  })
  const journal = join(dir, 'pf-enable')
  const pretend = join(dir, 'pfctl')
  writeFileSync(pretend, '#!/usr/bin/perl\nprint STDERR "pf enabled\\nToken : 123 $$\\n";\n', {
    mode: 0o755,
  })
  const mac = new FakeMac()
  let script: readonly string[] = []
  mac.intercept = (argv) => {
    if (argv[0] === '/usr/bin/perl') script = argv
    return undefined
  }
  await setUp(mac).backend.ensureStaticDeny(reserved)
  const [perl = '', e = '', text = '', dashes = ''] = script
  const run = () =>
    spawnSync(perl, [e, text, dashes, journal, pretend, '-E'], {
      encoding: 'utf8',
      timeout: 20_000,
    })
  const { pid, status, stderr } = run()
  t.match({ status, stderr }, { status: 0, stderr: '' })
  t.equal(readFileSync(journal, 'utf8'), `${String(pid)}\npf enabled\nToken : 123 ${String(pid)}\n`)
  t.equal(statSync(journal).mode & 0o777, 0o600)
  rmSync(journal)
  symlinkSync('/nonexistent', journal)
  t.not(run().status, 0, 'it follows no link')
})

t.test('interfaces that pf does not look at', async (t) => {
  const { mac, backend, warnings } = setUp()
  mac.state.pf.skipped = ['lo0']
  const hold = await openJail(backend, mail)
  t.match(warnings, [/^pf does not look at lo0 .* the sandbox profile alone$/], 'told, once')
  t.equal(await hold.intact(), true)
  mac.state.pf.skipped = ['lo0', 'en0']
  t.equal(tcp(mac, server, 443), 'passes', 'en0 skipped: open')
  t.equal(await hold.intact(), false, 'noticed')
  await t.rejects(hold.restore(), {
    message: /^pf does not look at packets of en0 \("set skip"\)$/,
    hint: /remove it from "set skip on" in \/etc\/pf\.conf/,
  })
  mac.state.pf.skipped = ['lo0']
  const transparent = goldenPolicies[4] as Policy
  const gate: GatePort[] = [{ proto: 'tcp', port: 443, gatePort: 49_600 }]
  const other = await backend.open(networkOf({ ...transparent, name: 'other' }, 1))
  await t.rejects(other.connectGate(gate), {
    message: /packets of lo0/,
    hint: /redirects of "transparent: true" need lo0/,
  })
  mac.state.pf.skipped = []
  await other.connectGate(gate)
  t.strictSame(tcp(mac, server, 443, 1), { gate: 49_600 })
})

t.test('readers', async (t) => {
  t.equal(parseServices('https 443/tcp # x\nhttp 80/tcp www\n#a 1/tcp\n').get('www/tcp'), 80)
  t.strictSame(
    [
      ...parseReferences(
        'TOKENS:\nPID      Process Name                 TOKEN                    TIMESTAMP\n512      pfctl                        15837426475845698137     0 days 00:00:11\n99       com.apple.Some Thing         15837426475845698138     1 days 00:00:11\n',
      ),
    ],
    [
      ['15837426475845698137', 512],
      ['15837426475845698138', 99],
    ],
  )
  t.strictSame([...parseReferences('No pf starter references held\n')], [])
  t.strictSame(
    parseStates(
      'ALL tcp 192.168.1.13:57474 -> 23.205.82.58:443       ESTABLISHED:ESTABLISHED\nALL udp 2001:db8::1[53] <- 2001:db8::2[999]       MULTIPLE:SINGLE\n',
    ),
    [
      { left: '192.168.1.13', right: '23.205.82.58' },
      { left: '2001:db8::1', right: '2001:db8::2' },
    ],
  )
})
