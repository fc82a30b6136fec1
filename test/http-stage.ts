/**
 * A stage for tests of the HTTP gate: a real TLS origin on loopback with a CA of its own, the gate in
 * front of it, and everything that reaches the origin written down.
 */
import http from 'node:http'
import http2 from 'node:http2'
import https from 'node:https'
import net, { type AddressInfo, type Socket } from 'node:net'
import tls from 'node:tls'
import type { Decision, ReasonCode } from '../lib/audit/record.js'
import { onAccepted } from '../lib/gate/accept.js'
import { type Authority, createAuthority } from '../lib/gate/http/authority.js'
import { servePlain, serveTls } from '../lib/gate/http/serve.js'
import type { HttpContext, HttpServing } from '../lib/gate/http/types.js'
import type { ResolvedCredential } from '../lib/gate/protocol.js'
import { parseHello } from '../lib/gate/sni/hello.js'
import type { Grant } from '../lib/policy/types.js'
import { plainGrant } from '../lib/policy/plain-grant.js'

export interface Seen {
  readonly method: string
  readonly url: string
  readonly headers: readonly string[]
  readonly body: string
}

export interface Stage {
  readonly ca: Authority
  /** Port of the gate's TLS side; any server name is taken as if on 443. */
  readonly port: number
  /** Port of the gate's plain side, as if 80. */
  readonly plainPort: number
  /** Port of the origin itself, for comparisons. */
  readonly originPort: number
  readonly originCa: string
  /** Requests that the origin got, whole or begun. */
  readonly seen: Seen[]
  readonly decisions: Decision[]
  readonly servings: HttpServing[]
  dials(): number
  denials(): ReasonCode[]
  close(): Promise<void>
}

export interface StageOptions {
  readonly grants: readonly Grant[]
  readonly credentials?: readonly ResolvedCredential[]
  readonly onRequest?: http.RequestListener
  readonly onUpgrade?: (request: http.IncomingMessage, socket: Socket) => void
  readonly budget?: HttpContext['budget']
  /** Sees each connection made upstream. */
  readonly onDial?: (socket: Socket) => void
  /** The TLS side stands for its own port, for clients that can't be redirected from 443. */
  readonly ownPort?: boolean
  /** Trust another CA upstream. */
  readonly upstreamCa?: string
  /** Names that the origin's certificate carries instead of the one asked for. */
  readonly originName?: string
}

export function grant(more: Partial<Grant> & { readonly name?: string } = {}): Grant {
  const { name = 'api.example.com', ...rest } = more
  return {
    ...plainGrant({
      id: 'g1',
      host: { kind: 'exact', name },
      ports: [
        { first: 443, last: 443 },
        { first: 80, last: 80 },
      ],
      origin: { file: 'test', line: 1, column: 1 },
    }),
    inspect: 'http',
    ...rest,
  }
}

export const key = 'sk-0123456789policy'
export const attacker = 'sk-9876543210attack'

export function pin(more: Partial<ResolvedCredential> = {}): ResolvedCredential {
  return {
    id: 'k',
    mode: 'pin',
    in: { kind: 'header', name: 'authorization' },
    format: 'Bearer {}',
    value: key,
    ...more,
  }
}

let authorities: Promise<[Authority, Authority]> | undefined

export async function openStage(options: StageOptions): Promise<Stage> {
  authorities ??= Promise.all([createAuthority('jail'), createAuthority('origin')])
  const [ca, originCa] = await authorities
  const seen: Seen[] = []
  const decisions: Decision[] = []
  const servings: HttpServing[] = []
  const sockets = new Set<Socket>()
  let dials = 0

  const listener: http.RequestListener = (request, response) => {
    const record = {
      method: request.method ?? '',
      url: request.url ?? '',
      headers: request.rawHeaders,
      body: '',
    }
    seen.push(record)
    request.on('data', (chunk: Buffer) => {
      record.body += chunk.toString()
    })
    if (options.onRequest !== undefined) options.onRequest(request, response)
    else {
      request.on('end', () => {
        response.setHeader('x-origin', 'yes')
        response.end(`got ${record.body}`)
      })
    }
  }
  const origin = https.createServer(
    {
      SNICallback: (name, done) => {
        done(null, originCa.contextFor(options.originName ?? name))
      },
    },
    listener,
  )
  const plainOrigin = http.createServer(listener)
  for (const server of [origin, plainOrigin]) {
    if (options.onUpgrade !== undefined) server.on('upgrade', options.onUpgrade)
    // One that ends within its TLS handshake is none that `closeAllConnections` knows.
    server.on('connection', (socket: Socket) => sockets.add(socket))
  }
  const context: HttpContext = {
    findGrants: (name, port) =>
      options.grants.filter(
        (each) =>
          each.host.name === name &&
          each.ports.some(({ first, last }) => first <= port && port <= last),
      ),
    refusal: () => 'name-not-granted',
    dial: async (_name, port) => {
      dials++
      const socket = await dialTo(port === 80 ? plainOrigin : origin)
      options.onDial?.(socket)
      return socket
    },
    report: (decision) => {
      decisions.push(decision)
      return undefined
    },
    credentials: () => options.credentials ?? [],
    budget: options.budget ?? { request: () => undefined, upload: () => undefined },
    authority: ca,
    upstreamCa: options.upstreamCa ?? originCa.pem,
  }
  const gate = net.createServer()
  onAccepted(gate, (socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined)
    socket.once('data', (hello) => {
      socket.pause()
      const name = serverName(hello) ?? 'api.example.com'
      const port = options.ownPort === true ? portOf(gate) : 443
      servings.push(serveTls(socket, name, hello, port, context))
    })
    socket.resume()
  })
  const plainGate = net.createServer()
  onAccepted(plainGate, (socket) => {
    sockets.add(socket)
    servings.push(servePlain(socket, 80, context))
  })
  const servers = [origin, plainOrigin, gate, plainGate]
  await Promise.all(servers.map(listen))

  return {
    ca,
    port: portOf(gate),
    plainPort: portOf(plainGate),
    originPort: portOf(origin),
    originCa: originCa.pem,
    seen,
    decisions,
    servings,
    dials: () => dials,
    denials: () => decisions.filter((each) => each.verdict === 'deny').map((each) => each.reason),
    close: async () => {
      for (const socket of sockets) socket.destroy()
      origin.closeAllConnections()
      plainOrigin.closeAllConnections()
      await Promise.all(
        servers.map(async (server) => {
          await new Promise((resolve) => server.close(resolve))
        }),
      )
    },
  }
}

