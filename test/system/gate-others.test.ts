/**
 * A jail's gate is that jail's alone: no other jail, user or process of root's gets a connection, an answer or a word
 * with it, in both isolations; and whoever is the gate sees no file of anybody's and no other gate.
 */
import t, { type Test } from 'tap'
import { createLab, type Lab } from '../lab/lab.js'
import { eventually, gates, type Isolation } from './faults-kit.js'

const cwd = '/srv/work'
const dir = '/etc/agentjail/policies'
const key = 'sk-proj-owner0123456789abcdef'
const env = { OWNER: key }

/** Every kind of gate that there is: names, server names, requests with a key, plain HTTP. */
const owner = `version: 1
name: owner
network:
  allow:
    - { host: api.openai.com, inspect: http, credential: k }
    - { host: plain.example, ports: [80, 443] }
credentials:
  k: { from: "env:OWNER", mode: inject, in: "header:authorization", env: OPENAI_API_KEY }
`
/** The same ports, another name: a way to the other gate would be the only way to what that one grants. */
const other = `version: 1
name: other
network:
  allow:
    - { host: shared-a.example, ports: [80, 443] }
`

/** `works` says that it got something; anything else is a refusal. */
const probes = (ports: readonly number[]) =>
  ports
    .flatMap((port) => [
      `curl -sk -m 4 -o /dev/null http://127.0.0.1:${port}/ -H 'Host: plain.example'; echo tcp4 $?`,
      `curl -sk -m 4 -o /dev/null 'http://[::1]:${port}/' -H 'Host: plain.example'; echo tcp6 $?`,
      `curl -sk -m 4 -o /dev/null --connect-to ::127.0.0.1:${port} https://plain.example/; echo tls $?`,
      `dig +tries=1 +time=1 -p ${port} @127.0.0.1 plain.example >/dev/null; echo udp4 $?`,
      `dig +tries=1 +time=1 -p ${port} @::1 plain.example >/dev/null; echo udp6 $?`,
    ])
    .join('\n')

/** curl: 7 could not connect, 35 reset in TLS, 56 reset; dig: 9 no answer, 10 an error of its own. */
const refused = /^(?:tcp[46]|tls) (?:7|35|56)$|^udp[46] (?:9|10)$/

const run = (lab: Lab, policy: string, isolation: Isolation, script: string) =>
  lab.agentjail(
    [
      'run',
      '-q',
      '-p',
      `${dir}/${policy}.yaml`,
      '--isolation',
      isolation,
      '--',
      'sh',
      '-c',
      script,
    ],
    { cwd, env, timeout: 120_000 },
  )

/** Ports of the host on which a gate listens. */
async function gatePorts(lab: Lab): Promise<number[]> {
  const { stdout } = await lab.run(['ss', '-Hlntup'])
  const lines = stdout.split('\n').filter((line) => line.includes('agentjail-gate'))
  return [...new Set(lines.map((line) => Number(/:(\d+)\s/.exec(line)?.[1])))]
}

const allRefused = (t: Test, stdout: string, who: string) => {
  const lines = stdout.trim().split('\n')
  t.ok(lines.length >= 5, `${who} tried`)
  t.same(
    lines.filter((line) => !refused.test(line)),
    [],
    `${who}: nothing is taken, nothing is answered`,
  )
}

const start = async (lab: Lab, isolation: Isolation) => {
  const jail = lab.spawnAgentjail(
    [
      ...['run', '--policy', `${dir}/owner.yaml`, '--isolation', isolation, '--'],
      ...['sh', '-c', 'curl -sS https://plain.example/; curl -sS http://plain.example/; sleep 300'],
    ],
    { cwd, env, timeout: 200_000 },
  )
  await jail.until(/plain\.example[^]*plain\.example/, 60_000)
  return jail
}

/** Where it listens on the host's loopback: whoever is not the jail is refused by the kernel. */
const atItsPorts = async (t: Test, lab: Lab, ports: readonly number[]) => {
  for (const user of ['alice', 'root'] as const) {
    const { stdout } = await lab.run(['sh', '-c', probes(ports)], { user, timeout: 120_000 })
    allRefused(t, stdout, user)
  }
  const [gate] = gates(lab)
  const asGate = await lab.run(
    [
      ...['setpriv', `--reuid=${gate?.uid ?? 0}`, '--clear-groups', '--no-new-privs', '--'],
      ...['sh', '-c', probes(ports)],
    ],
    { timeout: 120_000 },
  )
  allRefused(t, asGate.stdout, "another gate's user")

  for (const second of ['namespace', 'uid'] as const) {
    const jailed = await run(lab, 'other', second, probes(ports))
    allRefused(t, jailed.stdout, `another jail (${second})`)
  }
}

