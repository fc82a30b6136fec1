/**
 * One jail on macOS from claim to end: the same straight path as on Linux, over pf, dscl and launchctl.
 * Invariant: rules in and read back, gate listening, then launch; at the end the command and every process of its uid
 * first, the rules after. Whatever throws on the way undoes what was done, in reverse, and leaves denial.
 */
import { randomBytes } from 'node:crypto'
import { rootCertificates } from 'node:tls'
import { listRecords } from '../../account/dscl.js'
import { ensureMacAccount, ensureMacGateUser } from '../../account/macos.js'
import type { Decision } from '../../audit/record.js'
import { sanitiseDecisions } from '../../audit/sanitise.js'
import type { Backend, GatePort, NetworkHold } from '../../backend/types.js'
import { errorMessage, JailError } from '../../errors.js'
import type { FromGate, GateConfig, GatePolicy, Listener } from '../../gate/protocol.js'
import type { MacLaunchRequest } from '../../launch/macos/launch.js'
import { shareWorkspace } from '../../launch/macos/workspace.js'
import type { Ending, Running } from '../../launch/types.js'
import { compilePlan } from '../../plan/compile.js'
import type { Facts, Plan, Settings } from '../../plan/types.js'
import type { PortRange } from '../../policy/types.js'
import type { System } from '../../system/types.js'
import { policyFromJson, policyToJson } from '../../policy/json.js'
import type { JailStatus } from '../../status/status.js'
import { endProcesses } from '../collect.js'
import { controlPath, serveControl, type ControlRequest } from '../control.js'
import type { GateProcess, ListenerSpec, OpenedListener } from '../gate-process.js'
import { checkPin } from '../pins.js'
import { ownIdentity, type Registry } from '../registry.js'
import { watch, type Watch } from '../watch.js'
import type { MacGateRequest } from './gate.js'

/** What a session is made of; tests put a modelled Mac in its place. */
export interface MacParts {
  readonly system: System
  readonly settings: Settings
  readonly registry: Registry
  readonly backend: Backend
  readonly openGate: (request: MacGateRequest) => GateProcess
  readonly launch: (request: MacLaunchRequest) => Promise<Running>
  readonly openAudit: () => Promise<MacAudit>
  readonly lock: <T>(work: () => Promise<T>) => Promise<T>
  /** How other commands reach it; default: the socket. */
  readonly serve?: typeof serveControl
}

export interface MacAudit {
  write(decisions: readonly Decision[]): void
  drop(count: number): void
  close(): Promise<void>
}

export interface MacEvents {
  readonly onDecisions: (decisions: readonly Decision[]) => void
  readonly onNotice: (text: string) => void
  /** The command runs: signals may be led to it. */
  readonly onRunning: (running: Running) => void
  /** Another policy is in force. */
  readonly onPolicy?: (plan: Plan) => void
}

/** Milliseconds; also how often expired pins leave their tables. */
const watchInterval = 900
const denialInterval = 500
const gateAnswer = 10_000
const launchctl = '/bin/launchctl'

/** Which access lists a jail added. */
export const sharePath = (stateDir: string, jail: string): string =>
  `${stateDir}/shared-${jail}.json`

/** A jail's own certificate, alone and with the system's. */
export const caPaths = (stateDir: string, jail: string): { own: string; bundle: string } => ({
  own: `${stateDir}-ca/${jail}.pem`,
  bundle: `${stateDir}-ca/${jail}-bundle.pem`,
})

/** What `cleanLaunch` and the backend's `collect` can still do, if the registry says for whom. */
const collected: readonly string[] = [
  'remove the rules',
  'take the shared workspace back',
  'remove the certificate',
]

