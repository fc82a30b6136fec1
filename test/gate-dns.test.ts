/**
 * The DNS filter against a real server on loopback: what it answers, what it asks, what it pins.
 */
import dgram from 'node:dgram'
import net from 'node:net'
import packet, { type Packet } from 'dns-packet'
import t from 'tap'
import type { DnsFilter } from '../lib/gate/dns/filter.js'
import { serveDnsTcp, serveDnsUdp } from '../lib/gate/dns/serve.js'
import {
  a,
  aaaa,
  assemble,
  cidrGrant,
  cname,
  code,
  deny,
  edns,
  grant,
  policy,
  query,
  startDns,
  type Zone,
} from './gate-kit.js'

const many = Array.from({ length: 40 }, (_, n) => a('many.example.com', `203.0.113.${n + 1}`))
const soa = {
  type: 'SOA' as const,
  name: 'example.com',
  ttl: 30,
  data: { mname: 'ns.example.com', rname: 'x.example.com', minimum: 30 },
}

/** Names of the test internet. */
const zone: Zone = (name, type, transport) => {
  const key = `${name} ${type}`
  const table: Record<string, ReturnType<Zone>> = {
    'api.example.com A': { answers: [a('api.example.com', '203.0.113.10')] },
    'api.example.com AAAA': { answers: [aaaa('api.example.com', '2001:db8::10')] },
    'chain.example.com A': {
      answers: [
        cname('chain.example.com', 'edge.cdn.example.net', 20),
        cname('edge.cdn.example.net', 'far.cdn.example.net', 300),
        a('far.cdn.example.net', '203.0.113.20', 300),
        a('unrelated.example.net', '203.0.113.66', 300),
      ],
    },
    'leave.example.com A': { answers: [cname('leave.example.com', 'there.example.org', 30)] },
    'there.example.org A': { answers: [a('there.example.org', '203.0.113.21')] },
    'loop.example.com A': { answers: [cname('loop.example.com', 'loop.example.com')] },
    'loop2.example.com A': { answers: [cname('loop2.example.com', 'loop3.example.com')] },
    'loop3.example.com A': { answers: [cname('loop3.example.com', 'loop2.example.com')] },
    'many.example.com A': { answers: many },
    'rebind.example.com A': { answers: [a('rebind.example.com', '127.0.0.1')] },
    'meta.example.com A': { answers: [a('meta.example.com', '169.254.169.254')] },
    'lan.example.com A': { answers: [a('lan.example.com', '10.1.2.3')] },
    'mixed.example.com A': {
      answers: [a('mixed.example.com', '192.168.1.1'), a('mixed.example.com', '203.0.113.30')],
    },
    'mapped.example.com AAAA': { answers: [aaaa('mapped.example.com', '::ffff:127.0.0.1')] },
    'self.example.com A': { answers: [a('self.example.com', '198.51.100.99')] },
    'within.example.org A': {
      answers: [a('within.example.org', '203.0.113.40'), a('within.example.org', '198.51.100.1')],
    },
    'denied.example.com A': { answers: [a('denied.example.com', '203.0.113.50')] },
    'badcidr.example.com A': { answers: [a('badcidr.example.com', '203.0.113.200')] },
    'nodata.example.com A': { authorities: [soa] },
    'nx.example.com A': { flags: code('NXDOMAIN'), authorities: [soa] },
    'fail.example.com A': { flags: code('SERVFAIL') },
    'tc.example.com A':
      transport === 'udp'
        ? { flags: packet.TRUNCATED_RESPONSE }
        : { answers: [a('tc.example.com', '203.0.113.60')] },
    'short.example.com A': { answers: [a('short.example.com', '203.0.113.70', 0)] },
    'long.example.com A': { answers: [a('long.example.com', '203.0.113.71', 86400)] },
    '_x._tcp.example.com SRV': {
      answers: [
        {
          type: 'SRV',
          name: '_x._tcp.example.com',
          ttl: 30,
          data: { port: 5222, target: 'api.example.com' },
        },
        {
          type: 'SRV',
          name: '_x._tcp.example.com',
          ttl: 30,
          data: { port: 5222, target: 'evil.example' },
        },
      ],
    },
  }
  return table[key] ?? { answers: [a(name, '203.0.113.99')] }
}

