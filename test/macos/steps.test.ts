/** A session, and what else changes the Mac, with a failure at every step of it, and a crash. */
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { defaultAnchor } from '../../lib/backend/pf/names.js'
import { pfBackend } from '../../lib/backend/pf/index.js'
import type { Ending } from '../../lib/launch/types.js'
import { parseJailName } from '../../lib/plan/names.js'
import { launchdServices } from '../../lib/service/launchd.js'
import { macSetupSteps } from '../../lib/setup/macos.js'
import { uninstallMac } from '../../lib/setup/macos-uninstall.js'
import { FakeMac } from './model/system.js'
import { policy } from './policies.js'
import { reserved, selfAddresses } from './rulesets.js'
import {
  clear,
  mail,
  prepared,
  reaches,
  server,
  settings,
  snapshot,
  stage,
  type Stage,
} from './session-kit.js'

t.setTimeout(280_000)
/** Steps of one session that can fail: more than any has. */
const most = 400
const elsewhere = '203.0.113.66'
const pins = [{ address: server, seconds: 600 }]
const soon = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5))

/** Lets the gate name the granted server, and waits until it may be reached. */
async function pinned({ mac, gate }: Stage): Promise<void> {
  gate?.say({ type: 'pin', serial: 1, grant: 'g2', name: 'smtp.example.com', pins })
  for (let n = 0; n < 200 && !reaches(mac, server, 465); n++) await soon()
}

/** A session whose command runs until it is told to end; `live`: what is done meanwhile. */
function running(mac: FakeMac, live: (stage: Stage) => Promise<void>): Stage {
  let end: (ending: Ending) => void = () => undefined
  const run = stage(mac, async (self) => {
    const ended = new Promise<Ending>((resolve) => (end = resolve))
    await soon()
    await live(self)
    return await ended
  })
  const { launch } = run.parts
  const stop = (): void => {
    end({ signal: 'SIGTERM' })
  }
  Object.assign(run.parts, {
    launch: async (request: Parameters<typeof launch>[0]) =>
      Object.assign(await launch(request), { signal: stop, kill: stop }),
  })
  return run
}

t.test('a failure at every step: as before, or denying', async (t) => {
  for (let at = 1; at < 400; at++) {
    const mac = await prepared()
    const before = snapshot(mac)
    const run = stage(mac, () => Promise.resolve({ code: 0 }))
    mac.failAt = mac.steps + at
    await run.warden.run().catch(() => undefined)
    const passedOver = mac.steps < mac.failAt
    mac.failAt = undefined
    if (passedOver) {
      t.ok(at > 60, `${String(at - 1)} steps failed one by one`)
      return
    }
    const step = `step ${String(at)}`
    t.equal(reaches(mac, '203.0.113.66', 443), false, `${step}: denies`)
    t.equal(reaches(mac, server, 465), false, `${step}: denies what was granted`)
    const asBefore = snapshot(mac) === before
    t.ok(asBefore || mac.state.pf.enabled, step)
    // The next command of any kind clears what is left.
    await clear(mac, run)
    t.equal(snapshot(mac), before, `${step}: cleared`)
  }
  t.fail('never finished')
})

t.test('a crash at every step: denying, and cleared by the next command', async (t) => {
  for (let at = 1; at < 400; at++) {
    const mac = await prepared()
    const before = snapshot(mac)
    let outside = 0
    const run = stage(mac, () => Promise.resolve({ code: 0 }))
    mac.onStep = () => {
      if (reaches(mac, '203.0.113.66', 443)) outside++
    }
    Object.assign(mac, { failAt: mac.steps + at, crash: true })
    await run.warden.run().catch(() => undefined)
    const finished = mac.failAt !== undefined && mac.steps < mac.failAt
    Object.assign(mac, { failAt: undefined, crash: false })
    t.equal(outside, 0, `step ${String(at)}: closed at every instant`)
    t.equal(reaches(mac, '203.0.113.66', 443), false, `step ${String(at)}`)
    if (finished) {
      t.ok(at > 60, `${String(at - 1)} instants`)
      return
    }
    await clear(mac, run)
    t.equal(snapshot(mac), before, `step ${String(at)}: cleared`)
  }
  t.fail('never finished')
})

for (const crash of [false, true])
  t.test(`a stop, with a ${crash ? 'crash' : 'failure'} at every step of it`, async (t) => {
    for (let at = 1; at < most; at++) {
      const mac = await prepared()
      const before = snapshot(mac)
      let outside = 0
      let afterStop = Infinity
      const run = running(mac, async (self) => {
        await pinned(self)
        mac.onStep = () => {
          if (reaches(mac, elsewhere, 443)) outside++
        }
        afterStop = mac.steps
        Object.assign(mac, { failAt: mac.steps + at, crash })
        await self.ask?.({ op: 'stop' })
      })
      await run.warden.run().catch(() => undefined)
      const passedOver = mac.failAt !== undefined && mac.steps < mac.failAt
      Object.assign(mac, { failAt: undefined, crash: false })
      const step = `step ${String(at)}`
      t.equal(outside, 0, `${step}: closed at every instant`)
      t.equal(reaches(mac, elsewhere, 443), false, `${step}: closed`)
      if (passedOver) {
        t.equal(snapshot(mac), before, 'the whole stop leaves nothing')
        t.ok(at > 15, `${String(at - 1)} steps after ${String(afterStop)}`)
        return
      }
      await clear(mac, run)
      t.equal(snapshot(mac), before, `${step}: cleared`)
    }
    t.fail('never finished')
  })

