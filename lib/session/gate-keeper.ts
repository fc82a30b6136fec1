/**
 * Keeps a jail's gate: opens its sockets, starts it, starts it again once when it ends, changes its policy, ends it.
 * Invariant: after `failed` was told there is no gate, and whoever was told ends the command.
 */
import type { GatePort, NetworkPlan } from '../backend/types.js'
import { wantsCa } from '../plan/compile.js'
import { errorMessage, JailError } from '../errors.js'
import type { FromGate, GateConfig, GatePolicy, PinRequest } from '../gate/protocol.js'
import type { ForkServer } from '../launch/fork-server.js'
import { spawnGate } from './gate-process.js'
import type { GateTools, LazyGate, OpenedListener } from './gate-process.js'
import { openLate } from './late-listeners.js'
import { gatePorts, listenerSpecs, missingSpecs } from './ports.js'

export interface GateKeeperOptions {
  readonly tools: GateTools
  readonly user: { readonly uid: number; readonly gid: number }
  readonly netns: string | undefined
  readonly server: ForkServer | undefined
  /** The rules of `netns` are in and read back. */
  readonly installed: Promise<unknown>
  /** All that does not change while the jail runs. */
  readonly config: Omit<GateConfig, 'listeners' | 'policy' | 'wantCa' | 'keptCa'>
  /** What is in force now; asked again for a gate that is started again. */
  readonly now: () => { readonly network: NetworkPlan; readonly policy: GatePolicy }
  /** Leads the jail's packets to these ports, which a gate that was started again needs anew. */
  readonly connect: (ports: readonly GatePort[]) => Promise<void>
  readonly onMessage: (
    message: Extract<FromGate, { type: 'decisions' | 'client' | 'pong' | 'fatal' }>,
  ) => void
  /** In force in the kernel: true. */
  readonly onPin: (request: PinRequest) => Promise<boolean>
  readonly onNotice: (text: string) => void
  /** No gate any more, and none will come. */
  readonly onFailed: (why: string) => void
}

const updateTimeout = 5_000
/** Milliseconds for its last decisions to arrive. */
const endTimeout = 300
/** Milliseconds for a gate that the command was faster than to judge what is left. */
const lateTimeout = 2_000
/** Answers of a gate that has just started, one after another: it accepts, reads and judges what was sent before. */
const lateRounds = 4

export class GateKeeper {
  readonly #options: GateKeeperOptions
  #gate: LazyGate | undefined
  #open: readonly OpenedListener[] = []
  #serial = 0
  #restarts = 0
  #guarding = false
  #started = false
  #starting: Promise<string | undefined> | undefined
  #ready = false
  #ending = false
  /** What makes the CA again that the command trusts; only ever given to a gate of this jail. */
  #keptCa: string | undefined
  #end: Promise<void> | undefined
  /** Why it ended before anybody was there to be told. */
  #ended: string | undefined

  constructor(options: GateKeeperOptions) {
    this.#options = options
  }

  get pid(): number | undefined {
    return this.#gate?.pid
  }

  /** How often it was started again: from then on the keeper itself tells what fails. */
  get restarts(): number {
    return this.#restarts
  }