const grants = [
  grant('*.example.com', 443),
  ...['api', 'chain', 'leave', 'loop', 'loop2', 'many', 'rebind', 'meta', 'mixed', 'mapped'].map(
    (it) => grant(`${it}.example.com`, 443),
  ),
  ...['self', 'badcidr', 'nodata', 'nx', 'fail', 'tc', 'short', 'long'].map((it) =>
    grant(`${it}.example.com`, 443),
  ),
  grant('lan.example.com', 443, { private: true }),
  grant('within.example.org', 443, { within: [{ family: 4, address: '203.0.113.0', prefix: 24 }] }),
  grant('denied.example.com', 443),
  grant('_x._tcp.example.com', 5222),
  grant('fixed.internal.example', 5432),
]
const base = {
  grants,
  denies: [deny('denied.example.com'), deny('203.0.113.200/32')],
  dns: {
    rate: 1000,
    types: ['A', 'AAAA', 'SRV'] as const,
    hosts: [['fixed.internal.example', ['10.0.0.5']]] as const,
  },
}

t.test('answers', async (t) => {
  const dns = await startDns(zone)
  t.teardown(() => {
    dns.close()
  })
  const gate = assemble(policy(base), { upstream: dns.port, hostAddresses: ['198.51.100.99'] })
  // name, type, code, addresses, reason of the denial, asked upstream?
  const table: [string, string, string, string[], string | undefined, boolean][] = [
    ['api.example.com', 'A', 'NOERROR', ['203.0.113.10'], undefined, true],
    ['API.eXample.Com', 'A', 'NOERROR', ['203.0.113.10'], undefined, false],
    ['api.example.com', 'AAAA', 'NOERROR', ['2001:db8::10'], undefined, true],
    ['chain.example.com', 'A', 'NOERROR', ['203.0.113.20'], undefined, true],
    ['leave.example.com', 'A', 'NOERROR', ['203.0.113.21'], undefined, true],
    ['loop.example.com', 'A', 'SERVFAIL', [], 'upstream-failed', true],
    ['loop2.example.com', 'A', 'SERVFAIL', [], 'upstream-failed', true],
    ['rebind.example.com', 'A', 'NXDOMAIN', [], 'address-private', true],
    ['meta.example.com', 'A', 'NXDOMAIN', [], 'address-private', true],
    ['self.example.com', 'A', 'NXDOMAIN', [], 'address-private', true],
    ['mapped.example.com', 'AAAA', 'NXDOMAIN', [], 'address-private', true],
    ['lan.example.com', 'A', 'NOERROR', ['10.1.2.3'], undefined, true],
    ['mixed.example.com', 'A', 'NOERROR', ['203.0.113.30'], 'address-private', true],
    ['within.example.org', 'A', 'NOERROR', ['203.0.113.40'], 'address-outside-within', true],
    ['badcidr.example.com', 'A', 'NXDOMAIN', [], 'address-denied', true],
    ['denied.example.com', 'A', 'NXDOMAIN', [], 'name-denied', false],
    ['nodata.example.com', 'A', 'NOERROR', [], undefined, true],
    ['nx.example.com', 'A', 'NXDOMAIN', [], undefined, true],
    ['fail.example.com', 'A', 'SERVFAIL', [], 'upstream-failed', true],
    ['tc.example.com', 'A', 'NOERROR', ['203.0.113.60'], undefined, true],
    ['fixed.internal.example', 'A', 'NOERROR', ['10.0.0.5'], undefined, false],
    ['fixed.internal.example', 'AAAA', 'NOERROR', [], undefined, false],
    // Not granted: never a word upstream, whatever the type.
    ['evil.example', 'A', 'NXDOMAIN', [], 'name-not-granted', false],
    ['evil.example', 'TXT', 'NXDOMAIN', [], 'name-not-granted', false],
    ['example.com', 'A', 'NXDOMAIN', [], 'name-not-granted', false],
    ['a.b.example.com', 'A', 'NXDOMAIN', [], 'name-not-granted', false],
    ['api.example.com.evil.example', 'A', 'NXDOMAIN', [], 'name-not-granted', false],
    ['xapi.example.com.', 'A', 'NOERROR', ['203.0.113.99'], undefined, true],
    ['notexample.com', 'A', 'NXDOMAIN', [], 'name-not-granted', false],
    ['printer', 'A', 'NXDOMAIN', [], 'name-not-granted', false],
    ['1.0.0.127.in-addr.arpa', 'PTR', 'NXDOMAIN', [], 'name-not-granted', false],
    ['localhost', 'A', 'NOERROR', ['127.0.0.1'], undefined, false],
    ['x.localhost', 'AAAA', 'NOERROR', ['::1'], undefined, false],
    // Types that lead around the gate: empty, and not asked.
    ...[
      'TXT',
      'MX',
      'NULL',
      'PTR',
      'CAA',
      'NAPTR',
      'CNAME',
      'UNKNOWN_65',
      'UNKNOWN_64',
      'UNKNOWN_255',
    ].map((type): [string, string, string, string[], string, boolean] => [
      'api.example.com',
      type,
      'NOERROR',
      [],
      'record-type-refused',
      false,
    ]),
  ]
  for (const [name, type, rcode, addresses, reason, asked] of table) {
    const before = dns.queries.length
    const seen = (await gate.decisions()).length
    // dns-packet prints no unknown types; the number goes into the bytes by hand.
    const number = /^UNKNOWN_(\d+)$/.exec(type)?.[1]
    const answer =
      number === undefined
        ? await query(gate.filter, name, type)
        : await rawType(gate, name, Number(number))
    const title = `${name} ${type}`
    t.equal(answer.rcode, rcode, `${title}: code`)
    t.strictSame(addressesOf(answer), addresses, `${title}: addresses`)
    t.equal(dns.queries.length > before, asked, `${title}: asked upstream`)
    const denials = (await gate.decisions()).slice(seen).filter((it) => it.verdict === 'deny')
    t.equal(denials[0]?.reason, reason, `${title}: reason`)
    for (const record of answer.answers ?? []) {
      t.equal(
        record.name.toLowerCase(),
        name.toLowerCase().replace(/\.$/, ''),
        `${title}: flattened`,
      )
    }
  }
  const asked = new Set(dns.queries.map((it) => it.name.toLowerCase()))
  t.notOk(
    [...asked].some((name) => name.includes('evil')),
    'nothing about evil went upstream',
  )
})

