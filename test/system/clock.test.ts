/**
 * The clock of agentjail's own processes jumps each second, two days back and two days ahead, while a jail runs: no
 * decision hangs on it. The machine's clock stays; what jumps is `Date` in the warden, the gate and each command.
 * Judge: what the jail reaches, the capture, and the kernel's own lists afterwards.
 */
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { evil } from '../lab/addresses.js'
import { damage } from '../lab/firewall.js'
import type { Lab } from '../lab/lab.js'
import { agentjailPath } from '../lab/paths.js'
import {
  cwd,
  eventually,
  gates,
  isolations,
  joined,
  nothingLeft,
  openBench,
  policyPath,
  toEvil,
  type Bench,
} from './faults-kit.js'

/** Ahead in the first second: a pin of then, held against a clock that is behind, would stand for days. */
const jumping = `;{
  const Real = Date
  const now = () => Real.now() + (Math.floor(performance.now() / 1000) % 2 === 0 ? 2 : -2) * 86_400_000
  globalThis.Date = class extends Real {
    constructor(...parts) { if (parts.length === 0) super(now()); else super(...parts) }
    static now() { return now() }
  }
};`
const bundle = join(dirname(agentjailPath), '../lib/bundle')

/** Over the entries of both programs, in the lab's own mounts: the gate's root is made of them. */
const jump = async (lab: Lab) => {
  for (const name of ['agentjail.cjs', 'gate.cjs']) {
    const path = `/usr/local/lib/${name}`
    lab.writeFile(path, `'use strict'\n${jumping}\n${lab.readFile(join(bundle, name))}`)
    const { code, stderr } = await lab.run(['mount', '--bind', path, join(bundle, name)])
    if (code !== 0) throw new Error(stderr)
  }
}

/** The attacker's is the lab's only host that echoes; here one of its ports is granted. */
const port = 7
const policy = (more = '') => `version: 1
name: faults
network:
  dns: { maxTtl: 5s, pinExtra: 0s }
  allow:
    - { host: plain.example, ports: [443] }
    - { host: ${evil.name}, ports: [${port}] }
${more}`

/** Asks by name without end; holds a connection, and tries a new one to its address; knocks where nothing is granted. */
const asking = [
  ...['node', '-e'],
  `const net = require('net'), { lookup } = require('dns')
   const say = (text) => console.log(text)
   const ask = () => {
     const socket = require('tls').connect({ host: 'plain.example', port: 443, servername: 'plain.example', rejectUnauthorized: false }, () => {
       say('asked')
       socket.destroy()
       setTimeout(ask, 100)
     }).on('error', (error) => { say('not served: ' + error.message); setTimeout(ask, 100) })
   }
   ask()
   lookup('${evil.name}', { family: 4 }, (error, address) => {
     if (error) throw error
     const held = net.connect(${port}, address, () => say('held open')).on('error', () => undefined)
     const beat = setInterval(() => held.write('beat'), 50)
     held.on('close', () => { clearInterval(beat); say('held closed') }).resume()
     setInterval(() => {
       const anew = net.connect(${port}, address, () => anew.write('anew')).on('error', () => undefined)
       let answered = false
       anew.on('data', () => { answered = true; anew.destroy() }).on('close', () => say(answered ? 'anew open' : 'anew refused'))
       net.connect(443, address).on('error', () => undefined)
       const udp = require('dgram').createSocket('udp4').on('error', () => undefined)
       udp.send('leak', 51820, address, () => udp.close())
     }, 300)
   })`,
]

const times = async (lab: Lab) => {
  const { stdout } = await lab.run(['sh', '-c', 'cat /var/log/agentjail/*'])
  return [...stdout.matchAll(/"time":"([^"]*)"/g)].map(([, time = '']) => Date.parse(time))
}

const jumps = async (t: Test, { lab, prefix }: Bench) => {
  const since = Date.now()
  const jail = lab.spawnAgentjail([...prefix, '--', ...asking], { timeout: 120_000, cwd })
  await Promise.all([/asked/, /held open/, /anew open/].map((word) => jail.until(word, 30_000)))
  const [gate] = gates(lab)
  const entry = `/proc/${gate?.pid}/root${bundle}/gate.cjs`
  t.equal((await lab.run(['grep', '-q', '86_400_000', entry])).code, 0, "the gate's clock jumps")
  const beats = async () =>
    (await lab.capture.packets(toEvil)).filter(({ payload }) => payload.includes('beat')).length
  const goesOn = async (when: string) => {
    await lab.capture.clear()
    const from = jail.stdout().length
    const since = () => jail.stdout().slice(from)
    t.ok(
      await eventually(() => since().split('asked').length > 10, 200),
      `${when}: names are served`,
    )
    t.notMatch(since(), /not served/, `${when}: each time`)
  }
  const onlyGranted = async (when: string) => {
    const packets = await lab.capture.packets(toEvil)
    const strays = packets.filter(
      (p) => p.dst === evil.v4 && (p.proto !== 'tcp' || p.dport !== port),
    )
    t.same(strays, [], `${when}: nothing that is not granted left`)
  }

  await jail.until(/anew refused/, 30_000)
  await onlyGranted('until then')
  await goesOn('a pin ran out')
  t.ok((await beats()) > 0, 'the connection goes on')
  const offered = jail.stdout().length
  const tried = () => jail.stdout().slice(offered).split('anew').length
  // Some while the clock is ahead of the one that wrote the pin down, some while it is behind.
  for (const n of [1, 2, 3]) {
    const before = tried()
    await lab.run(damage.ours)
    t.ok(await eventually(() => tried() > before + 3, 200), `rules damaged ${n} times`)
  }
  t.notMatch(jail.stdout().slice(offered), /anew open/, 'what ran out does not come back')
  lab.writeFile(policyPath, policy('    - { host: mutable.example, ports: [443] }\n'))
  const reloaded = await lab.agentjail(['reload', 'faults', '-p', policyPath], { timeout: 30_000 })
  t.equal(reloaded.code, 0, reloaded.stderr)
  const newly = await joined(lab, ['curl', '-sS', '-m', '10', 'https://mutable.example/ok'])
  t.match(newly.stdout, /path \/ok/, `reload: ${newly.stderr}`)
  await onlyGranted('rules damaged, and a reload')

  const denied = await lab.agentjail(['deny', 'faults', evil.name], { timeout: 30_000 })
  t.equal(denied.code, 0, denied.stderr)
  await jail.until(/held closed/)
  await goesOn('a grant withdrawn')
  t.same(await lab.capture.packets((p) => p.dst === evil.v4), [], 'it is closed')
  const logged = (await times(lab)).filter((time) => Math.abs(time - since) > 86_400_000)
  t.ok(Math.min(...logged) < since && Math.max(...logged) > since, "the warden's clock jumped")
  t.equal((await lab.agentjail(['stop', 'faults'], { timeout: 30_000 })).code, 0)
  await jail.ended
  await nothingLeft(t, lab, 'a clock that jumps')
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 180_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const bench = await openBench(t, isolation)
    bench.lab.writeFile(policyPath, policy())
    await jump(bench.lab)
    await bench.lab.remember()
    await jumps(t, bench)
  })
}
