/**
 * The gate as an explicit proxy: HTTP CONNECT, absolute-form HTTP and SOCKS5 with names, on one listener.
 * Invariant: a client without the jail's token gets nothing, and a target goes through the same
 * grants, the same hello and the same dial as a redirected connection.
 */
import type { Server, Socket } from 'node:net'
import { type ReasonCode, reasons } from '../../audit/record.js'
import { classifyAddress } from '../../policy/addresses.js'
import { collect } from '../collect.js'
import { reset } from '../connections.js'
import type { Decisions } from '../decisions.js'
import type { Names } from '../names.js'
import type { Relay, Replies } from '../relay.js'
import { type Route, strictest } from '../route.js'
import { readHello } from '../read-hello.js'
import {
  isToken,
  parseHttpRequest,
  parseSocksGreeting,
  parseSocksPassword,
  parseSocksRequest,
  type Target,
} from './target.js'

export interface ProxyParts {
  readonly names: Names
  readonly relay: Relay
  readonly decisions: Decisions
  /** Absent: none is asked for. */
  readonly token: string | undefined
}

const none = Buffer.alloc(0)
const socksVersion = 5

export function serveProxy(server: Server, parts: ProxyParts): void {
  server.on('connection', (socket) => {
    socket.on('error', () => undefined)
    void serveClient(socket, parts)
  })
}

async function serveClient(socket: Socket, parts: ProxyParts): Promise<void> {
  const { value, bytes } = await collect(socket, none, (all) => all[0])
  if (typeof value !== 'number') socket.destroy()
  else if (value === socksVersion) await serveSocks(socket, bytes, parts)
  else await serveHttp(socket, bytes, parts)
}

async function serveHttp(socket: Socket, first: Buffer, parts: ProxyParts): Promise<void> {
  const { value: request } = await collect(socket, first, parseHttpRequest)
  if (typeof request === 'string') {
    socket.destroy()
    return
  }
  if (request.kind === 'bad') {
    const about = { layer: 'http', direction: 'out', proto: 'tcp' } as const
    const { detail } = request
    void parts.decisions.report({ verdict: 'deny', reason: 'http-malformed', ...about, detail })
    finish(socket, httpAnswer('400 Bad Request', detail))
    return
  }
  if (parts.token !== undefined && !isToken(request.password, parts.token)) {
    const challenge = 'Proxy-Authenticate: Basic realm="agentjail"\r\n'
    finish(socket, httpAnswer('407 Proxy Authentication Required', 'not this jail', challenge))
    return
  }
  if (request.kind === 'forward') {
    const route: Route = { kind: 'http', head: request.bytes }
    await parts.relay.follow(socket, route, undefined, request.port)
    return
  }
  await serveTarget(socket, request.target, request.rest, parts, {
    ready: () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
    },
    refused: (reason) => {
      finish(socket, httpAnswer('403 Forbidden', `${reason}: ${reasons[reason]}`))
    },
  })
}

async function serveSocks(socket: Socket, first: Buffer, parts: ProxyParts): Promise<void> {
  const greeting = await collect(socket, first, parseSocksGreeting)
  if (typeof greeting.value === 'string') {
    socket.destroy()
    return
  }
  let rest = greeting.bytes.subarray(greeting.value.length)
  // RFC 1929 where there is a token, else no authentication.
  const method = parts.token === undefined ? 0 : 2
  if (!greeting.value.methods.includes(method)) {
    finish(socket, Buffer.from([socksVersion, 0xff]))
    return
  }
  socket.write(Buffer.from([socksVersion, method]))
  if (parts.token !== undefined) {
    const login = await collect(socket, rest, parseSocksPassword)
    if (typeof login.value === 'string' || !isToken(login.value.password, parts.token)) {
      finish(socket, Buffer.from([1, 1]))
      return
    }
    socket.write(Buffer.from([1, 0]))
    rest = login.bytes.subarray(login.value.length)
  }
  const asked = await collect(socket, rest, parseSocksRequest)
  if (typeof asked.value === 'string') {
    socket.destroy()
    return
  }
  if (typeof asked.value === 'number') {
    finish(socket, socksReply(asked.value))
    return
  }
  const { target, length } = asked.value
  await serveTarget(socket, target, asked.bytes.subarray(length), parts, {
    ready: () => {
      socket.write(socksReply(0))
    },
    refused: (reason) => {
      // 2: not allowed by the ruleset; 5: connection refused.
      finish(socket, socksReply(reason === 'dial-failed' ? 5 : 2))
    },
  })
}

