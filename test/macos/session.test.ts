/** A whole session against the modelled Mac, then with a failure at every step of it, and a crash. */
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { pfBackend } from '../../lib/backend/pf/index.js'
import type { Decision } from '../../lib/audit/record.js'
import type { FromGate, ToGate } from '../../lib/gate/protocol.js'
import type { MacLaunchRequest } from '../../lib/launch/macos/launch.js'
import type { Ending, Running } from '../../lib/launch/types.js'
import { compilePlan } from '../../lib/plan/compile.js'
import { parseJailName } from '../../lib/plan/names.js'
import type { Facts, Plan, Settings } from '../../lib/plan/types.js'
import type { Policy } from '../../lib/policy/types.js'
import { collect } from '../../lib/session/collect.js'
import type { GateProcess } from '../../lib/session/gate-process.js'
import { openRegistry } from '../../lib/session/registry.js'
import { macSetupSteps } from '../../lib/setup/macos.js'
import { macPlatform } from '../../lib/session/macos/platform.js'
import { darwinSystem } from '../../lib/session/macos/system.js'
import { MacWarden, type MacParts } from '../../lib/session/macos/warden.js'
import { play, type Flow } from './flows.js'
import { bootPf } from './model/state.js'
import { FakeMac } from './model/system.js'
import { worldOf } from './model/world.js'
import { grant, policy } from './policies.js'
import { reserved, selfAddresses } from './rulesets.js'

const settings: Settings = {
  uidRange: reserved,
  stateDir: '/var/run/agentjail',
  logDir: '/var/log/agentjail',
  homeDir: '/var/agentjail/home',
  gateUser: 'agentjail-gate',
}
const uid = reserved.first
const server = '203.0.113.25'
const mail = policy('bot', {
  grants: [
    grant('g1', 'api.openai.com', { inspect: 'http' }),
    grant('g2', 'smtp.example.com', { inspect: 'none', ports: [{ first: 465, last: 465 }] }),
  ],
})

function planOf(given: Policy, exists: boolean): { plan: Plan; facts: Facts } {
  const facts: Facts = {
    platform: 'darwin',
    settings,
    account: { name: 'aj-bot', uid, gid: uid, home: '/var/agentjail/home/bot', exists },
    resolvers: [{ address: '192.0.2.53', port: 53 }],
    hostAddresses: selfAddresses,
    caller: { uid: 501, gid: 20 },
    callerEnv: {},
    nodePath: process.execPath,
    protect: [],
    hostName: 'mac',
  }
  const request = {
    jail: parseJailName('bot'),
    command: ['true'],
    cwd: '/Users/Shared/work',
    isolation: 'uid',
  } as const
  return {
    plan: compilePlan(given, facts, request as unknown as Parameters<typeof compilePlan>[2]),
    facts,
  }
}

/** A gate that opens what it is asked for and does what a test tells it. */
class FakeGate implements GateProcess {
  readonly pid = 4000
  readonly sent: ToGate[] = []
  readonly listeners: GateProcess['listeners']
  readonly #mac: FakeMac
  readonly #hear: ((message: FromGate) => void)[] = []
  readonly #exits: ((why: string) => void)[] = []
  gone = false

  constructor(mac: FakeMac, request: Parameters<MacParts['openGate']>[0]) {
    this.#mac = mac
    this.listeners = (async () => {
      mac.step('open the gate')
      return request.specs.map(({ proto, meant, role }, index) => ({
        fd: 5 + index,
        proto,
        port: meant,
        family: 4 as const,
        role: role ?? (meant === 53 ? ('dns' as const) : ('relay' as const)),
        actual: 49_100 + index,
      }))
    })()
    this.listeners.catch(() => undefined)
  }

  async start(): Promise<string> {
    this.#mac.step('start the gate')
    return 'PEM'
  }

  send(message: ToGate): void {
    this.sent.push(message)
    if (message.type === 'stop') this.end('it was stopped')
    if (message.type === 'update') this.say({ type: 'updated', serial: message.serial, cut: 3 })
  }

