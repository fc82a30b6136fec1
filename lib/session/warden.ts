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
import type { GatePort, NetworkHold } from '../backend/types.js'
import { ensureAccount, ensureGateUser, findAccount } from '../account/linux.js'
import { errorMessage, JailError } from '../errors.js'
import type { FromGate, GatePolicy, PinRequest } from '../gate/protocol.js'
import { launchTools } from '../launch/launch-tools.js'
import { launch } from '../launch/launch.js'
import type { Ending, LaunchSpec, Running } from '../launch/types.js'
import type { Facts, Plan } from '../plan/types.js'
import { compilePlan, wantsCa } from '../plan/compile.js'
import { accountName } from '../plan/names.js'
import { policyFromJson, policyToJson } from '../policy/json.js'
import { fillSlots } from '../policy/slots.js'
import { collect, endProcesses } from './collect.js'
import { collectTools } from './context.js'
import type { LinuxContext } from './context.js'
import { controlPath, serveControl } from './control.js'
import type { Control, ControlRequest } from './control.js'
import { GateKeeper } from './gate-keeper.js'
import { joinable } from './join.js'
import { freeze } from './freeze.js'
import { withLock } from './lock.js'
import { checkPin } from './pins.js'
import type { WardenEvents } from './platform.js'
import { ownIdentity, isAlive } from './registry.js'
import type { RegistryEntry } from './registry.js'
import type { SignalRelay } from './signals.js'
import { watch } from './watch.js'
import type { Watch } from './watch.js'

/** Milliseconds between SIGTERM and SIGKILL. */
const stopGrace = 5_000
/** Milliseconds between readings of what the kernel refused. */
const denialInterval = 500
/** In `uid` isolation the rules are looked at this often; in `namespace` only the second line, the static deny. */
const watchInterval = { uid: 400, namespace: 5_000 } as const

export class Warden {
  readonly #context: LinuxContext
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
  #control: Control | undefined
  #keeper: GateKeeper | undefined
  #gateUser = { uid: 0, gid: 0 }
  #extraCa: string | undefined
  #running: Running | undefined
  #watch: Watch | undefined
  #policy: GatePolicy
  #ending = false
  #failed = false
  #pinCount = 0
  /** Changes of the policy go one at a time. */
  #changes: Promise<unknown> = Promise.resolve()