async function rawType(gate: ReturnType<typeof assemble>, name: string, type: number) {
  const message = packet.encode({
    type: 'query',
    id: 1,
    questions: [{ name, type: 'A', class: 'IN' }],
  })
  message.writeUInt16BE(type, message.length - 4)
  const answer = await gate.filter.answer(message, 'udp')
  if (answer === undefined) throw new Error('no answer')
  return packet.decode(answer) as packet.DecodedPacket & { rcode: string }
}

function addressesOf(answer: packet.DecodedPacket): unknown[] {
  return (answer.answers ?? []).flatMap((record) => ('data' in record ? [record.data] : []))
}

t.test('the query upstream is our own', async (t) => {
  const dns = await startDns(zone)
  t.teardown(() => {
    dns.close()
  })
  const gate = assemble(policy({ ...base, grants: [grant('**.example.com', 443)] }), {
    upstream: dns.port,
  })
  const options = [
    { ...edns![0]!, options: [{ code: 'CLIENT_SUBNET', ip: '192.0.2.0' }] },
  ] as unknown as Packet['additionals']
  for (let n = 0; n < 12; n++) {
    await query(gate.filter, `SeCrEt-cAsE-${n}.example.com`, 'A', { additionals: options })
  }
  t.ok(new Set(dns.queries.map((it) => it.sourcePort)).size > 8, 'a source port each')
  t.ok(new Set(dns.queries.map((it) => it.bytes.readUInt16BE(0))).size > 8, 'an id each')
  t.ok(
    dns.queries.some((it) => it.name !== it.name.toLowerCase()),
    'case is random',
  )
  t.notOk(
    dns.queries.some((it) => it.name.startsWith('SeCrEt-cAsE')),
    'not the case of the client',
  )
  for (const { bytes } of dns.queries) {
    const opt = packet.decode(bytes).additionals?.[0]
    t.ok(opt?.type === 'OPT' && opt.options.length === 0, 'no options of the client')
  }
})

