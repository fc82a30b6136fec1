/**
 * The network of one jail on Linux: what holds it in the kernel, and its gate.
 * Invariant: a change leaves both with the new policy or both with the old one, or ends the command.
 */
import type { GatePort, NetworkHold } from '../backend/types.js'
import { errorMessage } from '../errors.js'
import { createScrub } from '../credentials/scrub.js'
import type { FromGate, GatePolicy } from '../gate/protocol.js'
import { removeCgroups } from '../launch/cgroup.js'
import { wantsCa } from '../plan/compile.js'
import type { Facts, Plan } from '../plan/types.js'
import { normaliseName } from '../policy/hosts.js'
import { Callers } from './callers.js'
import type { LinuxContext } from './context.js'
import { GateKeeper } from './gate-keeper.js'
import type { HeldCommand } from './held-command.js'
import type { Ledger } from './ledger.js'
import { withLock } from './lock.js'
import { takePin } from './pins.js'
import { replan } from './replan.js'
import type { Undo } from './undo.js'

/**
 * Milliseconds that a command runs before its gate's Node starts of itself, so that one that ends at once is not
 * waited for: whoever wants something sooner starts it (see `gate-script.ts`).
 */
const startDelay = 25

/** Nothing of it is believed to be what its type says. */
type ClientOfGate = Extract<FromGate, { readonly type: 'client' }>

export interface JailNetworkOptions {
  readonly context: LinuxContext
  readonly facts: Facts
  readonly upstreamCa: string | undefined
  readonly undo: Undo
  readonly ledger: Ledger
  readonly command: HeldCommand
  readonly onNotice: (text: string) => void
  /** Settles when no change of the policy is under way. */
  readonly settled: () => Promise<unknown>
}

/** A gate that starts. */
export interface StartingGate {
  /** Opens it, if it is not open: its sockets listen, and the jail's packets are led to them, when it resolves. */
  connect(): Promise<void>
  /** PEM of its CA, where the policy wants one. */
  readonly ca: string | undefined
  /**
   * The command runs. From here on the gate's end is answered by a new one, once, and what failed until now by the
   * command's end.
   */
  guard(): void
}

export class JailNetwork {
  readonly #options: JailNetworkOptions
  readonly hold: NetworkHold
  #plan: Plan
  /** What the gate enforces. */
  #policy: GatePolicy
  #keeper: GateKeeper | undefined
  #starting: NodeJS.Timeout | undefined
  #pins = 0

  private constructor(options: JailNetworkOptions, plan: Plan, hold: NetworkHold) {
    this.#options = options
    this.#plan = plan
    this.#policy = plan.gate
    this.hold = hold
  }

  /** Begins with its rules (see `NetworkHold.installed`); the undo clears them. */
  static async open(options: JailNetworkOptions, plan: Plan): Promise<JailNetwork> {
    const { context, undo } = options
    const { backend } = context
    const { jail, network } = plan
    const hold = await backend.open(network)
    undo.push('remove the rules', 'rules', async () => {
      if (network.isolation === 'namespace') {
        await hold.close()
        return
      }
      try {
        await withLock(context, async () => {
          const isGone = await hold.close().catch(() => false)
          if (!isGone) await backend.collect({ name: jail, uid: network.uid, isolation: 'uid' })
          if (network.groups !== undefined) await removeCgroups(jail)
        })
      } finally {
        // The lock cannot be had, say: then nothing closed it, and this process would wait for it for ever.
        hold.release?.()
      }
    })
    return new JailNetwork(options, plan, hold)
  }

  get netns(): string | undefined {
    return this.hold.netns
  }

  get gatePid(): number | undefined {
    return this.#keeper?.pid
  }

  /** As the gate counts them; as it did last, where it does not answer at once. */
  async countPins(): Promise<number> {
    await this.#keeper?.ask()
    return this.#pins
  }

