/** The pf backend against the modelled Mac: a failure and a crash at every step. */
import t from 'tap'
import type { NetworkHold } from '../../lib/backend/types.js'
import { mail, openJail, server, setUp, snapshot, tcp } from './backend-kit.js'
import { FakeMac } from './model/system.js'
import { policy } from './policies.js'
import { networkOf, reserved, uidOf } from './rulesets.js'

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