t.test('TTL, pins and cache', async (t) => {
  const dns = await startDns(zone)
  t.teardown(() => {
    dns.close()
  })
  let now = 1_000_000
  const gate = assemble(policy(base), { upstream: dns.port, now: () => now })
  const ttlOf = async (name: string) => {
    const [record] = (await query(gate.filter, name, 'A')).answers ?? []
    return record !== undefined && 'ttl' in record ? record.ttl : undefined
  }
  t.equal(await ttlOf('short.example.com'), 5, 'raised to 5')
  t.equal(await ttlOf('long.example.com'), 60, 'lowered to 60')
  t.equal(await ttlOf('chain.example.com'), 20, 'the lowest of the chain')
  now += 12_000
  t.equal(await ttlOf('chain.example.com'), 8, 'counts down from the cache')
  t.strictSame(
    gate.names.pins.namesOf('203.0.113.20'),
    ['chain.example.com'],
    'pinned to the name asked',
  )
  t.strictSame(gate.names.pins.namesOf('203.0.113.66'), [], 'not what else was in the answer')
  const before = dns.queries.length
  await Promise.all(Array.from({ length: 20 }, () => query(gate.filter, 'many.example.com', 'A')))
  t.equal(dns.queries.length, before + 1, 'twenty alike in flight are one')
  now += 120_000
  t.strictSame(
    gate.names.pins.namesOf('203.0.113.20'),
    ['chain.example.com'],
    'in force 120 s past the TTL',
  )
  now += 9_000
  t.strictSame(gate.names.pins.namesOf('203.0.113.20'), [], 'and then not')
})

t.test('pins keep the later end, and are bounded', (t) => {
  let now = 0
  const { pins } = assemble(policy(), { now: () => now }).names
  pins.add('a.example', '203.0.113.1', 1000)
  pins.add('a.example', '203.0.113.1', 500)
  pins.add('b.example', '203.0.113.1', 200)
  now = 600
  t.strictSame(pins.namesOf('203.0.113.1'), ['a.example'])
  for (let n = 0; n < 300; n++) pins.add('c.example', `2001:db8::${n.toString(16)}`, 2000 + n)
  t.equal(pins.live().filter((pin) => pin.name === 'c.example').length, 100, '100 a name')
  for (let n = 0; n < 3000; n++) pins.add(`d${n}.example`, '203.0.113.2', 5000 + n)
  t.equal(pins.size, 1024, '1024 a jail')
  now = 10_000
  pins.sweep()
  t.equal(pins.size, 0)
  t.end()
})

