/**
 * One jail from claim to end: the straight path of `agentjail run`.
 * Invariant: rules in and read back, gate listening, then launch; at the end the command and every process of its uid
 * first, the rules after. Whatever throws on the way undoes what was done, in reverse, and leaves denial.
 */
import { openAuditLog } from '../audit/log.js'
import type { AuditLog } from '../audit/log.js'
import { NameBook } from '../audit/names.js'
import type { Decision } from '../audit/record.js'
import { sanitiseDecisions } from '../audit/sanitise.js'
import type { NetworkHold } from '../backend/types.js'
import { ensureAccount, ensureGateUser } from '../account/linux.js'
import { errorMessage, JailError } from '../errors.js'
import type { FromGate, GateConfig, GatePolicy } from '../gate/protocol.js'
import { findLaunchTools } from '../launch/launch-tools.js'
import { launch } from '../launch/launch.js'
import type { Ending, Running } from '../launch/types.js'
import type { Facts, Plan } from '../plan/types.js'
import { compilePlan } from '../plan/compile.js'
import { policyFromJson, policyToJson } from '../policy/json.js'
import { endProcesses } from './collect.js'
import type { Context } from './context.js'
import { controlPath, serveControl } from './control.js'
import type { ControlRequest } from './control.js'
import { spawnGate } from './gate-process.js'
import type { GateProcess, OpenedListener } from './gate-process.js'
import { withLock } from './lock.js'
import { checkPin } from './pins.js'
import { ownIdentity, isAlive } from './registry.js'
import type { RegistryEntry } from './registry.js'
import type { SignalRelay } from './signals.js'
import { watch } from './watch.js'
import type { Watch } from './watch.js'

export interface WardenEvents {
  /** Every decision, allowed and denied. */
  readonly onDecisions: (decisions: readonly Decision[]) => void
  /** For the user: restored rules, a gate started again, limits hit. */
  readonly onNotice: (text: string) => void
  /** Another policy is in force. */
  readonly onPolicy: (plan: Plan) => void
}

/** Milliseconds between readings of what the kernel refused. */
const denialInterval = 500
/** In `uid` isolation the rules are looked at this often; in `namespace` only the second line, the static deny. */
const watchInterval = { uid: 400, namespace: 5_000 } as const

export class Warden {
  readonly #context: Context
  readonly #events: WardenEvents
  readonly #undo: { readonly what: string; readonly run: () => Promise<void> }[] = []
  readonly #facts: Facts
  readonly #tally = { allowed: 0, denied: 0, up: 0, down: 0 }
  readonly #warnings: string[] = []
  #plan: Plan
  readonly #upstreamCa: string | undefined
  #entry: RegistryEntry | undefined
  #audit: AuditLog | undefined
  readonly #names = new NameBook()
  #hold: NetworkHold | undefined
  #gate: GateProcess | undefined
  #gateUser = { uid: 0, gid: 0 }
  #running: Running | undefined
  #watch: Watch | undefined
  #policy: GatePolicy
  #ending = false
  #restarted = false
  #serial = 0
  #pinCount = 0

  constructor(
    context: Context,
    plan: Plan,
    facts: Facts,
    events: WardenEvents,
    upstreamCa: string | undefined,
  ) {
    this.#context = context
    this.#plan = plan
    this.#facts = facts
    this.#events = events
    this.#upstreamCa = upstreamCa
    this.#policy = plan.gate
  }

  get dropped(): number {
    return this.#audit?.dropped ?? 0
  }

  /** Claims, installs, launches, waits, undoes. Throws when the command was not launched. */
  async run(signals: SignalRelay): Promise<Ending> {
    try {
      const running = await this.#start(signals)
      return await this.#supervise(running)
    } finally {
      this.#ending = true
      await this.#undoAll()
      signals.detach()
    }
  }

