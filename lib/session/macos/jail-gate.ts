/**
 * The gate of one jail on macOS, from its sockets to its end.
 * Invariant: it listens and has its policy before the kernel lets the jail reach it.
 */
import type { GatePort } from '../../backend/types.js'
import { JailError } from '../../errors.js'
import type { FromGate, GateConfig, GatePolicy, Listener } from '../../gate/protocol.js'
import { wantsCa } from '../../plan/compile.js'
import type { Facts, Plan } from '../../plan/types.js'
import type { PortRange } from '../../policy/types.js'
import type { GateProcess, ListenerSpec, OpenedListener } from '../gate-process.js'
import type { MacGateRequest } from './gate.js'

export interface MacJailGateParts {
  readonly plan: Plan
  readonly facts: Facts
  readonly openGate: (request: MacGateRequest) => GateProcess
  readonly user: { readonly uid: number; readonly gid: number }
  /** Only who sends it may use the proxy. */
  readonly token: string
}

/** Milliseconds. */
const answerTimeout = 10_000
const endTimeout = 300

export class MacJailGate {
  readonly #parts: MacJailGateParts
  readonly #process: GateProcess
  #listeners: readonly OpenedListener[] = []
  #serial = 0

  constructor(parts: MacJailGateParts) {
    this.#parts = parts
    const { facts, plan, user, openGate } = parts
    this.#process = openGate({ node: facts.nodePath, specs: listenerSpecs(plan), user })
  }

  onMessage(listener: (message: FromGate) => void): void {
    this.#process.onMessage(listener)
  }

  onExit(listener: (why: string) => void): void {
    this.#process.onExit(listener)
  }

  /** Settles when everything is served, with the certificate that the jail is to trust, if any. */
  async start(): Promise<string | undefined> {
    this.#listeners = await this.#process.listeners
    const { plan, facts, token } = this.#parts
    const config: GateConfig = {
      jail: plan.jail,
      mode: plan.policy.transparent ? 'redirect' : 'proxy',
      listeners: this.#listeners.map(toListener),
      policy: plan.gate,
      wantCa: wantsCa(plan.gate),
      hostAddresses: facts.hostAddresses,
      upstreams: facts.resolvers,
      ...(plan.policy.transparent ? {} : { proxyToken: token }),
    }
    return await this.#process.start(config)
  }

  /** What the command is to be told of it; undefined: it is taken there by redirects. */
  get proxy(): { readonly port: number; readonly token: string } | undefined {
    const opened = this.#listeners.find(({ role }) => role === 'proxy')
    return opened === undefined ? undefined : { port: opened.actual, token: this.#parts.token }
  }

  /** For the kernel: one a port, whatever number of families serves it. */
  get ports(): GatePort[] {
    const seen = new Set<string>()
    return this.#listeners.flatMap(({ proto, port, actual, role }): GatePort[] => {
      const key = `${proto}/${String(port)}`
      if (seen.has(key)) return []
      seen.add(key)
      if (role !== 'proxy') return [{ proto, port, gatePort: actual }]
      return [{ proto, port: actual, gatePort: actual, role }]
    })
  }

  /** Gives the number of connections cut. */
  async update(policy: GatePolicy): Promise<number> {
    const serial = ++this.#serial
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new JailError('GATE', 'the gate does not take the policy'))
      }, answerTimeout)
      this.#process.onMessage((message) => {
        if (message.type !== 'updated' || message.serial !== serial) return
        clearTimeout(timer)
        resolve(message.cut)
      })
      this.#process.send({ type: 'update', serial, policy })
    })
  }

  pinned(serial: number, ok: boolean): void {
    this.#process.send({ type: 'pinned', serial, ok })
  }

  async end(): Promise<void> {
    const gone = new Promise<void>((resolve) => {
      this.#process.onExit(() => {
        resolve()
      })
    })
    this.#process.send({ type: 'stop' })
    const timer = setTimeout(() => {
      this.#process.kill()
    }, endTimeout)
    await gone
    clearTimeout(timer)
  }
}

function listenerSpecs({ network, policy }: Plan): ListenerSpec[] {
  if (!policy.transparent) return [{ proto: 'tcp', meant: 0, role: 'proxy' }]
  const of = (proto: 'tcp' | 'udp', ranges: readonly PortRange[]): ListenerSpec[] =>
    ranges.flatMap(({ first, last }) =>
      Array.from({ length: last - first + 1 }, (_, index) => ({ proto, meant: first + index })),
    )
  return [...of('udp', network.gateUdp), ...of('tcp', network.gateTcp)]
}

function toListener({ fd, proto, role, port, family }: OpenedListener): Listener {
  return { fd, proto, role, port, ...(family === undefined ? {} : { family }) }
}