function serverName(hello: Buffer): string | undefined {
  const parsed = parseHello(hello)
  return parsed.kind === 'hello' ? parsed.name : undefined
}

function portOf(server: net.Server): number {
  return (server.address() as AddressInfo).port
}

async function listen(server: net.Server): Promise<void> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
}

async function dialTo(server: net.Server): Promise<Socket> {
  const socket = net.connect((server.address() as AddressInfo).port, '127.0.0.1')
  await new Promise((resolve, reject) => {
    socket.once('connect', resolve)
    socket.once('error', reject)
  })
  return socket
}

export interface Reply {
  readonly status: number
  readonly statusText: string
  readonly headers: http.IncomingHttpHeaders
  readonly body: string
  readonly trailers: NodeJS.Dict<string>
}

export interface Ask {
  readonly method?: string
  readonly path?: string
  readonly headers?: http.OutgoingHttpHeaders
  readonly body?: string | Buffer
  readonly name?: string
  readonly agent?: https.Agent
}

/** A request over HTTP/1.1 with Node's client. */
export async function ask(stage: Stage, request: Ask = {}): Promise<Reply> {
  const { name = 'api.example.com', method = 'GET', path = '/', headers, body } = request
  return await new Promise((resolve, reject) => {
    const outgoing = https.request({
      host: '127.0.0.1',
      port: stage.port,
      servername: name,
      ca: stage.ca.pem,
      agent: request.agent ?? false,
      method,
      path,
      headers: { host: name, ...headers },
    })
    outgoing.on('response', (response) => {
      collect(response).then((text) => {
        resolve({
          status: response.statusCode ?? 0,
          statusText: response.statusMessage ?? '',
          headers: response.headers,
          body: text,
          trailers: response.trailers,
        })
      }, reject)
    })
    outgoing.on('error', reject)
    outgoing.end(body)
  })
}

/** Bytes as given over TLS; resolves with all that came back until the end. */
export async function askRaw(stage: Stage, text: string, name = 'api.example.com') {
  const socket = tls.connect({
    host: '127.0.0.1',
    port: stage.port,
    servername: name,
    ca: stage.ca.pem,
  })
  return await exchangeRaw(socket, text)
}

/** As `askRaw`, on the plain side. */
export async function askPlain(stage: Stage, text: string) {
  return await exchangeRaw(net.connect(stage.plainPort, '127.0.0.1'), text)
}

/** Ends by itself when the gate closes, or a moment after the last bytes. */
async function exchangeRaw(socket: Socket, text: string): Promise<string> {
  return await new Promise((resolve) => {
    let out = ''
    let timer: NodeJS.Timeout | undefined
    const done = () => {
      clearTimeout(timer)
      socket.destroy()
      resolve(out)
    }
    const quiet = () => {
      clearTimeout(timer)
      timer = setTimeout(done, 250)
    }
    socket.on('data', (chunk: Buffer) => {
      out += chunk.toString('latin1')
      quiet()
    })
    socket.on('error', done)
    socket.on('close', done)
    socket.write(text, 'latin1')
    timer = setTimeout(done, 3000)
  })
}

/** One or more requests over one HTTP/2 connection. */
export async function askHttp2(
  stage: Stage,
  requests: readonly { headers: http2.OutgoingHttpHeaders; body?: string }[],
  name = 'api.example.com',
): Promise<{ status: number; body: string; headers: http2.IncomingHttpHeaders }[]> {
  const session = http2.connect(`https://${name}`, {
    createConnection: () =>
      tls.connect({
        host: '127.0.0.1',
        port: stage.port,
        servername: name,
        ca: stage.ca.pem,
        ALPNProtocols: ['h2'],
      }),
  })
  // Each stream says so too.
  session.on('error', () => undefined)
  const out = []
  for (const { headers, body } of requests) {
    const stream = session.request(headers, { endStream: body === undefined })
    if (body !== undefined) stream.end(body)
    let status = 0
    let got: http2.IncomingHttpHeaders = {}
    stream.on('response', (response) => {
      got = response
      status = Number(response[':status'])
    })
    out.push({ status: 0, body: await collect(stream).catch(String), headers: got })
    out[out.length - 1] = { status, body: out.at(-1)?.body ?? '', headers: got }
  }
  session.close()
  return out
}

async function collect(stream: NodeJS.ReadableStream): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += (chunk as Buffer).toString()
  return text
}
