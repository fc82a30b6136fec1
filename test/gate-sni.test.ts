/**
 * ClientHello parsing, routes, relaying, cuts and budgets, with real sockets on loopback.
 */
import net from 'node:net'
import t from 'tap'
import type { Decision } from '../lib/audit/record.js'
import { parseHello } from '../lib/gate/sni/hello.js'
import { cidrGrant, deny, fixed, grant, outcome, policy, setUp, type Tap } from './gate-kit.js'
import { makeHello, nodeHello, records, serverName } from './gate-hellos.js'

const noName = 'nameless'
const bad = 'unreadable'
const postQuantum = [51, Buffer.alloc(3000, 1)] as const
const ech = [0xfe0d, Buffer.alloc(200, 2)] as const

t.test('parseHello', async (t) => {
  const handshake = makeHello({ name: 'api.example.com' }).subarray(5)
  const table: [string, Buffer, string, string?][] = [
    ['one name', makeHello({ name: 'api.example.com' }), 'hello', 'api.example.com'],
    ['upper case', makeHello({ name: 'API.Example.COM' }), 'hello', 'api.example.com'],
    [
      'records of 5 bytes',
      makeHello({ name: 'api.example.com', recordSize: 5 }),
      'hello',
      'api.example.com',
    ],
    ['records of 1 byte', makeHello({ name: 'api.example.com', recordSize: 1 }), bad],
    [
      'post-quantum first',
      makeHello({ name: 'a.example.com', extensions: [postQuantum] }),
      'hello',
      'a.example.com',
    ],
    [
      'ECH beside the name',
      makeHello({ name: 'a.example.com', extensions: [ech] }),
      'hello',
      'a.example.com',
    ],
    ['no name', makeHello({}), noName],
    ['no name, ECH', makeHello({ extensions: [ech] }), noName],
    ['IPv4 literal', makeHello({ name: '203.0.113.10' }), noName],
    ['IPv6 literal', makeHello({ name: '2001:db8::1' }), noName],
    ['empty name', makeHello({ name: '' }), noName],
    ['trailing dot', makeHello({ name: 'api.example.com.' }), noName],
    ['NUL inside', makeHello({ name: 'api.example.com\0.evil.example' }), noName],
    ['single label', makeHello({ name: 'localhost' }), noName],
    ['not ASCII', makeHello({ name: 'äpi.example.com' }), noName],
    [
      'two names in the list',
      makeHello({ serverNames: [serverName([0, 'a.example.com'], [0, 'evil.example'])] }),
      bad,
    ],
    [
      'two extensions',
      makeHello({
        serverNames: [serverName([0, 'a.example.com']), serverName([0, 'evil.example'])],
      }),
      bad,
    ],
    ['another name type', makeHello({ serverNames: [serverName([1, 'a.example.com'])] }), bad],
    ['empty list', makeHello({ serverNames: [serverName()] }), bad],
    [
      'bytes behind the list',
      makeHello({
        serverNames: [Buffer.concat([serverName([0, 'a.example.com']), Buffer.from('x')])],
      }),
      bad,
    ],
    [
      'bytes behind the hello',
      records(Buffer.concat([handshake, Buffer.from([1, 0, 0, 0])]), 16_384),
      bad,
    ],
    [
      'a server hello',
      records(Buffer.concat([Buffer.from([2]), handshake.subarray(1)]), 16_384),
      bad,
    ],
    [
      'an alert record inside',
      Buffer.concat([
        makeHello({ name: 'a.example.com', recordSize: 20 }).subarray(0, 25),
        Buffer.from([21, 3, 1, 0, 2, 1, 0]),
      ]),
      bad,
    ],
    [
      'an empty record',
      Buffer.concat([Buffer.from([22, 3, 1, 0, 0]), makeHello({ name: 'a.example.com' })]),
      bad,
    ],
    [
      'over 16 KiB',
      makeHello({ name: 'a.example.com', extensions: [[21, Buffer.alloc(17_000)]] }),
      bad,
    ],
    [
      '16 KiB in all',
      makeHello({ name: 'a.example.com', extensions: [[21, Buffer.alloc(16_200)]] }),
      'hello',
      'a.example.com',
    ],
    [
      'SSLv2',
      Buffer.from('802e0100020015000000100100800200800300800400800500800600400700c0', 'hex'),
      bad,
    ],
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n'), bad],
    ['SSH', Buffer.from('SSH-2.0-x\r\n'), bad],
    ['nothing yet', Buffer.alloc(0), 'more'],
  ]
  for (const [title, bytes, kind, name] of table) {
    const hello = parseHello(bytes)
    t.equal(hello.kind, kind, title)
    if (hello.kind === 'hello') t.equal(hello.name, name, `${title}: name`)
    // However it is cut into segments, nothing but "more" or the same verdict comes out.
    for (let end = 0; end < bytes.length; end += bytes.length > 2000 ? 97 : 1) {
      const part = parseHello(bytes.subarray(0, end))
      if (part.kind !== 'more' && part.kind !== hello.kind)
        t.fail(`${title}: ${part.kind} at ${end}`)
    }
  }
  const real = await nodeHello({
    servername: 'real.example.com',
    ALPNProtocols: ['h2', 'http/1.1'],
  })
  t.match(parseHello(real), { kind: 'hello', name: 'real.example.com', ech: false }, "Node's own")
  t.equal(parseHello(await nodeHello({})).kind, noName, "Node's own without a name")
})

