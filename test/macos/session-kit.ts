/** One jail's session on a modelled Mac in memory: its parts, a gate that does what a test says, and what must be left. */
import { defaultAnchor } from '../../lib/backend/pf/names.js'
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
import type { ControlRequest } from '../../lib/session/control.js'
import { openRegistry } from '../../lib/session/registry.js'
import { macPlatform } from '../../lib/session/macos/platform.js'
import type { MacParts } from '../../lib/session/macos/parts.js'
import { MacWarden } from '../../lib/session/macos/warden.js'
import { play, type Flow } from './flows.js'
import { FakeMac } from './model/system.js'
import { worldOf } from './model/world.js'
import { grant, policy } from './policies.js'
import { reserved, selfAddresses } from './rulesets.js'

export const settings: Settings = {
  uidRange: reserved,
  stateDir: '/var/run/agentjail',
  logDir: '/var/log/agentjail',
  homeDir: '/var/agentjail/home',
  gateUser: 'agentjail-gate',
}
export const uid = reserved.first
export const server = '203.0.113.25'
export const mail = policy('bot', {
  grants: [
    grant('g1', 'api.openai.com', { inspect: 'http' }),
    grant('g2', 'smtp.example.com', { inspect: 'none', ports: [{ first: 465, last: 465 }] }),
  ],
})

export function planOf(given: Policy, exists: boolean): { plan: Plan; facts: Facts } {
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
export class FakeGate implements GateProcess {
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

export interface Stage {
  readonly mac: FakeMac
  readonly parts: MacParts
  readonly warden: MacWarden
  readonly notices: string[]
  readonly records: Decision[]
  gate: FakeGate | undefined
  request: MacLaunchRequest | undefined
  /** What another command asks the warden. */
  ask: ((request: ControlRequest) => Promise<unknown>) | undefined
}

/** `live`: what happens while the command runs; its result is how the command ends. */
export function stage(mac: FakeMac, live: (stage: Stage) => Promise<Ending>, given = mail): Stage {
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
    serve: (_path, answer) => {
      result.ask = answer
      return Promise.resolve({ release: () => undefined, close: () => Promise.resolve() })
    },
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

export function reaches(mac: FakeMac, to: string, port: number): boolean {
  const flow: Flow = { kind: 'connect', client: uid, from: '192.168.1.10', to, port }
  return play(worldOf(mac.state), flow) === 'passes'
}

/** Once the static deny and the accounts are there, what a run must leave as it was. */
export function snapshot({ state }: FakeMac): string {
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

export async function prepared(): Promise<FakeMac> {
  const mac = new FakeMac()
  const done = stage(mac, () => Promise.resolve({ code: 0 }))
  await done.warden.run()
  return mac
}

export async function clear(mac: FakeMac, { parts }: Stage): Promise<void> {
  mac.forgetsProcesses = true
  const { registry, backend, system } = parts
  const { cleanLaunch } = macPlatform({
    ...parts,
    config: { ...settings, upstreams: [], pfAnchor: defaultAnchor },
  })
  await collect({ system, registry, backend, cleanLaunch })
  await backend.ensureStaticDeny(reserved)
  mac.forgetsProcesses = false
}
