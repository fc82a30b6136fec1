/**
 * The gate as a process, between two real network namespaces: the jail's, where every address is
 * local, and another one that stands for the host and the internet. Needs root.
 */
import { type ChildProcess, execFileSync, fork } from 'node:child_process'
import dgram from 'node:dgram'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { fileURLToPath } from 'node:url'
import packet from 'dns-packet'
import t from 'tap'
import type { Decision } from '../lib/audit/record.js'
import type { FromGate } from '../lib/gate/protocol.js'
import type { Order } from './fixtures/gate-inside.js'
import { a, aaaa, grant, policy, startDns } from './gate-kit.js'
import { isInOwnNetwork } from './own-network.js'

if (isInOwnNetwork(import.meta.url, { timeout: 60_000 }))
  await t.test('between two namespaces', runInside)

async function runInside(t: Tap): Promise<void> {
  for (const address of ['203.0.113.10/32', '203.0.113.11/32', '2001:db8::10/128']) {
    execFileSync('/usr/sbin/ip', [
      'addr',
      'add',
      address,
      'dev',
      'lo',
      ...(address.includes(':') ? ['nodad'] : []),
    ])
  }
  const directory = mkdtempSync(join(tmpdir(), 'agentjail-gate-'))
  const [key, cert] = [join(directory, 'key'), join(directory, 'cert')]
  execFileSync(
    '/usr/bin/openssl',
    [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-keyout',
      key,
      '-out',
      cert,
      '-subj',
      '/CN=test',
      '-days',
      '2',
    ],
    { stdio: 'ignore' },
  )
  const credentials = { key: readFileSync(key), cert: readFileSync(cert) }
  rmSync(directory, { recursive: true })

  const dns = await startDns((name, type) => {
    const addresses: Record<string, string> = {
      'api.example.com': '203.0.113.10',
      'evil.example': '203.0.113.10',
      'ssh.example.com': '203.0.113.11',
      'udp.example.com': '203.0.113.11',
    }
    const address = addresses[name]
    if (type === 'AAAA')
      return name === 'api.example.com' ? { answers: [aaaa(name, '2001:db8::10')] } : {}
    return address === undefined ? { flags: 3 } : { answers: [a(name, address)] }
  })
  const dialled: string[] = []
  const site = tls.createServer(credentials, (socket) => {
    dialled.push(
      `${socket.remoteAddress ?? ''} ${(socket as tls.TLSSocket & { servername: string }).servername}`,
    )
    socket.end(`site of ${(socket as tls.TLSSocket & { servername: string }).servername}`)
  })
  await new Promise<void>((resolve) =>
    site.listen({ port: 443, host: '::', ipv6Only: false }, resolve),
  )
  const ssh = net.createServer({ allowHalfOpen: true }, (socket) => {
    dialled.push('ssh')
    socket.on('error', () => undefined)
    socket.on('data', (chunk) => socket.write(chunk))
    socket.on('end', () => socket.end())
  })
  await new Promise<void>((resolve) => ssh.listen(22, '203.0.113.11', resolve))
  const udp = dgram.createSocket('udp4')
  await new Promise<void>((resolve) => udp.bind(5000, '203.0.113.11', resolve))
  udp.on('message', (message, peer) =>
    udp.send(`got ${message.toString()}`, peer.port, peer.address),
  )

  const jail = startJail()
  t.teardown(() => {
    jail.child.kill('SIGKILL')
    dns.close()
    site.close()
    ssh.close()
    udp.close()
  })
  const full = policy({
    grants: [
      grant('api.example.com', 443),
      grant('ssh.example.com', 22),
      grant('udp.example.com', 5000, { proto: 'udp' }),
    ],
  })
  const ready = jail.until((message) => message.type === 'ready')
  t.equal(await jail.order({ do: 'start', policy: full, upstream: dns.port }), 'ok')
  await ready

  const resolve = async (server: string, name: string, type: 'A' | 'AAAA' = 'A') => {
    const bytes = packet.encode({ type: 'query', id: 5, flags: 256, questions: [{ name, type }] })
    const answer = await jail.order({
      do: 'udp',
      address: server,
      port: 53,
      data: bytes.toString('base64'),
    })
    if (/^(?:silence|E[A-Z]+)$/.test(answer)) return answer
    const { answers = [], ...rest } = packet.decode(Buffer.from(answer, 'base64'))
    const [first] = answers
    return first !== undefined && 'data' in first
      ? first.data
      : (rest as unknown as { rcode: string }).rcode
  }

  await t.test('names, by whatever server', async (t) => {
    t.equal(
      await jail.order({ do: 'tcp', address: '203.0.113.10', port: 443, data: 'x' }),
      'ECONNRESET',
      'not pinned yet',
    )
    for (const server of ['8.8.8.8', '127.0.0.53', '2001:4860:4860::8888']) {
      t.equal(await resolve(server, 'api.example.com'), '203.0.113.10', server)
    }
    t.equal(await resolve('1.1.1.1', 'api.example.com', 'AAAA'), '2001:db8::10')
    t.equal(await resolve('1.1.1.1', 'evil.example'), 'NXDOMAIN')
    t.equal(await resolve('1.1.1.1', 'ssh.example.com'), '203.0.113.11')
    t.equal(await resolve('1.1.1.1', 'udp.example.com'), '203.0.113.11')
    t.notOk(
      dns.queries.some((it) => it.name.toLowerCase().includes('evil')),
      'nothing about evil upstream',
    )
  })

  await t.test('connections, by their real destination', async (t) => {
    const table: [string, Order, string][] = [
      [
        'granted',
        { do: 'tls', address: '203.0.113.10', port: 443, name: 'api.example.com' },
        'site of api.example.com',
      ],
      [
        'granted, IPv6',
        { do: 'tls', address: '2001:db8::10', port: 443, name: 'api.example.com' },
        'site of api.example.com',
      ],
      [
        'another site there',
        { do: 'tls', address: '203.0.113.10', port: 443, name: 'evil.example' },
        'ECONNRESET',
      ],
      [
        'the site elsewhere',
        { do: 'tls', address: '198.51.100.1', port: 443, name: 'api.example.com' },
        'ECONNRESET',
      ],
      ['uninspected', { do: 'tcp', address: '203.0.113.11', port: 22, data: 'hi' }, 'hi'],
      [
        'uninspected, another address',
        { do: 'tcp', address: '203.0.113.10', port: 22, data: 'hi' },
        'ECONNRESET',
      ],
      [
        'loopback of the host',
        { do: 'tcp', address: '127.0.0.1', port: 443, data: 'hi' },
        'ECONNRESET',
      ],
      [
        'a port nobody granted',
        { do: 'tcp', address: '203.0.113.10', port: 80, data: 'hi' },
        'ECONNREFUSED',
      ],
      [
        'datagrams',
        {
          do: 'udp',
          address: '203.0.113.11',
          port: 5000,
          data: Buffer.from('ping').toString('base64'),
        },
        Buffer.from('got ping').toString('base64'),
      ],
      [
        'datagrams elsewhere',
        { do: 'udp', address: '203.0.113.12', port: 5000, data: 'AAAA' },
        'silence',
      ],
    ]
    for (const [title, order, expected] of table) t.equal(await jail.order(order), expected, title)
    t.equal(dialled.filter((it) => it.includes('evil')).length, 0)
    t.equal(dialled.filter((it) => it === 'ssh').length, 1)
  })

  await t.test('reload cuts before it is answered', async (t) => {
    t.equal(await jail.order({ do: 'hold', address: '203.0.113.11', port: 22 }), 'ok')
    const narrowed = policy({ grants: [grant('api.example.com', 443)] })
    const updated = jail.until((message) => message.type === 'updated')
    await jail.order({ do: 'gate', message: { type: 'update', serial: 3, policy: narrowed } })
    t.match(await updated, { serial: 3, cut: 2 }, 'the connection and the flow')
    t.equal(await jail.held, 'ECONNRESET')
    t.equal(
      await jail.order({ do: 'tcp', address: '203.0.113.11', port: 22, data: 'hi' }),
      'ECONNRESET',
    )
    const pong = jail.until((message) => message.type === 'pong')
    await jail.order({ do: 'gate', message: { type: 'ping', serial: 4 } })
    t.match(await pong, {
      serial: 4,
      stats: { connections: 0 },
    })
  })

  await t.test('decisions', async (t) => {
    const all = await jail.decisions()
    const has = (wanted: Partial<Decision>) =>
      t.ok(
        all.some((it) =>
          Object.entries(wanted).every(([field, value]) => it[field as keyof Decision] === value),
        ),
        JSON.stringify(wanted),
      )
    has({ verdict: 'deny', reason: 'name-not-granted', layer: 'dns', name: 'evil.example' })
    has({
      verdict: 'deny',
      reason: 'sni-mismatch',
      name: 'evil.example',
      address: '203.0.113.10',
      port: 443,
    })
    has({ verdict: 'deny', reason: 'address-not-granted', address: '198.51.100.1', port: 443 })
    has({
      verdict: 'allow',
      reason: 'granted',
      name: 'api.example.com',
      address: '2001:db8::10',
      layer: 'sni',
    })
    has({ verdict: 'allow', name: 'ssh.example.com', up: 2, down: 2 })
    has({ verdict: 'deny', reason: 'address-not-granted', proto: 'udp', address: '203.0.113.12' })
    has({ verdict: 'deny', reason: 'grant-withdrawn', name: 'ssh.example.com' })
  })

  await t.test(
    'without its gate the jail has nothing; without its warden the gate ends',
    async (t) => {
      await jail.order({ do: 'kill-gate' })
      await jail.exited
      t.equal(await resolve('8.8.8.8', 'api.example.com'), 'ECONNREFUSED')
      const second = startJail()
      const again = second.until((message) => message.type === 'ready')
      t.equal(await second.order({ do: 'start', policy: full, upstream: dns.port }), 'ok')
      await again
      const gate = await second.gatePid
      t.ok(isAlive(gate), 'it runs')
      second.child.kill('SIGKILL')
      await second.ended
      for (let n = 0; n < 250 && isAlive(gate); n++) await new Promise((go) => setTimeout(go, 20))
      t.notOk(isAlive(gate), 'no gate is left')
    },
  )
}