  async #start(signals: SignalRelay): Promise<Running> {
    await this.#claim()
    await this.#prepareMachine()
    this.#audit = await openAuditLog({
      dir: this.#context.config.logDir,
      jail: this.#plan.jail,
      uid: this.#plan.account.uid,
      onTrouble: (message) => {
        if (message !== undefined)
          this.#events.onNotice(`the audit log cannot be written: ${message}`)
      },
    })
    this.#push('close the audit log', async () => this.#audit?.close())
    const hold = await this.#openNetwork()
    const listeners = await this.#openGate(hold)
    const wantsCa = this.#policy.grants.some(({ inspect }) => inspect === 'http')
    const ready = this.#startGate(listeners, wantsCa)
    await hold.connectGate(
      listeners
        .map(({ proto, port, actual }) => ({ proto, port, gatePort: actual }))
        .filter(uniquePort),
    )
    // The sockets listen already: the gate finishes its start while the command starts, unless the command needs its CA.
    const extraCa = wantsCa ? await ready : undefined
    const running = await this.#launch(hold, extraCa)
    signals.attach(running)
    ready.catch((error: unknown) => {
      this.#fail(errorMessage(error))
    })
    return running
  }

  async #claim(): Promise<void> {
    const { system, registry } = this.#context
    const { account, jail, launch: spec, policy, isolation } = this.#plan
    const entry: RegistryEntry = {
      v: 1,
      name: jail,
      uid: account.uid,
      gid: account.gid,
      user: account.name,
      home: account.home,
      isolation,
      policy: policy.source,
      policies: this.#plan.policies,
      cwd: spec.cwd,
      command: spec.command,
      since: system.now(),
      owner: await ownIdentity(system),
      phase: 'starting',
    }
    if (!(await registry.claim(entry))) {
      const holder = await registry.read(jail)
      throw nameTaken(jail, holder, holder !== undefined && (await isAlive(system, holder.owner)))
    }
    this.#entry = entry
    this.#push('leave the registry', () => registry.remove(jail))
    const control = await serveControl(
      controlPath(this.#context.config.stateDir, jail),
      (request) => this.#answer(request),
    )
    this.#push('close the control socket', () => control.close())
  }

  /** Shared things, under the lock, and only where something is missing. */
  async #prepareMachine(): Promise<void> {
    const { system, config, tools, backend } = this.#context
    const { account, jail } = this.#plan
    const work = async (): Promise<void> => {
      await backend.ensureStaticDeny(config.uidRange)
      this.#gateUser = await ensureGateUser(system, config, tools)
      await ensureAccount(system, config, tools, account, jail)
    }
    await (account.exists ? work() : withLock(config.stateDir, work))
    const left = await system.processesOf(account.uid)
    if (left.length > 0) {
      throw new JailError(
        'ACCOUNT',
        `user ${account.name} has processes already (first: ${left[0] ?? ''})`,
        {
          hint: 'end them first: they would share the jail',
        },
      )
    }
  }

  async #openNetwork(): Promise<NetworkHold> {
    const { backend, config } = this.#context
    const { network } = this.#plan
    const open = (): Promise<NetworkHold> => backend.open(network)
    this.#hold = await (network.isolation === 'uid' ? withLock(config.stateDir, open) : open())
    const hold = this.#hold
    this.#push('remove the rules', async () => {
      if (network.isolation === 'namespace') {
        await hold.close()
        return
      }
      await withLock(config.stateDir, async () => {
        await hold.close()
        await backend.collect({ name: this.#plan.jail, uid: network.uid, isolation: 'uid' })
      })
    })
    return hold
  }

  async #openGate(hold: NetworkHold): Promise<readonly OpenedListener[]> {
    const { network } = this.#plan
    const specs = (['udp', 'tcp'] as const).flatMap((proto) =>
      (proto === 'udp' ? network.gateUdp : network.gateTcp).flatMap(({ first, last }) =>
        Array.from({ length: last - first + 1 }, (_, index) => ({ proto, meant: first + index })),
      ),
    )
    const { perl, nsenter, setpriv, bwrap } = this.#context.tools
    const gate = spawnGate({
      tools: { perl, nsenter, setpriv, bwrap, node: this.#facts.nodePath },
      ...(hold.netns === undefined ? {} : { netns: hold.netns }),
      specs,
      user: this.#gateUser,
    })
    this.#gate = gate
    this.#push('end the gate', () => this.#endGate())
    gate.onMessage((message) => {
      this.#hear(gate, message)
    })
    gate.onExit((why) => {
      void this.#gateEnded(gate, why)
    })
    return await gate.listeners
  }

  #startGate(listeners: readonly OpenedListener[], wantCa: boolean): Promise<string | undefined> {
    const config: GateConfig = {
      jail: this.#plan.jail,
      mode: this.#plan.network.isolation === 'namespace' ? 'namespace' : 'redirect',
      listeners: listeners.map(({ actual: _, ...listener }) => listener),
      policy: this.#policy,
      wantCa,
      hostAddresses: this.#facts.hostAddresses,
      upstreams: this.#facts.resolvers,
      ...(this.#upstreamCa === undefined ? {} : { upstreamCa: this.#upstreamCa }),
    }
    const started =
      this.#gate?.start(config) ?? Promise.reject(new JailError('GATE', 'there is no gate'))
    started.catch(() => undefined)
    return started
  }

  async #launch(hold: NetworkHold, extraCa: string | undefined): Promise<Running> {
    const spec = {
      ...this.#plan.launch,
      ...(hold.netns === undefined ? {} : { netns: hold.netns }),
      ...(extraCa === undefined ? {} : { extraCa }),
    }
    const running = await launch(spec, findLaunchTools(`${this.#context.config.stateDir}/stage`))
    this.#running = running
    for (const note of running.notes) this.#events.onNotice(note)
    this.#push('end the command', async () => {
      running.kill()
      await running.ended
      await endProcesses(this.#context.system, this.#plan.account.uid)
    })
    return running
  }

  async #supervise(running: Running): Promise<Ending> {
    const { registry } = this.#context
    const update =
      this.#entry === undefined
        ? undefined
        : { ...this.#entry, ...this.#pids(running), phase: 'running' as const }
    if (update !== undefined) await registry.update(update)
    const denials = setInterval(() => {
      void this.#readDenials()
      this.#gate?.send({ type: 'ping', serial: ++this.#serial })
    }, denialInterval)
    const time = this.#timeLimit(running)
    this.#watch = this.#startWatch()
    try {
      return await running.ended
    } finally {
      this.#ending = true
      clearInterval(denials)
      clearTimeout(time)
      await this.#watch.stop()
      await this.#readDenials()
      for (const limit of await running.limitsHit()) this.#events.onNotice(limit)
    }
  }

  #pids(running: Running): Pick<RegistryEntry, 'netns' | 'gatePid' | 'initPid'> {
    const netns = this.#hold?.netns
    return {
      initPid: running.initPid,
      ...(this.#gate === undefined ? {} : { gatePid: this.#gate.pid }),
      ...(netns === undefined ? {} : { netns }),
    }
  }

  #timeLimit(running: Running): NodeJS.Timeout | undefined {
    const { time } = this.#plan.policy.limits
    if (time === undefined) return undefined
    return setTimeout(() => {
      this.#events.onNotice(`the run time limit of ${time} s is reached: the command is ended`)
      running.signal('SIGTERM')
      setTimeout(() => {
        running.kill()
      }, 5_000).unref()
    }, time * 1000)
  }

  #startWatch(): Watch {
    const { backend, config } = this.#context
    const { isolation } = this.#plan.network
    const hold = this.#hold
    const watched =
      isolation === 'uid' && hold !== undefined
        ? {
            intact: () => hold.intact(),
            restore: () => withLock(config.stateDir, () => hold.restore()),
          }
        : {
            intact: async () => {
              await backend.ensureStaticDeny(config.uidRange)
              return true
            },
            restore: () => Promise.resolve(),
          }
    return watch(watched, {
      every: watchInterval[isolation],
      onRestored: () => {
        this.#events.onNotice(
          'the firewall rules were gone (another tool?) and have been restored; meanwhile all was denied',
        )
      },
      onLost: (why) => {
        this.#fail(`the firewall rules cannot be restored: ${why}`)
      },
    })
  }

  async #answer(request: ControlRequest): Promise<unknown> {
    switch (request.op) {
      case 'status':
        return this.#status()
      case 'policy':
        return policyToJson(this.#plan.policy)
      case 'reload':
        if (request.base !== undefined && request.base !== policyToJson(this.#plan.policy))
          throw new JailError('STATE', 'the policy was changed meanwhile', { hint: 'try again' })
        return await this.#reload(knownPolicy(request.policy))
    }
  }

  #status() {
    const { command } = this.#plan.launch
    return {
      name: this.#plan.jail,
      policy: this.#plan.policy.name,
      user: this.#plan.account.name,
      uid: this.#plan.account.uid,
      ...(this.#running?.commandPid === undefined ? {} : { pid: this.#running.commandPid }),
      isolation: this.#plan.isolation,
      phase: this.#ending ? 'ending' : this.#running === undefined ? 'starting' : 'running',
      since: this.#entry?.since ?? 0,
      command,
      ...this.#tally,
      pins: this.#pinCount,
      warnings: this.#warnings,
    } as const
  }

  /** The gate first, which cuts what is withdrawn; then the kernel, in one transaction. At no point is more open than both policies together allow. */
  async #reload(policy: Plan['policy']): Promise<{ cut: number }> {
    const gate = this.#gate
    const hold = this.#hold
    if (gate === undefined || hold === undefined || this.#running === undefined) {
      throw new JailError('STATE', 'the jail is not running yet', { hint: 'try again' })
    }
    const { jail, launch: spec, isolation, policies } = this.#plan
    const known = this.#policy.credentials.filter(({ id }) => policy.credentials.has(id))
    const plan = compilePlan(
      policy,
      this.#facts,
      { jail, command: spec.command, cwd: spec.cwd, isolation, policies },
      known,
    )
    refuseUnservable(this.#plan, plan)
    const cut = await this.#updateGate(gate, plan.gate)
    this.#policy = plan.gate
    const update = (): Promise<void> => hold.update(plan.network)
    await (plan.network.isolation === 'uid'
      ? withLock(this.#context.config.stateDir, update)
      : update())
    this.#plan = { ...plan, launch: this.#plan.launch }
    this.#events.onPolicy(plan)
    return { cut }
  }

  #updateGate(gate: GateProcess, policy: GatePolicy): Promise<number> {
    const serial = ++this.#serial
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        // A gate that cannot change its mind keeps no connection either.
        gate.kill()
        reject(new JailError('GATE', 'the gate does not take the new policy; it is started again'))
      }, 5_000)
      gate.onMessage((message) => {
        if (message.type !== 'updated' || message.serial !== serial) return
        clearTimeout(timer)
        resolve(message.cut)
      })
      gate.send({ type: 'update', serial, policy })
    })
  }

  #hear(gate: GateProcess, message: FromGate): void {
    switch (message.type) {
      case 'decisions':
        this.#recordFrom(message)
        break
      case 'pin':
        void this.#pin(gate, message)
        break
      case 'pong':
        this.#pinCount = message.stats.pins
        break
      case 'fatal':
        this.#events.onNotice(`the gate failed: ${message.message.slice(0, 200)}`)
        break
      default:
        break
    }
  }

  async #pin(gate: GateProcess, request: Extract<FromGate, { type: 'pin' }>): Promise<void> {
    let ok = false
    try {
      const pins = checkPin(request, this.#policy, this.#facts.hostAddresses)
      await this.#hold?.pin(pins)
      ok = true
    } catch (error) {
      this.#events.onNotice(`a pin was refused: ${errorMessage(error)}`)
    }
    gate.send({ type: 'pinned', serial: request.serial, ok })
  }

  /** What the gate says may be anything. */
  #recordFrom(message: Extract<FromGate, { type: 'decisions' }>): void {
    const { decisions, bad } = sanitiseDecisions(message.decisions)
    this.#record(decisions)
    this.#audit?.drop(bad)
    this.#audit?.drop(message.dropped)
  }

  #record(given: readonly Decision[]): void {
    if (given.length === 0) return
    const decisions = this.#names.name(given)
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
      // The rules are gone for a moment: the watch deals with it.
    }
  }

  /** Started again once; its listeners are new sockets in the same place. */
  async #gateEnded(gate: GateProcess, why: string): Promise<void> {
    if (this.#ending || gate !== this.#gate || this.#running === undefined) return
    if (this.#restarted) {
      this.#fail(`the gate ended again: ${why}`)
      return
    }
    this.#restarted = true
    this.#events.onNotice(`the gate ended (${why}) and is started again`)
    try {
      const hold = this.#hold
      if (hold === undefined) return
      const wantCa = this.#policy.grants.some(({ inspect }) => inspect === 'http')
      if (wantCa) throw new JailError('GATE', 'its certificates went with it')
      const listeners = await this.#openGate(hold)
      await this.#startGate(listeners, wantCa)
      const ports = listeners
        .map(({ proto, port, actual }) => ({ proto, port, gatePort: actual }))
        .filter(uniquePort)
      await (hold.netns === undefined
        ? withLock(this.#context.config.stateDir, () => hold.connectGate(ports))
        : hold.connectGate(ports))
    } catch (error) {
      this.#fail(`the gate cannot be started again: ${errorMessage(error)}`)
    }
  }

  #fail(why: string): void {
    if (this.#ending) return
    this.#events.onNotice(`${why}; the command is ended`)
    this.#running?.kill()
  }

  /** Asked first, so that its last decisions arrive. */
  async #endGate(): Promise<void> {
    const gate = this.#gate
    if (gate === undefined) return
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

  #push(what: string, run: () => Promise<void>): void {
    this.#undo.push({ what, run })
  }

  /** All of it, in reverse, whatever fails; what failed is reported and stays denied. */
  async #undoAll(): Promise<void> {
    let processesLeft = false
    for (const { what, run } of this.#undo.splice(0).reverse()) {
      // Rules never leave while a process of the uid lives.
      if (processesLeft && (what === 'remove the rules' || what === 'leave the registry')) continue
      try {
        await run()
      } catch (error) {
        processesLeft ||= what === 'end the command'
        this.#events.onNotice(`could not ${what}: ${errorMessage(error)}`)
      }
    }
  }
}

