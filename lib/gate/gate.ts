/**
 * One jail's gate: puts the parts together and serves the listeners it was given.
 * Invariant: it opens no listening socket of its own, and a reload is in force, with withdrawn
 * connections cut, before `update` returns.
 */
import dgram from 'node:dgram'
import net from 'node:net'
import { performance } from 'node:perf_hooks'
import type { Decision } from '../audit/record.js'
import { canonicalAddress } from '../policy/addresses.js'
import { Budgets } from './budgets.js'
import { Connections } from './connections.js'
import { Clients, type SendClient } from './clients.js'
import { Decisions, type SendBatch } from './decisions.js'
import { DnsFilter } from './dns/filter.js'
import { Resolver } from './dns/resolver.js'
import { type Served, serveDnsTcp, serveDnsUdp } from './dns/serve.js'
import { createAsk } from './dns/upstream.js'
import { Grants } from './grants.js'
import { loadHttp } from './http-gate.js'
import { Names, type PinInKernel } from './names.js'
import type { GateConfig, GatePolicy, GateStats, HandedListener } from './protocol.js'
import { serveProxy } from './proxy/serve.js'
import { type HttpHandlers, Relay, serverOptions } from './relay.js'
import { relayUdp } from './udp.js'

const backlog = 511

/** Where a listener's socket is: a descriptor the gate inherited, or a native handle that came over IPC. */
type Source = { readonly fd: number } | { readonly handle: unknown }

export interface GateHooks {
  readonly send: SendBatch
  readonly client?: SendClient
  /** Asked in `redirect` mode only. */
  readonly pin: PinInKernel
}

export class Gate {
  readonly #config: GateConfig
  readonly #names: Names
  readonly #filter: DnsFilter
  readonly #decisions: Decisions
  readonly #clients: Clients | undefined
  readonly #budgets: Budgets
  readonly #connections: Connections
  readonly #relay: Relay
  readonly #served: Served[] = []
  #policy: GatePolicy

