/**
 * What the HTTP gate costs against direct TLS and against srt's proxy, which ends TLS and judges requests as well:
 * requests a second, time to the first byte, new connections, throughput. Origin, gate, proxy and client are processes
 * of their own, on loopback; the gate also pins the key, which srt's proxy has no form of.
 * Prints JSON. Run: node dist/bench/http-gate.js [rounds]
 */
import { type ChildProcess, fork } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import tls from 'node:tls'
import { fileURLToPath } from 'node:url'
import { createAuthority } from '../lib/gate/http/authority.js'
import {
  at,
  name,
  openTcp,
  policyFor,
  rateOf,
  Samples,
  startGate,
  startSrt,
  within,
} from './gate-kit.js'
import { median, medianRatio } from './statistics.js'

const key = 'sk-0123456789bench'
const chunk = Buffer.alloc(64 * 1024, 120)
const downloadBytes = 64 * 1024 * 1024

/** `/down` sends much; anything else one short event. */
async function serveOrigin(): Promise<void> {
  const authority = await createAuthority('origin')
  const server = https.createServer(
    {
      SNICallback: (asked, done) => {
        done(null, authority.contextFor(asked))
      },
    },
    (request, response) => {
      request.resume()
      if (request.url !== '/down') {
        request.on('end', () => response.end('data: token\n\n'))
        return
      }
      let left = downloadBytes
      const more = (): void => {
        while (left > 0) {
          left -= chunk.length
          if (!response.write(chunk)) {
            response.once('drain', more)
            return
          }
        }
        response.end()
      }
      more()
    },
  )
  server.listen(0, '127.0.0.1', () => {
    process.send?.({ port: (server.address() as AddressInfo).port, ca: authority.pem })
  })
}

/** The least that any gate in Node does: TLS ended on both sides, sessions with the origin resumed, nothing read. */
async function serveBare(originPort: number, originCa: string): Promise<void> {
  const authority = await createAuthority('bare')
  const secureContext = tls.createSecureContext({ ca: originCa })
  let session: Buffer | undefined
  const server = tls.createServer(
    {
      highWaterMark: 256 * 1024,
      SNICallback: (asked, done) => {
        done(null, authority.contextFor(asked))
      },
    } as tls.TlsOptions,
    (client) => {
      const upstream = tls.connect({
        ...{ port: originPort, host: '127.0.0.1', servername: name, secureContext, noDelay: true },
        ...(session === undefined ? {} : { session }),
        ...{ highWaterMark: 256 * 1024 },
      } as tls.ConnectionOptions)
      upstream.on('session', (fresh) => (session = fresh))
      for (const [from, to] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        from.on('error', () => to.destroy())
        from.pipe(to)
      }
    },
  )
  server.listen(0, '127.0.0.1', () => {
    process.send?.({ port: (server.address() as AddressInfo).port, ca: authority.pem })
  })
}

interface Route {
  readonly port: number
  readonly ca: string
  /** What the client asks for, in the hello and in Host. */
  readonly host: string
  readonly originPort: number
  /** A proxy: the request that opens the tunnel. */
  readonly request?: string
}

/** A TLS connection on the route, through its tunnel if it has one. */
function connect(route: Route, done: (error: Error | null, socket?: tls.TLSSocket) => void): void {
  const plain = net.connect({ port: route.port, host: '127.0.0.1', noDelay: true })
  const fail = (error: Error): void => {
    done(error)
  }
  plain.once('error', fail)
  const secure = (): void => {
    plain.off('error', fail)
    const options = { socket: plain, servername: route.host, ca: route.ca }
    const socket = tls.connect(options, () => {
      socket.off('error', fail)
      done(null, socket)
    })
    socket.once('error', fail)
  }
  plain.once('connect', () => {
    if (route.request === undefined) {
      secure()
      return
    }
    plain.write(route.request)
    plain.once('data', (answer: Buffer) => {
      if (/^HTTP\/1.1 200/.test(answer.toString('latin1'))) secure()
      else done(new Error(`the proxy refused: ${answer.toString('latin1').slice(0, 80)}`))
    })
  })
}

function agentFor(route: Route, options: https.AgentOptions): https.Agent {
  const agent = new https.Agent(options)
  Object.assign(agent, {
    createConnection: (_options: unknown, done: Parameters<typeof connect>[1]) => {
      connect(route, done)
    },
  })
  return agent
}

/** Milliseconds to the first byte of the body, and bytes in all. */
async function once(
  route: Route,
  agent: https.Agent,
  path: string,
): Promise<{ firstMs: number; bytes: number }> {
  const started = performance.now()
  return await new Promise((resolve, reject) => {
    const request = https.request({
      agent,
      method: path === '/down' ? 'GET' : 'POST',
      path,
      headers: {
        host: `${route.host}:${route.originPort}`,
        authorization: `Bearer ${key}`,
        'content-type': 'application/json',
      },
    })
    request.on('error', reject)
    request.on('response', (response) => {
      let bytes = 0
      let firstMs = 0
      if (response.statusCode !== 200) reject(new Error(`status ${String(response.statusCode)}`))
      response.on('data', (data: Buffer) => {
        if (bytes === 0) firstMs = performance.now() - started
        bytes += data.length
      })
      response.on('end', () => {
        resolve({ firstMs, bytes })
      })
    })
    request.end(path === '/down' ? undefined : '{"model":"x"}')
  })
}