export class MacWarden {
  readonly #parts: MacParts
  #plan: Plan
  readonly #facts: Facts
  readonly #events: MacEvents
  readonly #undo: { readonly what: string; readonly run: () => Promise<unknown> }[] = []
  readonly #token = randomBytes(24).toString('base64url')
  #audit: MacAudit | undefined
  #hold: NetworkHold | undefined
  #gate: GateProcess | undefined
  #running: Running | undefined
  #policy: GatePolicy
  #serial = 0
  #since = 0
  readonly #tally = { allowed: 0, denied: 0, up: 0, down: 0 }
  /** Changes of the policy go one at a time. */
  #changes: Promise<unknown> = Promise.resolve()
  #ending = false

  constructor(parts: MacParts, plan: Plan, facts: Facts, events: MacEvents) {
    this.#parts = parts
    this.#plan = plan
    this.#policy = plan.gate
    this.#facts = facts
    this.#events = events
  }

  /** Claims, installs, launches, waits, undoes. Throws when the command was not launched. */
  async run(): Promise<Ending> {
    try {
      return await this.#supervise(await this.#start())
    } finally {
      this.#ending = true
      await this.#undoAll()
    }
  }

  /**
   * Puts an edited policy in force: the gate first, which cuts what is withdrawn, then the kernel in one transaction.
   * At no point is more open than both policies together allow; what fails puts the old policy back.
   */
  async reload(policy: Plan['policy']): Promise<{ readonly cut: number }> {
    const hold = this.#hold
    if (hold === undefined || this.#running === undefined || this.#ending)
      throw new JailError('NAME_UNKNOWN', `jail ${this.#plan.jail} does not run`)
    const { jail, launch: spec, policies } = this.#plan
    const known = this.#policy.credentials.filter(({ id }) => policy.credentials.has(id))
    const request = {
      jail,
      command: spec.command,
      cwd: spec.cwd,
      isolation: 'uid',
      policies,
    } as const
    const plan = compilePlan(policy, this.#facts, request, known)
    refuseUnloadable(this.#plan, this.#policy, plan)
    const network = { ...plan.network, uid: this.#plan.network.uid }
    const before = this.#policy
    const cut = await this.#updateGate(plan.gate)
    this.#policy = plan.gate
    try {
      await this.#parts.lock(() => hold.update(network))
    } catch (error) {
      this.#policy = before
      await this.#updateGate(before)
      throw error
    }
    this.#plan = { ...plan, network, account: this.#plan.account, launch: this.#plan.launch }
    this.#events.onPolicy?.(this.#plan)
    return { cut }
  }

  async #start(): Promise<Running> {
    const { lock, backend } = this.#parts
    const { network } = this.#plan
    await this.#claim()
    const gateUser = await lock(() => this.#prepareMachine())
    this.#audit = await this.#parts.openAudit()
    this.#push('close the audit log', async () => this.#audit?.close())
    this.#push('remove the rules', () => lock(() => this.#removeRules()))
    const hold = await lock(() => backend.open(network))
    this.#hold = hold
    const listeners = await this.#openGate(gateUser)
    const ca = await this.#startGate(listeners)
    await lock(() => hold.connectGate(this.#gatePorts(listeners)))
    return await this.#launch(listeners, ca)
  }

  async #claim(): Promise<void> {
    const { system, registry } = this.#parts
    const { account, jail, launch, policy } = this.#plan
    this.#since = system.now()
    const claimed = await registry.claim({
      v: 1,
      name: jail,
      uid: account.uid,
      gid: account.gid,
      user: account.name,
      home: account.home,
      isolation: 'uid',
      policy: policy.source,
      policies: this.#plan.policies,
      cwd: launch.cwd,
      command: launch.command,
      since: this.#since,
      owner: await ownIdentity(system),
      phase: 'starting',
    })
    if (!claimed)
      throw new JailError('NAME_TAKEN', `jail ${jail} is running already`, {
        hint: `choose another name: --name ${jail}-2`,
      })
    this.#push('leave the registry', () => registry.remove(jail))
    const path = controlPath(this.#parts.settings.stateDir, jail)
    const serve = this.#parts.serve ?? serveControl
    const control = await serve(path, (request) => this.#answer(request))
    this.#push('close the control socket', () => control.close())
  }

  async #answer(request: ControlRequest): Promise<unknown> {
    switch (request.op) {
      case 'status':
        return this.#status()
      case 'policy':
        return policyToJson(this.#plan.policy)
      case 'reload': {
        const change = this.#changes.then(() => this.#change(request))
        this.#changes = change.catch(() => undefined)
        return await change
      }
      case 'join':
        throw new JailError('PLATFORM', 'a running jail cannot be joined on macOS')
      case 'stop': {
        const running = this.#running
        if (running === undefined || this.#ending)
          throw new JailError('STATE', `jail ${this.#plan.jail} is not running yet, or is ending`, {
            hint: 'try again',
          })
        stop(running)
        return {}
      }
    }
  }

  async #change({ policy, base }: Extract<ControlRequest, { op: 'reload' }>): Promise<unknown> {
    if (base !== undefined && base !== policyToJson(this.#plan.policy))
      throw new JailError('STATE', 'the policy was changed meanwhile', { hint: 'try again' })
    const next = policyFromJson(policy)
    if (next === undefined)
      throw new JailError(
        'POLICY_INVALID',
        'the policy was written by another version of agentjail',
      )
    return await this.reload(next)
  }

  #status(): JailStatus {
    const { jail, policy, account, launch } = this.#plan
    return {
      name: jail,
      policy: policy.name,
      user: account.name,
      uid: account.uid,
      isolation: 'uid',
      phase: this.#ending ? 'ending' : this.#running === undefined ? 'starting' : 'running',
      since: this.#since,
      command: launch.command,
      ...this.#tally,
      pins: 0,
      warnings: [],
    }
  }

  /** Under the lock. */
  async #prepareMachine(): Promise<{ uid: number; gid: number }> {
    const { system, settings, backend } = this.#parts
    const { account, jail } = this.#plan
    await backend.ensureStaticDeny(settings.uidRange)
    const gateUser = await ensureMacGateUser(system, settings)
    await ensureMacAccount(system, settings, account, jail, this.#events.onNotice)
    const left = await system.processesOf(account.uid)
    if (left.length > 0)
      throw new JailError(
        'ACCOUNT',
        `user ${account.name} has processes already (first: ${String(left[0])})`,
        { hint: 'end them first: they would share the jail' },
      )
    return gateUser
  }

  async #openGate(user: { uid: number; gid: number }): Promise<readonly OpenedListener[]> {
    const gate = this.#parts.openGate({ node: this.#facts.nodePath, specs: this.#specs(), user })
    this.#gate = gate
    this.#push('end the gate', () => this.#endGate(gate))
    gate.onMessage((message) => {
      this.#hear(gate, message)
    })
    gate.onExit((why) => {
      // Its end closes the jail's way out; the command must not go on half served.
      this.#fail(`the gate ended: ${why}`)
    })
    return await gate.listeners
  }

  async #updateGate(policy: GatePolicy): Promise<number> {
    const gate = this.#gate
    if (gate === undefined) throw new JailError('GATE', 'there is no gate')
    const serial = ++this.#serial
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new JailError('GATE', 'the gate does not take the policy'))
      }, gateAnswer)
      gate.onMessage((message) => {
        if (message.type !== 'updated' || message.serial !== serial) return
        clearTimeout(timer)
        resolve(message.cut)
      })
      gate.send({ type: 'update', serial, policy })
    })
  }

  #specs(): ListenerSpec[] {
    const { network, policy } = this.#plan
    if (!policy.transparent) return [{ proto: 'tcp', meant: 0, role: 'proxy' }]
    const of = (proto: 'tcp' | 'udp', ranges: readonly PortRange[]): ListenerSpec[] =>
      ranges.flatMap(({ first, last }) =>
        Array.from({ length: last - first + 1 }, (_, index) => ({ proto, meant: first + index })),
      )
    return [...of('udp', network.gateUdp), ...of('tcp', network.gateTcp)]
  }

