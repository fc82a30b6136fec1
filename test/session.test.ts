/**
 * Registry, lock, collection, pins, watch and ports, without a jail: files in a directory of their own, the real system.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync, mkdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Decision } from '../lib/audit/record.js'
import type { Backend } from '../lib/backend/types.js'
import type { GatePolicy, PinRequest } from '../lib/gate/protocol.js'
import { loadPolicy } from '../lib/policy/loader.js'
import { collect, deadJails } from '../lib/session/collect.js'
import { Ledger } from '../lib/session/ledger.js'
import { withLock } from '../lib/session/lock.js'
import { checkPin } from '../lib/session/pins.js'
import { gatePorts, listenerSpecs, missingSpecs } from '../lib/session/ports.js'
import { openRegistry, type RegistryEntry } from '../lib/session/registry.js'
import { JailError } from '../lib/errors.js'
import { watch } from '../lib/session/watch.js'
import { gatePolicy } from '../lib/plan/compile.js'
import { networkPlan } from '../lib/plan/network.js'
import { realSystem } from '../lib/system/real.js'
import { ownIdentity } from '../lib/system/process-identity.js'
import { fixturePath } from './lab/paths.js'

const system = realSystem()
const stateDir = mkdtempSync(join(tmpdir(), 'agentjail-session-'))
t.teardown(() => {
  rmSync(stateDir, { recursive: true, force: true })
})
mkdirSync(`${stateDir}/jails`)
const registry = openRegistry(system, stateDir)
const entry = async (name: string, more: Partial<RegistryEntry> = {}): Promise<RegistryEntry> => ({
  v: 1,
  name,
  // A collection ends its processes, and this is the machine's own system: of a user that no jail in any lab has.
  uid: 1_900_065_000,
  gid: 1_900_065_000,
  user: `aj-${name}`,
  home: '/nonexistent',
  isolation: 'uid',
  policy: 'p',
  policies: ['p'],
  cwd: '/',
  command: ['true'],
  since: 0,
  owner: await ownIdentity(system),
  phase: 'running',
  ...more,
})

t.test(
  'registry: one of many claims wins; whole from the first instant; nothing left',
  async (t) => {
    const one = await entry('many')
    const won = await Promise.all(Array.from({ length: 30 }, () => registry.claim(one)))
    t.equal(won.filter(Boolean).length, 1)
    t.same(await registry.read('many'), one)
    t.same(readdirSync(`${stateDir}/jails`), ['many.json'], 'no half-written file')
    await registry.remove('many')
    await registry.remove('many')
    t.equal(await registry.read('many'), undefined)
  },
)

t.test('registry: what cannot be read says where, why, and the way out', async (t) => {
  const whole = JSON.stringify(await entry('bad'))
  for (const [text, why] of [
    ['', /JSON/],
    [whole.slice(0, 40), /JSON/],
    ['[]', /version/],
    ['null', /no object/],
    [whole.replace('"v":1', '"v":0'), /its version is 0, not 1/],
    [whole.replace('"uid"', '"ui"'), /members are missing/],
  ] as const) {
    writeFileSync(`${stateDir}/jails/bad.json`, text)
    await t.rejects(registry.read('bad'), { code: 'STATE', message: why, hint: /agentjail gc/ })
    t.same(await registry.broken(), ['bad'])
    t.equal(await registry.claim(await entry('bad')), false, 'its name is not free')
  }
  await registry.remove('bad')
})

t.test('collection: the dead only; what does not go keeps its entry', async (t) => {
  const self = await ownIdentity(system)
  await registry.claim(await entry('alive'))
  await registry.claim(await entry('reused', { owner: { ...self, start: self.start - 1 } }))
  await registry.claim(await entry('rebooted', { owner: { ...self, boot: 'another' } }))
  await registry.claim(await entry('stuck', { owner: { ...self, pid: 2 ** 22 } }))
  const names = (await deadJails({ system, registry })).map(({ name }) => name).sort()
  t.same(names, ['rebooted', 'reused', 'stuck'])
  const collected: string[] = []
  const backend = {
    collect: ({ name }: { name: string }) => {
      if (name === 'stuck') return Promise.reject(new Error('nft refused'))
      collected.push(name)
      return Promise.resolve()
    },
  } as unknown as Backend
  const tools = { system, registry, backend, cleanLaunch: () => Promise.resolve() }
  const result = await collect(tools)
  t.same(result.kept, [{ name: 'stuck', why: 'nft refused' }])
  t.same([...collected].sort(), ['rebooted', 'reused'])
  t.ok(await registry.read('stuck'), 'kept for the next collection')
  t.ok(await registry.read('alive'))
  for (const name of ['alive', 'stuck']) await registry.remove(name)
})

t.test('collection: a name that was cleared and taken meanwhile is left alone', async (t) => {
  const gone = { pid: 2 ** 22, start: 1, boot: await system.bootId() }
  await registry.claim(await entry('again', { owner: gone }))
  // Its warden clears it, and another takes its name, between the listing and the look at the owner.
  const between = {
    ...system,
    processStart: async (pid: number) => {
      if (pid === gone.pid) {
        await registry.remove('again')
        await registry.claim(await entry('again'))
      }
      return await system.processStart(pid)
    },
  }
  t.same(await deadJails({ system: between, registry }), [])
  await registry.remove('again')

  // Gone between the listing of names and the reading: not one that cannot be read.
  const fleeting = { ...system, list: () => Promise.resolve(['fleeting.json']) }
  t.same(await openRegistry(fleeting, stateDir).broken(), [])
})

t.test('lock: one at a time, whoever is killed while he has it', { timeout: 60_000 }, async (t) => {
  const place = { system, config: { stateDir } }
  let [inside, most] = [0, 0]
  await Promise.all(
    Array.from({ length: 5 }, () =>
      withLock(place, async () => {
        most = Math.max(most, ++inside)
        await sleep(2)
        inside--
      }),
    ),
  )
  t.equal(most, 1)
  await t.rejects(
    withLock(place, () => Promise.reject(new Error('work failed'))),
    { message: 'work failed' },
  )
  t.equal(await withLock(place, () => Promise.resolve('free again')), 'free again')

  // Processes that take it over and over; each says when it met another that lives.
  const workers = Array.from({ length: 4 }, () =>
    spawn(process.execPath, [fixturePath('lock-worker.js'), stateDir], { stdio: 'pipe' }),
  )
  let said = ''
  for (const { stdout, stderr } of workers)
    for (const stream of [stdout, stderr]) stream.on('data', (text) => (said += String(text)))
  const rounds = () => said.match(/in/g)?.length ?? 0
  const more = async (count: number) => {
    const wanted = rounds() + count
    for (let n = 0; n < 2000 && rounds() < wanted; n++) await sleep(5)
    return rounds() >= wanted
  }
  t.ok(await more(20), 'all go on')
  for (const worker of workers.slice(1)) {
    worker.kill('SIGKILL')
    t.ok(await more(5), 'the others go on after one was killed')
  }
  workers[0]?.kill('SIGKILL')
  await once(workers[0] ?? process, 'close')
  t.notMatch(said, /met|Error/, 'no two at once')
  t.equal(
    await withLock(place, () => Promise.resolve('free')),
    'free',
    'nor is a dead one waited for',
  )
})

t.test('lock: no clock decides', { timeout: 60_000 }, async (t) => {
  const place = { system, config: { stateDir } }
  const path = `${stateDir}.lock`
  const hours = (n: number) => new Date(Date.now() + n * 3_600_000)
  for (const jump of [-5, 5]) {
    const order: string[] = []
    const first = withLock(place, async () => {
      // As it looks after a jump of the clock.
      utimesSync(path, hours(jump), hours(jump))
      await sleep(50)
      order.push('first')
    })
    await sleep(10)
    await Promise.all([first, withLock(place, () => Promise.resolve(order.push('second')))])
    t.same(order, ['first', 'second'], `a live holder has it, ${jump} h away`)

    const { boot } = await ownIdentity(system)
    mkdirSync(path)
    writeFileSync(`${path}/${2 ** 22}-1-${boot}-0`, '')
    utimesSync(path, hours(jump), hours(jump))
    t.equal(await withLock(place, () => Promise.resolve('got it')), 'got it', 'a dead one has not')
  }
  t.same(
    readdirSync(dirname(stateDir)).filter((name) => name.startsWith(`${basename(stateDir)}.`)),
    [],
    'nothing is left',
  )
})

t.test(
  'lock: taken from a holder that is stopped, who hears of it',
  { timeout: 60_000 },
  async (t) => {
    const worker = spawn(process.execPath, [fixturePath('lock-worker.js'), stateDir, 'stop'], {
      stdio: 'pipe',
    })
    let said = ''
    worker.stdout.on('data', (text) => (said += String(text)))
    for (let n = 0; n < 1000 && !said.includes('in'); n++) await sleep(5)
    t.equal(
      await withLock({ system, config: { stateDir } }, () => Promise.resolve('got it')),
      'got it',
    )
    worker.kill('SIGCONT')
    await once(worker, 'close')
    t.match(said, /the lock was taken away/)
  },
)

t.test('lock: patience is with each holder, not with all', { timeout: 60_000 }, async (t) => {
  const config = { stateDir }
  /** Has it until told to let go. */
  const hold = () =>
    new Promise<() => Promise<void>>((resolve) => {
      const done = withLock({ system, config }, () => {
        return new Promise<void>((letGo) => {
          resolve(async () => {
            letGo()
            await done
          })
        })
      })
    })
  let letGo = await hold()
  let [now, changes] = [0, 0]
  /** Each wait of the waiter's takes a minute, in which another takes the lock; five times. */
  const passing = async () => {
    now += 60_000
    if (changes++ >= 5) {
      await letGo()
      return
    }
    const next = hold()
    await letGo()
    letGo = await next
  }
  const place = { system: { ...system, monotonic: () => now, sleep: passing }, config }
  t.equal(await withLock(place, () => Promise.resolve('got it')), 'got it', 'five holders, in turn')

  letGo = await hold()
  const standing = () => {
    now += 60_000
    return Promise.resolve()
  }
  const patient = { system: { ...system, monotonic: () => now, sleep: standing }, config }
  await t.rejects(
    withLock(patient, () => Promise.resolve()),
    { code: 'STATE', message: `pid ${process.pid} holds the lock and does not let go` },
    'one that keeps it',
  )
  const isDone = () => Promise.resolve(true)
  await withLock({ system, config }, () => Promise.reject(new Error('ran')), isDone)
  t.pass('what somebody else did meanwhile is not waited for')
  await letGo()
})