function knownPolicy(text: string): Plan['policy'] {
  const policy = policyFromJson(text)
  if (policy === undefined)
    throw new JailError('POLICY_INVALID', 'the policy was written by another version of agentjail')
  return policy
}

/** The gate's sockets are opened before it starts: a port it does not listen on needs a new run. */
function refuseUnservable(before: Plan, after: Plan): void {
  const served = (plan: Plan): Set<string> =>
    new Set(
      (['gateTcp', 'gateUdp'] as const).flatMap((side) =>
        plan.network[side].flatMap(({ first, last }) =>
          Array.from({ length: last - first + 1 }, (_, index) => `${side} ${first + index}`),
        ),
      ),
    )
  const now = served(before)
  const missing = [...served(after)]
    .filter((port) => !now.has(port))
    .map((port) => port.replace('gateTcp', 'tcp').replace('gateUdp', 'udp'))
  const needsCa =
    after.gate.grants.some(({ inspect }) => inspect === 'http') &&
    !before.gate.grants.some(({ inspect }) => inspect === 'http')
  if (missing.length === 0 && !needsCa) return
  const what = needsCa
    ? 'inspect: http, for which the command must trust a certificate from its start'
    : `ports the gate does not serve yet (${missing.slice(0, 5).join(', ')})`
  throw new JailError(
    'POLICY_INVALID',
    `the new policy needs ${what}; the old one stays in force`,
    { hint: 'end the jail and run it again' },
  )
}

function uniquePort(
  port: { proto: string; port: number },
  index: number,
  all: readonly { proto: string; port: number }[],
): boolean {
  return all.findIndex((other) => other.proto === port.proto && other.port === port.port) === index
}

function nameTaken(jail: string, holder: RegistryEntry | undefined, alive: boolean): JailError {
  if (holder === undefined || !alive) {
    return new JailError('NAME_TAKEN', `jail ${jail} is just being cleared`, { hint: 'try again' })
  }
  const since = new Date(holder.since).toISOString()
  return new JailError(
    'NAME_TAKEN',
    `jail ${jail} is running already: pid ${holder.owner.pid}, since ${since}, ${holder.command.join(' ').slice(0, 80)}`,
    { hint: `choose another name (--name ${jail}-2), or join it (--join)` },
  )
}
