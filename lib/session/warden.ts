/**
 * One jail from claim to end: the straight path of `agentjail run`.
 * Invariant: rules in and read back, gate listening, then launch; at the end the command and every process of its uid
 * first, the rules after. Whatever throws on the way undoes what was done, in reverse, and leaves denial.
 */
import type { AuditLog } from '../audit/log.js'
import { createScrub } from '../credentials/scrub.js'
import { launchTools } from '../launch/launch-tools.js'
import { launch } from '../launch/launch.js'
import type { Locked } from '../backend/types.js'
import type { Ending, LaunchSpec, Running } from '../launch/types.js'
import type { Facts, Plan } from '../plan/types.js'
import { Answers } from './answers.js'
import { claimName } from './claim.js'
import { collect } from './collect.js'
import { endProcesses } from './processes.js'
import { collectTools } from './context.js'
import type { LinuxContext } from './context.js'
import { controlPath, serveControl } from './control.js'
import type { Control } from './control.js'
import { HeldCommand } from './held-command.js'
import { openJailLog } from './jail-log.js'
import { JailNetwork } from './jail-network.js'
import type { StartingGate } from './jail-network.js'
import { joinable } from './join.js'
import { Ledger } from './ledger.js'
import { watchJail } from './linux-watch.js'
import { withLock } from './lock.js'
import { chooseAccount, prepareMachine } from './machine.js'
import { rememberNotices } from './notices.js'
import type { WardenEvents } from './platform.js'
import type { RegistryEntry } from './registry.js'
import type { SignalRelay } from './signals.js'
import { Undo } from './undo.js'

/** Milliseconds between readings of what the kernel refused. */
const denialInterval = 500

