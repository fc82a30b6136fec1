/**
 * One jail on macOS from claim to end: the same straight path as on Linux, over pf, dscl and launchctl.
 * Invariant: rules in and read back, gate listening, then launch; at the end the command and every process of its uid
 * first, the rules after. Whatever throws on the way undoes what was done, in reverse, and leaves denial.
 */
import { randomBytes } from 'node:crypto'
import type { NetworkHold } from '../../backend/types.js'
import { createScrub } from '../../credentials/scrub.js'
import { JailError } from '../../errors.js'
import type { FromGate, GatePolicy } from '../../gate/protocol.js'
import type { MacLaunchRequest } from '../../launch/macos/launch.js'
import type { Ending, Running } from '../../launch/types.js'
import type { Facts, Plan } from '../../plan/types.js'
import { Answers } from '../answers.js'
import { claimName } from '../claim.js'
import { controlPath, serveControl } from '../control.js'
import { HeldCommand } from '../held-command.js'
import { Ledger } from '../ledger.js'
import { rememberNotices } from '../notices.js'
import { takePin } from '../pins.js'
import { endProcesses } from '../processes.js'
import type { RegistryEntry } from '../registry.js'
import { replan } from '../replan.js'
import { Undo } from '../undo.js'
import { watch, type Watch } from '../watch.js'
import { refuseUnloadable } from './fits.js'
import { MacJailGate } from './jail-gate.js'
import { joinable } from './join.js'
import type { MacEvents, MacParts } from './parts.js'
import { launchRequest, makePlace } from './place.js'
import { chooseMacAccount, prepareMac } from './prepare.js'
import { explainGate } from './readable.js'

/** Milliseconds; also how often expired pins leave their tables. */
const watchInterval = 900
const denialInterval = 500
const launchctl = '/bin/launchctl'

export class MacWarden {
  readonly #parts: MacParts
  #plan: Plan
  readonly #facts: Facts
  readonly #events: MacEvents
  readonly #undo: Undo
  readonly #ledger: Ledger
  readonly #command: HeldCommand
  readonly #answers: Answers
  #entry: RegistryEntry | undefined
  #hold: NetworkHold | undefined
  #gate: MacJailGate | undefined
  /** As its command was launched: a further one is launched the same. */
  #request: MacLaunchRequest | undefined
  #policy: GatePolicy

  constructor(parts: MacParts, plan: Plan, facts: Facts, events: MacEvents) {
    this.#parts = parts
    this.#plan = plan
    this.#policy = plan.gate
    this.#facts = facts
    const scrub = createScrub(plan.gate.credentials)
    const { events: remembered, notices } = rememberNotices(events, scrub)
    this.#events = remembered
    this.#undo = new Undo(remembered.onNotice)
    this.#ledger = new Ledger(remembered.onDecisions, scrub, () => parts.system.monotonic())
    this.#command = new HeldCommand(plan.jail, remembered.onNotice)
    this.#answers = new Answers({
      command: this.#command,
      ledger: this.#ledger,
      plan: () => this.#plan,
      since: () => this.#entry?.since ?? 0,
      pins: () => 0,
      notices,
      reload: (policy) => this.reload(policy),
      join: () => {
        this.#command.live()
        if (this.#request === undefined) throw new Error('there is no launch yet')
        return joinable(this.#request)
      },
    })
  }

  /** Claims, installs, launches, waits, undoes. Throws when the command was not launched. */
  async run(): Promise<Ending> {
    try {
      return await this.#supervise(await this.#start())
    } finally {
      this.#command.beginEnd()
      await this.#undo.all()
    }
  }

