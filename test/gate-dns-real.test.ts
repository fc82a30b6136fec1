/**
 * The DNS filter in front of real servers of Debian: nsd (authoritative) behind unbound (recursive).
 */
import { type ChildProcess, spawn } from 'node:child_process'
import dgram from 'node:dgram'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import packet from 'dns-packet'
import t from 'tap'
import { assemble, grant, policy, query } from './gate-kit.js'

const nsd = '/usr/sbin/nsd'
const unbound = '/usr/sbin/unbound'

async function freePort(): Promise<number> {
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as net.AddressInfo
  await new Promise<void>((resolve) => server.close(() => resolve()))
  return port
}

/** Asks until the server answers, at most 10 s. */
async function untilUp(port: number): Promise<void> {
  const socket = dgram.createSocket('udp4')
  socket.on('error', () => undefined)
  const answered = new Promise<boolean>((resolve) => socket.once('message', () => resolve(true)))
  const bytes = packet.encode({
    type: 'query',
    id: 1,
    flags: 256,
    questions: [{ name: 'api.example.com', type: 'A' }],
  })
  for (let n = 0; n < 100; n++) {
    socket.send(bytes, port, '127.0.0.1')
    const pause = new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 100))
    if (await Promise.race([answered, pause])) {
      socket.close()
      return
    }
  }
  socket.close()
  throw new Error(`no DNS server on port ${String(port)}`)
}

t.test('behind nsd and unbound', async (t) => {
  for (const tool of [nsd, unbound]) {
    if (!existsSync(tool)) throw new Error(`${tool} is missing: apt-get install nsd unbound`)
  }
  const directory = mkdtempSync(join(tmpdir(), 'agentjail-dns-'))
  const children: ChildProcess[] = []
  t.teardown(async () => {
    for (const child of children) {
      const ended = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGKILL')
      await ended
    }
    rmSync(directory, { recursive: true, force: true })
  })
  const [nsdPort, unboundPort] = [await freePort(), await freePort()]
  mkdirSync(join(directory, 'zones'))
  const zones: Record<string, string> = {
    'example.com': `api A 203.0.113.10
api AAAA 2001:db8::10
www CNAME edge.example.net.
many ${Array.from({ length: 60 }, (_, n) => `A 203.0.113.${String(n + 1)}`).join('\n     ')}
lan A 192.168.1.1
`,
    'example.net': 'edge CNAME far\nfar A 203.0.113.20\n',
  }
  for (const [zone, text] of Object.entries(zones)) {
    const head = `$ORIGIN ${zone}.\n$TTL 30\n@ SOA ns.${zone}. x.${zone}. 1 60 60 60 30\n@ NS ns.${zone}.\nns A 127.0.0.1\n`
    writeFileSync(join(directory, 'zones', zone), head + text)
  }
  const inDirectory = (file: string): string => join(directory, file)
  writeFileSync(
    inDirectory('nsd.conf'),
    `server:
  ip-address: 127.0.0.1@${String(nsdPort)}
  username: ""
  chroot: ""
  zonesdir: "${inDirectory('zones')}"
  zonelistfile: "${inDirectory('zone.list')}"
  xfrdfile: "${inDirectory('xfrd.state')}"
  xfrdir: "${directory}"
  pidfile: ""
  server-count: 1
  hide-version: yes
remote-control:
  control-enable: no
${Object.keys(zones)
  .map((zone) => `zone:\n  name: "${zone}"\n  zonefile: "${zone}"\n`)
  .join('')}`,
  )
  writeFileSync(
    inDirectory('unbound.conf'),
    `server:
  interface: 127.0.0.1@${String(unboundPort)}
  username: ""
  chroot: ""
  directory: "${directory}"
  pidfile: ""
  use-syslog: no
  logfile: "${inDirectory('unbound.log')}"
  do-not-query-localhost: no
  module-config: "iterator"
  num-threads: 1
${Object.keys(zones)
  .map((zone) => `stub-zone:\n  name: "${zone}"\n  stub-addr: 127.0.0.1@${String(nsdPort)}\n`)
  .join('')}`,
  )
  children.push(spawn(nsd, ['-d', '-c', inDirectory('nsd.conf')], { stdio: 'ignore' }))
  await untilUp(nsdPort)
  children.push(
    spawn(unbound, ['-d', '-p', '-c', inDirectory('unbound.conf')], { stdio: 'ignore' }),
  )
  await untilUp(unboundPort)

  for (const [server, port] of Object.entries({ nsd: nsdPort, unbound: unboundPort })) {
    const gate = assemble(policy({ grants: [grant('*.example.com', 443)] }), { upstream: port })
    const table: [string, string, string, number, string?][] = [
      ['api.example.com', 'A', 'NOERROR', 1, '203.0.113.10'],
      ['api.example.com', 'AAAA', 'NOERROR', 1, '2001:db8::10'],
      // The chain leaves the zone: nsd gives only its first link.
      ['www.example.com', 'A', 'NOERROR', 1, '203.0.113.20'],
      ['many.example.com', 'A', 'NOERROR', 16],
      ['lan.example.com', 'A', 'NXDOMAIN', 0],
      ['www.example.com', 'AAAA', 'NOERROR', 0],
      ['none.example.com', 'A', 'NXDOMAIN', 0],
      ['edge.example.net', 'A', 'NXDOMAIN', 0],
    ]
    for (const [name, type, rcode, count, address] of table) {
      const answer = await query(gate.filter, name, type)
      const title = `${server}: ${name} ${type}`
      t.equal(answer.rcode, rcode, title)
      t.equal(answer.answers?.length, count, `${title}: records`)
      const [first] = answer.answers ?? []
      if (address !== undefined)
        t.equal(first && 'data' in first && first.data, address, `${title}: address`)
    }
  }
})