  constructor(
    context: LinuxContext,
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
      return await this.#supervise(running, signals)
    } finally {
      this.#ending = true
      await this.#undoAll()
      signals.detach()
    }
  }

  async #start(signals: SignalRelay): Promise<Running> {
    const hold = await this.#enterNetwork()
    const keeper = this.#keepGate(hold)
    let ready: Promise<string | undefined> = Promise.resolve(undefined)
    const connected = keeper.open().then(async (ports) => {
      ready = keeper.start()
      ready.catch(() => undefined)
      await this.#connect(hold, ports)
    })
    connected.catch(() => undefined)
    if (wantsCa(this.#policy)) {
      await connected
      this.#extraCa = await ready
    }
    await this.#serveLoopback(hold)
    // The launch's own steps run while the gate's sockets are opened; the command itself waits for them. The gate
    // finishes its start while the command starts, unless the command needs its CA.
    const running = await this.#launch(hold, connected)
    signals.attach(running)
    keeper.guard()
    ready.catch((error: unknown) => {
      if (keeper.restarts === 0) this.#fail(errorMessage(error))
    })
    return running
  }

  /** Static deny and account in order, the jail's rules in and read back, the log open. */
  async #enterNetwork(): Promise<NetworkHold> {
    const { account, network } = this.#plan
    if (!account.exists || network.isolation === 'uid') {
      await this.#enter()
      await this.#openLog()
      return await this.#openNetwork()
    }
    await this.#claim()
    // A namespace of its own shares nothing with what is looked at meanwhile. All of them settle, so that what was
    // opened is known to the undo.
    const [hold, ...others] = await Promise.allSettled([
      this.#openNetwork(),
      this.#prepareMachine(),
      this.#openLog(),
    ])
    for (const result of others) if (result.status === 'rejected') throw result.reason
    if (hold.status === 'rejected') throw hold.reason
    return hold.value
  }

  async #openLog(): Promise<void> {
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
  }

  /** An account that is there already needs no lock; a new one is chosen, claimed and made under it. */
  async #enter(): Promise<void> {
    const { system, config } = this.#context
    if (this.#plan.account.exists) {
      await this.#claim()
      await this.#prepareMachine()
      return
    }
    await withLock(config.stateDir, async () => {
      // No dead jail's uid can be chosen, and so none that a later collection would empty of processes.
      await collect(collectTools(this.#context))
      const { jail, account } = this.#plan
      const found = await findAccount(system, config, {
        jail,
        callerUid: this.#facts.caller.uid,
        ...(account.name === accountName(jail) ? {} : { user: account.name }),
      })
      this.#plan = withAccount(this.#plan, found)
      await this.#claim()
      await this.#prepareMachine()
    })
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
    this.#control = control
    this.#push('close the control socket', () => control.close())
  }

  /** Shared things: looked at always, changed only where something is missing. */
  async #prepareMachine(): Promise<void> {
    const { system, config, tools, backend } = this.#context
    const { account, jail } = this.#plan
    await backend.ensureStaticDeny(config.uidRange)
    this.#gateUser = await ensureGateUser(system, config, tools)
    const real = await ensureAccount(system, config, tools, account, jail)
    this.#plan = withAccount(this.#plan, real)
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
    const hold = await backend.open(network)
    this.#hold = hold
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

  #connect(hold: NetworkHold, ports: readonly GatePort[]): Promise<void> {
    const connect = (): Promise<void> => hold.connectGate(ports)
    return hold.netns === undefined ? withLock(this.#context.config.stateDir, connect) : connect()
  }

  #keepGate(hold: NetworkHold): GateKeeper {
    const { perl, nsenter, setpriv, bwrap } = this.#context.tools
    const keeper = new GateKeeper({
      tools: { perl, nsenter, setpriv, bwrap, node: this.#facts.nodePath },
      user: this.#gateUser,
      netns: hold.netns,
      config: {
        jail: this.#plan.jail,
        mode: hold.netns === undefined ? 'redirect' : 'namespace',
        hostAddresses: this.#facts.hostAddresses,
        upstreams: this.#facts.resolvers,
        ...(this.#upstreamCa === undefined ? {} : { upstreamCa: this.#upstreamCa }),
      },
      now: () => ({ network: this.#plan.network, policy: this.#policy }),
      connect: (ports) => this.#connect(hold, ports),
      onMessage: (message) => {
        if (message.type === 'pong') this.#pinCount = message.stats.pins
        else if (message.type === 'decisions') this.#recordFrom(message)
        else this.#events.onNotice(`the gate failed: ${message.message.slice(0, 200)}`)
      },
      onPin: (request) => this.#pin(request),
      onNotice: (text) => {
        this.#events.onNotice(text)
      },
      onFailed: (why) => {
        this.#fail(why)
      },
    })
    this.#keeper = keeper
    this.#push('end the gate', () => keeper.end())
    return keeper
  }

  /** In `uid` isolation the command's own sockets are on the host's loopback already. */
  async #serveLoopback({ netns }: NetworkHold): Promise<void> {
    const ports = this.#plan.network.loopbackListen
    if (ports.length === 0 || netns === undefined) return
    const { openInward } = await import('./inward.js')
    const { perl, nsenter, setpriv, bwrap } = this.#context.tools
    const tools = { perl, nsenter, setpriv, bwrap, node: this.#facts.nodePath }
    const inward = await openInward({ tools, netns, ports, user: this.#gateUser })
    this.#push('close the loopback ports', () => Promise.resolve(inward.close()))
  }

  async #launch(hold: NetworkHold, go: Promise<unknown>): Promise<Running> {
    // Before the launch: one that fails half-way may have started something.
    this.#push('end the command', async () => {
      this.#control?.release()
      this.#running?.kill()
      await this.#running?.ended
      await endProcesses(this.#context.system, this.#plan.account.uid)
    })
    const running = await launch(
      this.#spec(hold),
      launchTools(this.#context.tools, this.#context.config.stateDir),
      go,
    )
    this.#running = running
    for (const note of running.notes) this.#events.onNotice(note)
    return running
  }

  #spec(hold: NetworkHold): LaunchSpec {
    return {
      ...this.#plan.launch,
      ...(hold.netns === undefined ? {} : { netns: hold.netns }),
      ...(this.#extraCa === undefined ? {} : { extraCa: this.#extraCa }),
    }
  }

  async #supervise(running: Running, signals: SignalRelay): Promise<Ending> {
    const { registry } = this.#context
    const update =
      this.#entry === undefined
        ? undefined
        : { ...this.#entry, ...this.#pids(running), phase: 'running' as const }
    if (update !== undefined) await registry.update(update)
    const denials = setInterval(() => {
      void this.#readDenials()
      this.#keeper?.ping()
    }, denialInterval)
    const time = this.#timeLimit(running)
    this.#watch = this.#startWatch(signals)
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
      ...(this.#keeper?.pid === undefined ? {} : { gatePid: this.#keeper.pid }),
      ...(netns === undefined ? {} : { netns }),
    }
  }

  #timeLimit(running: Running): NodeJS.Timeout | undefined {
    const { time } = this.#plan.policy.limits
    if (time === undefined) return undefined
    return setTimeout(() => {
      this.#events.onNotice(`the run time limit of ${time} s is reached: the command is ended`)
      this.#stop(running)
    }, time * 1000)
  }

  #startWatch(signals: SignalRelay): Watch {
    const { backend, config } = this.#context
    const { isolation, uid } = this.#plan.network
    const hold = this.#hold
    const watched =
      isolation === 'uid' && hold !== undefined
        ? {
            intact: () => hold.intact(),
            restore: () => withLock(config.stateDir, () => hold.restore()),
            // nftables has a deny that others cannot flush; where there is none, nothing runs meanwhile.
            ...(backend.name === 'iptables' ? { freeze: () => this.#freeze(signals, uid) } : {}),
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
          `the firewall rules were gone (another tool?) and have been restored; ${
            backend.name === 'iptables'
              ? 'the command was stopped meanwhile'
              : 'meanwhile all was denied'
          }`,
        )
      },
      onLost: (why) => {
        this.#fail(`the firewall rules cannot be restored: ${why}`)
      },
    })
  }

  async #freeze(signals: SignalRelay, uid: number): Promise<() => Promise<void>> {
    const release = signals.ownStop()
    const thaw = await freeze(this.#context.system, uid)
    return async () => {
      await thaw()
      release()
    }
  }

  async #answer(request: ControlRequest): Promise<unknown> {
    switch (request.op) {
      case 'status':
        return this.#status()
      case 'policy':
        return policyToJson(this.#plan.policy)
      case 'reload': {
        const change = this.#changes.then(() => {
          if (request.base !== undefined && request.base !== policyToJson(this.#plan.policy))
            throw new JailError('STATE', 'the policy was changed meanwhile', { hint: 'try again' })
          return this.#reload(knownPolicy(request.policy))
        })
        this.#changes = change.catch(() => undefined)
        return await change
      }
      case 'join': {
        const { hold } = this.#live()
        return joinable(this.#spec(hold))
      }
      case 'stop':
        this.#stop(this.#live().running)
        return {}
    }
  }

  #live(): { hold: NetworkHold; keeper: GateKeeper; running: Running } {
    const [hold, keeper, running] = [this.#hold, this.#keeper, this.#running]
    if (hold !== undefined && keeper !== undefined && running !== undefined && !this.#ending)
      return { hold, keeper, running }
    const what = this.#ending ? 'is ending' : 'is not running yet'
    throw new JailError('STATE', `jail ${this.#plan.jail} ${what}`, { hint: 'try again' })
  }

  #stop(running: Running): void {
    running.signal('SIGTERM')
    setTimeout(() => {
      running.kill()
    }, stopGrace).unref()
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

  /**
   * New sockets, to which nothing leads yet; the gate, which cuts what is withdrawn; the kernel, in one transaction.
   * At no point is more open than both policies together allow; what fails puts the old policy back.
   */
  async #reload(policy: Plan['policy']): Promise<{ cut: number }> {
    const { hold, keeper } = this.#live()
    const { jail, launch: spec, isolation, policies } = this.#plan
    const known = this.#policy.credentials.filter(({ id }) => policy.credentials.has(id))
    const filled = fillSlots(policy, new Set(known.map(({ id }) => id)))
    const [missing] = filled.missing
    if (missing !== undefined) {
      throw new JailError(
        'POLICY_INVALID',
        `the credential ${missing.id} is new to the running jail`,
        {
          hint: 'end the jail and run it again: keys are read at a start',
        },
      )
    }
    const plan = compilePlan(
      filled.policy,
      this.#facts,
      { jail, command: spec.command, cwd: spec.cwd, isolation, policies },
      known,
    )
    // The account may have been chosen after the facts.
    const network = { ...plan.network, uid: this.#plan.network.uid }
    refuseNewCa(this.#policy, plan.gate)
    const ports = await keeper.prepare(network)
    const cut = await keeper.update(plan.gate)
    const before = this.#policy
    this.#policy = plan.gate
    try {
      const update = (): Promise<void> => hold.update(network, ports)
      await (hold.netns === undefined ? withLock(this.#context.config.stateDir, update) : update())
    } catch (error) {
      this.#policy = before
      await keeper.update(before)
      throw error
    }
    this.#plan = { ...plan, network, account: this.#plan.account, launch: this.#plan.launch }
    this.#events.onPolicy(this.#plan)
    return { cut }
  }

  async #pin(request: PinRequest): Promise<boolean> {
    try {
      // In a reload the gate names grants as the new policy does, before the kernel knows them.
      await this.#changes
      const pins = checkPin(request, this.#policy, this.#facts.hostAddresses)
      await this.#hold?.pin(pins)
      return true
    } catch (error) {
      this.#events.onNotice(`a pin was refused: ${errorMessage(error)}`)
      return false
    }
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

  #fail(why: string): void {
    if (this.#ending || this.#failed) return
    this.#failed = true
    this.#events.onNotice(`${why}; the command is ended`)
    this.#running?.kill()
  }

  #push(what: string, run: () => Promise<void>): void {
    this.#undo.push({ what, run })
  }

  /** All of it, in reverse, whatever fails; what failed is reported, stays denied, and stays in the registry for gc. */
  async #undoAll(): Promise<void> {
    let isKept = false
    let processesLeft = false
    for (const { what, run } of this.#undo.splice(0).reverse()) {
      // Rules never leave while a process of the uid lives; the entry names what a later collection must clear.
      if (processesLeft && what === 'remove the rules') continue
      if (isKept && what === 'leave the registry') continue
      try {
        await run()
      } catch (error) {
        processesLeft ||= what === 'end the command'
        isKept ||= processesLeft || what === 'remove the rules'
        this.#events.onNotice(
          `could not ${what}: ${errorMessage(error)}${isKept ? '; the user stays denied, and agentjail gc clears it later' : ''}`,
        )
      }
    }
  }
}

/** The same plan for an account whose uid was chosen only now. */
function withAccount(plan: Plan, account: Plan['account']): Plan {
  return {
    ...plan,
    account,
    network: { ...plan.network, uid: account.uid },
    // `verify` may launch under another user on purpose.
    ...(plan.launch.user.uid === plan.account.uid
      ? { launch: { ...plan.launch, user: account } }
      : {}),
  }
}

function knownPolicy(text: string): Plan['policy'] {
  const policy = policyFromJson(text)
  if (policy === undefined)
    throw new JailError('POLICY_INVALID', 'the policy was written by another version of agentjail')
  return policy
}

/** A command that runs already cannot be made to trust a new CA. */
function refuseNewCa(before: GatePolicy, after: GatePolicy): void {
  if (!wantsCa(after) || wantsCa(before)) return
  throw new JailError(
    'POLICY_INVALID',
    'the new policy needs inspect: http, for which the command must trust a certificate from its start; the old one stays in force',
    { hint: 'end the jail and run it again' },
  )
}

function nameTaken(jail: string, holder: RegistryEntry | undefined, alive: boolean): JailError {
  if (holder === undefined || !alive) {
    return new JailError('NAME_TAKEN', `jail ${jail} is just being cleared`, { hint: 'try again' })
  }
  const since = new Date(holder.since).toISOString()
  return new JailError(
    'NAME_TAKEN',
    `jail ${jail} is running already: pid ${holder.owner.pid}, since ${since}, ${holder.command
      .join(' ')
      .replace(/[^\x20-\x7e]+/g, ' ')
      .slice(0, 80)}`,
    { hint: `choose another name (--name ${jail}-2), or join it (--join)` },
  )
}
