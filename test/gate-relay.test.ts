/**
 * What is passed on: every byte, in order, to its own connection alone, whoever is slow and whoever ends first.
 */
import { createHash, randomBytes } from 'node:crypto'
import net from 'node:net'
import t from 'tap'
import { onAccepted } from '../lib/gate/accept.js'
import { reset } from '../lib/gate/connections.js'
import { makeHello } from './gate-hellos.js'
import { fixed, grant, outcome, policy, setUp, type Tap } from './gate-kit.js'

const name = 'api.example.com'
const hello = makeHello({ name })

async function serve(t: Tap, onConnection: (socket: net.Socket) => void): Promise<number> {
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined)
    onConnection(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  return (server.address() as net.AddressInfo).port
}

function openTo(port: number) {
  return policy({
    grants: [grant(name, port, { inspect: 'sni' })],
    dns: { hosts: fixed(name) },
  })
}

/** In pieces that never fill the gate's shared buffer. */
async function writeSlowly(socket: net.Socket, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; at += 40_000) {
    socket.write(bytes.subarray(at, at + 40_000))
    await new Promise((resolve) => setImmediate(resolve))
  }
}

const digest = (bytes: Buffer | string): string => createHash('sha256').update(bytes).digest('hex')

t.test('many at once share no bytes', async (t) => {
  // More than there are large buffers, so that some go without.
  const count = 40
  const port = await serve(t, (socket) => socket.pipe(socket))
  const { parts, connect } = await setUp(t, openTo(port))
  const runs = Array.from({ length: count }, async (_, index) => {
    const isSlow = index % 5 === 0
    // More than the kernel's buffers hold: what was fetched waits in the gate, and the others go on.
    const payload = randomBytes(isSlow ? 12_000_000 + index : 1_000_000 + index * 10_007)
    // Not like a TLS record.
    payload[0] = 0
    const socket = connect(undefined, port)
    socket.pause()
    socket.write(hello)
    if (index % 10 === 0) await writeSlowly(socket, payload)
    else socket.write(payload)
    socket.end()
    if (isSlow) await new Promise((resolve) => setTimeout(resolve, 200))
    const got = await outcome(socket)
    return digest(got) === digest(Buffer.concat([hello, payload]))
  })
  t.strictSame(await Promise.all(runs), Array<boolean>(count).fill(true))
  t.equal(parts.connections.up, parts.connections.down, 'all of it counted')
})

t.test('slow and in pieces of every size', async (t) => {
  const port = await serve(t, (socket) => socket.pipe(socket))
  const { connect } = await setUp(t, openTo(port))
  const sizes = [1, 65_535, 65_536, 65_537, 131_072, 1_048_576, 1_048_577, 3, 2_500_000]
  const pieces = sizes.map((size) => randomBytes(size))
  const socket = connect(undefined, port)
  socket.write(hello)
  const got = outcome(socket)
  for (const piece of pieces) {
    socket.write(piece)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  socket.end()
  t.equal(digest(await got), digest(Buffer.concat([hello, ...pieces])))
})

t.test('all that the client will ever say, in one segment with its end', async (t) => {
  const port = await serve(t, (socket) => socket.pipe(socket))
  const { connect } = await setUp(t, openTo(port))
  const data = Buffer.concat([hello, Buffer.from([20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 1, 9])])
  const socket = connect(undefined, port)
  socket.end(data)
  const got = await outcome(socket)
  t.ok(Buffer.isBuffer(got) && got.equals(data), 'bytes behind the hello, and the end')
})

t.test('the server speaks first', async (t) => {
  const port = await serve(t, (socket) => {
    socket.write('220 ready\r\n')
    socket.on('data', (bytes: Buffer) => socket.end(bytes))
  })
  const { connect } = await setUp(t, policy({ loopbackConnect: [port] }))
  const socket = connect('127.0.0.1', port)
  const first = await new Promise<string>((resolve) => {
    socket.once('data', (bytes) => resolve(bytes.toString()))
  })
  t.equal(first, '220 ready\r\n')
  socket.write('HELO')
  t.equal((await outcome(socket)).toString(), 'HELO')
})

t.test('a cut in the middle of a bulk transfer', async (t) => {
  const sent = randomBytes(1 << 20)
  const port = await serve(t, (socket) => {
    const more = (): void => {
      while (!socket.destroyed && socket.write(sent));
    }
    socket.on('drain', more)
    more()
  })
  const { parts, connect } = await setUp(t, openTo(port))
  const socket = connect(undefined, port)
  socket.write(hello)
  const enough = 4 << 20
  let arrived = 0
  const ended = new Promise<void>((resolve) => {
    socket.on('error', () => resolve())
    // Of a reset behind unread bytes libuv makes an end.
    socket.on('end', resolve)
    socket.on('data', (bytes: Buffer) => {
      arrived += bytes.length
      // Stops reading once: the gate is left with writes under way.
      if (arrived > enough && arrived - bytes.length <= enough) socket.pause()
    })
  })
  while (arrived <= enough) await new Promise((resolve) => setTimeout(resolve, 10))
  t.equal(parts.update(policy()), 1, 'cut by the reload')
  t.equal(parts.connections.size, 0)
  socket.resume()
  await ended
  const { down } = parts.connections
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.equal(parts.connections.down, down, 'nothing is fetched after the cut')
})

t.test('a cut at the moment of an end', async (t) => {
  const gone = new Promise<void>((resolve) => {
    void serve(t, (socket) => socket.resume().on('end', resolve).on('error', resolve)).then(
      (port) => {
        const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
        socket.on('connect', () => {
          socket.end('last words')
          reset(socket)
          t.ok(socket.destroyed)
          socket.on('close', () => t.pass('closed'))
        })
      },
    )
  })
  t.plan(2)
  await gone
})

t.test('connections that say nothing have a bound', async (t) => {
  const server = net.createServer()
  const taken: net.Socket[] = []
  onAccepted(server, (socket) => void taken.push(socket), 5)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as net.AddressInfo
  const connect = async (): Promise<string> => {
    const socket = net.connect(port, '127.0.0.1')
    return await new Promise((resolve) => {
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''))
      socket.on('data', () => resolve('served'))
      socket.on('connect', () => {
        const wait = setInterval(() => {
          if (!taken.some(({ remotePort }) => remotePort === socket.localPort)) return
          clearInterval(wait)
          resolve('taken')
        }, 10)
        socket.on('close', () => clearInterval(wait))
      })
    })
  }
  for (let n = 0; n < 5; n++) t.equal(await connect(), 'taken')
  t.equal(await connect(), 'ECONNRESET', 'one too many')
  const [first] = taken
  first?.destroy()
  await new Promise((resolve) => first?.once('close', resolve))
  t.equal(await connect(), 'taken', 'where one has gone, another is taken')
  for (const socket of taken) socket.destroy()
  server.close()
})