t.test('sizes and transports', async (t) => {
  const dns = await startDns(zone)
  const gate = assemble(policy(base), { upstream: dns.port })
  const udp = dgram.createSocket('udp4')
  const tcp = net.createServer()
  await new Promise<void>((resolve) => tcp.listen(0, '127.0.0.1', resolve))
  const { port } = tcp.address() as net.AddressInfo
  await new Promise<void>((resolve) => udp.bind(port, '127.0.0.1', resolve))
  const served = [serveDnsUdp(udp, gate.filter), serveDnsTcp(tcp, gate.filter)]
  t.teardown(() => {
    dns.close()
    for (const each of served) each.close()
  })
  const small = await query(gate.filter, 'many.example.com', 'A')
  t.equal(small.answers?.length, 16, 'sixteen addresses at most')

  const ask = (id: number, name: string, additionals?: Packet['additionals']) =>
    packet.encode({
      type: 'query',
      id,
      questions: [{ name, type: 'A', class: 'IN' }],
      ...(additionals === undefined ? {} : { additionals }),
    })
  const longest = `${'a'.repeat(60)}.${'b'.repeat(60)}.${'c'.repeat(60)}.${'d'.repeat(60)}.example`
  const wide = assemble(policy({ grants: [grant(longest, 443)] }), {
    upstream: () =>
      Promise.resolve({
        ...packet.decode(
          packet.encode({
            type: 'response',
            answers: many.map((it) => ({ ...it, name: longest })),
          }),
        ),
        rcode: 'NOERROR',
      }),
  })
  const truncated = await query(wide.filter, longest, 'A')
  t.ok(truncated.flag_tc && truncated.answers?.length === 0, 'too large for 512 bytes: TC')
  t.equal((await query(wide.filter, longest, 'A', { additionals: edns })).answers?.length, 16)
  t.equal((await query(wide.filter, longest, 'A', { transport: 'tcp' })).answers?.length, 16)

  const client = dgram.createSocket('udp4')
  const overUdp = new Promise<Buffer>((resolve) => client.once('message', resolve))
  client.send(ask(7, 'api.example.com'), port, '127.0.0.1')
  t.equal(packet.decode(await overUdp).id, 7, 'over UDP')
  client.close()

  // Two messages in one segment and one split over two.
  const socket = net.connect(port, '127.0.0.1')
  const framed = [1, 2, 3].map((id) =>
    packet.streamEncode({ ...packet.decode(ask(id, 'api.example.com')) }),
  )
  const all = Buffer.concat(framed)
  socket.write(all.subarray(0, all.length - 9))
  setImmediate(() => socket.write(all.subarray(all.length - 9)))
  const ids = await new Promise<number[]>((resolve) => {
    let received = Buffer.alloc(0)
    const seen: number[] = []
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk])
      while (received.length >= 2 && received.length >= 2 + received.readUInt16BE(0)) {
        const end = 2 + received.readUInt16BE(0)
        seen.push(packet.decode(received.subarray(2, end)).id ?? -1)
        received = received.subarray(end)
      }
      if (seen.length === 3) resolve(seen)
    })
  })
  t.strictSame(ids.sort(), [1, 2, 3], 'over TCP, however it is cut')
  socket.destroy()
})

t.test('malformed queries', async (t) => {
  const gate = assemble(policy(base))
  const good = packet.encode({
    type: 'query',
    id: 9,
    questions: [{ name: 'api.example.com', type: 'A', class: 'IN' }],
  })
  const changed = (change: (bytes: Buffer) => Buffer | undefined): Buffer => {
    const copy = Buffer.from(good)
    return change(copy) ?? copy
  }
  const two = packet.encode({
    type: 'query',
    questions: [
      { name: 'api.example.com', type: 'A' },
      { name: 'evil.example', type: 'A' },
    ],
  })
  const table: [string, Buffer, string | undefined][] = [
    ['empty', Buffer.alloc(0), undefined],
    ['half a header', good.subarray(0, 11), undefined],
    ['an answer', changed((it) => void it.writeUInt16BE(0x8000, 2)), undefined],
    ['two questions', two, 'FORMERR'],
    ['no question', changed((it) => void it.writeUInt16BE(0, 4)), 'FORMERR'],
    ['opcode UPDATE', changed((it) => void it.writeUInt16BE(0x2800, 2)), 'FORMERR'],
    ['class CHAOS', changed((it) => void it.writeUInt16BE(3, it.length - 2)), 'FORMERR'],
    ['bytes behind the question', Buffer.concat([good, Buffer.from('exfil')]), 'FORMERR'],
    ['a pointer in the question', changed((it) => void it.writeUInt16BE(0xc00c, 12)), 'FORMERR'],
    ['cut inside the name', good.subarray(0, 20), 'FORMERR'],
    ['an answer record announced', changed((it) => void it.writeUInt16BE(1, 6)), 'FORMERR'],
    ['over 8 KiB', Buffer.concat([good, Buffer.alloc(9000)]), 'FORMERR'],
  ]
  for (const [title, bytes, rcode] of table) {
    const answer = await gate.filter.answer(bytes, 'udp')
    const got =
      answer === undefined
        ? undefined
        : (packet.decode(answer) as unknown as { rcode: string }).rcode
    t.equal(got, rcode, title)
  }
  const odd = Buffer.from(good)
  odd[13] = 0x2e // a dot inside a label
  const answer = await gate.filter.answer(odd, 'udp')
  t.equal(
    answer && (packet.decode(answer) as unknown as { rcode: string }).rcode,
    'NXDOMAIN',
    'odd bytes are no granted name',
  )
})

