/**
 * Entry of the HTTP gate: one client connection, terminated here, each request judged and rebuilt.
 * Invariant: what is sent upstream is built from what was judged, never copied through.
 */
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import http2, { type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { TLSSocket, type TLSSocketOptions } from 'node:tls'
import type { ReasonCode } from '../../audit/record.js'
import { Http1Client, isWebSocket } from './client-h1.js'
import { Http2Client } from './client-h2.js'
import { exchange } from './exchange.js'
import { pairs } from './fields.js'
import { Link } from './link.js'
import { highWaterMark } from './pump.js'
import type { HttpContext, HttpServing } from './types.js'

const handshakeMs = 10_000
/** As common servers do: a client's idle connection is kept a minute. */
const keepAliveMs = 65_000
/** Requests of one HTTP/2 connection at a time; RFC 9113 §6.5.2 recommends no fewer. */
const maxStreams = 100

/**
 * Serves a TLS connection of the jail by terminating it with the jail's CA.
 * `sniName`: normalised, already known to have an `inspect: http` grant on `port`.
 * `helloBytes`: what was read from the socket so far (it must be paused); replayed to TLS.
 */
export function serveTls(
  socket: Socket,
  sniName: string,
  helloBytes: Buffer,
  port: number,
  context: HttpContext,
): HttpServing {
  const link = new Link(sniName, port, true, context, socket.remotePort)
  const { authority } = context
  if (authority === undefined) {
    // The gate's own fault: closed, and said.
    reportConnection(link, 'tls-unreadable', 'no CA')
    socket.destroy()
    return link
  }
  socket.setNoDelay(true)
  // As HTTP servers do: a client that has closed is gone, and its requests with it.
  socket.allowHalfOpen = false
  socket.pause()
  if (helloBytes.length > 0) socket.unshift(helloBytes)
  const secure = new TLSSocket(socket, {
    isServer: true,
    secureContext: authority.contextFor(sniName),
    ALPNProtocols: ['h2', 'http/1.1'],
    highWaterMark,
  } as TLSSocketOptions)
  const timer = setTimeout(() => {
    reportConnection(link, 'timeout', 'TLS handshake')
    socket.destroy()
  }, handshakeMs)
  let isSecure = false
  secure.once('secure', () => {
    clearTimeout(timer)
    isSecure = true
    // Set by tls.Server on its own sockets; an HTTP/2 session waits for it.
    Object.assign(secure, { secureConnecting: false })
    if (secure.alpnProtocol === 'h2') serveHttp2(secure, link)
    else serveHttp1(secure, link)
  })
  secure.on('error', (error: Error) => {
    // A client that does not trust the CA says so here; it is worth a line.
    if (!isSecure) reportConnection(link, 'tls-unreadable', `TLS with the jail: ${error.message}`)
    socket.destroy()
  })
  socket.once('error', () => secure.destroy())
  socket.once('close', () => {
    clearTimeout(timer)
    secure.destroy()
    link.close()
  })
  return link
}

/** Serves plain HTTP: the Host of each request is the name. `firstBytes`: what was read so far, if any. */
export function servePlain(
  socket: Socket,
  port: number,
  context: HttpContext,
  firstBytes?: Buffer,
): HttpServing {
  const link = new Link('', port, false, context, socket.remotePort)
  socket.setNoDelay(true)
  socket.allowHalfOpen = false
  socket.once('close', () => {
    link.close()
  })
  socket.on('error', () => socket.destroy())
  serveHttp1(socket, link)
  if (firstBytes !== undefined && firstBytes.length > 0) socket.unshift(firstBytes)
  // It was accepted paused, and Node's parser waits for what never flows.
  socket.resume()
  return link
}

const links = new WeakMap<object, Link>()
const latest = new WeakMap<Socket, ServerResponse>()
let server: http.Server | undefined

function serveHttp1(socket: Socket, link: Link): void {
  links.set(socket, link)
  server ??= createHttp1Server()
  server.emit('connection', socket)
}

/**
 * Which requests are upgrades, for Node 22.21, 24.9 and later; an older one takes all that ask for one. The others are
 * then served as they are.
 */
const upgrades = { shouldUpgradeCallback: isWebSocket }

/** Never listens: it only parses what it is handed. */
function createHttp1Server(): http.Server {
  const made = http.createServer({
    ...upgrades,
    insecureHTTPParser: false,
    requireHostHeader: true,
    keepAliveTimeout: keepAliveMs,
    // Long uploads are no fault; a connection that only sits there costs its own jail alone.
    requestTimeout: 0,
    headersTimeout: 0,
    noDelay: true,
    highWaterMark,
  })
  const onRequest = (request: IncomingMessage, response: ServerResponse) => {
    const link = links.get(request.socket)
    latest.set(request.socket, response)
    // What follows an offer that was not taken, Node's parser has lost.
    if (request.headers.upgrade !== undefined) response.shouldKeepAlive = false
    if (link === undefined) request.socket.destroy()
    else void exchange(new Http1Client(request, response), link)
  }
  made.on('request', onRequest)
  made.on('checkContinue', onRequest)
  made.on('checkExpectation', (_request, response) => {
    response.writeHead(417, { connection: 'close' }).end()
  })
  made.on('upgrade', (request, socket, early) => {
    const link = links.get(socket)
    if (link === undefined) {
      socket.destroy()
      return
    }
    whenAnswered(request.socket, () => {
      // The very socket that was handed in.
      if (isWebSocket(request)) {
        void exchange(Http1Client.forWebSocket(request, request.socket, early), link)
      } else readAgain(request, early, link)
    })
  })
  made.on('connect', (request, socket) => {
    const link = links.get(socket)
    if (link !== undefined) reportConnection(link, 'method-not-granted', 'CONNECT')
    socket.end('HTTP/1.1 403 Forbidden\r\nx-agentjail-denied: method-not-granted\r\n\r\n')
    request.destroy()
  })
  made.on('clientError', (error: NodeJS.ErrnoException, socket) => {
    const link = links.get(socket)
    const isParse = error.code?.startsWith('HPE_') ?? false
    if (link !== undefined && isParse) reportConnection(link, 'http-malformed', error.code ?? '')
    const status = error.code === 'HPE_HEADER_OVERFLOW' ? '431 Too Large' : '400 Bad Request'
    if (!socket.writable || !isParse) socket.destroy()
    else {
      socket.end(
        `HTTP/1.1 ${status}\r\nx-agentjail-denied: http-malformed\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`,
      )
    }
  })
  return made
}

/** Once the requests ahead on the connection have their answers. */
function whenAnswered(socket: Socket, next: () => void): void {
  const ahead = latest.get(socket)
  if (ahead === undefined || ahead.writableFinished) next()
  else ahead.once('finish', next)
}

const upgradeFields = new Set(['connection', 'upgrade', 'http2-settings'])

/** Where Node does not ask `upgrades`: the request without its offer (h2c) is read again, body and all. */
function readAgain(request: IncomingMessage, early: Buffer, link: Link): void {
  const { socket, method = '', url = '', httpVersion, rawHeaders } = request
  const fields = pairs(rawHeaders)
    .filter(([name]) => !upgradeFields.has(name.toLowerCase()))
    .map(([name, value]) => `${name}: ${value}\r\n`)
  const head = `${method} ${url} HTTP/${httpVersion}\r\n${fields.join('')}\r\n`
  socket.unshift(Buffer.concat([Buffer.from(head, 'latin1'), early]))
  serveHttp1(socket, link)
  socket.resume()
}

function serveHttp2(socket: TLSSocket, link: Link): void {
  const session = http2.performServerHandshake(socket, {
    settings: { maxConcurrentStreams: maxStreams, enablePush: false },
  })
  session.on('error', () => socket.destroy())
  session.on(
    'stream',
    (stream: ServerHttp2Stream, _headers: IncomingHttpHeaders, flags: number, raw?: string[]) => {
      stream.on('error', () => undefined)
      const ended = (flags & http2.constants.NGHTTP2_FLAG_END_STREAM) !== 0
      void exchange(new Http2Client(stream, raw ?? [], ended), link)
    },
  )
}

function reportConnection(link: Link, reason: ReasonCode, detail: string): void {
  void link.report({
    verdict: 'deny',
    reason,
    layer: 'http',
    direction: 'out',
    proto: 'tcp',
    ...(link.name === '' ? {} : { name: link.name }),
    port: link.port,
    detail: detail.slice(0, 256),
  })
}