  private constructor(config: GateConfig, hooks: GateHooks, http: (gate: Gate) => HttpHandlers) {
    const now = (): number => performance.now()
    this.#config = config
    this.#policy = config.policy
    const upstreams = (): GateConfig['upstreams'] =>
      this.#policy.dns.upstream.length > 0 ? this.#policy.dns.upstream : config.upstreams
    const resolver = new Resolver({
      ask: createAsk(upstreams),
      maxTtl: () => this.#policy.dns.maxTtl,
      now,
    })
    // The proxy's clients are processes of macOS, where nobody looks.
    const canLook = hooks.client !== undefined && config.mode !== 'proxy'
    this.#clients = canLook ? new Clients(hooks.client, now) : undefined
    this.#decisions = new Decisions(hooks.send, this.#clients)
    this.#names = new Names({
      grants: this.#compile(config.policy),
      resolver,
      now,
      ...(config.mode === 'redirect' ? { pinInKernel: hooks.pin } : {}),
    })
    this.#filter = new DnsFilter(this.#names, this.#decisions, now)
    this.#budgets = new Budgets(config.policy.egressBytes, now)
    this.#connections = new Connections(this.#decisions, this.#budgets)
    this.#relay = new Relay({
      names: this.#names,
      connections: this.#connections,
      budgets: this.#budgets,
      decisions: this.#decisions,
      http: http(this),
    })
  }

  /** Serves every listener of `config`; rejects if one can't be. */
  static async start(
    config: GateConfig,
    hooks: GateHooks,
  ): Promise<{ readonly gate: Gate; readonly ca?: string; readonly keptCa?: string }> {
    const http = await loadHttp(config)
    const gate = new Gate(config, hooks, (it) =>
      http.handlers({
        jail: config.jail,
        policy: () => it.#policy,
        grants: () => it.#names.grants,
        dial: (name, port, grant) => it.#relay.dial(name, port, grant),
        report: (decision, client) => it.report(decision, client),
        budgets: () => it.#budgets,
        connections: () => it.#connections,
      }),
    )
    try {
      for (const listener of config.listeners) await gate.#serve(listener, { fd: listener.fd })
    } catch (error) {
      gate.close()
      throw error
    }
    const { ca, keptCa } = http
    return { gate, ...(ca === undefined || keptCa === undefined ? {} : { ca, keptCa }) }
  }

  report(decision: Decision, client?: number): Promise<void> | undefined {
    return this.#decisions.report(decision, client)
  }

  /** The warden has looked for a client's process. */
  seen(serial: number, isFound: boolean): void {
    this.#clients?.seen(serial, isFound)
  }

  /** Puts a new policy in force; gives the number of connections cut. */
  async update(policy: GatePolicy): Promise<number> {
    this.#policy = policy
    const grants = this.#compile(policy)
    this.#names.update(grants)
    this.#filter.update()
    this.#budgets.update(policy.egressBytes)
    const cut = this.#connections.cutWithdrawn(grants)
    void this.#names.repin()
    await this.#decisions.flush()
    return cut
  }

  /** Serves one more socket, handed over while running. */
  async add(listener: HandedListener, handle: unknown): Promise<void> {
    await this.#serve(listener, { handle })
  }

  stats(): GateStats {
    return {
      connections: this.#connections.size,
      up: this.#connections.up,
      down: this.#connections.down,
      pins: this.#names.pins.live().length,
      queries: this.#filter.queries,
    }
  }

  /** Cuts everything, and hands over the last decisions. */
  async stop(): Promise<void> {
    this.close()
    await this.#decisions.flush()
  }

  close(): void {
    for (const served of this.#served.splice(0)) served.close()
    this.#connections.cutAll()
  }

  #compile(policy: GatePolicy): Grants {
    const host = this.#config.hostAddresses.flatMap((address) => canonicalAddress(address) ?? [])
    return new Grants(policy, host)
  }

  async #serve(listener: HandedListener, source: Source): Promise<void> {
    this.#served.push(
      listener.proto === 'udp'
        ? await this.#serveUdp(listener, source)
        : await this.#serveTcp(listener, source),
    )
  }

  async #serveUdp(listener: HandedListener, source: Source): Promise<Served> {
    const socket = dgram.createSocket(listener.family === 4 ? 'udp4' : 'udp6')
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      const bound = (): void => {
        socket.off('error', reject)
        resolve()
      }
      // A native handle is taken as it is; the types know the other forms only.
      if ('fd' in source) socket.bind({ fd: source.fd }, bound)
      else socket.bind(source.handle as dgram.BindOptions, bound)
    })
    if (listener.role === 'dns') return serveDnsUdp(socket, this.#filter)
    return relayUdp(socket, listener.port, {
      names: this.#names,
      connections: this.#connections,
      budgets: this.#budgets,
      decisions: this.#decisions,
      now: () => performance.now(),
    })
  }

  async #serveTcp(listener: HandedListener, source: Source): Promise<Served> {
    const server = net.createServer(listener.role === 'dns' ? {} : serverOptions)
    // Before it listens: a connection may be waiting already.
    const served = this.#attach(server, listener)
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen('fd' in source ? { fd: source.fd, backlog } : source.handle, () => {
        server.off('error', reject)
        // Out of descriptors for a moment: the connection waits in the backlog.
        server.on('error', () => undefined)
        resolve()
      })
    })
    return served
  }

  #attach(server: net.Server, listener: HandedListener): Served {
    switch (listener.role) {
      case 'dns':
        return serveDnsTcp(server, this.#filter)
      case 'relay':
        this.#relay.serve(server, listener.port, this.#config.mode === 'redirect')
        break
      case 'proxy':
        serveProxy(server, {
          names: this.#names,
          relay: this.#relay,
          decisions: this.#decisions,
          token: this.#config.proxyToken,
        })
        break
    }
    return {
      close: () => {
        server.close()
      },
    }
  }
}