t.test('the denial says why in the answer', async (t) => {
  const gate = assemble(policy(base))
  const plain = await query(gate.filter, 'evil.example', 'A')
  t.equal(plain.additionals?.length, 0, 'no EDNS for those who do not speak it')
  const extended = await query(gate.filter, 'evil.example', 'A', { additionals: edns })
  const opt = extended.additionals?.[0]
  const option =
    opt?.type === 'OPT' ? (opt.options[0] as unknown as { code: number; data: Buffer }) : undefined
  t.equal(option?.code, 15)
  t.equal(option?.data.readUInt16BE(0), 15, 'blocked')
  t.equal(
    option?.data.subarray(2).toString(),
    'agentjail: name-not-granted: the policy grants no such name',
  )
})

t.test('budgets of queries', async (t) => {
  const dns = await startDns(zone)
  t.teardown(() => {
    dns.close()
  })
  const wild = policy({
    grants: [grant('**.example.com', 443)],
    dns: { rate: 1000, wildcard: { labels: 2, labelLength: 10, newNames: 3 } },
  })
  const gate = assemble(wild, { upstream: dns.port })
  const table: [string, string][] = [
    ['a.example.com', 'NOERROR'],
    ['a.b.c.example.com', 'NXDOMAIN'],
    ['longer-than-ten.example.com', 'NXDOMAIN'],
    ['b.example.com', 'NOERROR'],
    ['b.example.com', 'NOERROR'],
    ['c.b.example.com', 'NOERROR'],
    ['fourth.example.com', 'NXDOMAIN'],
    ['a.example.com', 'NOERROR'],
  ]
  for (const [name, rcode] of table) {
    t.equal((await query(gate.filter, name, 'A')).rcode, rcode, name)
  }
  t.equal(dns.queries.length, 3, 'what is over the budget is not asked')
  t.equal(
    'reason' in (await gate.names.toDial('fifth.example.com', 443, undefined)),
    true,
    'nor by dialling',
  )

  let now = 0
  const slow = assemble(policy({ ...base, dns: { rate: 2 } }), {
    upstream: dns.port,
    now: () => now,
  })
  const codes: string[] = []
  for (const name of ['api', 'chain', 'many', 'mixed', 'long', 'short']) {
    codes.push((await query(slow.filter, `${name}.example.com`, 'A')).rcode)
  }
  t.strictSame(codes, ['NOERROR', 'NOERROR', 'NOERROR', 'NOERROR', 'SERVFAIL', 'SERVFAIL'])
  t.equal(
    (await query(slow.filter, 'api.example.com', 'A')).rcode,
    'NOERROR',
    'what is known stays answered',
  )
  now += 1000
  t.equal((await query(slow.filter, 'long.example.com', 'A')).rcode, 'NOERROR')
})