t.test('pins: only what the policy covers', async (t) => {
  const policy: GatePolicy = gatePolicy(await loadPolicy('openai-telegram'), [])
  const grant = policy.grants[0]?.id ?? ''
  const ask = (more: Partial<PinRequest>): PinRequest => ({
    ...{ type: 'pin', serial: 1, grant, name: 'api.openai.com' },
    pins: [{ address: '198.51.100.10', seconds: 60 }],
    ...more,
  })
  const pinned = (address: string, seconds = 60) => ask({ pins: [{ address, seconds }] })
  for (const [request, why] of [
    [ask({ grant: 'g99' }), /no such grant/],
    [pinned('10.0.0.1'), /not a public/],
    [pinned('169.254.169.254'), /not a public/],
    [pinned('127.0.0.1'), /not a public/],
    [pinned('::1'), /not a public/],
    [pinned('::ffff:8.8.8.8'), /./],
    [pinned('8.8.8.008'), /not an address/],
    [pinned('8.8.8.8 } accept'), /not an address/],
    [pinned('8.8.8.8', 0), /not a time/],
    [pinned('8.8.8.8', 1e9), /not a time/],
    [pinned('9.9.9.9'), /not a public/],
    [ask({ pins: Array.from({ length: 65 }, () => ({ address: '8.8.8.8', seconds: 1 })) }), /many/],
  ] as const) {
    t.throws(() => checkPin(request, policy, ['9.9.9.9']), { code: 'GATE', message: why })
  }
  t.same(checkPin(pinned('8.8.8.8'), policy, []), [{ address: '8.8.8.8', grant, seconds: 60 }])
})

