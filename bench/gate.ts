/**
 * What the gate costs: connections a second, throughput and latency of the SNI gate against direct,
 * and the DNS filter for pinned names. Server, gate and client are processes of their own, on loopback.
 * Prints JSON. Run: node dist/bench/gate.js [rounds]
 */
import { type ChildProcess, fork } from 'node:child_process'
import dgram from 'node:dgram'
import net from 'node:net'
import { cpus } from 'node:os'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import packet from 'dns-packet'
import type { GatePolicy } from '../lib/gate/protocol.js'

/** A ClientHello naming `name`, as small as can be: the gate reads it, the bench's server answers its length. */
function hello(name: string): Buffer {
  const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff])
  const v16 = (data: Buffer): Buffer => Buffer.concat([u16(data.length), data])
  const entry = Buffer.concat([Buffer.from([0]), v16(Buffer.from(name))])
  const extension = Buffer.concat([u16(0), v16(v16(entry))])
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32, 7),
    Buffer.from([0, 0, 2, 0x13, 1, 1, 0]),
    v16(extension),
  ])
  return Buffer.concat([
    Buffer.from([22, 3, 1]),
    v16(Buffer.concat([Buffer.from([1, 0]), v16(body)])),
  ])
}

const name = 'api.example.com'
const first = hello(name)
const totalBytes = 256 * 1024 * 1024
const chunk = Buffer.alloc(64 * 1024, 120)

/** `serve`: after the hello, one byte asks: `d` download, `u` upload, anything else is echoed. */
function serve(): void {
  const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    let seen = 0
    let mode = ''
    let uploaded = 0
    socket.on('error', () => undefined)
    socket.on('data', (bytes: Buffer) => {
      let rest = bytes
      if (seen < first.length) {
        const skip = Math.min(first.length - seen, bytes.length)
        seen += skip
        rest = bytes.subarray(skip)
      }
      if (rest.length === 0) return
      if (mode === '') mode = String.fromCharCode(rest[0] ?? 0)
      if (mode === 'd') send(socket)
      else if (mode === 'u') {
        uploaded += rest.length
        if (uploaded > totalBytes) socket.end('done')
      } else socket.write(rest)
    })
    socket.on('end', () => socket.end())
  })
  server.listen(0, '127.0.0.1', () =>
    process.send?.({ port: (server.address() as net.AddressInfo).port }),
  )
}

function send(socket: net.Socket): void {
  let left = totalBytes
  const more = (): void => {
    while (left > 0) {
      left -= chunk.length
      if (!socket.write(chunk)) {
        socket.once('drain', more)
        return
      }
    }
    socket.end()
  }
  more()
}

function connect(port: number): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.write(first)
      resolve(socket)
    })
  })
}

/** MB/s. */
async function throughput(port: number, direction: 'd' | 'u'): Promise<number> {
  const socket = await connect(port)
  const start = performance.now()
  if (direction === 'd') {
    socket.write('d')
  } else {
    socket.write('u')
    send(socket)
  }
  let received = 0
  socket.on('data', (bytes: Buffer) => (received += bytes.length))
  await new Promise((resolve) => socket.once('end', resolve))
  const seconds = (performance.now() - start) / 1000
  if (direction === 'd' && received !== totalBytes) throw new Error(`got ${String(received)} bytes`)
  socket.destroy()
  return totalBytes / 1e6 / seconds
}

/** One connection after another in each of `parallel` lanes: connect, hello, one byte there and back, close. */
async function connections(port: number, count: number, parallel: number): Promise<number> {
  const start = performance.now()
  let left = count
  const lane = async (): Promise<void> => {
    while (left-- > 0) {
      const socket = await connect(port)
      socket.write('e')
      await new Promise((resolve) => socket.once('data', resolve))
      socket.destroy()
    }
  }
  await Promise.all(Array.from({ length: parallel }, lane))
  return count / ((performance.now() - start) / 1000)
}

/** Round trips of one byte on an open connection. Milliseconds, sorted. */
async function roundTrips(port: number, count: number): Promise<number[]> {
  const socket = await connect(port)
  const times: number[] = []
  for (let n = 0; n < count; n++) {
    const start = performance.now()
    socket.write('e')
    await new Promise((resolve) => socket.once('data', resolve))
    times.push(performance.now() - start)
  }
  socket.destroy()
  return times.sort((a, b) => a - b)
}

async function dnsRate(port: number, count: number, window: number): Promise<number> {
  const socket = dgram.createSocket('udp4')
  await new Promise<void>((resolve) => socket.connect(port, '127.0.0.1', resolve))
  const bytes = packet.encode({
    type: 'query',
    id: 1,
    flags: 256,
    questions: [{ name, type: 'A' }],
  })
  let sent = 0
  let answered = 0
  const start = performance.now()
  await new Promise<void>((resolve) => {
    const ask = (): void => {
      if (sent++ < count) socket.send(bytes)
    }
    socket.on('message', () => {
      if (++answered === count) resolve()
      else ask()
    })
    for (let n = 0; n < window; n++) ask()
  })
  socket.close()
  return count / ((performance.now() - start) / 1000)
}

async function dnsTrips(port: number, count: number): Promise<number[]> {
  const socket = dgram.createSocket('udp4')
  await new Promise<void>((resolve) => socket.connect(port, '127.0.0.1', resolve))
  const bytes = packet.encode({
    type: 'query',
    id: 1,
    flags: 256,
    questions: [{ name, type: 'A' }],
  })
  const times: number[] = []
  for (let n = 0; n < count; n++) {
    const start = performance.now()
    socket.send(bytes)
    await new Promise((resolve) => socket.once('message', resolve))
    times.push(performance.now() - start)
  }
  socket.close()
  return times.sort((a, b) => a - b)
}

