/**
 * Joins the HTTP gate to the gate around it.
 * Invariant: the HTTP gate reads the policy in force at every request, and reaches only granted names.
 */
import type { Socket } from 'node:net'
import type { Decision, ReasonCode } from '../audit/record.js'
import type { Grant } from '../policy/types.js'
import type { Budgets } from './budgets.js'
import { type Connections, reset } from './connections.js'
import type { Grants } from './grants.js'
import { createAuthority, type Authority } from './http/authority.js'
import type { HttpContext } from './http/types.js'
import type { GateConfig, GatePolicy } from './protocol.js'
import type { HttpHandlers } from './relay.js'

/** What the HTTP gate needs of the rest; functions, because a reload replaces what they give. */
interface HttpSurroundings {
  readonly jail: string
  policy(): GatePolicy
  grants(): Grants
  dial(name: string, port: number, grant: Grant): Promise<Socket>
  report(decision: Decision, client?: number): Promise<void> | undefined
  budgets(): Budgets
  connections(): Connections
}

export interface LoadedHttp {
  /** PEM of the jail's CA, where one is wanted. */
  readonly ca?: string
  /** What makes the same CA again. */
  readonly keptCa?: string
  handlers(around: HttpSurroundings): HttpHandlers
}

/** Makes the CA if one is wanted. HTTP itself is loaded with the first connection that needs it. */
export async function loadHttp(config: GateConfig): Promise<LoadedHttp> {
  let authority: Authority | undefined
  if (config.wantCa) {
    authority = await createAuthority(config.jail, config.keptCa)
  }
  return {
    ...(authority === undefined ? {} : { ca: authority.pem, keptCa: authority.kept }),
    handlers: (around) => makeHandlers(contextOf(config, around, authority)),
  }
}

function contextOf(
  config: GateConfig,
  around: HttpSurroundings,
  authority: Authority | undefined,
): HttpContext {
  return {
    findGrants: (name, port) => {
      const grants = around.grants()
      const found = grants.forPort(name, port, 'tcp')
      const reported = found.length === 0 ? grants.reported(name, port) : undefined
      return reported === undefined ? found : [reported]
    },
    refusal: (name) => around.grants().refusal(name),
    dial: (name, port, grant) => around.dial(name, port, grant),
    report: (decision, client) => around.report(decision, client),
    credentials: () => around.policy().credentials,
    budget: {
      request: (grant) => around.budgets().request(grant),
      upload: (grant, bytes): ReasonCode | undefined => around.connections().upload(grant, bytes),
    },
    authority,
    ...(config.upstreamCa === undefined ? {} : { upstreamCa: config.upstreamCa }),
  }
}

function makeHandlers(context: HttpContext): HttpHandlers {
  const load = async () => await import('./http/serve.js')
  const fail = (socket: Socket) => () => {
    reset(socket)
  }
  return {
    serveTls: (socket, name, head, port) => {
      load()
        .then((http) => http.serveTls(socket, name, head, port, context))
        .catch(fail(socket))
    },
    servePlain: (socket, port, head) => {
      load()
        .then((http) => http.servePlain(socket, port, context, head))
        .catch(fail(socket))
    },
  }
}