const onTheHost = async (t: Test, lab: Lab, isolation: Isolation) => {
  const jail = await start(lab, isolation)
  const ports = await gatePorts(lab)
  if (isolation === 'namespace') t.same(ports, [], 'it listens nowhere on the host')
  else t.ok(ports.length >= 3, `it listens on ${ports.join(', ')}`)
  if (isolation === 'uid') await atItsPorts(t, lab, ports)
  for (const second of ['namespace', 'uid'] as const) {
    const names = `curl -sk -m 4 -o /dev/null https://plain.example/; echo tls $?
curl -sk -m 4 -o /dev/null --resolve plain.example:443:198.51.100.30 https://plain.example/; echo tls $?
curl -sk -m 4 -o /dev/null --resolve api.openai.com:443:198.51.100.10 https://api.openai.com/v1/models; echo tls $?
ls /run/agentjail 2>&1 | grep -c sock; curl -sk -m 4 -o /dev/null https://shared-a.example/; echo own $?`
    const byName = await run(lab, 'other', second, names)
    t.match(
      byName.stdout,
      /^tls 6\ntls (?:7|35|56)\ntls (?:7|35|56)\n0\nown 0\n$/,
      `another jail (${second}) has its own gate's grants, and no control channel`,
    )
  }
  const control = await lab.run(
    ['sh', '-c', 'cat /run/agentjail/* 2>&1; ls /run/agentjail/ 2>&1; echo done'],
    { user: 'alice' },
  )
  t.match(
    control.stdout,
    /Permission denied[^]*done/,
    "alice: the jails' state and sockets are closed",
  )
  jail.kill('SIGTERM')
  await jail.ended
}

/** What a process in a gate's place can see: files of anybody, other gates, places to write. */
const inside = (gatePid: number, others: readonly number[]) => `
const fs = require('fs')
const said = {}
const can = (name, work) => { try { said[name] = String(work()).slice(0, 60) } catch (error) { said[name] = error.code } }
for (const path of ['/etc/passwd', '/etc/shadow', '/etc/agentjail/policies/owner.yaml', '/home/alice/secret', '/root/secret',
  '/srv/work/README', '/var/log/agentjail', '/run/agentjail', '/var/lib/agentjail', '/proc/1/environ', '/proc/kcore'])
  can(path, () => fs.statSync(path).isDirectory() ? fs.readdirSync(path).length : fs.readFileSync(path).length)
for (const path of ['/usr/x', '/etc/x', '/x', '/var/x', '/srv/x', '/proc/sys/kernel/core_pattern']) can('w' + path, () => fs.writeFileSync(path, 'x'))
said.pids = fs.readdirSync('/proc').filter((name) => /^\\d+$/.test(name)).map(Number)
  .filter((pid) => { try { return fs.readFileSync('/proc/' + pid + '/cmdline', 'utf8').startsWith('agentjail-gate') } catch { return false } }).length
for (const pid of ${JSON.stringify([...others])}) can('kill ' + pid, () => process.kill(pid, 0))
can('mem', () => fs.openSync('/proc/${gatePid}/mem', 'r+'))
console.log(JSON.stringify(said))
`

const fromInside = async (t: Test, lab: Lab) => {
  lab.writeFile('/home/alice/secret', 'of alice\n', 0o644)
  lab.writeFile('/root/secret', 'of root\n', 0o644)
  const first = await start(lab, 'namespace')
  const second = lab.spawnAgentjail(
    [
      ...['run', '--policy', `${dir}/other.yaml`, '--isolation', 'uid', '--'],
      ...['sh', '-c', 'curl -sS https://shared-a.example/; sleep 300'],
    ],
    { cwd, timeout: 200_000 },
  )
  await second.until(/shared-a/, 60_000)
  t.ok(await eventually(() => gates(lab).length >= 2), 'two gates')
  const running = gates(lab).filter(({ uid }) => uid !== 0)
  const [gate, ...others] = running
  t.ok(gate !== undefined && others.length > 0 && others.every(({ uid }) => uid === gate.uid))
  const { stdout, stderr } = await lab.run([
    ...['nsenter', '-t', String(gate?.pid), '-m', '-p', '-i', '-r', '-w', '--'],
    ...['setpriv', `--reuid=${gate?.uid ?? 0}`, '--clear-groups', '--bounding-set=-all'],
    ...['--inh-caps=-all', '--no-new-privs', '--', process.execPath, '-e'],
    inside(
      gate?.pid ?? 0,
      others.map(({ pid }) => pid),
    ),
  ])
  t.equal(stderr, '')
  const said = JSON.parse(stdout) as Record<string, unknown>
  const { pids, ...answers } = said
  t.equal(pids, 1, 'of the gates it sees itself alone')
  for (const [what, answer] of Object.entries(answers)) {
    t.match(answer, /^(?:ENOENT|EACCES|EPERM|EROFS|ESRCH)$/, `${what}: ${String(answer)}`)
  }
  for (const jail of [first, second]) jail.kill('SIGTERM')
  await Promise.all([first.ended, second.ended])
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 300_000
t.setTimeout(3 * timeout)
t.test('whose gate it is', { timeout: 3 * timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile('/srv/work/README', 'a workspace\n')
  lab.writeFile(`${dir}/owner.yaml`, owner)
  lab.writeFile(`${dir}/other.yaml`, other)
  const plain = lab.spawn(
    [
      ...[process.execPath, '-e'],
      "require('http').createServer((q, s) => s.end('ok')).listen(47000, '127.0.0.1', () => console.log('on'))",
    ],
    { timeout: 2 * timeout },
  )
  await plain.until(/on/)
  const seen = await lab.run(['sh', '-c', probes([47000]).split('\n')[0] ?? ''], { user: 'alice' })
  t.equal(seen.stdout, 'tcp4 0\n', 'the probe gets through where nobody guards')
  for (const isolation of ['namespace', 'uid'] as const) {
    await t.test(isolation, { timeout }, (t) => onTheHost(t, lab, isolation))
  }
  await t.test("from the gate's own place", { timeout }, (t) => fromInside(t, lab))
  plain.kill('SIGKILL')
})
