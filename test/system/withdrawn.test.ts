/**
 * A connection stands on its grant: it outlives the pin of its address, for a bounded time, and not the grant.
 * In `uid` isolation such a connection goes straight through the kernel; no rule lets through what is established.
 * Judge: the capture, and the kernel's own sets.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { evil } from '../lab/addresses.js'
import { firewall } from '../lab/firewall.js'
import type { Lab } from '../lab/lab.js'
import {
  cwd,
  eventually,
  isolations,
  joined,
  nothingLeft,
  openBench,
  policyPath,
  type Bench,
} from './faults-kit.js'

/** The attacker's is the lab's only host that echoes; here it is what is granted. */
const port = 7
const policy = (granted: boolean) => `version: 1
name: faults
network:
  dns: { maxTtl: 5s, pinExtra: 0s }
  allow:
    - plain.example
${
  granted
    ? `    - { host: ${evil.name}, ports: [${port}] }\n    - { host: ${evil.name}, ports: [${port}], proto: udp }\n`
    : ''
}`

/** Of a connection that its program gave up by a reset: the port is free at once, for another to the same place. */
const usedPort = 40404

/** One connection and one socket for datagrams, each with a word every 50 ms, both opened by name. */
const beating = [
  ...['node', '-e'],
  `const say = (text) => console.log(text)
   require('dns').lookup('${evil.name}', { family: 4 }, (error, address) => {
     if (error) throw error
     const tcp = require('net').connect(${port}, address, () => say('tcp open'))
     const beat = setInterval(() => tcp.write('beat'), 50)
     tcp.on('error', ({ code }) => { clearInterval(beat); say('tcp cut ' + code) }).resume()
     tcp.on('close', () => { clearInterval(beat); say('tcp closed') })
     const udp = require('dgram').createSocket('udp4').on('error', () => undefined)
     udp.once('message', () => say('udp open'))
     setInterval(() => udp.send('beat', ${port}, address, () => undefined), 50)
     const used = require('net').connect({ port: ${port}, host: address, localPort: ${usedPort} }, () => {
       used.resetAndDestroy()
       say('port used')
     })
   })`,
]

const heard = async (lab: Lab, proto: 'tcp' | 'udp') => {
  const packets = await lab.capture.packets((p) => p.dst === evil.v4 && p.proto === proto)
  return packets.filter(({ payload }) => payload.includes('beat'))
}

const afresh = async (lab: Lab) => {
  await lab.capture.clear()
  await sleep(300)
}

/** An answer is awaited: a gate may accept what it then resets. */
const connects = (lab: Lab, from = 0) =>
  joined(
    lab,
    [
      ...['perl', '-MIO::Socket::INET', '-e'],
      `$SIG{PIPE} = 'IGNORE';
       alarm 10;
       my $to = IO::Socket::INET->new(PeerAddr => '${evil.v4}:${port}', LocalPort => ${from}, Timeout => 3);
       print $to && syswrite($to, 'x') && sysread($to, my $answer, 1) ? 'connected' : "no: $!"`,
    ],
    30_000,
  )

/** Seconds that the kernel lets the flow live on. */
const flowLeft = async (lab: Lab, proto: 'tcp' | 'udp'): Promise<number> => {
  const listing = firewall === 'nftables' ? ['nft', 'list', 'ruleset'] : ['ipset', 'list']
  const { stdout } = await lab.run(listing)
  const flow =
    firewall === 'nftables'
      ? new RegExp(` \\. ${proto} \\. \\d+ \\. ${port} .*expires (?:(\\d+)m)?(\\d+)s`, 'g')
      : new RegExp(`^${evil.v4},${proto}:\\d+ timeout ()(\\d+)`, 'gm')
  const found = [...stdout.matchAll(flow)]
  return Math.max(
    0,
    ...found.map(([, minutes, seconds]) => Number(minutes ?? 0) * 60 + Number(seconds)),
  )
}

const withdrawals: Readonly<Record<string, (lab: Lab) => ReturnType<Lab['agentjail']>>> = {
  reload: (lab) => {
    lab.writeFile(policyPath, policy(false))
    return lab.agentjail(['reload', 'faults', '-p', policyPath], { timeout: 30_000 })
  },
  deny: (lab) => lab.agentjail(['deny', 'faults', evil.name], { timeout: 30_000 }),
}

const withdrawn = async (t: Test, { lab, isolation, prefix }: Bench, how: string) => {
  lab.writeFile(policyPath, policy(true))
  const jail = lab.spawnAgentjail([...prefix, '--', ...beating], { timeout: 120_000, cwd })
  await Promise.all([/tcp open/, /udp open/, /port used/].map((word) => jail.until(word, 30_000)))
  await afresh(lab)
  t.ok((await heard(lab, 'tcp')).length > 0, 'the connection is served')
  t.ok((await heard(lab, 'udp')).length > 0, 'so are datagrams')

  const isOver = await eventually(async () => !(await connects(lab)).stdout.includes('connected'))
  t.ok(isOver, 'the pin runs out: a new connection to the address is refused')
  await lab.capture.clear()
  const again = await connects(lab, usedPort)
  t.match(again.stdout, /^no: /, 'also from the port of an earlier one')
  const opened = await lab.capture.packets((p) => p.dst === evil.v4 && p.flags.syn)
  t.same(opened, [], 'and it does not go out')
  await afresh(lab)
  t.ok((await heard(lab, 'tcp')).length > 0, 'what was opened before goes on')
  if (isolation === 'uid') {
    const before = { tcp: await flowLeft(lab, 'tcp'), udp: await flowLeft(lab, 'udp') }
    t.ok(before.tcp > 120 && before.tcp <= 3600, `tcp for ${before.tcp} s at most`)
    t.ok(before.udp > 0 && before.udp <= 120, `udp for ${before.udp} s at most`)
    await sleep(2500)
    for (const proto of ['tcp', 'udp'] as const)
      t.ok((await flowLeft(lab, proto)) < before[proto], `${proto}: which run, however busy it is`)
  }

  const result = await withdrawals[how]?.(lab)
  t.equal(result?.code, 0, result?.stderr ?? '')
  await afresh(lab)
  t.same(await heard(lab, 'tcp'), [], 'the grant withdrawn: not a byte of it more')
  t.same(await heard(lab, 'udp'), [], 'nor a datagram')
  await jail.until(/tcp (cut|closed)/)
  t.pass('and the command knows')
  jail.kill('SIGTERM')
  await jail.ended
  await nothingLeft(t, lab, how)
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 280_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const bench = await openBench(t, isolation)
    // Both go the same way; waiting for the pin's end takes longest.
    for (const how of isolation === 'uid' ? Object.keys(withdrawals) : ['reload'])
      await t.test(how, { timeout }, (t) => withdrawn(t, bench, how))
  })
}