  say(message: FromGate): void {
    for (const listener of this.#hear) listener(message)
  }

  end(why: string): void {
    if (this.gone) return
    this.gone = true
    for (const listener of this.#exits) listener(why)
  }

  onMessage(listener: (message: FromGate) => void): void {
    this.#hear.push(listener)
  }

  onExit(listener: (why: string) => void): void {
    if (this.gone) listener('gone')
    else this.#exits.push(listener)
  }

  kill(): void {
    this.end('killed')
  }
}

interface Stage {
  readonly mac: FakeMac
  readonly parts: MacParts
  readonly warden: MacWarden
  readonly notices: string[]
  readonly records: Decision[]
  gate: FakeGate | undefined
  request: MacLaunchRequest | undefined
}

/** `live`: what happens while the command runs; its result is how the command ends. */
function stage(mac: FakeMac, live: (stage: Stage) => Promise<Ending>, given = mail): Stage {
  const notices: string[] = []
  const records: Decision[] = []
  const system = mac
  const backend = pfBackend({
    system,
    stateDir: settings.stateDir,
    range: reserved,
    ownAddresses: () => selfAddresses,
    warn: (text) => notices.push(text),
  })
  const { plan, facts } = planOf(given, mac.state.users['aj-bot'] !== undefined)
  const result: { -readonly [K in keyof Stage]?: Stage[K] } = {}
  const parts: MacParts = {
    system,
    settings,
    registry: openRegistry(system, settings.stateDir),
    serve: () => Promise.resolve({ release: () => undefined, close: () => Promise.resolve() }),
    backend,
    openGate: (request) => {
      const gate = new FakeGate(mac, request)
      result.gate = gate
      return gate
    },
    launch: async (request) => {
      mac.step('launch')
      result.request = request
      // The command, and a daemon of its making that outlives it.
      mac.state.processes.push(
        { pid: 900, uid, command: 'true' },
        { pid: 901, uid, command: 'daemon' },
      )
      const running: Running = {
        commandPid: undefined,
        initPid: 900,
        notes: [],
        ended: live(result as Stage).then((ending) => {
          mac.state.processes = mac.state.processes.filter(({ pid }) => pid !== 900)
          return ending
        }),
        signal: () => undefined,
        onStopped: () => undefined,
        onContinued: () => undefined,
        onGroupSignal: () => undefined,
        kill: () => undefined,
        limitsHit: () => Promise.resolve([]),
      }
      return running
    },
    openAudit: async () => {
      mac.step('open the audit log')
      return {
        write: (decisions) => records.push(...decisions),
        drop: () => undefined,
        close: () => Promise.resolve(),
      }
    },
    lock: (work) => work(),
  }
  const events = {
    onDecisions: () => undefined,
    onNotice: (text: string) => notices.push(text),
    onRunning: () => undefined,
  }
  return Object.assign(result, {
    mac,
    parts,
    notices,
    records,
    warden: new MacWarden(parts, plan, facts, events),
  }) as Stage
}

function reaches(mac: FakeMac, to: string, port: number): boolean {
  const flow: Flow = { kind: 'connect', client: uid, from: '192.168.1.10', to, port }
  return play(worldOf(mac.state), flow) === 'passes'
}

/** Once the static deny and the accounts are there, what a run must leave as it was. */
function snapshot({ state }: FakeMac): string {
  const { enabled, tokens, main, anchors, tables } = state.pf
  const files = Object.keys(state.files).filter((path) => !/last-uid$|\/home(\/|$)|-ca$/.test(path))
  return JSON.stringify({
    enabled,
    tokens,
    main,
    anchors,
    tables,
    files,
    interfaces: state.interfaces,
    processes: state.processes,
    acls: Object.values(state.acls).flat(),
  })
}

async function prepared(): Promise<FakeMac> {
  const mac = new FakeMac()
  const done = stage(mac, () => Promise.resolve({ code: 0 }))
  await done.warden.run()
  return mac
}

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

async function clear(mac: FakeMac, { parts }: Stage): Promise<void> {
  mac.forgetsProcesses = true
  const { registry, backend, system } = parts
  const { cleanLaunch } = macPlatform({ ...parts, config: { ...settings, upstreams: [] } })
  await collect({ system, registry, backend, cleanLaunch })
  await backend.ensureStaticDeny(reserved)
  mac.forgetsProcesses = false
}

t.test('setup denies, now and at boot, and does nothing twice', async (t) => {
  const mac = new FakeMac()
  const config = { ...settings, upstreams: [] }
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
  t.type(await system.processStart(77), 'number')
  t.equal(await system.processStart(9999), undefined)
  mac.state.boot = 'B0071D00-0000-4000-8000-000000000001'
  t.equal(await system.bootId(), mac.state.boot)
  t.equal(bootPf().enabled, false)
})