async function serveTarget(
  socket: Socket,
  target: Target,
  rest: Buffer,
  parts: ProxyParts,
  replies: Replies,
): Promise<void> {
  const { relay, names } = parts
  const { port } = target
  const destination = target.kind === 'address' ? target.address : undefined
  const plain = target.kind === 'address' ? routeToAddress(target, names, rest) : undefined
  if (plain !== undefined) {
    await relay.follow(socket, plain, destination, port, replies)
    return
  }
  if (target.kind !== 'name') return
  const { name } = target
  const grant = strictest(names.grants.forPort(name, port, 'tcp'))
  if (grant === undefined && !names.grants.policy.report) {
    const reason = names.grants.refusal(name)
    await relay.follow(
      socket,
      { kind: 'refused', reason, layer: 'tcp', name },
      undefined,
      port,
      replies,
    )
    return
  }
  if (grant === undefined || (grant.inspect === 'none' && port !== 80)) {
    const route: Route = { kind: 'name', name, head: rest, layer: 'tcp', ...(grant && { grant }) }
    await relay.follow(socket, route, undefined, port, replies)
    return
  }
  replies.ready()
  const route =
    port === 80
      ? ({ kind: 'http', head: rest } as const)
      : await inspect(socket, name, rest, parts, port)
  await relay.follow(socket, route, undefined, port)
}

function routeToAddress(
  target: Extract<Target, { kind: 'address' }>,
  names: Names,
  rest: Buffer,
): Route {
  const { address, port } = target
  const { grants } = names
  if (classifyAddress(address) === 'loopback') {
    if (grants.policy.loopbackConnect.includes(port)) return { kind: 'loopback', address }
    return { kind: 'refused', reason: 'port-not-granted', layer: 'tcp' }
  }
  const grant = grants.forAddress(address, port, 'tcp')
  if (grant !== undefined) return { kind: 'address', address, grant, head: rest, layer: 'tcp' }
  const reason = grants.isAddressDenied(address) ? 'address-denied' : 'address-not-granted'
  return { kind: 'refused', reason, layer: 'tcp' }
}

/** After the client was told to go on: what it says must be the name it asked for. */
async function inspect(
  socket: Socket,
  name: string,
  rest: Buffer,
  parts: ProxyParts,
  port: number,
): Promise<Route> {
  const { hello, bytes } = await readHello(socket, rest)
  const refuse = (reason: ReasonCode, detail?: string): Route => ({
    kind: 'refused',
    reason,
    layer: 'sni',
    name,
    ...(detail === undefined ? {} : { detail }),
  })
  switch (hello.kind) {
    case 'closed':
      return { kind: 'gone' }
    case 'timeout':
      return refuse('timeout')
    case 'unreadable':
      return refuse('tls-unreadable', hello.detail)
    case 'nameless':
      return refuse('sni-missing', hello.detail)
    case 'hello': {
      if (hello.name !== name) return refuse('sni-mismatch', hello.name)
      const grant = strictest(parts.names.grants.forPort(name, port, 'tcp'))
      if (grant === undefined) return refuse('grant-withdrawn')
      if (grant.inspect === 'http') return { kind: 'https', name, head: bytes }
      return { kind: 'name', name, grant, head: bytes, layer: 'sni' }
    }
  }
}

function finish(socket: Socket, answer: string | Buffer): void {
  if (socket.destroyed) {
    reset(socket)
    return
  }
  socket.end(answer, () => {
    socket.destroySoon()
  })
}

function httpAnswer(status: string, text: string, headers = ''): string {
  const body = `agentjail: ${text}\n`
  return (
    `HTTP/1.1 ${status}\r\n${headers}Content-Type: text/plain\r\n` +
    `Content-Length: ${String(body.length)}\r\nConnection: close\r\n\r\n${body}`
  )
}

function socksReply(code: number): Buffer {
  return Buffer.from([socksVersion, code, 0, 1, 0, 0, 0, 0, 0, 0])
}