  #gatePorts(listeners: readonly OpenedListener[]): GatePort[] {
    const seen = new Set<string>()
    return listeners.flatMap(({ proto, port, actual, role }): GatePort[] => {
      const key = `${proto}/${String(port)}`
      if (seen.has(key)) return []
      seen.add(key)
      if (role !== 'proxy') return [{ proto, port, gatePort: actual }]
      return [{ proto, port: actual, gatePort: actual, role }]
    })
  }

  async #startGate(listeners: readonly OpenedListener[]): Promise<string | undefined> {
    const { policy, gate } = this.#plan
    const config: GateConfig = {
      jail: this.#plan.jail,
      mode: policy.transparent ? 'redirect' : 'proxy',
      listeners: listeners.map(toListener),
      policy: gate,
      wantCa: gate.grants.some(({ inspect }) => inspect === 'http'),
      hostAddresses: this.#facts.hostAddresses,
      upstreams: this.#facts.resolvers,
      ...(policy.transparent ? {} : { proxyToken: this.#token }),
    }
    return await this.#gate?.start(config)
  }

  async #launch(listeners: readonly OpenedListener[], ca: string | undefined): Promise<Running> {
    const { network, policy, launch: spec, account } = this.#plan
    const { system, settings } = this.#parts
    const proxy = listeners.find(({ role }) => role === 'proxy')
    const own = ca === undefined ? undefined : await this.#writeCa(ca)
    const temporary = `${account.home}/tmp`
    if ((await system.lstat(temporary)) === undefined) await this.#makeTemporary(temporary)
    const unshare = await shareWorkspace(
      system,
      spec,
      await this.#callerName(),
      sharePath(settings.stateDir, this.#plan.jail),
    )
    this.#push('take the shared workspace back', async () => {
      const [line] = await unshare()
      if (line !== undefined) throw new JailError('STATE', line)
    })
    this.#push('end the command', () => this.#endCommand())
    this.#running = await this.#parts.launch({
      spec,
      ...(proxy === undefined ? {} : { proxy: { port: proxy.actual, token: this.#token } }),
      ...(own === undefined ? {} : { ca: own }),
      tcp: [
        ...network.pinned.filter(({ proto }) => proto === 'tcp').flatMap(({ ports }) => ports),
        ...network.kernel.filter(({ proto }) => proto === 'tcp').flatMap(({ ports }) => ports),
        ...(policy.transparent ? network.gateTcp : []),
      ],
      udp: [
        ...network.pinned.filter(({ proto }) => proto === 'udp').flatMap(({ ports }) => ports),
        ...network.kernel.filter(({ proto }) => proto === 'udp').flatMap(({ ports }) => ports),
        ...(policy.transparent ? network.gateUdp : []),
      ],
      loopback: { connect: network.loopbackConnect, listen: network.loopbackListen },
      transparent: policy.transparent,
      hidden: [settings.stateDir, settings.logDir],
    })
    for (const note of this.#running.notes) this.#events.onNotice(note)
    if (policy.transparent)
      this.#events.onNotice(
        'transparent: the command may use the system resolver, which answers every name: queries can carry data out',
      )
    this.#events.onRunning(this.#running)
    return this.#running
  }

  async #callerName(): Promise<string | undefined> {
    const { uid } = this.#facts.caller
    if (uid === 0) return undefined
    const users = await listRecords(this.#parts.system, 'Users', 'UniqueID')
    return [...users].find(([, text]) => text === String(uid))?.[0]
  }

  /** Before any process of the user runs: it cannot have put a link in the way. */
  async #makeTemporary(path: string): Promise<void> {
    const { system } = this.#parts
    const { uid, gid } = this.#plan.account
    await system.makeDir(path, 0o700)
    await system.chown(path, uid, gid)
  }

  /** Readable by the jail, written by root, in a directory of root's. */
  async #writeCa(pem: string): Promise<{ own: string; bundle: string }> {
    const { system, settings } = this.#parts
    const { own, bundle } = caPaths(settings.stateDir, this.#plan.jail)
    this.#push('remove the certificate', async () => {
      await system.removeFile(own)
      await system.removeFile(bundle)
    })
    await system.makeDir(`${settings.stateDir}-ca`, 0o755)
    await system.writeFile(own, pem, 0o644)
    await system.writeFile(bundle, `${[pem, ...rootCertificates].join('\n')}\n`, 0o644)
    return { own, bundle }
  }

  async #supervise(running: Running): Promise<Ending> {
    const { registry } = this.#parts
    const entry = await registry.read(this.#plan.jail)
    if (entry !== undefined)
      await registry.update({ ...entry, initPid: running.initPid, phase: 'running' })
    const denials = setInterval(() => void this.#readDenials(), denialInterval)
    const guard = this.#startWatch()
    const { time } = this.#plan.policy.limits
    const limit = time === undefined ? undefined : this.#limitTime(running, time)
    try {
      return await running.ended
    } finally {
      this.#ending = true
      clearInterval(denials)
      clearTimeout(limit)
      await guard?.stop()
      await this.#readDenials()
      for (const hit of await running.limitsHit()) this.#events.onNotice(hit)
    }
  }

  #startWatch(): Watch | undefined {
    const hold = this.#hold
    if (hold === undefined) return undefined
    return watch(
      { intact: () => hold.intact(), restore: () => this.#parts.lock(() => hold.restore()) },
      {
        every: watchInterval,
        onRestored: () => {
          this.#events.onNotice('the pf rules were gone (another tool?) and have been restored')
        },
        onLost: (why) => {
          this.#fail(`the pf rules cannot be restored: ${why}`)
        },
      },
    )
  }

  #limitTime(running: Running, seconds: number): NodeJS.Timeout {
    return setTimeout(() => {
      this.#events.onNotice(
        `the run time limit of ${String(seconds)} s is reached: the command is ended`,
      )
      stop(running)
    }, seconds * 1000)
  }

  #hear(gate: GateProcess, message: FromGate): void {
    if (message.type === 'decisions') {
      // What the gate says may be anything.
      const { decisions, bad } = sanitiseDecisions(message.decisions)
      this.#record(decisions)
      this.#audit?.drop(bad)
      this.#audit?.drop(message.dropped)
    } else if (message.type === 'pin') {
      void this.#pin(gate, message)
    } else if (message.type === 'fatal') {
      this.#events.onNotice(`the gate failed: ${message.message.slice(0, 200)}`)
    }
  }

  async #pin(gate: GateProcess, request: Extract<FromGate, { type: 'pin' }>): Promise<void> {
    let ok = false
    try {
      await this.#hold?.pin(checkPin(request, this.#policy, this.#facts.hostAddresses))
      ok = true
    } catch (error) {
      this.#events.onNotice(`a pin was refused: ${errorMessage(error)}`)
    }
    gate.send({ type: 'pinned', serial: request.serial, ok })
  }

  #record(decisions: readonly Decision[]): void {
    if (decisions.length === 0) return
    this.#audit?.write(decisions)
    for (const { verdict, up, down, count } of decisions) {
      this.#tally[verdict === 'allow' ? 'allowed' : 'denied'] += count ?? 1
      this.#tally.up += up ?? 0
      this.#tally.down += down ?? 0
    }
    this.#events.onDecisions(decisions)
  }

  async #readDenials(): Promise<void> {
    try {
      this.#record((await this.#hold?.denials()) ?? [])
    } catch {
      // The state file cannot be read for a moment: the watch deals with it.
    }
  }

  #fail(why: string): void {
    if (this.#ending || this.#running === undefined) return
    this.#events.onNotice(`${why}; the command is ended`)
    this.#running.kill()
  }

  /** The user's whole launchd domain, then what is left of the uid; confirmed before any rule goes. */
  async #endCommand(): Promise<void> {
    const { system } = this.#parts
    const { uid } = this.#plan.account
    this.#running?.kill()
    await system.run([launchctl, 'bootout', `user/${String(uid)}`]).catch(() => undefined)
    await endProcesses(system, uid)
    await this.#running?.ended
  }

  async #endGate(gate: GateProcess): Promise<void> {
    this.#ending = true
    const gone = new Promise<void>((resolve) => {
      gate.onExit(() => {
        resolve()
      })
    })
    gate.send({ type: 'stop' })
    const timer = setTimeout(() => {
      gate.kill()
    }, 300)
    await gone
    clearTimeout(timer)
  }

  async #removeRules(): Promise<void> {
    const { backend } = this.#parts
    const { jail, network } = this.#plan
    try {
      await this.#hold?.close()
    } finally {
      await backend.collect({ name: jail, uid: network.uid, isolation: 'uid' })
    }
  }

  #push(what: string, run: () => Promise<unknown>): void {
    this.#undo.push({ what, run })
  }

  /** All of it, in reverse, whatever fails; what failed is reported and stays denied. */
  async #undoAll(): Promise<void> {
    let processesLeft = false
    let isKept = false
    for (const { what, run } of this.#undo.splice(0).reverse()) {
      // Rules never leave while a process of the uid lives; the registry tells who clears the rest.
      if (processesLeft && what === 'remove the rules') continue
      if (isKept && what === 'leave the registry') continue
      try {
        await run()
      } catch (error) {
        processesLeft ||= what === 'end the command'
        isKept ||= processesLeft || collected.includes(what)
        this.#events.onNotice(
          `could not ${what}: ${errorMessage(error)}; clear it with: agentjail gc`,
        )
      }
    }
  }
}