async function measure(
  route: Route,
  note: (key: string, value: number | undefined) => void,
): Promise<void> {
  const many = agentFor(route, { keepAlive: true, maxSockets: 16 })
  const one = agentFor(route, { keepAlive: true, maxSockets: 1 })
  const fresh = agentFor(route, { keepAlive: false })
  for (let warm = 0; warm < 200; warm++) await once(route, one, '/v1/x')
  const times: number[] = []
  for (let index = 0; index < 1000; index++) {
    times.push((await once(route, one, '/v1/x')).firstMs)
  }
  times.sort((a, b) => a - b)
  note('p50ms', at(times, 0.5))
  note('p99ms', at(times, 0.99))
  note(
    'requestsPerSecond',
    await within(rateOf(4000, 16, async () => await once(route, many, '/v1/x'))),
  )
  note(
    'connectionsPerSecond',
    await within(rateOf(300, 8, async () => await once(route, fresh, '/v1/x'))),
  )
  const started = performance.now()
  const got = await within(once(route, one, '/down'))
  const seconds = (performance.now() - started) / 1000
  note('downMBs', typeof got === 'number' ? NaN : got.bytes / 1e6 / seconds)
  for (const agent of [many, one, fresh]) agent.destroy()
}

async function startPeer(
  ...args: readonly string[]
): Promise<{ child: ChildProcess; port: number; ca: string }> {
  const child = fork(fileURLToPath(import.meta.url), args)
  return await new Promise((resolve, reject) => {
    child.once('message', (message: { port: number; ca: string }) => {
      resolve({ child, ...message })
    })
    child.once('exit', () => {
      reject(new Error(`${args[0] ?? ''} ended`))
    })
  })
}

async function main(rounds: number): Promise<void> {
  const origin = await startPeer('origin')
  const bare = await startPeer('bare', String(origin.port), origin.ca)
  const dir = mkdtempSync(join(tmpdir(), 'agentjail-bench-'))
  const caFile = join(dir, 'ca.pem')
  writeFileSync(caFile, origin.ca)
  const tcp = await openTcp()
  const gate = await startGate([tcp], {
    listeners: [{ fd: 4, proto: 'tcp', role: 'relay', port: origin.port, family: 4 }],
    wantCa: true,
    upstreamCa: origin.ca,
    policy: policyFor(
      origin.port,
      {
        inspect: 'http',
        credential: 'k',
        rules: [
          { method: 'POST', path: '/v1/*' },
          { method: 'GET', path: '/down' },
        ],
      },
      {
        credentials: [
          {
            id: 'k',
            mode: 'pin',
            in: { kind: 'header', name: 'authorization' },
            format: 'Bearer {}',
            value: key,
          },
        ],
      },
    ),
  })
  const srt = await startSrt(origin.port, caFile)
  const originPort = origin.port
  const routes: Record<string, Route> = {
    direct: { port: originPort, ca: origin.ca, host: name, originPort },
    bare: { port: bare.port, ca: bare.ca, host: name, originPort },
    gate: { port: tcp.port, ca: gate.ca ?? '', host: name, originPort },
    ...(typeof srt === 'string'
      ? {}
      : {
          srt: {
            port: srt.port,
            request: srt.request,
            ca: srt.ca ?? '',
            host: 'localhost',
            originPort,
          },
        }),
  }
  const samples = new Samples()
  try {
    // Alternating, so that a busy moment of the machine falls on all; the first round warms up.
    for (let round = 0; round <= rounds; round++) {
      for (const [which, route] of Object.entries(routes)) {
        await measure(route, (what, value) => {
          if (round > 0) samples.note(`${which} ${what}`, value ?? NaN)
        })
      }
    }
  } finally {
    origin.child.kill()
    bare.child.kill()
    gate.child.kill()
    if (typeof srt !== 'string') srt.child.disconnect()
    rmSync(dir, { recursive: true, force: true })
  }
  const medians = Object.fromEntries(
    Object.entries(samples.all()).map(([key, list]) => [key, median(list)]),
  )
  const over = (what: string, other: string): number =>
    medianRatio(samples.of(`gate ${what}`), samples.of(`${other} ${what}`))
  const keys = ['requestsPerSecond', 'connectionsPerSecond', 'downMBs']
  const report = {
    machine: { node: process.version, cpus: cpus().length, model: cpus()[0]?.model },
    rounds,
    missing: typeof srt === 'string' ? [srt] : [],
    medians,
    overDirect: Object.fromEntries(keys.map((what) => [what, over(what, 'direct')])),
    overBare: Object.fromEntries(keys.map((what) => [what, over(what, 'bare')])),
    overSrt: Object.fromEntries(keys.map((what) => [what, over(what, 'srt')])),
    samples: samples.all(),
  }
  process.stdout.write(`${JSON.stringify(report, null, 2)}\n`)
}

if (process.argv[2] === 'origin') await serveOrigin()
else if (process.argv[2] === 'bare') {
  await serveBare(Number(process.argv[3]), process.argv[4] ?? '')
} else {
  await main(Number(process.argv[2] ?? 3))
  process.exit(0)
}
