/** The pf backend against the modelled Mac: the life of jails, alone and beside each other, and their reloads. */
import t from 'tap'
import type { GatePort } from '../../lib/backend/types.js'
import type { Policy } from '../../lib/policy/types.js'
import { mail, openJail, server, setUp, snapshot, tcp } from './backend-kit.js'
import { reboot } from './model/state.js'
import { cidrGrant, goldenPolicies, grant, policy } from './policies.js'
import { networkOf, reserved, uidOf } from './rulesets.js'

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