t.test('watch: restores and tells; what cannot be restored is lost, once', async (t) => {
  const seen: string[] = []
  let state: 'whole' | 'gone' | 'lost' = 'gone'
  const watching = watch(
    {
      intact: () => Promise.resolve(state === 'whole'),
      restore: () => {
        if (state === 'lost') return Promise.reject(new Error('no nft'))
        state = 'whole'
        return Promise.resolve()
      },
    },
    { every: 1, onRestored: () => seen.push('restored'), onLost: (why) => seen.push(why) },
  )
  const until = async (length: number) => {
    for (let n = 0; n < 500 && seen.length < length; n++) await sleep(2)
  }
  await until(1)
  state = 'lost'
  await until(2)
  await sleep(10)
  await watching.stop()
  t.same(seen, ['restored', 'no nft'])
})

t.test(
  'watch: damaged again before it was read back, it is put back again; not for ever',
  async (t) => {
    for (const damages of [2, 3]) {
      const seen: string[] = []
      let left = damages
      const intact = (): Promise<boolean> => {
        if (left === 0) return Promise.resolve(true)
        left--
        return Promise.reject(new JailError('VERIFY_FAILED', 'switched off again'))
      }
      const watching = watch(
        { intact, restore: () => Promise.resolve() },
        { every: 1, onRestored: () => undefined, onLost: (why) => seen.push(why) },
      )
      for (let n = 0; n < 500 && left > 0; n++) await sleep(2)
      await sleep(10)
      await watching.stop()
      t.same(seen, damages < 3 ? [] : ['switched off again'], `${damages} times`)
    }
  },
)