t.test('resolvers fail over on silence and errors only', async (t) => {
  const silent = await startDns(() => 'silent')
  const failing = await startDns(() => ({ flags: code('SERVFAIL') }))
  const good = await startDns(zone)
  t.teardown(() => {
    for (const each of [silent, failing, good]) each.close()
  })
  const { createAsk } = await import('../lib/gate/dns/upstream.js')
  const to = (...ports: number[]) =>
    assemble(policy(base), {
      upstream: createAsk(() => ports.map((port) => ({ address: '127.0.0.1', port }))),
    })
  t.equal((await query(to(silent.port, good.port).filter, 'api.example.com', 'A')).rcode, 'NOERROR')
  t.equal(
    (await query(to(1, good.port).filter, 'api.example.com', 'A')).rcode,
    'NOERROR',
    'a closed port',
  )
  t.equal(
    (await query(to(failing.port, good.port).filter, 'api.example.com', 'A')).rcode,
    'SERVFAIL',
  )
  t.equal((await query(to(1, 1).filter, 'api.example.com', 'A')).rcode, 'SERVFAIL', 'all down')
  t.equal((await query(to().filter, 'api.example.com', 'A')).rcode, 'SERVFAIL', 'none')
  // As without a route: the socket is refused before a datagram is sent (EACCES for a broadcast address).
  const unreachable = (...more: number[]) =>
    assemble(policy(base), {
      upstream: createAsk(() => [
        { address: '255.255.255.255', port: 53 },
        ...more.map((port) => ({ address: '127.0.0.1', port })),
      ]),
    }).filter
  t.equal((await query(unreachable(), 'api.example.com', 'A')).rcode, 'SERVFAIL', 'no route')
  t.equal((await query(unreachable(good.port), 'api.example.com', 'A')).rcode, 'NOERROR')
})

