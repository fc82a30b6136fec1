/** A whole session against the modelled Mac. */
import { realpathSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { defaultAnchor } from '../../lib/backend/pf/names.js'
import { pfBackend } from '../../lib/backend/pf/index.js'
import { JailError } from '../../lib/errors.js'
import type { MacLaunchRequest } from '../../lib/launch/macos/launch.js'
import { shareWorkspace } from '../../lib/launch/macos/workspace.js'
import type { Ending } from '../../lib/launch/types.js'
import { sharerFor } from '../../lib/session/macos/sharer.js'
import { darwinSystem } from '../../lib/session/macos/system.js'
import { macSetupSteps } from '../../lib/setup/macos.js'
import { play, type Flow } from './flows.js'
import { bootPf } from './model/state.js'
import { FakeMac } from './model/system.js'
import { worldOf } from './model/world.js'
import { grant, policy } from './policies.js'
import { reserved, selfAddresses } from './rulesets.js'
import {
  mail,
  planOf,
  prepared,
  reaches,
  server,
  settings,
  snapshot,
  stage,
  uid,
} from './session-kit.js'

t.test('a session', async (t) => {
  const mac = await prepared()
  const before = snapshot(mac)
  const run = stage(mac, async ({ gate, request }) => {
    t.equal(reaches(mac, server, 465), false)
    gate?.say({
      type: 'pin',
      serial: 1,
      grant: 'g2',
      name: 'smtp.example.com',
      pins: [{ address: server, seconds: 60 }],
    })
    gate?.say({
      type: 'pin',
      serial: 2,
      grant: 'g2',
      name: 'smtp.example.com',
      pins: [{ address: '10.0.0.1', seconds: 60 }],
    })
    await new Promise((resolve) => setTimeout(resolve, 20))
    t.equal(reaches(mac, server, 465), true, 'pinned')
    t.equal(reaches(mac, '10.0.0.1', 465), false, 'a private address is refused')
    const sent = [...(gate?.sent ?? [])].sort((a, b) =>
      'serial' in a && 'serial' in b ? a.serial - b.serial : 0,
    )
    t.match(sent, [
      { type: 'pinned', serial: 1, ok: true },
      { type: 'pinned', serial: 2, ok: false },
    ])
    t.match(request, {
      proxy: { port: 49_100 },
      tcp: [{ first: 465, last: 465 }],
      udp: [],
      transparent: false,
      ca: { own: '/var/run/agentjail-ca/bot.pem' },
    })
    t.match(mac.state.files['/var/run/agentjail-ca/bot.pem'], { text: 'PEM', mode: 0o644, uid: 0 })
    t.match(mac.state.files['/var/agentjail/home/bot/tmp'], { uid, mode: 0o700 })
    const shared = mac.state.acls['/Users/Shared/work'] ?? []
    t.equal(shared.length, 4, 'shared with the service user and the caller')
    t.ok(shared.some((entry) => entry.startsWith('user:admin allow list,')))
    gate?.say({
      type: 'decisions',
      decisions: [
        {
          verdict: 'deny',
          reason: 'name-not-granted',
          layer: 'http',
          direction: 'out',
          proto: 'tcp',
          name: 'evil.example',
        },
      ],
      dropped: 0,
    })
    return { code: 42 }
  })
  t.strictSame(await run.warden.run(), { code: 42 })
  t.strictSame(Object.values(mac.state.acls).flat(), [], 'the workspace is taken back')
  t.equal(snapshot(mac), before, 'as before: no rule, process, certificate or entry left')
  t.equal(reaches(mac, server, 465), false)
  t.match(run.records, [{ reason: 'name-not-granted', name: 'evil.example' }])
  t.match(
    run.notices.filter((text) => !text.includes('staff')),
    [/pin was refused: 10\.0\.0\.1/],
  )
})

t.test('access lists: a link that is swapped into the workspace leads nowhere', async (t) => {
  const work = '/Users/Shared/work'
  const foreign = '/etc/sudoers'
  const own = '/Users/Shared/work/made-before'
  const mac = await prepared()
  mac.state.owners = { [foreign]: 0, [own]: uid }
  mac.state.below = { [work]: [foreign, own] }
  const before = snapshot(mac)
  const run = stage(mac, async () => {
    t.equal(mac.state.acls[work]?.length, 4)
    t.equal(mac.state.acls[own]?.length, 4, 'what the jail made at an earlier run is shared too')
    t.equal(mac.state.acls[foreign], undefined, "root's file is not reached")
    mac.state.acls[foreign] = [...(mac.state.acls[work] ?? []), 'user:admin allow read']
    return { code: 0 }
  })
  t.strictSame(await run.warden.run(), { code: 0 })
  t.equal(mac.state.acls[foreign]?.length, 5, 'nor when the workspace is taken back')
  Reflect.deleteProperty(mac.state.acls, foreign)
  t.equal(snapshot(mac), before)
  const chmods = mac.state.calls.filter(([program]) => program === '/bin/chmod').length
  const asRoot = mac.state.calls.filter(
    ([program, , , user]) => program === '/usr/bin/sudo' && user === 'root',
  )
  t.ok(chmods > 0)
  t.strictSame(asRoot, [])
})

t.test('access lists: of whom, where root called', async (t) => {
  const work = '/Users/Shared/work'
  const spec = (exists: boolean) => planOf(mail, exists).plan.launch
  const directory = (owner: number, mode = 0o755) =>
    ({ kind: 'directory', text: '', mode, uid: owner, gid: 0 }) as const
  const mac = await prepared()
  mac.state.users['aj-bot'] ??= { UniqueID: [String(uid)] }
  await t.rejects(shareWorkspace(mac, spec(true), await sharerFor(mac, 0)), {
    message: /does not exist/,
  })
  Object.assign(mac.state.files, { [work]: directory(501) })
  mac.state.below = { [work]: ['/etc/sudoers'] }
  mac.state.owners = { '/etc/sudoers': 0 }
  const undo = await shareWorkspace(mac, spec(true), await sharerFor(mac, 0))
  t.equal(mac.state.acls[work]?.length, 2, "by its owner, for the jail's user")
  t.equal(mac.state.acls['/etc/sudoers'], undefined)
  t.strictSame(await undo(), [])
  t.strictSame(Object.values(mac.state.acls).flat(), [])

  Object.assign(mac.state.files, { [work]: directory(0), '/Users/Shared': directory(0, 0o777) })
  mac.state.owners[work] = 0
  await t.rejects(shareWorkspace(mac, spec(true), await sharerFor(mac, 0)), {
    code: 'LAUNCH',
    message: /root's, and \/Users\/Shared can be changed by others/,
  })
  Object.assign(mac.state.files, {
    '/Users/Shared': directory(0, 0o1777),
    '/Users': directory(0),
    '/': directory(0),
  })
  // Two levels up another jail works: its user could put a link in place of what is between.
  mac.state.acls['/Users'] = ['user:aj-other allow list,add_file,delete_child']
  await t.rejects(shareWorkspace(mac, spec(true), await sharerFor(mac, 0)), {
    code: 'LAUNCH',
    message: /root's, and \/Users can be changed by others/,
  })
  mac.state.acls['/Users'] = ['group:everyone deny delete']
  const undoRoot = await shareWorkspace(mac, spec(true), await sharerFor(mac, 0))
  t.equal(mac.state.acls[work]?.length, 2)
  t.equal(mac.state.acls['/etc/sudoers'], undefined, "below root's own nothing is walked")
  t.strictSame(await undoRoot(), [])
  delete mac.state.acls['/Users']
  await t.rejects(shareWorkspace(mac, spec(true), await sharerFor(mac, 501)), {
    code: 'LAUNCH',
    message: /Operation not permitted/,
    hint: /must belong to admin/,
  })
  t.strictSame(Object.values(mac.state.acls).flat(), [])
})

t.test('a reload while it runs', async (t) => {
  const mac = await prepared()
  const narrower = policy('bot', { grants: [grant('g1', 'api.openai.com', { inspect: 'http' })] })
  const wider = policy('bot', {
    grants: [
      ...mail.grants,
      grant('g3', 'x.example', { inspect: 'none', ports: [{ first: 22, last: 22 }] }),
    ],
  })
  const run = stage(mac, async ({ gate, warden }) => {
    await new Promise((resolve) => setTimeout(resolve, 20))
    const pins = [{ address: server, seconds: 60 }]
    gate?.say({ type: 'pin', serial: 1, grant: 'g2', name: 'smtp.example.com', pins })
    await new Promise((resolve) => setTimeout(resolve, 20))
    t.equal(reaches(mac, server, 465), true)
    await t.rejects(warden.reload(wider), { code: 'POLICY_INVALID', message: /sandbox profile/ })
    t.equal(reaches(mac, server, 465), true, 'a refused policy leaves the old one in force')
    mac.state.quirks.busyLoads = 99
    await t.rejects(warden.reload(narrower), { message: /Resource busy/ })
    mac.state.quirks.busyLoads = 0
    const updates = gate?.sent.filter(({ type }) => type === 'update') ?? []
    t.equal(updates.length, 2, 'what failed put the old policy back into the gate')
    t.equal(reaches(mac, server, 465), true)
    t.strictSame(await warden.reload(narrower), { cut: 3 })
    t.equal(reaches(mac, server, 465), false, 'withdrawn')
    return { code: 0 }
  })
  await run.warden.run()
})

t.test('rules before process, process before rules', async (t) => {
  const mac = await prepared()
  const run = stage(mac, async () => ({ code: 0 }))
  const { backend } = run.parts
  const order: string[] = []
  const open = backend.open.bind(backend)
  Object.assign(backend, {
    open: async (plan: Parameters<typeof open>[0]) => {
      const hold = await open(plan)
      const close = hold.close.bind(hold)
      const connect = hold.connectGate.bind(hold)
      hold.connectGate = async (ports) => {
        await connect(ports)
        order.push(`rules with ${String(mac.state.processes.length)} processes`)
      }
      hold.close = async () => {
        order.push(`rules out with ${String(mac.state.processes.length)} processes`)
        return await close()
      }
      return hold
    },
  })
  await run.warden.run()
  t.strictSame(order, ['rules with 0 processes', 'rules out with 0 processes'])
})

t.test('the gate dies, the rules cannot be mended: the command is ended', async (t) => {
  for (const harm of ['gate', 'rules'] as const) {
    const mac = await prepared()
    let killed: (() => void) | undefined
    const ended = new Promise<Ending>((resolve) => {
      killed = () => {
        resolve({ signal: 'SIGKILL' })
      }
    })
    const run = stage(mac, async ({ gate }) => {
      setTimeout(() => {
        if (harm === 'gate') gate?.end('it crashed')
        else mac.state.pf.main = 'pass all no state\n'
      }, 20)
      return await ended
    })
    const launch = run.parts.launch
    Object.assign(run.parts, {
      launch: async (request: MacLaunchRequest) =>
        Object.assign(await launch(request), { kill: () => killed?.() }),
    })
    t.strictSame(await run.warden.run(), { signal: 'SIGKILL' }, harm)
    t.match(
      run.notices.join('\n'),
      harm === 'gate'
        ? /gate ended: it crashed; the command is ended/
        : /cannot be restored: .*no line: anchor/,
    )
  }
})

t.test('a process that does not end keeps its rules', async (t) => {
  const mac = await prepared()
  const run = stage(mac, async () => ({ code: 0 }))
  mac.isDeaf = true
  mac.intercept = ([program]) =>
    program === '/bin/launchctl' ? { code: 3, stdout: '', stderr: '' } : undefined
  await run.warden.run()
  t.match(
    run.notices.join('\n'),
    /could not end the command: .*processes of uid 1900000000 do not end/,
  )
  t.match(
    mac.state.pf.anchors['com.apple/agentjail'],
    /aj:1900000000:deny-out-tcp/,
    'the rules stay',
  )
  t.ok(mac.state.files['/var/run/agentjail/jails/bot.json'], 'and who they belong to')
})

t.test('transparent opens the resolver, and says so', async (t) => {
  const mac = await prepared()
  const run = stage(
    mac,
    async ({ request }) => {
      t.equal(request?.proxy, undefined)
      t.match(request?.tcp, [{ first: 53 }, { first: 443 }])
      const flow: Flow = {
        kind: 'connect',
        client: uid,
        from: '192.168.1.10',
        to: '203.0.113.9',
        port: 443,
      }
      t.match(play(worldOf(mac.state), flow), { gate: Number })
      return { code: 0 }
    },
    policy('bot', { grants: [grant('g1', 'api.openai.com')], transparent: true }),
  )
  await run.warden.run()
  t.match(run.notices.join('\n'), /transparent: .*queries can carry data out/)
})

t.test('setup denies, now and at boot, and does nothing twice', async (t) => {
  const mac = new FakeMac()
  const config = { ...settings, upstreams: [], pfAnchor: defaultAnchor }
  const { lock } = stage(mac, () => Promise.resolve({ code: 0 })).parts
  const backend = pfBackend({
    ...{ system: mac, stateDir: settings.stateDir, range: reserved },
    ownAddresses: () => selfAddresses,
  })
  const parts = { system: mac, lock, backend }
  const program = fileURLToPath(import.meta.url)
  const steps = macSetupSteps({ ...parts, config, node: process.execPath, program })
  for (const step of steps) await step.apply()
  t.match(mac.state.pf.anchors['com.apple/agentjail'], /aj:base:deny-out-tcp/)
  const path = '/Library/LaunchDaemons/org.agentjail.deny.plist'
  t.match(mac.state.launchd['org.agentjail.deny'], { plist: path })
  t.match(mac.state.files[path]?.text, new RegExp(`${program}.*setup`, 's'))
  for (const { title, isDone } of steps) t.equal(await isDone(), true, `${title}: is done`)
})

t.test('processes as ps tells them', async (t) => {
  const mac = new FakeMac()
  mac.state.processes.push({ pid: 77, uid, command: 'x' }, { pid: 78, uid: 501, command: 'y' })
  const system = darwinSystem(mac)
  t.strictSame(await system.processesOf(uid), [77])
  const before = await system.processStart(77)
  t.type(before, 'number')
  const asked: unknown[] = []
  const run = mac.run.bind(mac)
  mac.run = (argv, options) => {
    asked.push([options?.env, argv.filter((word) => word.includes(','))])
    return run(argv, options)
  }
  const zone = process.env['TZ']
  process.env['TZ'] = 'Pacific/Auckland'
  t.equal(await system.processStart(77), before, 'wherever the Mac is carried')
  if (zone === undefined) delete process.env['TZ']
  else process.env['TZ'] = zone
  t.strictSame(asked, [[{ TZ: 'UTC' }, []]], 'one option a column')
  t.equal(await system.processStart(9999), undefined)
  mac.state.boot = 'B0071D00-0000-4000-8000-000000000001'
  t.equal(await system.bootId(), mac.state.boot)
  t.equal(bootPf().enabled, false)
})

t.test('a gate that cannot read Node says why', async (t) => {
  const mac = await prepared()
  const before = snapshot(mac)
  const home = dirname(dirname(realpathSync(process.execPath)))
  const closed = { kind: 'directory', text: '', mode: 0o750, uid: 501, gid: 20 } as const
  for (const isClosed of [true, false]) {
    mac.state.files[home] = { ...closed, mode: isClosed ? 0o750 : 0o755 }
    const run = stage(mac, async () => ({ code: 0 }))
    const { openGate } = run.parts
    Object.assign(run.parts, {
      openGate: (request: Parameters<typeof openGate>[0]) =>
        Object.assign(openGate(request), {
          start: () => Promise.reject(new JailError('GATE', 'the gate ended: code 71')),
        }),
    })
    const message = isClosed
      ? `the gate cannot be started: the gate ended: code 71; its user agentjail-gate may not read ${realpathSync(process.execPath)}, because of ${home}`
      : 'the gate ended: code 71'
    await t.rejects(run.warden.run(), { code: 'GATE', message })
    Reflect.deleteProperty(mac.state.files, home)
    t.equal(snapshot(mac), before, 'nothing left')
  }
})
