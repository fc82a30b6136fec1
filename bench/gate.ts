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
import {
  at,
  name,
  type Opened,
  openTcp,
  policyFor,
  rateOf,
  Samples,
  startGate,
  startSrt,
  within,
} from './gate-kit.js'
import { median, medianRatio } from './statistics.js'

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

const first = hello(name)
const totalBytes = 96 * 1024 * 1024
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

interface Route {
  readonly port: number
  /** A proxy: the request that opens the tunnel. */
  readonly request?: string
}

function connect({ port, request }: Route): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
    socket.once('error', reject)
    socket.once('connect', () => {
      if (request === undefined) {
        socket.write(first)
        resolve(socket)
        return
      }
      socket.write(request)
      socket.once('data', (answer: Buffer) => {
        if (!/^HTTP\/1.1 200/.test(answer.toString('latin1')))
          reject(new Error(`the proxy refused: ${answer.toString('latin1').slice(0, 80)}`))
        socket.write(first)
        resolve(socket)
      })
    })
  })
}

/** MB/s. */
async function throughput(route: Route, direction: 'd' | 'u'): Promise<number> {
  const socket = await connect(route)
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
  if (direction === 'd' && received !== totalBytes) {
    const text = `${String(received)} of ${String(totalBytes)} bytes arrived`
    if (route.request === undefined) throw new Error(text)
    // A rival may lose the end of a stream: said, and counted for what it delivered.
    process.stderr.write(`srt: ${text}\n`)
  }
  socket.destroy()
  return (direction === 'd' ? received : totalBytes) / 1e6 / seconds
}

/** Connect, hello, one byte there and back, close. */
async function oneConnection(route: Route): Promise<void> {
  const socket = await connect(route)
  socket.write('e')
  await new Promise((resolve) => socket.once('data', resolve))
  socket.destroy()
}

/** Round trips of one byte on an open connection. Milliseconds, sorted. */
async function roundTrips(route: Route, count: number): Promise<number[]> {
  const socket = await connect(route)
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

async function main(): Promise<void> {
  const rounds = Number(process.argv[2] ?? 3)
  const server = fork(fileURLToPath(import.meta.url), ['serve'])
  const echoServer = fork(fileURLToPath(import.meta.url), ['echo'])
  const told = (child: ChildProcess): Promise<{ port: number }> =>
    new Promise((resolve) => {
      child.once('message', (message: { port: number }) => {
        resolve(message)
      })
    })
  const [{ port }, echo] = await Promise.all([told(server), told(echoServer)])
  const [tcp, udp] = [await openTcp(), await openUdp()]
  const { child: gate } = await startGate([tcp, udp], {
    listeners: [
      { fd: 4, proto: 'tcp', role: 'relay', port, family: 4 },
      { fd: 5, proto: 'udp', role: 'dns', port: 53, family: 4 },
    ],
    policy: policyFor(port, {}),
  })
  const srt = await startSrt(port)
  const routes: Record<string, Route> = {
    direct: { port },
    gate: { port: tcp.port },
    ...(typeof srt === 'string' ? {} : { srt }),
  }
  const samples = new Samples()
  try {
    // Direct and through the gate in turn, so that both see the same machine.
    for (let round = 0; round <= rounds; round++) {
      for (const [route, to] of Object.entries(routes)) {
        const results = {
          downMBs: await within(throughput(to, 'd')),
          upMBs: await within(throughput(to, 'u')),
          connectionsPerSecond: await within(rateOf(1500, 16, async () => await oneConnection(to))),
        }
        const measured = await within(roundTrips(to, 1000))
        const trips = typeof measured === 'number' ? [] : measured
        // The first round warms up.
        if (round === 0) continue
        for (const [key, value] of Object.entries(results)) samples.note(`${route} ${key}`, value)
        samples.note(`${route} p50ms`, at(trips, 0.5))
        samples.note(`${route} p99ms`, at(trips, 0.99))
      }
      for (const [server, to] of [
        ['echo', echo.port],
        ['dns', udp.port],
      ] as const) {
        const rate = await dnsRate(to, 10_000, 32)
        const trips = await dnsTrips(to, 1000)
        if (round === 0) continue
        samples.note(`${server} pinnedPerSecond`, rate)
        samples.note(`${server} p50ms`, at(trips, 0.5))
        samples.note(`${server} p99ms`, at(trips, 0.99))
      }
    }
  } finally {
    server.kill()
    echoServer.kill()
    gate.kill()
    if (typeof srt !== 'string') srt.child.kill()
  }
  const medians = Object.fromEntries(
    Object.entries(samples.all()).map(([key, list]) => [key, median(list)]),
  )
  // Within each round: both saw the same machine.
  const over = (key: string, other: string): number =>
    medianRatio(samples.of(`gate ${key}`), samples.of(`${other} ${key}`))
  const ratio = (key: string): number => over(key, 'direct')
  const report = {
    machine: { node: process.version, cpus: cpus().length, model: cpus()[0]?.model },
    rounds,
    missing: typeof srt === 'string' ? [srt] : [],
    medians,
    ratios: {
      down: ratio('downMBs'),
      up: ratio('upMBs'),
      connections: ratio('connectionsPerSecond'),
      downOverSrt: over('downMBs', 'srt'),
      upOverSrt: over('upMBs', 'srt'),
      connectionsOverSrt: over('connectionsPerSecond', 'srt'),
      addedP50ms: (medians['gate p50ms'] ?? NaN) - (medians['direct p50ms'] ?? NaN),
      addedP99ms: (medians['gate p99ms'] ?? NaN) - (medians['direct p99ms'] ?? NaN),
    },
    samples: samples.all(),
  }
  process.stdout.write(`${JSON.stringify(report, null, 2)}\n`)
}

/** `echo`: what any answer over UDP costs in Node. */
function serveEcho(): void {
  const socket = dgram.createSocket('udp4')
  socket.on('message', (bytes, { port, address }) => {
    socket.send(bytes, port, address)
  })
  socket.bind(0, '127.0.0.1', () => process.send?.({ port: socket.address().port }))
}

if (process.argv[2] === 'serve') serve()
else if (process.argv[2] === 'echo') serveEcho()
else {
  await main()
  process.exit(0)
}
