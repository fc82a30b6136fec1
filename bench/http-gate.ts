/**
 * What the HTTP gate costs against direct TLS: requests a second, time to first byte, new connections,
 * throughput. Origin, gate and client are processes of their own, on loopback.
 * Prints JSON. Run: node dist/bench/http-gate.js [rounds]
 */
import { type ChildProcess, fork } from 'node:child_process'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import { cpus } from 'node:os'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { createAuthority } from '../lib/gate/http/authority.js'
import { serveTls } from '../lib/gate/http/serve.js'
import type { HttpContext } from '../lib/gate/http/types.js'
import type { Grant } from '../lib/policy/types.js'

const name = 'api.example.com'
const key = 'sk-0123456789bench'
const chunk = Buffer.alloc(64 * 1024, 120)
const downloadBytes = 64 * 1024 * 1024

interface Ready {
  readonly port: number
  readonly ca: string
}

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

async function serveGate(origin: Ready): Promise<void> {
  const authority = await createAuthority('bench')
  const grant: Grant = {
    id: 'g1',
    host: { kind: 'exact', name },
    ports: [{ first: 443, last: 443 }],
    proto: 'tcp',
    inspect: 'http',
    access: 'full',
    rules: [
      { method: 'POST', path: '/v1/*' },
      { method: 'GET', path: '/down' },
    ],
    within: [],
    private: false,
    limits: {},
    credential: 'k',
    origin: { file: 'bench', line: 1, column: 1 },
  }
  const context: HttpContext = {
    findGrants: () => [grant],
    refusal: () => 'name-not-granted',
    dial: async () =>
      await new Promise((resolve, reject) => {
        const socket = net.connect(origin.port, '127.0.0.1')
        socket.once('error', reject)
        socket.once('connect', () => {
          resolve(socket)
        })
      }),
    report: () => undefined,
    credentials: () => [
      {
        id: 'k',
        mode: 'pin',
        in: { kind: 'header', name: 'authorization' },
        format: 'Bearer {}',
        value: key,
      },
    ],
    budget: { request: () => undefined, upload: () => undefined },
    authority,
    upstreamCa: origin.ca,
  }
  const server = net.createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', (hello) => {
      socket.pause()
      serveTls(socket, name, hello, 443, context)
    })
  })
  server.listen(0, '127.0.0.1', () => {
    process.send?.({ port: (server.address() as AddressInfo).port, ca: authority.pem })
  })
}

/** Milliseconds to the first byte of the body, and bytes in all. */
async function once(
  to: Ready,
  agent: https.Agent | false,
  path: string,
): Promise<{ firstMs: number; bytes: number }> {
  const started = performance.now()
  return await new Promise((resolve, reject) => {
    const request = https.request({
      host: '127.0.0.1',
      port: to.port,
      servername: name,
      ca: to.ca,
      agent,
      method: path === '/down' ? 'GET' : 'POST',
      path,
      headers: { host: name, authorization: `Bearer ${key}`, 'content-type': 'application/json' },
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

interface Figures {
  readonly requestsPerSecond: number
  readonly firstByteMs: { readonly p50: number; readonly p99: number }
  readonly connectionsPerSecond: number
  readonly megabytesPerSecond: number
}

async function measure(to: Ready): Promise<Figures> {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 16 })
  const one = new https.Agent({ keepAlive: true, maxSockets: 1 })
  for (let warm = 0; warm < 200; warm++) await once(to, one, '/v1/x')
  const times: number[] = []
  for (let index = 0; index < 1000; index++) times.push((await once(to, one, '/v1/x')).firstMs)
  times.sort((a, b) => a - b)
  const requestsPerSecond = await rate(4000, 16, async () => await once(to, agent, '/v1/x'))
  const connectionsPerSecond = await rate(300, 8, async () => await once(to, false, '/v1/x'))
  const started = performance.now()
  const { bytes } = await once(to, one, '/down')
  const seconds = (performance.now() - started) / 1000
  agent.destroy()
  one.destroy()
  return {
    requestsPerSecond,
    firstByteMs: { p50: round(times[500] ?? 0), p99: round(times[990] ?? 0) },
    connectionsPerSecond,
    megabytesPerSecond: round(bytes / 1e6 / seconds),
  }
}

async function rate(count: number, workers: number, work: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  let left = count
  const worker = async (): Promise<void> => {
    while (left-- > 0) await work()
  }
  await Promise.all(Array.from({ length: workers }, worker))
  return Math.round(count / ((performance.now() - started) / 1000))
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000
}

async function start(role: string, more: object = {}): Promise<[ChildProcess, Ready]> {
  const child = fork(fileURLToPath(import.meta.url), [role, JSON.stringify(more)])
  const ready = await new Promise<Ready>((resolve, reject) => {
    child.once('message', (message) => {
      resolve(message as Ready)
    })
    child.once('exit', () => {
      reject(new Error(`${role} ended`))
    })
  })
  return [child, ready]
}

async function main(rounds: number): Promise<void> {
  const [originProcess, origin] = await start('origin')
  const [gateProcess, gate] = await start('gate', origin)
  try {
    const results = []
    // Alternating, so that a busy moment of the machine falls on both.
    for (let round = 0; round < rounds; round++) {
      results.push({ direct: await measure(origin), gate: await measure(gate) })
    }
    const report = { bench: 'http-gate', node: process.version, cpus: cpus().length, results }
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`)
  } finally {
    originProcess.kill()
    gateProcess.kill()
  }
}

const [role, more] = process.argv.slice(2)
if (role === 'origin') await serveOrigin()
else if (role === 'gate') await serveGate(JSON.parse(more ?? '{}') as Ready)
else await main(Number(role ?? 3))