t.test(
  'ledger: what a reading under way has found is told before the last one is done',
  async (t) => {
    const told: Decision[] = []
    const ledger = new Ledger(
      (decisions) => told.push(...decisions),
      String,
      () => 0,
    )
    const denial = { verdict: 'deny', reason: 'port-not-granted', layer: 'kernel' } as const
    // The kernel counts it once: who asks next hears nothing.
    const found: Decision[] = [{ ...denial, direction: 'out', proto: 'tcp', port: 81 }]
    const hold = { denials: () => Promise.resolve(found.splice(0)) }
    void ledger.read(hold)
    await ledger.read(hold, true)
    t.match(told, [{ port: 81 }])
  },
)

t.test('ports: one socket for each; what is open is not opened again', async (t) => {
  const request = {
    jail: 'j',
    uid: 1,
    range: { first: 1, last: 2 },
    isolation: 'namespace',
  } as const
  const specs = listenerSpecs(networkPlan(await loadPolicy('openai-telegram'), request))
  t.same(specs, [
    { proto: 'udp', meant: 53 },
    { proto: 'tcp', meant: 53 },
    { proto: 'tcp', meant: 443 },
  ])
  const open = (['udp', 'tcp'] as const).map((proto) => ({
    ...{ proto, port: 53, fd: 5, role: 'dns', family: 6, actual: 40_053 },
  })) as Parameters<typeof missingSpecs>[1]
  t.same(missingSpecs(specs, open), [{ proto: 'tcp', meant: 443 }])
  t.same(gatePorts(open, specs), [
    { proto: 'udp', port: 53, gatePort: 40_053 },
    { proto: 'tcp', port: 53, gatePort: 40_053 },
  ])
})
