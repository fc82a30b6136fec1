/**
 * Floods of the HTTP gate by the command that it serves: what it holds stays bounded, and others are served meanwhile.
 * The judges are the memory of the gate's process, what its origin got, and a request that comes after.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import tls from 'node:tls'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { field, frame, preface, type } from './h2-frames.js'

interface Gate {
  readonly process: ChildProcess
  readonly port: number
  readonly ca: string
}

interface State {
  /** Bytes. */
  readonly rss: number
  readonly dials: number
}

const megabyte = 1024 * 1024

async function openGate(): Promise<Gate> {
  const path = fileURLToPath(new URL('fixtures/http-flood-stage.js', import.meta.url))
  const child = fork(path, { execArgv: ['--expose-gc'] })
  const [ready] = (await once(child, 'message')) as [{ port: number; ca: string }]
  return { process: child, ...ready }
}

async function stateOf({ process: child }: Gate): Promise<State> {
  child.send('state')
  const [state] = (await once(child, 'message')) as [State]
  return state
}

async function connect({ port, ca }: Gate, protocol: 'h2' | 'http/1.1'): Promise<tls.TLSSocket> {
  const socket = tls.connect({
    ...{ host: '127.0.0.1', port, ca, servername: 'api.example.com', ALPNProtocols: [protocol] },
  })
  socket.setMaxListeners(0)
  socket.on('error', () => undefined)
  await once(socket, 'secureConnect')
  return socket
}

const request = (method: string): Buffer =>
  Buffer.concat([
    ...[field(':method', method), field(':scheme', 'https'), field(':path', '/x')],
    ...[field(':authority', 'api.example.com'), field('content-type', 'application/json')],
  ])

/** Writes until the gate closes the connection or takes no more of it for two seconds. */
async function flood(socket: tls.TLSSocket, blocks: Iterable<Buffer>): Promise<void> {
  const wait = async (event: string): Promise<boolean> => {
    await once(socket, event).catch(() => undefined)
    return true
  }
  for (const block of blocks) {
    if (socket.destroyed) return
    if (socket.write(block)) continue
    const full = new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 2_000))
    if (!(await Promise.race([wait('drain'), wait('close'), full]))) return
  }
}

function* repeat(count: number, block: (n: number) => Buffer): Iterable<Buffer> {
  for (let n = 0; n < count; n++) yield block(n)
}
/** Stream numbers of a client are odd. */
const streams = (block: number, each: (stream: number) => Buffer[]): Buffer =>
  Buffer.concat(Array.from({ length: 200 }, (_, n) => each(1 + 2 * (200 * block + n))).flat())
const cancel = Buffer.from([0, 0, 0, 8])
const pings = Buffer.concat(
  Array.from({ length: 1000 }, () => frame(type.ping, 0, 0, Buffer.alloc(8))),
)
const entries = Buffer.concat(
  Array.from({ length: 100 }, () => Buffer.from([0, 4, 0, 0, 255, 255])),
)
const settings = Buffer.concat(
  Array.from({ length: 100 }, () => frame(type.settings, 0, 0, entries)),
)

const floods: readonly [title: string, blocks: Iterable<Buffer>][] = [
  [
    'streams opened and reset',
    repeat(100, (n) =>
      streams(n, (id) => [
        frame(type.headers, 5, id, request('GET')),
        frame(type.reset, 0, id, cancel),
      ]),
    ),
  ],
  [
    'streams with part of a body, reset',
    repeat(100, (n) =>
      streams(n, (id) => [
        frame(type.headers, 4, id, request('POST')),
        frame(type.data, 0, id, Buffer.alloc(100, 'a')),
        frame(type.reset, 0, id, cancel),
      ]),
    ),
  ],
  [
    'fields without an end',
    repeat(2000, (n) =>
      n === 0
        ? frame(type.headers, 1, 1, request('GET'))
        : frame(
            type.continuation,
            0,
            1,
            Buffer.concat(Array.from({ length: 100 }, () => field('a', 'b'.repeat(120)))),
          ),
    ),
  ],
  ['pings whose answers are not read', repeat(2000, () => pings)],
  ['settings whose answers are not read', repeat(200, () => settings)],
]

t.test('floods of HTTP/2', async (t) => {
  const gate = await openGate()
  t.teardown(() => gate.process.kill())
  const before = await stateOf(gate)
  for (const [title, blocks] of floods) {
    const socket = await connect(gate, 'h2')
    socket.pause()
    socket.write(preface)
    await flood(socket, blocks)
    const { rss, dials } = await stateOf(gate)
    t.ok(rss - before.rss < 150 * megabyte, `${title}: memory is bounded`)
    t.equal(dials, 0, `${title}: nothing is dialled`)
    t.equal(await served(gate), 403, `${title}: another connection is served`)
    socket.destroy()
  }
})

t.test('bodies that are held to be judged, and never end', async (t) => {
  const gate = await openGate()
  t.teardown(() => gate.process.kill())
  const before = await stateOf(gate)
  const head = `POST /x HTTP/1.1\r\nhost: api.example.com\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n`
  const chunk = Buffer.alloc(megabyte, 'a')
  const sockets = []
  // 240 MB in all, each below what a body may have.
  for (let n = 0; n < 80; n++) {
    const socket = await connect(gate, 'http/1.1')
    sockets.push(socket)
    socket.resume()
    socket.write(head)
    await flood(
      socket,
      repeat(3, () =>
        Buffer.concat([
          Buffer.from(`${chunk.length.toString(16)}\r\n`),
          chunk,
          Buffer.from('\r\n'),
        ]),
      ),
    )
  }
  const { rss } = await stateOf(gate)
  t.ok(rss - before.rss < 160 * megabyte, `memory is bounded: ${String(rss - before.rss)}`)
  t.equal(await served(gate), 403, 'a request without a body is judged')
  for (const socket of sockets) socket.destroy()
  let status = 0
  // What was held is let go of when its connection is seen to be closed.
  for (let n = 0; n < 100 && status !== 200; n++) {
    status = await served(gate, '{"token":"sk-0123456789policy"}')
    if (status !== 200) await new Promise((resolve) => setTimeout(resolve, 50))
  }
  t.equal(status, 200, 'afterwards bodies are taken again')
})

/** The status of one request on a connection of its own. */
async function served(gate: Gate, body = ''): Promise<number> {
  const socket = await connect(gate, 'http/1.1')
  socket.write(
    `POST /x HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${String(body.length)}\r\n\r\n${body}`,
  )
  let text = ''
  socket.on('data', (data: Buffer) => (text += data.toString()))
  await once(socket, 'close')
  return Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1])
}
