/**
 * What the requests of one client connection share: its name, its upstream connections, its counts.
 * Invariant: when the client's connection ends, so does every upstream connection that is at work for it.
 */
import type { Decision } from '../../audit/record.js'
import type { Grant } from '../../policy/types.js'
import { maskedPath } from './log-path.js'
import type { Place } from './message.js'
import type { HttpContext } from './types.js'
import { UpstreamAgent } from './upstream.js'

export class Link {
  /** The name of the TLS connection; empty for plain HTTP, where each request names its own. */
  readonly name: string
  readonly port: number
  readonly isTls: boolean
  readonly context: HttpContext
  /** The port of the client's own socket. */
  readonly #client: number | undefined
  /** Bytes of bodies and of WebSockets. */
  up = 0
  down = 0
  readonly #agents = new Map<string, UpstreamAgent>()
  readonly #inUse = new Map<Grant, number>()
  #lastGrant: Grant | undefined
  #lastName: string | undefined
  #isClosed = false
  #mayGiveOn = true

  constructor(name: string, port: number, isTls: boolean, context: HttpContext, client?: number) {
    this.name = name
    this.port = port
    this.isTls = isTls
    this.context = context
    this.#client = client
  }

  agentFor(place: Place): UpstreamAgent {
    let agent = this.#agents.get(place.name)
    if (agent === undefined) {
      agent = new UpstreamAgent(place, this.context)
      this.#agents.set(place.name, agent)
    }
    this.#lastName = place.name
    return agent
  }

  /** Marks a grant as in use; the function returned takes the mark away. */
  use(grant: Grant): () => void {
    this.#inUse.set(grant, (this.#inUse.get(grant) ?? 0) + 1)
    this.#lastGrant = grant
    return () => {
      const left = (this.#inUse.get(grant) ?? 1) - 1
      if (left > 0) this.#inUse.set(grant, left)
      else this.#inUse.delete(grant)
    }
  }

  /** NTLM and the like log in a connection, not a request: nobody else may have it. */
  keepToItself(): void {
    this.#mayGiveOn = false
  }

  grantsInUse(): readonly Grant[] {
    return [...this.#inUse.keys()]
  }

  report(decision: Decision): Promise<void> | undefined {
    return this.context.report(decision, this.#client)
  }

  /** A path for the log: no query, nothing that is or may be a key. */
  logPath(target: string): string {
    return maskedPath(target, this.context.credentials())
  }

  /** The client's connection has ended. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const agent of this.#agents.values()) agent.close(this.#mayGiveOn)
    if (this.#lastGrant === undefined) return
    void this.report({
      verdict: 'allow',
      reason: 'granted',
      layer: 'http',
      direction: 'out',
      proto: 'tcp',
      name: this.#lastName ?? this.name,
      port: this.port,
      grant: this.#lastGrant.id,
      up: this.up,
      down: this.down,
    })
  }
}