  /** Spawns it; when this resolves all its sockets listen, and their ports are known. */
  async open(): Promise<readonly GatePort[]> {
    const { tools, netns, server, installed, user, now } = this.#options
    const specs = listenerSpecs(now().network)
    const inside = netns === undefined ? {} : { netns, installed }
    const forked = server === undefined ? {} : { server }
    const gate = spawnGate({ tools, specs, user, ...inside, ...forked })
    this.#gate = gate
    this.#started = false
    this.#starting = undefined
    this.#ready = false
    this.#ended = undefined
    gate.onMessage((message) => {
      this.#hear(gate, message)
    })
    gate.onExit((why) => {
      if (gate !== this.#gate) return
      this.#ended = why
      void this.#again()
    })
    this.#open = await gate.listeners
    return gatePorts(this.#open, specs)
  }

  /** Settles with its CA's certificate, where the policy wants one, when everything is served. */
  async start(): Promise<string | undefined> {
    const { config, now } = this.#options
    const { policy } = now()
    if (this.#gate === undefined) throw new JailError('GATE', 'there is no gate')
    this.#started = true
    this.#starting = this.#gate.start({
      ...config,
      listeners: this.#open.map(({ fd, proto, role, port, family }) => ({
        ...{ fd, proto, role, port },
        ...(family === undefined ? {} : { family }),
      })),
      policy,
      wantCa: wantsCa(policy),
      ...(this.#keptCa === undefined ? {} : { keptCa: this.#keptCa }),
    })
    const ca = await this.#starting
    this.#ready = true
    return ca
  }

  /** From here on an end of the gate is answered by a new one, once; an end before now counts. */
  guard(): void {
    this.#guarding = true
    if (this.#ended !== undefined) void this.#again()
  }

  /** Opens what the plan needs beyond what is open; nothing leads there yet. Gives the ports of the whole plan. */
  async prepare(network: NetworkPlan): Promise<readonly GatePort[]> {
    const { tools, netns } = this.#options
    const wanted = listenerSpecs(network)
    const late = await openLate({
      node: tools.node,
      nsenter: tools.nsenter,
      ...(netns === undefined ? {} : { netns }),
      specs: missingSpecs(wanted, this.#open),
      gate: this.#live(),
      nextSerial: () => ++this.#serial,
    })
    this.#open = [...this.#open, ...late]
    return gatePorts(this.#open, wanted)
  }

  /** The policy is in force, and what it withdrew is cut, when it resolves. Gives the number of connections cut. */
  update(policy: GatePolicy): Promise<number> {
    const gate = this.#live()
    const serial = ++this.#serial
    return new Promise((resolve, reject) => {
      const fail = (why: string): void => {
        clearTimeout(timer)
        reject(new JailError('GATE', `the gate does not take the new policy: ${why}`))
      }
      const timer = setTimeout(() => {
        // A gate that cannot change its mind keeps no connection either.
        gate.kill()
        fail(`no answer within ${updateTimeout / 1000} s; it is started again`)
      }, updateTimeout)
      gate.onExit(fail)
      gate.onMessage((message) => {
        if (message.type !== 'updated' || message.serial !== serial) return
        clearTimeout(timer)
        resolve(message.cut)
      })
      gate.send({ type: 'update', serial, policy })
    })
  }

  /** A client's process was looked for: it may be answered. */
  seen(serial: number, found: boolean): void {
    this.#gate?.send({ type: 'seen', serial, found })
  }

  /** Asks the gate for its numbers, which are told as a message; waits for them, but not long. */
  async ask(): Promise<void> {
    // One that has not started has none.
    if (this.#gate !== undefined && this.#ready) await this.#pong(this.#gate)
  }

  #ping(): void {
    this.#gate?.send({ type: 'ping', serial: ++this.#serial })
  }

  /** Asked first, so that its last decisions arrive. Idempotent. */
  end(): Promise<void> {
    this.#ending = true
    this.#end ??= this.#endOnce()
    return this.#end
  }

  async #endOnce(): Promise<void> {
    const gate = this.#gate
    if (gate === undefined) return
    const late = setTimeout(() => {
      gate.kill()
    }, lateTimeout)
    const isIdle = !this.#started && (await gate.endIdle())
    if (!isIdle && !this.#ready) {
      // The command was faster than its gate, and may have left something that is to be told of.
      await (this.#starting ?? this.start()).catch(() => undefined)
      for (let round = 0; round < lateRounds; round++) await this.#pong(gate)
    }
    clearTimeout(late)
    if (isIdle) return
    const gone = new Promise<void>((resolve) => {
      gate.onExit(() => {
        resolve()
      })
    })
    gate.send({ type: 'stop' })
    const timer = setTimeout(() => {
      gate.kill()
    }, endTimeout)
    await gone
    clearTimeout(timer)
  }

  #pong(gate: LazyGate): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, endTimeout)
      const settle = (): void => {
        clearTimeout(timer)
        resolve()
      }
      gate.onMessage(({ type }) => {
        if (type === 'pong') settle()
      })
      gate.onExit(settle)
      this.#ping()
    })
  }

  #live(): LazyGate {
    if (this.#gate !== undefined && this.#ended === undefined) return this.#gate
    throw new JailError('GATE', 'the gate is being started again', { hint: 'try again' })
  }

  #hear(gate: LazyGate, message: FromGate): void {
    switch (message.type) {
      case 'decisions':
      case 'client':
      case 'pong':
      case 'fatal':
        this.#options.onMessage(message)
        break
      case 'ready':
        // The first gate's: a later one makes the same again, or its answers are not believed by the command.
        this.#keptCa ??= message.keptCa
        break
      case 'pin':
        void this.#options.onPin(message).then((ok) => {
          gate.send({ type: 'pinned', serial: message.serial, ok })
        })
        break
      default:
        break
    }
  }

  /** Its listeners are new sockets in the same place. */
  async #again(): Promise<void> {
    if (this.#ending || !this.#guarding) return
    const { connect, onNotice, onFailed } = this.#options
    const why = this.#ended ?? ''
    if (++this.#restarts > 1) {
      onFailed(`the gate ended again: ${why}`)
      return
    }
    onNotice(`the gate ended (${why}) and is started again`)
    try {
      const ports = await this.open()
      await this.start()
      await connect(ports)
    } catch (error) {
      if (!this.#isEnding()) onFailed(`the gate cannot be started again: ${errorMessage(error)}`)
    }
  }

  #isEnding(): boolean {
    return this.#ending
  }
}