  /**
   * Puts an edited policy in force: the gate first, which cuts what is withdrawn, then the kernel in one transaction.
   * At no point is more open than both policies together allow; what fails puts the old policy back.
   */
  async reload(policy: Plan['policy']): Promise<{ readonly cut: number }> {
    this.#command.live()
    const [hold, gate] = [this.#hold, this.#gate]
    if (hold === undefined || gate === undefined)
      throw new JailError('GATE', 'there is no network yet')
    const plan = replan(this.#plan, this.#policy, policy, this.#facts)
    refuseUnloadable(this.#plan, plan)
    const before = this.#policy
    const cut = await gate.update(plan.gate)
    this.#policy = plan.gate
    try {
      await this.#parts.lock(() => hold.update(plan.network))
    } catch (error) {
      this.#policy = before
      await gate.update(before)
      throw error
    }
    this.#plan = plan
    this.#events.onPolicy?.(plan)
    return { cut }
  }

  async #start(): Promise<Running> {
    const { lock, backend } = this.#parts
    const gateUser = await this.#enter()
    const audit = await this.#parts.openAudit()
    this.#ledger.writeTo(audit)
    this.#undo.push('close the audit log', 'nothing', () => audit.close())
    this.#undo.push('remove the rules', 'rules', () => lock(() => this.#removeRules()))
    const hold = await lock(() => backend.open(this.#plan.network))
    this.#hold = hold
    const gate = this.#openGate(gateUser)
    const ca = await gate.start().catch(async (error: unknown) => {
      throw await explainGate(this.#parts, this.#facts.nodePath, gateUser, error)
    })
    await lock(() => hold.connectGate(gate.ports))
    return await this.#launch(gate, ca)
  }

  /** Gives the gate's user. An account that is not there yet is chosen, claimed and made under one lock. */
  async #enter(): Promise<{ readonly uid: number; readonly gid: number }> {
    const { lock } = this.#parts
    const prepare = () => prepareMac(this.#parts, this.#plan, this.#events.onNotice)
    if (this.#plan.account.exists) {
      await this.#claim()
      return await lock(prepare)
    }
    return await lock(async () => {
      this.#plan = await chooseMacAccount(this.#parts, this.#plan, this.#facts)
      await this.#claim()
      return await prepare()
    })
  }

  async #claim(): Promise<void> {
    const { system, registry, settings } = this.#parts
    const { jail } = this.#plan
    this.#entry = await claimName(system, registry, this.#plan)
    this.#undo.push('leave the registry', 'entry', () => registry.remove(jail))
    const serve = this.#parts.serve ?? serveControl
    const control = await serve(controlPath(settings.stateDir, jail), (request) =>
      this.#answers.answer(request),
    )
    this.#undo.push('close the control socket', 'nothing', () => control.close())
  }

  #openGate(user: { readonly uid: number; readonly gid: number }): MacJailGate {
    const [facts, plan] = [this.#facts, this.#plan]
    const token = randomBytes(24).toString('base64url')
    const gate = new MacJailGate({ facts, plan, openGate: this.#parts.openGate, user, token })
    this.#gate = gate
    this.#undo.push('end the gate', 'nothing', () => gate.end())
    gate.onMessage((message) => {
      this.#hear(gate, message)
    })
    gate.onExit((why) => {
      // Its end closes the jail's way out; the command must not go on half served.
      this.#command.fail(`the gate ended: ${why}`)
    })
    return gate
  }

  async #launch(gate: MacJailGate, ca: string | undefined): Promise<Running> {
    const [plan, parts] = [this.#plan, this.#parts]
    const own = await makePlace({ parts, plan, facts: this.#facts, undo: this.#undo }, ca)
    this.#undo.push('end the command', 'processes', () => this.#endCommand())
    const request: MacLaunchRequest = {
      ...launchRequest(plan, parts.settings),
      ...(gate.proxy === undefined ? {} : { proxy: gate.proxy }),
      ...(own === undefined ? {} : { ca: own }),
    }
    const running = await parts.launch(request)
    this.#request = request
    this.#command.attach(running)
    if (plan.policy.transparent)
      this.#events.onNotice(
        'transparent: the command may use the system resolver, which answers every name: queries can carry data out',
      )
    this.#events.onRunning(running)
    return running
  }

  async #supervise(running: Running): Promise<Ending> {
    const { registry } = this.#parts
    if (this.#entry !== undefined)
      await registry.update({ ...this.#entry, initPid: running.initPid, phase: 'running' })
    const denials = setInterval(() => void this.#ledger.read(this.#hold), denialInterval)
    const guard = this.#startWatch()
    const limit = this.#command.limit(this.#plan.policy.limits.time)
    try {
      return await running.ended
    } finally {
      this.#command.beginEnd()
      clearInterval(denials)
      clearTimeout(limit)
      await guard?.stop()
      await this.#ledger.read(this.#hold, true)
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
          this.#command.fail(`the pf rules cannot be restored: ${why}`)
        },
      },
    )
  }

  #hear(gate: MacJailGate, message: FromGate): void {
    if (message.type === 'decisions') {
      this.#ledger.hear(message)
    } else if (message.type === 'pin') {
      void this.#pin(gate, message)
    } else if (message.type === 'fatal') {
      this.#events.onNotice(`the gate failed: ${message.message.slice(0, 200)}`)
    }
  }

  async #pin(gate: MacJailGate, request: Extract<FromGate, { type: 'pin' }>): Promise<void> {
    const { onNotice } = this.#events
    const { hostAddresses } = this.#facts
    // In a reload the gate names grants as the new policy does, before the kernel knows them.
    await this.#answers.settled
    gate.pinned(
      request.serial,
      await takePin(request, this.#hold, this.#policy, hostAddresses, onNotice),
    )
  }

  /** The user's whole launchd domain, then what is left of the uid; confirmed before any rule goes. */
  async #endCommand(): Promise<void> {
    const { system } = this.#parts
    const { uid } = this.#plan.account
    this.#command.running?.kill()
    await system.run([launchctl, 'bootout', `user/${String(uid)}`]).catch(() => undefined)
    await endProcesses(system, uid)
    await this.#command.kill()
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
}
