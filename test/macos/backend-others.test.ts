/** What other tools and settings do to pf, before a start and while a jail runs: mended, or said with the way out. */
import t from 'tap'
import { pfBackend } from '../../lib/backend/pf/index.js'
import type { GatePort } from '../../lib/backend/types.js'
import type { Policy } from '../../lib/policy/types.js'
import { mail, openJail, server, setUp, snapshot, tcp } from './backend-kit.js'
import type { FakeMac } from './model/system.js'
import { goldenPolicies } from './policies.js'
import { networkOf, reserved } from './rulesets.js'

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
  without.intercept = (argv) =>
    argv.includes('/sbin/ifconfig') ? { code: 1, stdout: '', stderr } : undefined
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