/** The command's grace between the two is in milliseconds. */
function stop(running: Running): void {
  running.signal('SIGTERM')
  setTimeout(() => {
    running.kill()
  }, 5_000).unref()
}

function toListener({ fd, proto, role, port, family }: OpenedListener): Listener {
  return { fd, proto, role, port, ...(family === undefined ? {} : { family }) }
}

/** What was settled at the launch and cannot be changed under a running command. */
function refuseUnloadable(before: Plan, policy: GatePolicy, after: Plan): void {
  const restart = { hint: 'end the jail and start it with the new policy' }
  if (before.policy.transparent !== after.policy.transparent)
    throw new JailError('POLICY_INVALID', '"transparent" cannot change in a running jail', restart)
  const ports = (plan: Plan): string => JSON.stringify([plan.network.gateTcp, plan.network.gateUdp])
  if (after.policy.transparent && ports(before) !== ports(after))
    throw new JailError('POLICY_INVALID', 'other inspected ports need new listeners', restart)
  const inspects = (gate: GatePolicy): boolean =>
    gate.grants.some(({ inspect }) => inspect === 'http')
  if (inspects(after.gate) && !inspects(policy))
    throw new JailError(
      'POLICY_INVALID',
      '"inspect: http" needs a certificate in the jail',
      restart,
    )
  if (isWider(before, after))
    throw new JailError(
      'POLICY_INVALID',
      'the sandbox profile of the running command does not have these ports',
      restart,
    )
}

/** Ports that the seatbelt profile, made at the launch, does not know. */
function isWider(before: Plan, after: Plan): boolean {
  const portsOf = ({ network }: Plan): Set<string> => {
    const direct = [...network.pinned, ...network.kernel].flatMap(({ proto, ports }) =>
      ports.map(({ first, last }) => `${proto} ${String(first)}-${String(last)}`),
    )
    const connect = network.loopbackConnect.map((port) => `connect ${String(port)}`)
    const listen = network.loopbackListen.map((port) => `listen ${String(port)}`)
    return new Set([...direct, ...connect, ...listen])
  }
  const known = portsOf(before)
  return [...portsOf(after)].some((port) => !known.has(port))
}
