/**
 * Connections to the real host, kept per client connection; what is idle when that ends, the next one may have.
 * Invariant: a connection is dialled by name, verified for exactly that name, and never shared between two names, two
 * grants, two jails, or two client connections at a time.
 */
import http from 'node:http'
import type { Duplex } from 'node:stream'
import tls from 'node:tls'
import type { ReasonCode } from '../../audit/record.js'
import type { Grant } from '../../policy/types.js'
import { cutEvent } from '../cut-event.js'
import { leave, takeLeft } from './left-over.js'
import type { Place } from './message.js'
import { highWaterMark } from './pump.js'
import type { HttpContext } from './types.js'

/** An upstream failure with the reason it is logged under. */
export class UpstreamError extends Error {
  readonly reason: ReasonCode

  constructor(reason: ReasonCode, message: string, cause?: unknown) {
    super(message, { cause })
    this.reason = reason
  }
}

interface AgentOptions extends http.ClientRequestArgs {
  grant: Grant
}

const handshakeMs = 15_000
/** Node's agent marks the request that takes an idle connection. */
const nobody = Object.create(null) as http.ClientRequest
/** Sessions kept for resumption, each a few hundred bytes. */
const maxSessions = 256

/** Node's agent for the pooling; how a connection is made is ours. */
export class UpstreamAgent extends http.Agent {
  readonly #place: Place
  readonly #context: HttpContext

  constructor(place: Place, context: HttpContext) {
    super({ keepAlive: true, maxSockets: 64, maxFreeSockets: 8 })
    this.#place = place
    this.#context = context
  }

  override getName(options?: http.ClientRequestArgs): string {
    return (options as AgentOptions | undefined)?.grant.id ?? ''
  }

  override createConnection(
    options: http.ClientRequestArgs,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): Duplex | undefined {
    const { grant } = options as AgentOptions
    const left = takeLeft(this.#context, this.#keyOf(grant.id))
    if (left !== undefined) return left
    connect(this.#place, grant, this.#context).then(
      (stream) => callback?.(null, stream),
      (error: unknown) => {
        // Node's types want a stream even with an error.
        const fail = callback as ((error: Error) => void) | undefined
        fail?.(error instanceof Error ? error : new Error(String(error)))
      },
    )
    return undefined
  }

  /** Gives away what is idle, if another client connection may have it, and ends all else. */
  close(mayGiveOn: boolean): void {
    for (const [grantId, sockets] of mayGiveOn ? Object.entries(this.freeSockets) : []) {
      for (const socket of sockets?.splice(0) ?? []) {
        socket.emit('agentRemove')
        // Takes off what the agent listens for while a connection is idle.
        this.reuseSocket(socket, nobody)
        leave(this.#context, this.#keyOf(grantId), socket)
      }
    }
    this.destroy()
  }

  #keyOf(grantId: string): string {
    const { name, port, isTls } = this.#place
    return `${isTls ? 'https' : 'http'}://${name}:${String(port)} ${grantId}`
  }
}

async function connect(place: Place, grant: Grant, context: HttpContext): Promise<Duplex> {
  const socket = await context.dial(place.name, place.port, grant).catch((error: unknown) => {
    throw new UpstreamError(reasonOf(error), `no connection to ${place.name}`, error)
  })
  socket.setNoDelay(true)
  if (!place.isTls) return socket
  const sessions = sessionsOf(context)
  const key = `${place.name}:${String(place.port)}`
  const session = sessions.get(key)
  return await new Promise<Duplex>((resolve, reject) => {
    const secure = tls.connect({
      socket,
      servername: place.name,
      ALPNProtocols: ['http/1.1'],
      minVersion: 'TLSv1.2',
      highWaterMark,
      ...(context.upstreamCa === undefined ? {} : { secureContext: rootsWith(context.upstreamCa) }),
      ...(session === undefined ? {} : { session }),
    } as tls.ConnectionOptions)
    socket.on(cutEvent, (reason: ReasonCode = 'grant-withdrawn') => {
      secure.destroy(new UpstreamError(reason, 'cut'))
    })
    const timer = setTimeout(() => {
      secure.destroy(new UpstreamError('timeout', `TLS handshake with ${place.name} timed out`))
    }, handshakeMs)
    secure.on('session', (fresh) => {
      if (sessions.size >= maxSessions) sessions.clear()
      sessions.set(key, fresh)
    })
    secure.once('secureConnect', () => {
      clearTimeout(timer)
      resolve(secure)
    })
    secure.once('error', (error: Error) => {
      clearTimeout(timer)
      sessions.delete(key)
      reject(handshakeError(error, secure, place))
    })
  })
}

function handshakeError(error: Error, secure: tls.TLSSocket, place: Place): Error {
  if (error instanceof UpstreamError) return error
  const code = 'code' in error ? String(error.code) : ''
  const isCertificate = Boolean(secure.authorizationError) || code.startsWith('ERR_TLS_CERT')
  return new UpstreamError(
    isCertificate ? 'upstream-certificate' : 'dial-failed',
    `TLS with ${place.name}: ${code === '' ? 'failed' : code}`,
    error,
  )
}

function reasonOf(error: unknown): ReasonCode {
  const reason =
    typeof error === 'object' && error !== null && 'reason' in error ? error.reason : undefined
  return typeof reason === 'string' ? (reason as ReasonCode) : 'dial-failed'
}

const sessionCaches = new WeakMap<HttpContext, Map<string, Buffer>>()

function sessionsOf(context: HttpContext): Map<string, Buffer> {
  let sessions = sessionCaches.get(context)
  if (sessions === undefined) {
    sessions = new Map()
    sessionCaches.set(context, sessions)
  }
  return sessions
}

let extraRoots: { readonly pem: string; readonly context: tls.SecureContext } | undefined

/** Parsing all roots costs milliseconds: once per bundle. */
function rootsWith(pem: string): tls.SecureContext {
  if (extraRoots?.pem !== pem) {
    const context = tls.createSecureContext({
      ca: [...tls.rootCertificates, pem],
      minVersion: 'TLSv1.2',
    })
    extraRoots = { pem, context }
  }
  return extraRoots.context
}
