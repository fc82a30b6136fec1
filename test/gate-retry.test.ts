/**
 * A server may ask for a second ClientHello: it goes on only with the first one's name, whole or in pieces, with early
 * data before it or not; and none goes on that no server asked for.
 */
import net from 'node:net'
import tls from 'node:tls'
import t from 'tap'
import { createAuthority } from '../lib/gate/http/authority.js'
import { makeHello } from './gate-hellos.js'
import { fixed, grant, outcome, policy, setUp, type Tap } from './gate-kit.js'

const name = 'api.example.com'
const first = makeHello({ name })
/** RFC 8446 sections 4.1.3 and 4.1.4: a ServerHello with this random. */
const retry = Buffer.concat([
  Buffer.from([22, 3, 3, 0, 44, 2, 0, 0, 40, 3, 3]),
  Buffer.from('cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c', 'hex'),
  Buffer.from([0, 0x13, 1, 0, 0, 0]),
])
const serverHello = Buffer.concat([retry.subarray(0, 11), Buffer.alloc(32, 9), retry.subarray(43)])
const record = (type: number, length: number) =>
  Buffer.concat([Buffer.from([type, 3, 3, 0, length]), Buffer.alloc(length, type)])
const compat = Buffer.from([20, 3, 3, 0, 1, 1])

/** Answers the first hello with `answer`, and keeps what comes after it. */
async function serve(t: Tap, answer: Buffer) {
  const got: Buffer[] = []
  const server = net.createServer((socket) => {
    let seen = 0
    socket.on('error', () => undefined)
    socket.on('data', (chunk: Buffer) => {
      const before = seen
      seen += chunk.length
      got.push(chunk.subarray(Math.max(0, first.length - before)))
      if (before < first.length && seen >= first.length) socket.write(answer)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as net.AddressInfo
  return { port, got: () => Buffer.concat(got) }
}

const second = (which: string, recordSize = 16_384) => makeHello({ name: which, recordSize })
const same = second(name)
const other = second('evil.example.org')

const cases: readonly {
  readonly title: string
  readonly answer: Buffer
  /** Sent after the answer, each as a segment of its own. */
  readonly after: readonly Buffer[]
  readonly passes: boolean
}[] = [
  { title: 'the same name', answer: retry, after: [same], passes: true },
  { title: 'as browsers do', answer: retry, after: [Buffer.concat([compat, same])], passes: true },
  { title: 'in pieces', answer: retry, after: [second(name, 30)], passes: true },
  {
    title: 'rejected early data on its way',
    answer: retry,
    after: [record(23, 50), record(23, 60), same],
    passes: true,
  },
  { title: 'another name', answer: retry, after: [other], passes: false },
  { title: 'no name', answer: retry, after: [makeHello({})], passes: false },
  {
    title: 'another name, in pieces',
    answer: retry,
    after: [second('evil.example.org', 30)],
    passes: false,
  },
  {
    title: 'another name in segments',
    answer: retry,
    after: [other.subarray(0, 3), other.subarray(3, 40), other.subarray(40)],
    passes: false,
  },
  {
    title: 'another name behind early data',
    answer: retry,
    after: [
      Buffer.concat([compat, record(23, 50).subarray(0, 20)]),
      Buffer.concat([record(23, 50).subarray(20), other]),
    ],
    passes: false,
  },
  {
    title: 'no second one was asked for',
    answer: serverHello,
    after: [compat, record(22, 40), record(23, 100)],
    passes: true,
  },
  {
    title: 'no TLS at all',
    answer: Buffer.from('220 ready\r\n'),
    after: [Buffer.from('hi')],
    passes: true,
  },
  { title: 'an alert', answer: record(21, 2), after: [record(21, 2)], passes: true },
]

t.test('after the answer', async (t) => {
  for (const { title, answer, after, passes } of cases) {
    const target = await serve(t, answer)
    const { parts, connect } = await setUp(
      t,
      policy({
        grants: [grant(name, target.port, { inspect: 'sni' })],
        dns: { hosts: fixed(name) },
      }),
    )
    const socket = connect(undefined, target.port)
    socket.setNoDelay(true)
    socket.write(first)
    let heard = 0
    while (heard < answer.length) {
      heard += (await new Promise<Buffer>((resolve) => socket.once('data', resolve))).length
    }
    const whole = Buffer.concat(after)
    const over = outcome(socket)
    for (const part of after) {
      socket.write(part)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    if (passes) {
      while (target.got().length < whole.length) {
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
      t.ok(target.got().equals(whole), `${title}: passed as it was`)
      socket.destroy()
    } else {
      t.equal(await over, 'ECONNRESET', title)
      t.ok(target.got().length < whole.length, `${title}: not whole at the server`)
      t.match((await parts.decisions()).at(-1), { verdict: 'deny', reason: 'sni-mismatch', name })
    }
  }
})

t.test('before any answer', async (t) => {
  const target = await serve(t, Buffer.alloc(0))
  const { connect } = await setUp(
    t,
    policy({ grants: [grant(name, target.port, { inspect: 'sni' })], dns: { hosts: fixed(name) } }),
  )
  const socket = connect(undefined, target.port)
  socket.write(first)
  await new Promise((resolve) => setTimeout(resolve, 50))
  const over = outcome(socket)
  socket.write(same)
  t.equal(await over, 'ECONNRESET')
  t.equal(target.got().length, 0)
})

t.test("OpenSSL's own", async (t) => {
  const authority = await createAuthority('origin')
  const server = tls.createServer(
    // The client's first hello has a key share for another group: so it is asked again.
    {
      ecdhCurve: 'P-521',
      SNICallback: (asked, done) => {
        done(null, authority.contextFor(asked))
      },
    },
    (socket) => {
      socket.on('error', () => undefined)
      socket.end('of the site')
    },
  )
  let answered = Buffer.alloc(0)
  const tap = net.createServer((socket) => {
    const inner = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
    inner.on('data', (chunk: Buffer) => (answered = Buffer.concat([answered, chunk])))
    for (const each of [socket, inner]) each.on('error', () => undefined)
    socket.pipe(inner).pipe(socket)
  })
  for (const each of [server, tap]) {
    await new Promise<void>((resolve) => each.listen(0, '127.0.0.1', resolve))
    t.teardown(() => each.close())
  }
  const { port } = tap.address() as net.AddressInfo
  const { connect } = await setUp(
    t,
    policy({ grants: [grant(name, port, { inspect: 'sni' })], dns: { hosts: fixed(name) } }),
  )
  const client = tls.connect({
    socket: connect(undefined, port),
    servername: name,
    ca: authority.pem,
    ecdhCurve: 'X25519:P-521',
  })
  t.equal(String(await outcome(client)), 'of the site')
  t.ok(answered.includes(retry.subarray(11, 43)), 'the server did ask')
})