t.test('forged answers are not taken', async (t) => {
  const server = dgram.createSocket('udp4')
  await new Promise<void>((resolve) => server.bind(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  server.on('message', (message, peer) => {
    const asked = packet.decode(message)
    const question = asked.questions![0]!
    const reply = (id: number, name: string, address: string) =>
      server.send(
        packet.encode({
          type: 'response',
          id,
          questions: [{ ...question, name }],
          answers: [a(name, address)],
        }),
        peer.port,
        peer.address,
      )
    reply((asked.id! + 1) & 0xffff, question.name, '203.0.113.1')
    reply(asked.id!, 'other.example.com', '203.0.113.2')
    server.send(Buffer.from('garbage'), peer.port, peer.address)
    reply(asked.id!, question.name, '203.0.113.3')
  })
  const gate = assemble(policy(base), { upstream: server.address().port })
  t.strictSame(addressesOf(await query(gate.filter, 'api.example.com', 'A')), ['203.0.113.3'])
})

t.test('pins in the kernel come before the answer', async (t) => {
  const dns = await startDns(zone)
  t.teardown(() => {
    dns.close()
  })
  const asked: { grant: string; name: string; addresses: string[] }[] = []
  const seconds: number[] = []
  let ok = true
  const ssh = grant('api.example.com', 22)
  const https = grant('api.example.com', 443)
  const lan = grant('lan.example.com', 22, { private: true })
  const gate = assemble(
    policy({
      ...base,
      dns: { ...base.dns, pinExtra: 7200 },
      grants: [ssh, https, lan, grant('nodata.example.com', 22)],
    }),
    {
      upstream: dns.port,
      pin: (id, name, pins) => {
        seconds.push(...pins.map((pin) => pin.seconds))
        asked.push({ grant: id, name, addresses: pins.map((pin) => pin.address) })
        return Promise.resolve(ok)
      },
    },
  )
  await query(gate.filter, 'api.example.com', 'A')
  t.strictSame(asked, [{ grant: ssh.id, name: 'api.example.com', addresses: ['203.0.113.10'] }])
  await gate.names.toDial('api.example.com', 443, https)
  const again = asked.filter((it) => it.addresses[0] === '203.0.113.10')
  t.equal(again.length, 1, 'not asked again while it stands')
  const late = await gate.names.toDial('nodata.example.com', 22, ssh)
  t.match(late, { reason: 'upstream-failed' })
  ok = false
  t.equal(
    (await query(gate.filter, 'lan.example.com', 'A')).rcode,
    'SERVFAIL',
    'refused: no answer',
  )
  asked.length = 0
  await gate.names.repin()
  t.ok(
    seconds.every((it) => it === 3600),
    'an hour at most, in whole seconds',
  )
  t.strictSame(
    asked.map((it) => it.addresses[0]).sort(),
    ['2001:db8::10', '203.0.113.10'],
    'after a reload what stands is asked for again',
  )
})

t.test('reload and report mode', async (t) => {
  const dns = await startDns(zone)
  t.teardown(() => {
    dns.close()
  })
  const gate = assemble(policy(base), { upstream: dns.port })
  t.equal((await query(gate.filter, 'api.example.com', 'A')).rcode, 'NOERROR')
  gate.update(policy({ ...base, grants: [] }))
  t.equal((await query(gate.filter, 'api.example.com', 'A')).rcode, 'NXDOMAIN', 'withdrawn at once')
  gate.update(policy({ ...base, grants: [], report: true }))
  t.equal((await query(gate.filter, 'evil.example', 'A')).rcode, 'NOERROR', 'report: anything')
  t.equal(
    (await query(gate.filter, 'rebind.example.com', 'A')).rcode,
    'NXDOMAIN',
    'but nothing private',
  )
  t.equal(
    (await query(gate.filter, 'denied.example.com', 'A')).rcode,
    'NXDOMAIN',
    'nor what is denied',
  )
  const [last] = (await gate.decisions()).filter((it) => it.name === 'evil.example')
  t.match(last, { verdict: 'allow', reason: 'name-not-granted' })
  t.not(last && 'grant' in last, true)

  const v4 = assemble(policy({ ...base, ipv6: false }), { upstream: dns.port })
  const answer = await query(v4.filter, 'api.example.com', 'AAAA')
  t.equal(answer.rcode, 'NOERROR', 'no IPv6: no data, not no name')
  t.equal(answer.answers?.length, 0)

  const open = assemble(policy({ ...base, cidrs: [cidrGrant('127.0.0.0/8', 443)] }), {
    upstream: dns.port,
  })
  t.strictSame(
    addressesOf(await query(open.filter, 'rebind.example.com', 'A')),
    ['127.0.0.1'],
    'granted by address',
  )

  const srv = await query(open.filter, '_x._tcp.example.com', 'SRV')
  t.strictSame(
    (srv.answers ?? []).map((it) => it.type === 'SRV' && it.data.target),
    ['api.example.com'],
    'SRV: granted targets only',
  )
})

t.test('a client that reads no answer over TCP is not answered without end', async (t) => {
  let answered = 0
  const filter = { answer: () => (answered++, Buffer.alloc(100)) } as unknown as DnsFilter
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const served = serveDnsTcp(server, filter)
  const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  client.on('error', () => undefined)
  const asked = Buffer.concat([Buffer.from([0, 100]), Buffer.alloc(100)])
  const queries = Buffer.concat(Array.from({ length: 1000 }, () => asked))
  // 60 MB of them, of which the kernel's buffers hold some.
  const all = 600
  for (let n = 0; n < all; n++) client.write(queries)
  let before = -1
  while (before !== answered || answered === 0) {
    before = answered
    await new Promise((resolve) => setTimeout(resolve, 1_000))
  }
  t.ok(answered < (all * 1000) / 2, `answered: ${String(answered)}`)
  let bytes = 0
  client.on('data', (data: Buffer) => (bytes += data.length))
  while (bytes < all * asked.length * 1000)
    await new Promise((resolve) => client.once('data', resolve))
  t.equal(answered, all * 1000, 'once it reads, all are')
  client.destroy()
  served.close()
})