export class Warden {
  readonly #context: LinuxContext
  readonly #events: WardenEvents
  readonly #facts: Facts
  readonly #upstreamCa: string | undefined
  readonly #undo: Undo
  readonly #ledger: Ledger
  readonly #command: HeldCommand
  readonly #answers: Answers
  #plan: Plan
  #entry: RegistryEntry | undefined
  #audit: AuditLog | undefined
  #control: Control | undefined
  #network: JailNetwork | undefined
  #gateUser = { uid: 0, gid: 0 }
  /** Settles when the static deny of the reserved range is in force. */
  #deny: (locked?: Locked) => Promise<void> = () => Promise.resolve()
  #extraCa: string | undefined

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
    const scrub = createScrub(plan.gate.credentials)
    const { events: remembered, notices } = rememberNotices(events, scrub)
    const { onNotice, onDecisions } = remembered
    this.#events = remembered
    this.#upstreamCa = upstreamCa
    this.#undo = new Undo(onNotice)
    this.#ledger = new Ledger(onDecisions, scrub, () => context.system.monotonic())
    this.#command = new HeldCommand(plan.jail, onNotice)
    this.#answers = new Answers({
      command: this.#command,
      ledger: this.#ledger,
      plan: () => this.#plan,
      since: () => this.#entry?.since ?? 0,
      pins: () => this.#network?.countPins() ?? 0,
      notices,
      reload: (policy) => this.#reload(policy),
      join: () => {
        this.#command.live()
        return joinable(this.#spec())
      },
    })
  }

  get dropped(): number {
    return this.#audit?.dropped ?? 0
  }

  /** Claims, installs, launches, waits, undoes. Throws when the command was not launched. */
  async run(signals: SignalRelay): Promise<Ending> {
    try {
      const network = await this.#enterNetwork()
      this.#network = network
      const gate = await network.startGate(this.#gateUser)
      await network.serveLoopback(this.#gateUser)
      const running = await this.#launch(gate, network)
      signals.attach(running)
      gate.guard()
      return await this.#supervise(running, network)
    } finally {
      this.#command.beginEnd()
      await this.#undo.all()
      signals.detach()
    }
  }

  /** Claim, account and the jail's rules, in order; what the command waits for besides is in `#deny`. */
  async #enterNetwork(): Promise<JailNetwork> {
    const { account, network } = this.#plan
    if (!account.exists || network.isolation === 'uid') {
      await this.#enter()
      await this.#openLog()
      return await this.#openNetwork()
    }
    await this.#claim()
    // A namespace of its own shares nothing with what is looked at meanwhile.
    const opened = await this.#openNetwork()
    await this.#prepare()
    await this.#openLog()
    return opened
  }

  /** An account that is there already needs no lock; a new one is chosen, claimed and made under it. */
  async #enter(): Promise<void> {
    if (this.#plan.account.exists) {
      await this.#claim()
      await this.#prepare()
      return
    }
    await withLock(this.#context, async () => {
      // No dead jail's uid can be chosen, and so none that a later collection would empty of processes.
      await collect(collectTools(this.#context))
      this.#plan = await chooseAccount(this.#context, this.#plan, this.#facts)
      await this.#claim()
      await this.#prepare()
    })
  }

  async #claim(): Promise<void> {
    const { system, registry } = this.#context
    const { jail } = this.#plan
    this.#entry = await claimName(system, registry, this.#plan)
    this.#undo.push('leave the registry', 'entry', () => registry.remove(jail))
  }

  /** While the launch is under way, which it does not hold up. */
  async #serve(): Promise<void> {
    const path = controlPath(this.#context.config.stateDir, this.#plan.jail)
    const serving = serveControl(path, (request) => this.#answers.answer(request))
    // At once: what failed meanwhile may be undoing already.
    this.#undo.push('close the control socket', 'nothing', async () => {
      await (await serving.catch(() => undefined))?.close()
    })
    this.#control = await serving
  }

  async #prepare(): Promise<void> {
    const { plan, gateUser, deny } = await prepareMachine(this.#context, this.#plan)
    this.#plan = plan
    this.#gateUser = gateUser
    this.#deny = deny
  }

  async #openLog(): Promise<void> {
    const audit = await openJailLog(this.#context.config, this.#plan, this.#events.onNotice)
    this.#audit = audit
    this.#ledger.writeTo(audit)
    this.#undo.push('close the audit log', 'nothing', () => audit.close())
  }

  #openNetwork(): Promise<JailNetwork> {
    const options = {
      context: this.#context,
      facts: this.#facts,
      upstreamCa: this.#upstreamCa,
      undo: this.#undo,
      ledger: this.#ledger,
      command: this.#command,
      onNotice: this.#events.onNotice,
      settled: () => this.#answers.settled,
    }
    return JailNetwork.open(options, this.#plan)
  }

  /** The launch's own steps run while rules are read back and sockets opened; the command itself waits for all of it. */
  async #launch(gate: StartingGate, { hold, netns }: JailNetwork): Promise<Running> {
    this.#extraCa = gate.ca
    // Before the launch: one that fails half-way may have started something.
    this.#undo.push('end the command', 'processes', async () => {
      this.#control?.release()
      await this.#command.kill()
      await endProcesses(this.#context.system, this.#plan.account.uid)
    })
    // In a turn of its own: the first step of the launch, which takes longest, is spawned before.
    const held = Promise.resolve().then(() =>
      Promise.all([
        gate.connect(),
        // On the host's network `connectGate` sees to it: two that change what jails share would be in each other's way.
        netns === undefined ? undefined : this.#deny((work) => withLock(this.#context, work)),
        hold.installed,
        this.#serve(),
      ]),
    )
    // The launch may fail, or be slow, before it asks.
    held.catch(() => undefined)
    const { server } = this.#context
    const running = await launch(this.#spec(), launchTools(this.#context), held, server)
    this.#command.attach(running)
    return running
  }

  #spec(): LaunchSpec {
    const netns = this.#network?.netns
    return {
      ...this.#plan.launch,
      ...(netns === undefined ? {} : { netns }),
      ...(this.#extraCa === undefined ? {} : { extraCa: this.#extraCa }),
    }
  }

  async #supervise(running: Running, network: JailNetwork): Promise<Ending> {
    await this.#enterRunning(running, network)
    const { hold } = network
    const denials = setInterval(() => void this.#ledger.read(hold), denialInterval)
    const time = this.#command.limit(this.#plan.policy.limits.time)
    const watched = watchJail({
      context: this.#context,
      network: this.#plan.network,
      hold,
      command: this.#command,
      onNotice: this.#events.onNotice,
    })
    try {
      return await running.ended
    } finally {
      this.#command.beginEnd()
      clearInterval(denials)
      clearTimeout(time)
      const gateEnd = network.endGate()
      await watched.stop()
      await Promise.all([gateEnd, this.#ledger.read(hold, true)])
      for (const limit of await running.limitsHit()) this.#events.onNotice(limit)
    }
  }

  async #enterRunning({ initPid }: Running, { netns, gatePid }: JailNetwork): Promise<void> {
    if (this.#entry === undefined) return
    await this.#context.registry.update({
      ...this.#entry,
      ...(netns === undefined ? {} : { netns }),
      ...(gatePid === undefined ? {} : { gatePid }),
      initPid,
      phase: 'running',
    })
  }

  async #reload(policy: Plan['policy']): Promise<{ readonly cut: number }> {
    this.#command.live()
    const network = this.#network
    if (network === undefined) throw new Error('there is no network yet')
    const { plan, cut } = await network.reload(policy)
    this.#plan = plan
    this.#events.onPolicy(plan)
    return { cut }
  }
}