  /**
   * Resolves as soon as the command may be launched towards it: the command itself must wait for `connect`.
   * With a CA only once the gate is ready, since the command must trust it from its start.
   */
  async startGate(user: { readonly uid: number; readonly gid: number }): Promise<StartingGate> {
    const keeper = this.#keep(user)
    let connected: Promise<void> | undefined
    const connect = (): Promise<void> => {
      connected ??= keeper.open().then((ports) => this.#connect(ports))
      return connected
    }
    const hasCa = wantsCa(this.#policy)
    let ca: string | undefined
    if (hasCa) {
      await connect()
      ca = await keeper.start()
    }
    const start = (): void => {
      keeper.start().catch((error: unknown) => {
        if (keeper.restarts === 0) this.#options.command.fail(errorMessage(error))
      })
    }
    return {
      connect,
      ca,
      guard: () => {
        keeper.guard()
        if (hasCa) return
        this.#starting = setTimeout(start, startDelay)
      },
    }
  }

  /** The command has ended. Idempotent: the undo does it in any case. */
  async endGate(): Promise<void> {
    clearTimeout(this.#starting)
    await this.#keeper?.end()
  }

  /** In `uid` isolation the command's own sockets are on the host's loopback already. */
  async serveLoopback(user: { readonly uid: number; readonly gid: number }): Promise<void> {
    const ports = this.#plan.network.loopbackListen
    const { netns } = this
    if (ports.length === 0 || netns === undefined) return
    const { openInward } = await import('./inward.js')
    const inward = await openInward({ tools: this.#tools(), netns, ports, user })
    this.#options.undo.push('close the loopback ports', 'nothing', () =>
      Promise.resolve(inward.close()),
    )
  }

  /**
   * New sockets, to which nothing leads yet; the gate, which cuts what is withdrawn; the kernel, in one transaction.
   * At no point is more open than both policies together allow; what fails puts the old policy back.
   */
  async reload(policy: Plan['policy']): Promise<{ readonly plan: Plan; readonly cut: number }> {
    const keeper = this.#keeper
    if (keeper === undefined) throw new Error('there is no gate yet')
    const before = this.#policy
    const plan = replan(this.#plan, before, policy, this.#options.facts)
    const ports = await keeper.prepare(plan.network)
    const cut = await keeper.update(plan.gate)
    this.#policy = plan.gate
    try {
      const update = (): Promise<void> => this.hold.update(plan.network, ports)
      await this.#locked(update)
    } catch (error) {
      await this.#putBack(keeper, before)
      throw error
    }
    this.#plan = plan
    return { plan, cut }
  }

  /** The kernel too: its change may have gone in before something failed. Never throws; else the command is ended. */
  async #putBack(keeper: GateKeeper, before: GatePolicy): Promise<void> {
    this.#policy = before
    const { network } = this.#plan
    try {
      await keeper.update(before)
      const ports = await keeper.prepare(network)
      await this.#locked(() => this.hold.update(network, ports))
    } catch (error) {
      this.#options.command.fail(`the old policy cannot be put back: ${errorMessage(error)}`)
    }
  }

  #keep(user: { readonly uid: number; readonly gid: number }): GateKeeper {
    const { facts, upstreamCa, undo, ledger, command, onNotice, settled } = this.#options
    const callers = new Callers({
      uid: this.#plan.account.uid,
      initPid: () => command.running?.initPid,
      scrub: createScrub(this.#policy.credentials),
      monotonic: () => this.#options.context.system.monotonic(),
    })
    const keeper = new GateKeeper({
      tools: this.#tools(),
      user,
      netns: this.netns,
      server: this.#options.context.server,
      installed: this.hold.installed,
      config: {
        jail: this.#plan.jail,
        mode: this.netns === undefined ? 'redirect' : 'namespace',
        hostAddresses: facts.hostAddresses,
        upstreams: facts.resolvers,
        ...(upstreamCa === undefined ? {} : { upstreamCa }),
      },
      now: () => ({ network: this.#plan.network, policy: this.#policy }),
      connect: (ports) => this.#connect(ports),
      onMessage: (message) => {
        if (message.type === 'pong') this.#pins = message.stats.pins
        else if (message.type === 'decisions') {
          ledger.hear({ ...message, decisions: callers.attribute(message.decisions) })
        } else if (message.type === 'client') {
          void this.#look(callers, message).then((found) => {
            keeper.seen(message.serial, found)
          })
        } else onNotice(`the gate failed: ${message.message.slice(0, 200)}`)
      },
      onPin: async (request) => {
        // In a reload the gate names grants as the new policy does, before the kernel knows them.
        await settled()
        return await takePin(request, this.hold, this.#policy, facts.hostAddresses, onNotice)
      },
      onNotice,
      onFailed: (why) => {
        command.fail(why)
      },
    })
    this.#keeper = keeper
    undo.push('end the gate', 'nothing', () => this.endGate())
    return keeper
  }

  /** True: found. */
  async #look(callers: Callers, { proto, port, name }: ClientOfGate): Promise<boolean> {
    if (name === undefined) return await callers.seek(proto, port)
    const asked = typeof name === 'string' ? normaliseName(name) : undefined
    const caller = asked === undefined ? undefined : await callers.find(proto, port)
    if (asked !== undefined) this.#options.ledger.asked(asked, caller)
    return caller !== undefined
  }

  #tools() {
    const { tools, namespaces } = this.#options.context
    const { perl, nsenter, setpriv, bwrap } = tools
    return { perl, nsenter, setpriv, bwrap, namespaces, node: this.#options.facts.nodePath }
  }

  #connect(ports: readonly GatePort[]): Promise<void> {
    return this.#locked(() => this.hold.connectGate(ports))
  }

  /** A namespace of its own is shared with nobody. */
  #locked(work: () => Promise<void>): Promise<void> {
    return this.netns === undefined ? withLock(this.#options.context, work) : work()
  }
}