/** A server that answers what it got, upper case, and says how the client ended. */
async function echo(t: Tap): Promise<{ port: number; accepted: () => number; received: Buffer[] }> {
  let accepted = 0
  const received: Buffer[] = []
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    accepted++
    socket.on('error', () => undefined)
    socket.on('data', (bytes: Buffer) => {
      received.push(bytes)
      socket.write(bytes)
    })
    socket.on('end', () => socket.end('bye'))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  return { port: (server.address() as net.AddressInfo).port, accepted: () => accepted, received }
}

t.test('routes by server name', async (t) => {
  const target = await echo(t)
  const { port } = target
  const given = policy({
    grants: [
      grant('api.example.com', port, { inspect: 'sni' }),
      grant('other.example.com', 1, { inspect: 'sni' }),
      grant('gone.example.com', port, { inspect: 'sni' }),
    ],
    denies: [deny('gone.example.com'), deny('198.51.100.0/24')],
    dns: { hosts: fixed('api.example.com', 'other.example.com', 'gone.example.com') },
  })
  const { parts, connect } = await setUp(t, given)
  for (const name of ['api.example.com', 'other.example.com']) {
    parts.names.pins.add(name, '203.0.113.10', Infinity)
  }
  parts.names.pins.add('other.example.com', '203.0.113.11', Infinity)
  parts.names.pins.add('api.example.com', '198.51.100.7', Infinity)

  const good = makeHello({ name: 'api.example.com', recordSize: 40 })
  const first = connect('203.0.113.10', port)
  // In three segments.
  for (const [from, to] of [
    [0, 3],
    [3, 60],
    [60, good.length],
  ] as const) {
    first.write(good.subarray(from, to))
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  first.end('tail')
  t.same(
    await outcome(first),
    Buffer.concat([good, Buffer.from('tailbye')]),
    'replayed and passed, half-close kept',
  )

  const hello = (name: string) => makeHello({ name })
  const table: [string, string | undefined, number, Buffer, Partial<Decision>][] = [
    [
      'another site on the address',
      '203.0.113.10',
      port,
      hello('evil.example'),
      { reason: 'sni-mismatch', name: 'evil.example', layer: 'sni' },
    ],
    [
      'a name granted on another port',
      '203.0.113.10',
      port,
      hello('other.example.com'),
      { reason: 'sni-mismatch' },
    ],
    ['a denied name', '203.0.113.10', port, hello('gone.example.com'), { reason: 'name-denied' }],
    ['no name', '203.0.113.10', port, makeHello({}), { reason: 'sni-missing' }],
    ['an address as name', '203.0.113.10', port, hello('203.0.113.10'), { reason: 'sni-missing' }],
    [
      'ECH to another outer name',
      '203.0.113.10',
      port,
      makeHello({ name: 'cdn.example', extensions: [ech] }),
      { reason: 'ech-refused' },
    ],
    [
      'not TLS',
      '203.0.113.10',
      port,
      Buffer.from('GET / HTTP/1.0\r\n\r\n'),
      { reason: 'tls-unreadable' },
    ],
    [
      'an address never pinned',
      '203.0.113.99',
      port,
      good,
      { reason: 'address-not-granted', layer: 'tcp' },
    ],
    ['a port nobody has', '203.0.113.10', 2, good, { reason: 'port-not-granted' }],
    [
      'an address pinned for another port',
      '203.0.113.11',
      port,
      good,
      { reason: 'port-not-granted' },
    ],
    ['a denied address', '198.51.100.7', port, good, { reason: 'address-denied' }],
    ['loopback', '127.0.0.1', port, good, { reason: 'port-not-granted' }],
    [
      'redirected, another site',
      undefined,
      port,
      hello('evil.example'),
      { reason: 'sni-mismatch' },
    ],
  ]
  const before = target.accepted()
  for (const [title, destination, to, bytes, expected] of table) {
    const seen = (await parts.decisions()).length
    const socket = connect(destination, to)
    socket.write(bytes)
    t.equal(await outcome(socket), 'ECONNRESET', `${title}: reset`)
    const denials = (await parts.decisions()).slice(seen).filter((it) => it.verdict === 'deny')
    t.match(denials, [{ verdict: 'deny', ...expected }], title)
    t.equal(denials.length, 1, `${title}: once`)
  }
  t.equal(target.accepted(), before, 'none of them was dialled')

  const redirected = connect(undefined, port)
  redirected.end(good)
  t.same(
    await outcome(redirected),
    Buffer.concat([good, Buffer.from('bye')]),
    'redirected and granted',
  )

  const silent = connect('203.0.113.10', port)
  silent.end()
  t.same(await outcome(silent), Buffer.alloc(0), 'a client that leaves without a word')
  const records = (await parts.decisions()).filter((it) => it.up !== undefined)
  t.match(records[0], {
    verdict: 'allow',
    name: 'api.example.com',
    up: good.length + 4,
    down: good.length + 7,
  })
})

t.test('reload cuts what is withdrawn', async (t) => {
  const target = await echo(t)
  const { port } = target
  const make = (names: string[], inspect: 'sni' | 'http' | 'none' = 'sni') =>
    policy({
      grants: names.map((name) => grant(name, port, { inspect })),
      dns: { hosts: fixed('keep.example.com', 'cut.example.com') },
    })
  const { parts, connect } = await setUp(t, make(['keep.example.com', 'cut.example.com']))
  const open = async (name: string) => {
    const socket = connect(undefined, port)
    socket.write(makeHello({ name }))
    await new Promise((resolve) => socket.once('data', resolve))
    return socket
  }
  const keep = await open('keep.example.com')
  const cut = await open('cut.example.com')
  const ended = outcome(cut)
  t.equal(parts.update(make(['keep.example.com'])), 1)
  t.equal(await ended, 'ECONNRESET')
  const more = new Promise<Buffer>((resolve) => keep.once('data', resolve))
  keep.write('still')
  t.equal((await more).toString(), 'still', 'the other goes on')
  const stricter = outcome(keep)
  t.equal(parts.update(make(['keep.example.com'], 'http')), 1, 'a stricter inspection cuts too')
  t.equal(await stricter, 'ECONNRESET')
  const reasons = (await parts.decisions()).filter((it) => it.reason === 'grant-withdrawn')
  t.equal(reasons.length, 2)
  t.equal(parts.connections.size, 0)
  t.equal(parts.budgets.connections, 0)
})

t.test('budgets', async (t) => {
  const target = await echo(t)
  const { port } = target
  const given = policy({
    grants: [
      grant('bytes.example.com', port, { inspect: 'sni', limits: { uploadBytes: 2000 } }),
      grant('conns.example.com', port, { inspect: 'sni', limits: { conns: 1 } }),
      grant('rate.example.com', port, { inspect: 'sni', limits: { rps: 2 } }),
    ],
    dns: { hosts: fixed('bytes.example.com', 'conns.example.com', 'rate.example.com') },
  })
  const { parts, connect } = await setUp(t, given)
  const open = (name: string) => {
    const socket = connect(undefined, port)
    socket.write(makeHello({ name }))
    return socket
  }
  const first = open('bytes.example.com')
  await new Promise((resolve) => first.once('data', resolve))
  const end = outcome(first)
  first.write(Buffer.alloc(3000, 'ZZZZ'))
  t.equal(await end, 'ECONNRESET', 'cut when the budget is crossed')
  t.notOk(Buffer.concat(target.received).includes('ZZZZ'), 'none of the crossing bytes left')
  t.equal(await outcome(open('bytes.example.com')), 'ECONNRESET', 'and closed from then on')

  const one = open('conns.example.com')
  await new Promise((resolve) => one.once('data', resolve))
  t.equal(await outcome(open('conns.example.com')), 'ECONNRESET')
  const results: string[] = []
  for (let n = 0; n < 3; n++) {
    const socket = open('rate.example.com')
    results.push(
      await Promise.race([
        outcome(socket).then(String),
        new Promise<string>((resolve) => socket.once('data', () => resolve('data'))),
      ]),
    )
  }
  t.strictSame(results, ['data', 'data', 'ECONNRESET'])
  const reasons = new Set(
    (await parts.decisions()).filter((it) => it.verdict === 'deny').map((it) => it.reason),
  )
  t.strictSame(reasons, new Set(['budget-upload', 'budget-connections', 'budget-rate']))
})

t.test('loopback, addresses, failures', async (t) => {
  const target = await echo(t)
  const { port } = target
  const given = policy({
    grants: [grant('api.example.com', 9, { inspect: 'sni' })],
    cidrs: [cidrGrant('127.0.0.0/8', 9)],
    loopbackConnect: [port],
    dns: { hosts: fixed('api.example.com') },
  })
  const { parts, connect } = await setUp(t, given)
  const local = connect('127.0.0.1', port)
  local.end('hello')
  t.equal(String(await outcome(local)), 'hellobye', 'loopback.connect')
  const refused = connect(undefined, 9)
  refused.write(makeHello({ name: 'api.example.com' }))
  t.equal(await outcome(refused), 'ECONNRESET', 'nobody listens there')
  const [last] = (await parts.decisions()).filter((it) => it.verdict === 'deny')
  t.match(last, { reason: 'dial-failed', detail: 'ECONNREFUSED', name: 'api.example.com' })
})

t.test('the end of a run is no denial', async (t) => {
  const target = await echo(t)
  const given = policy({
    grants: [grant('api.example.com', target.port, { inspect: 'sni' })],
    dns: { hosts: fixed('api.example.com') },
  })
  const { parts, connect } = await setUp(t, given)
  const socket = connect(undefined, target.port)
  socket.write(makeHello({ name: 'api.example.com' }))
  await new Promise((resolve) => socket.once('data', resolve))
  const ended = outcome(socket)
  parts.connections.cutAll()
  t.equal(await ended, 'ECONNRESET')
  const decisions = await parts.decisions()
  t.strictSame(
    decisions.map((it) => it.verdict),
    ['allow', 'allow'],
    'opened and closed',
  )
})

t.test('back-pressure both ways', async (t) => {
  const size = 8 << 20
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined)
    socket.pipe(socket)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const { port } = server.address() as net.AddressInfo
  const given = policy({
    grants: [grant('api.example.com', port, { inspect: 'sni' })],
    dns: { hosts: fixed('api.example.com') },
  })
  const { parts, connect } = await setUp(t, given)
  const socket = connect(undefined, port)
  const hello = makeHello({ name: 'api.example.com' })
  const payload = Buffer.alloc(size, 'abcdefghijklmnopqrstuvwxyz0123456789')
  socket.write(hello)
  socket.end(payload)
  socket.pause()
  await new Promise((resolve) => setTimeout(resolve, 100))
  t.ok(parts.connections.down < size, 'what is not read is not fetched')
  const received = await outcome(socket)
  t.ok(
    Buffer.isBuffer(received) && received.subarray(hello.length).equals(payload),
    'nothing lost, nothing changed',
  )
})