type Tap = Pick<typeof t, 'teardown' | 'equal' | 'test'>

function isAlive(pid: number): boolean {
  try {
    // A zombie has no maps; ended is ended, whoever has to collect it.
    return readFileSync(`/proc/${String(pid)}/maps`).length > 0
  } catch {
    return false
  }
}

interface Jail {
  readonly gatePid: Promise<number>
  readonly child: ChildProcess
  order(order: Order): Promise<string>
  until(wanted: (message: FromGate) => boolean): Promise<FromGate>
  decisions(): Promise<readonly Decision[]>
  readonly held: Promise<string>
  readonly exited: Promise<unknown>
  readonly ended: Promise<unknown>
}

type Told = {
  readonly id?: number
  readonly result?: string
  readonly gate?: FromGate
  readonly held?: string
  readonly pid?: number
  readonly exit?: unknown
}

function startJail(): Jail {
  const main = fileURLToPath(new URL('../lib/gate/main.js', import.meta.url))
  const inside = fileURLToPath(new URL('./fixtures/gate-inside.js', import.meta.url))
  const child = fork(inside, [String(process.pid), main], {
    execPath: '/usr/bin/unshare',
    execArgv: ['--net', '--', process.execPath],
  })
  let next = 0
  const decisions: Decision[] = []
  const told = new Set<(message: Told) => void>()
  child.on('message', (message: Told) => {
    if (message.gate?.type === 'decisions') decisions.push(...message.gate.decisions)
    for (const listener of [...told]) listener(message)
  })
  const wait = <T>(pick: (message: Told) => T | undefined): Promise<T> =>
    new Promise((resolve) => {
      const listener = (message: Told): void => {
        const value = pick(message)
        if (value === undefined) return
        told.delete(listener)
        resolve(value)
      }
      told.add(listener)
    })
  return {
    child,
    gatePid: wait((message) => message.pid),
    order: (order) => {
      const id = ++next
      const answer = wait((message) => (message.id === id ? message.result : undefined))
      child.send({ id, order })
      return answer
    },
    until: (wanted) =>
      wait((message) =>
        message.gate !== undefined && wanted(message.gate) ? message.gate : undefined,
      ),
    decisions: async () => {
      await new Promise((resolve) => setTimeout(resolve, 150))
      return decisions
    },
    held: wait((message) => message.held),
    exited: wait((message) => message.exit),
    ended: new Promise((resolve) => child.once('exit', resolve)),
  }
}