interface Opened {
  readonly fd: number
  readonly port: number
  readonly close: () => void
}

async function openTcp(): Promise<Opened> {
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle
  return { fd, port: (server.address() as net.AddressInfo).port, close: () => server.close() }
}

async function openUdp(): Promise<Opened> {
  const socket = dgram.createSocket('udp4')
  await new Promise<void>((resolve) =>
    socket.bind({ port: 0, address: '127.0.0.1', exclusive: true }, resolve),
  )
  const symbol = Object.getOwnPropertySymbols(socket).find(
    (it) => String(it) === 'Symbol(state symbol)',
  )
  if (symbol === undefined) throw new Error('this Node hides its datagram handles')
  const { handle } = (socket as unknown as Record<symbol, { handle: { fd: number } }>)[symbol] ?? {}
  if (handle === undefined) throw new Error('this Node hides its datagram handles')
  return { fd: handle.fd, port: socket.address().port, close: () => socket.close() }
}

function policyFor(port: number): GatePolicy {
  return {
    grants: [
      {
        id: 'g1',
        host: { kind: 'exact', name },
        ports: [{ first: port, last: port }],
        proto: 'tcp',
        inspect: 'sni',
        access: 'full',
        rules: [],
        within: [],
        private: false,
        limits: {},
        origin: { file: 'bench', line: 1, column: 1 },
      },
    ],
    cidrs: [],
    denies: [],
    loopbackConnect: [],
    ipv6: false,
    report: false,
    credentials: [],
    dns: {
      upstream: [],
      types: ['A'],
      maxTtl: 60,
      pinExtra: 120,
      rate: 50,
      wildcard: { labels: 3, labelLength: 32, newNames: 50 },
      hosts: [[name, ['127.0.0.1']]],
    },
  }
}

async function startGate(port: number, tcp: Opened, udp: Opened): Promise<ChildProcess> {
  const main = fileURLToPath(new URL('../lib/gate/main.js', import.meta.url))
  const gate = fork(main, [], { stdio: ['ignore', 'inherit', 'inherit', 'ipc', tcp.fd, udp.fd] })
  tcp.close()
  udp.close()
  const ready = new Promise<void>((resolve, reject) => {
    gate.on('message', (message: { type: string; serial?: number; message?: string }) => {
      if (message.type === 'ready') resolve()
      if (message.type === 'pin') gate.send({ type: 'pinned', serial: message.serial, ok: true })
      if (message.type === 'fatal') reject(new Error(message.message))
    })
  })
  gate.send({
    type: 'start',
    config: {
      jail: 'bench',
      mode: 'redirect',
      listeners: [
        { fd: 4, proto: 'tcp', role: 'relay', port, family: 4 },
        { fd: 5, proto: 'udp', role: 'dns', port: 53, family: 4 },
      ],
      policy: policyFor(port),
      wantCa: false,
      hostAddresses: [],
      upstreams: [],
    },
  })
  await ready
  return gate
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN
}

function at(sorted: readonly number[], quantile: number): number {
  return sorted[Math.floor(sorted.length * quantile)] ?? NaN
}

async function main(): Promise<void> {
  const rounds = Number(process.argv[2] ?? 3)
  const server = fork(fileURLToPath(import.meta.url), ['serve'])
  const port = await new Promise<number>((resolve) => {
    server.once('message', (message: { port: number }) => {
      resolve(message.port)
    })
  })
  const [tcp, udp] = [await openTcp(), await openUdp()]
  const gate = await startGate(port, tcp, udp)
  const routes = { direct: port, gate: tcp.port }
  const samples: Record<string, number[]> = {}
  const note = (key: string, value: number): void => {
    const list = samples[key] ?? []
    list.push(value)
    samples[key] = list
  }
  try {
    // Direct and through the gate in turn, so that both see the same machine.
    for (let round = 0; round <= rounds; round++) {
      for (const [route, to] of Object.entries(routes)) {
        const results = {
          downMBs: await throughput(to, 'd'),
          upMBs: await throughput(to, 'u'),
          connectionsPerSecond: await connections(to, 1500, 16),
        }
        const trips = await roundTrips(to, 2000)
        // The first round warms up.
        if (round === 0) continue
        for (const [key, value] of Object.entries(results)) note(`${route} ${key}`, value)
        note(`${route} p50ms`, at(trips, 0.5))
        note(`${route} p99ms`, at(trips, 0.99))
      }
      const rate = await dnsRate(udp.port, 20_000, 32)
      const trips = await dnsTrips(udp.port, 2000)
      if (round === 0) continue
      note('dns pinnedPerSecond', rate)
      note('dns p50ms', at(trips, 0.5))
      note('dns p99ms', at(trips, 0.99))
    }
  } finally {
    server.kill()
    gate.kill()
  }
  const medians = Object.fromEntries(
    Object.entries(samples).map(([key, list]) => [key, median(list)]),
  )
  const ratio = (key: string): number =>
    (medians[`gate ${key}`] ?? NaN) / (medians[`direct ${key}`] ?? NaN)
  const report = {
    machine: { node: process.version, cpus: cpus().length, model: cpus()[0]?.model },
    rounds,
    medians,
    ratios: {
      down: ratio('downMBs'),
      up: ratio('upMBs'),
      connections: ratio('connectionsPerSecond'),
      addedP50ms: (medians['gate p50ms'] ?? NaN) - (medians['direct p50ms'] ?? NaN),
      addedP99ms: (medians['gate p99ms'] ?? NaN) - (medians['direct p99ms'] ?? NaN),
    },
    samples,
  }
  process.stdout.write(`${JSON.stringify(report, null, 2)}\n`)
}

if (process.argv[2] === 'serve') serve()
else await main()