t.test('a reload, with a failure at every step of it', async (t) => {
  const narrower = policy('bot', { grants: mail.grants.slice(0, 1) })
  for (let at = 1; at < most; at++) {
    const mac = await prepared()
    const before = snapshot(mac)
    let outside = 0
    const seen = { passedOver: false }
    const run = running(mac, async (self) => {
      await pinned(self)
      mac.onStep = () => {
        if (reaches(mac, elsewhere, 443)) outside++
      }
      mac.failAt = mac.steps + at
      const isIn = await self.warden.reload(narrower).then(
        () => true,
        () => false,
      )
      seen.passedOver = mac.steps < mac.failAt
      mac.failAt = undefined
      // What was told is what holds.
      t.equal(reaches(mac, server, 465), !isIn, `step ${String(at)}: ${isIn ? 'new' : 'old'}`)
      await self.ask?.({ op: 'stop' })
    })
    await run.warden.run()
    t.equal(outside, 0, `step ${String(at)}: never more than a policy`)
    t.equal(snapshot(mac), before, `step ${String(at)}: nothing left`)
    if (seen.passedOver) {
      t.ok(at > 8, `${String(at - 1)} steps`)
      return
    }
  }
  t.fail('never finished')
})

const service = {
  name: parseJailName('bot'),
  policies: ['openai'],
  command: ['/usr/bin/true'],
  cwd: '/',
  node: process.execPath,
  program: '/usr/lib/agentjail/dist/bin/agentjail.cjs',
  logDir: settings.logDir,
  credentials: new Map<string, string>(),
} as const
const plist = '/Library/LaunchDaemons/org.agentjail.jail.bot.plist'

for (const crash of [false, true])
  t.test(`a service: a ${crash ? 'crash' : 'failure'} at every step`, async (t) => {
    for (const what of ['install', 'install again', 'uninstall'] as const)
      for (let at = 1; at < most; at++) {
        const mac = new FakeMac()
        const services = launchdServices(mac, settings.logDir)
        if (what !== 'install') await services.install(service)
        const act = (): Promise<unknown> =>
          what === 'uninstall' ? services.uninstall(service.name) : services.install(service)
        Object.assign(mac, { failAt: mac.steps + at, crash })
        const told = await act().then(
          () => 'done',
          () => 'failed',
        )
        const passedOver = mac.steps < (mac.failAt ?? 0)
        Object.assign(mac, { failAt: undefined, crash: false })
        const name = `${what}, step ${String(at)}`
        const isThere = mac.state.files[plist] !== undefined
        const isLoaded = mac.state.launchd['org.agentjail.jail.bot'] !== undefined
        if (told === 'done') t.equal(isThere, what !== 'uninstall', `${name}: as told`)
        if (told === 'done' && !crash) t.equal(isLoaded, what !== 'uninstall', `${name}: loaded`)
        if (told === 'failed' && what === 'install' && !crash)
          t.notOk(isThere || isLoaded, `${name}: nothing half made`)
        // Whatever is left, the same words mend it.
        await services.install(service)
        t.match(await services.status(service.name), { state: 'running' }, name)
        await services.uninstall(service.name)
        t.notOk(mac.state.files[plist], name)
        t.strictSame(mac.state.launchd, {}, name)
        if (passedOver) break
      }
  })

for (const crash of [false, true])
  t.test(`setup and uninstall: a ${crash ? 'crash' : 'failure'} at every step`, async (t) => {
    const config = { ...settings, upstreams: [], pfAnchor: defaultAnchor }
    const program = fileURLToPath(import.meta.url)
    const partsOf = (mac: FakeMac) => ({
      system: mac,
      config,
      lock: <T>(work: () => Promise<T>) => work(),
      backend: pfBackend({
        ...{ system: mac, stateDir: settings.stateDir, range: reserved },
        ownAddresses: () => selfAddresses,
      }),
    })
    const setup = async (mac: FakeMac): Promise<void> => {
      for (const step of macSetupSteps({ ...partsOf(mac), node: process.execPath, program }))
        if (!(await step.isDone())) await step.apply()
    }
    const uninstall = (mac: FakeMac): Promise<void> =>
      uninstallMac({
        ...partsOf(mac),
        purge: true,
        say: () => undefined,
        claimed: (_account, work) => work(),
      })
    const fresh = snapshot(new FakeMac())
    for (const what of ['setup', 'uninstall'] as const)
      for (let at = 1; at < most; at++) {
        const mac = new FakeMac()
        if (what === 'uninstall') await setup(mac)
        Object.assign(mac, { failAt: mac.steps + at, crash })
        const told = await (what === 'setup' ? setup(mac) : uninstall(mac)).then(
          () => 'done',
          () => 'failed',
        )
        const passedOver = mac.steps < (mac.failAt ?? 0)
        Object.assign(mac, { failAt: undefined, crash: false })
        const name = `${what}, step ${String(at)}`
        if (told === 'done' && what === 'setup')
          t.equal(reaches(mac, elsewhere, 443), false, `${name}: denied, as told`)
        await setup(mac)
        t.equal(reaches(mac, elsewhere, 443), false, `${name}: setup denies`)
        await uninstall(mac)
        // An empty anchor stays until a restart on a real Mac too.
        Reflect.deleteProperty(mac.state.pf.anchors, 'com.apple/agentjail')
        t.equal(snapshot(mac), fresh, `${name}: and uninstall leaves nothing`)
        t.strictSame(mac.state.launchd, {}, name)
        if (passedOver) break
      }
  })
