/**
 * UDP grants over both families, in both isolations: by name and by address, answers that come back, other addresses
 * and ports that stay closed, and a grant that is withdrawn.
 * Judges: the echo on the other side, the capture, the log.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { evil, publicResolvers, services } from '../lab/addresses.js'
import { firewall } from '../lab/firewall.js'
import { createLab, type Lab } from '../lab/lab.js'

const isolations = ['namespace', 'uid'] as const
type Isolation = (typeof isolations)[number]
const families = [4, 6] as const
type Family = (typeof families)[number]

/** The attacker's is the lab's only host that echoes; here it is what is granted. */
const port = 7
/** By address alone. */
const addressPort = 123
const policy = `version: 1
name: datagrams
network:
  allow:
    - { host: ${evil.name}, ports: [${port}], proto: udp }
  cidrs:
    - { cidr: ${evil.v4}/32, ports: [${addressPort}], proto: udp }
    - { cidr: ${evil.v6}/128, ports: [${addressPort}], proto: udp }
`
const path = '/etc/agentjail/policies/datagrams.yaml'

/** Asks by name, with a socket that is connected and with one that is not, then what is not granted; prints each end. */
const program = (family: Family, name: string, other: string) => `
const { lookup, promises } = require('dns'), { createSocket } = require('dgram')
const ask = (title, address, port, isConnected) => new Promise((resolve) => {
  const socket = createSocket('udp${family}')
  const end = (text) => { clearTimeout(timer); socket.close(); console.log(title + ': ' + text); resolve() }
  const timer = setTimeout(end, isConnected === 'wait' ? 20000 : 1500, 'silence')
  const send = () => isConnected ? socket.send(title) : socket.send(title, port, address)
  socket.on('error', ({ code }) => end(code))
  socket.on('message', (data, from) => end(data + (from.address === address && from.port === port ? '' : ' from elsewhere')))
  if (isConnected) socket.connect(port, address, send)
  else socket.bind(0, send)
})
lookup('${name}', { family: ${family} }, async (error, address) => {
  if (error) throw error
  const asked = new promises.Resolver({ timeout: 3000, tries: 3 })
  asked.setServers(['${family === 4 ? publicResolvers[0] : publicResolvers[3]}'])
  console.log('another resolver: ' + await asked.resolve${family === 4 ? '4' : '6'}('${evil.name}').then(String, ({ code }) => code))
  await ask('connected', address, ${port}, 'wait')
  await ask('unconnected', address, ${port}, false)
  await ask('by address', address, ${addressPort}, 'wait')
  await ask('another port', address, 51820, true)
  await ask('another address', '${other}', ${port}, true)
  await ask('loopback', '${family === 4 ? '127.0.0.1' : '::1'}', ${port}, true)
  const seconds = require('fs').readFileSync('/proc/sys/net/netfilter/nf_conntrack_udp_timeout', 'utf8')
  console.log('an answer may take ' + seconds.trim() + ' s')
  console.log('done')
  const beat = createSocket('udp${family}').on('error', () => undefined)
  setInterval(() => beat.send('beat', ${port}, address, () => undefined), 50)
})`

/** iptables has no rule that makes of a sender what it meant to reach: docs/iptables.md. */
const isServed = (isolation: Isolation, family: Family) =>
  family === 4 || isolation === 'uid' || firewall === 'nftables'

const datagrams = async (t: Test, lab: Lab, isolation: Isolation, family: Family) => {
  const [to, other] = family === 4 ? [evil.v4, services.cdn.v4] : [evil.v6, services.cdn.v6]
  lab.internet.evil.received = []
  const jail = lab.spawnAgentjail(
    [
      'run',
      '-q',
      '--isolation',
      isolation,
      '-p',
      path,
      '--',
      'node',
      '-e',
      program(family, evil.name, other),
    ],
    { cwd: '/srv/work', timeout: 120_000 },
  )
  const said = await jail.until(/done/, 60_000)
  const served = isServed(isolation, family)
  for (const title of ['connected', 'unconnected', 'by address'])
    t.match(said, new RegExp(`^${title}: ${served ? title : '(silence|E[A-Z]+)'}$`, 'm'), title)
  if (served) t.match(said, `another resolver: ${to}\n`, 'names, by whatever resolver')
  for (const title of ['another port', 'another address', 'loopback'])
    t.match(said, new RegExp(`^${title}: (silence|E[A-Z]+)$`, 'm'), title)
  if (isolation === 'namespace' && firewall === 'nftables')
    t.match(said, 'may take 120 s', 'as long as RFC 4787 has it')
  if (served) {
    await lab.capture.clear()
    const beats = () => lab.capture.packets((p) => p.dst === to && p.payload.includes('beat'))
    await sleep(300)
    t.ok((await beats()).length > 0, 'a flow goes on')
    const denied = await lab.agentjail(['deny', 'datagrams', evil.name], { timeout: 30_000 })
    t.equal(denied.code, 0, denied.stderr)
    await lab.capture.clear()
    await sleep(300)
    t.same(await beats(), [], 'until its grant is withdrawn')
  }
  jail.kill('SIGTERM')
  await jail.ended
  const leaks = lab.internet.evil.received.filter(
    ({ proto, local, localPort }) =>
      proto === 'udp' && (local !== to || (localPort !== port && localPort !== addressPort)),
  )
  t.same(leaks, [], 'nothing else arrived anywhere')
  const log = await lab.agentjail(['logs', 'datagrams', '--denied'])
  t.match(
    log.stdout,
    new RegExp(`${other.replaceAll('.', '\\.')}\\]?:${port}`),
    'the refusal is logged by its address',
  )
}

t.setTimeout(400_000)
for (const isolation of isolations) {
  t.test(isolation, { timeout: 200_000 }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile('/srv/work/README', 'a workspace\n')
    lab.writeFile(path, policy)
    for (const family of families)
      await t.test(`IPv${family}`, (t) => datagrams(t, lab, isolation, family))
  })
}
