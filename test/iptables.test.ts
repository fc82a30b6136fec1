/**
 * The iptables backend without a lab: its text, what the tools of both variants take and print back, and one network
 * namespace as the host whose rules come and go.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { findBaseProblem } from '../lib/backend/iptables/base.js'
import { DenialReader } from '../lib/backend/iptables/denials.js'
import { iptablesBackend } from '../lib/backend/iptables/index.js'
import { guardBytes, judgeGuard, renderGuard } from '../lib/backend/iptables/guard.js'
import { findJailProblem } from '../lib/backend/iptables/jail.js'
import { parseListing } from '../lib/backend/iptables/readback.js'
import { families } from '../lib/backend/iptables/tables.js'
import type { IptablesTools } from '../lib/backend/iptables/tool.js'
import { findIptables } from '../lib/backend/iptables/variant.js'
import type { GatePort, NetworkPlan } from '../lib/backend/types.js'
import { networkPlan } from '../lib/plan/network.js'
import { loadPolicy } from '../lib/policy/loader.js'
import { realSystem } from '../lib/system/real.js'
import type { System } from '../lib/system/types.js'
import { findTools } from '../lib/system/tools.js'

const range = { first: 1_900_000_000, last: 1_900_099_999 }
const uid = range.first + 7
const pinned = (grant: string, key: string, first = 22) => ({
  grant,
  key,
  proto: 'tcp' as const,
  ports: [{ first, last: first }],
})
const everything: NetworkPlan = {
  ...{ jail: 'every-thing', uid, isolation: 'uid', range, ipv6: true },
  gateTcp: [53, 80, 443].map((port) => ({ first: port, last: port })),
  gateUdp: [{ first: 53, last: 53 }],
  pinned: [pinned('g1', 'one'), pinned('g2', 'two', 465)],
  kernel: [
    {
      grant: 'g3',
      cidr: { family: 4, address: '198.51.100.0', prefix: 24 },
      proto: 'tcp',
      ports: [{ first: 5000, last: 5010 }],
    },
    {
      grant: 'g4',
      cidr: { family: 6, address: '2001:db8:1::', prefix: 48 },
      proto: 'udp',
      ports: [{ first: 51820, last: 51820 }],
    },
  ],
  denied: [
    { family: 4, address: '198.51.100.128', prefix: 25 },
    { family: 6, address: '2001:db8:1:1::', prefix: 64 },
  ],
  loopbackConnect: [3000],
  loopbackListen: [8080],
}
const gate: readonly GatePort[] = [
  { proto: 'udp', port: 53, gatePort: 40_000 },
  ...[53, 80, 443].map((port, index) => ({
    ...{ proto: 'tcp' as const, port, gatePort: 40_001 + index },
  })),
]
const variants = ['iptables-nft', 'iptables-legacy'] as const
const system = realSystem()
const found = findTools(['ip', 'unshare', 'nsenter', 'perl'])
const others = {
  ip: found.get('ip'),
  unshare: found.get('unshare'),
  nsenter: found.get('nsenter'),
  perl: found.get('perl'),
}

/** A network namespace of its own in place of the host's, and the system that acts in it. */
const makeHost = async (t: Test) => {
  const script = '$| = 1; print "held\\n"; 1 while sysread STDIN, my $byte, 1'
  const holder = spawn(others.unshare, ['--net', '--', others.perl, '-e', script])
  t.teardown(() => holder.kill('SIGKILL'))
  await once(holder.stdout, 'data')
  const enter = [others.nsenter, `--net=/proc/${holder.pid}/ns/net`, '--'] as const
  const state = { failAt: Infinity, steps: 0 }
  const inside: System = {
    ...system,
    run: async (argv, options) => {
      state.steps += 1
      if (state.steps === state.failAt) return { code: 1, stdout: '', stderr: 'made to fail' }
      return await system.run([...enter, ...argv], options)
    },
    detach: (argv, fifo) => system.detach([...enter, ...argv], fifo),
  }
  const stateDir = mkdtempSync('/tmp/agentjail-test-')
  t.teardown(async () => {
    // The guard's owner, where a test broke off.
    await system.feed(`${stateDir}/guard.fifo`, 'quit\n').catch(() => undefined)
    rmSync(stateDir, { recursive: true })
  })
  return { inside, state, stateDir }
}

const save = async (inside: System, tools: IptablesTools) => {
  const sets = await inside.run([tools.ipset, 'list', '-name'])
  const v4 = await inside.run([tools.save])
  const v6 = await inside.run([tools.save6])
  const clean = (text: string) =>
    text
      .split('\n')
      .filter((line) => !line.startsWith('#'))
      .map((line) => line.replace(/\[\d+:\d+\]$/, ''))
  return { 4: clean(v4.stdout), 6: clean(v6.stdout), sets: clean(sets.stdout).sort() }
}

t.test('golden files, and the tools of both variants take them', async (t) => {
  const at = (isolation: 'uid' | 'namespace') => ({ jail: 'bot', uid, range, isolation })
  const policy = await loadPolicy('openai-telegram')
  const cases: [name: string, plan: NetworkPlan][] = [
    ['everything-uid', everything],
    ['openai-telegram-uid', networkPlan(policy, at('uid'))],
    ['openai-telegram-namespace', networkPlan(policy, at('namespace'))],
  ]
  for (const [name, plan] of cases) {
    const tools = findIptables('iptables', others)
    const rendered = iptablesBackend({ system, tools, range, stateDir: '/nonexistent' }).render(
      plan,
    )
    const text = rendered.map((one) => `# ${one.title}\n${one.text}`).join('\n')
    const file = new URL(`../../test/golden/${name}.iptables`, import.meta.url)
    if (process.env['UPDATE_GOLDEN'] === '1') writeFileSync(file, text)
    t.equal(text, readFileSync(file, 'utf8'), `${name}.iptables (UPDATE_GOLDEN=1 writes it anew)`)
    for (const variant of variants) {
      const { inside } = await makeHost(t)
      const { ipset, restore, restore6 } = findIptables(variant, others)
      for (const { title, format, text: input } of rendered) {
        const program = title.endsWith('IPv6') ? restore6 : restore
        const argvs: [string, ...string[]][] =
          format === 'ip'
            ? [[others.ip, '-batch', '-']]
            : format === 'ipset'
              ? [[ipset, '-exist', 'restore']]
              : format === 'nft'
                ? [['/usr/sbin/nft', '-c', '-f', '-']]
                : [
                    [program, '--noflush', '--test'],
                    [program, '--noflush'],
                  ]
        for (const argv of argvs) {
          const { code, stderr } = await inside.run(argv, { input })
          t.equal(code, 0, `${variant}: ${name}: ${title}: ${argv.join(' ')}: ${stderr}`)
        }
      }
    }
  }
})

for (const variant of variants) {
  t.test(`${variant}: in, read back, over, out`, async (t) => {
    const { inside, stateDir } = await makeHost(t)
    const tools = findIptables(variant, others)
    const backend = iptablesBackend({ system: inside, tools, range, stateDir })
    // Somebody's own rules, which are to stay as they are.
    const addTheirs = async () => {
      for (const program of [tools.restore, tools.restore6]) {
        const input = '*filter\n-A OUTPUT -o eth7 -j DROP\nCOMMIT\n'
        t.equal((await inside.run([program, '--noflush'], { input })).code, 0)
      }
    }
    await addTheirs()
    const theirs = await save(inside, tools)
    await backend.ensureStaticDeny(range)
    const denied = await save(inside, tools)
    const hold = await backend.open(everything)
    await hold.connectGate(gate)
    t.ok(await hold.intact())
    const installed = await save(inside, tools)

    // The guard: as it is printed, and beyond anybody's flush.
    const nft = async (...words: string[]) => await inside.run(['/usr/sbin/nft', ...words])
    const listed = (await nft('list', 'table', 'inet', 'agentjail_guard')).stdout
    t.match(listed, /flags owner/)
    t.strictSame(ruleLines(listed), ruleLines(renderGuard(range)))
    await nft('flush', 'ruleset')
    t.equal((await nft('list', 'table', 'inet', 'agentjail_guard')).stdout, listed, 'after a flush')
    if (variant === 'iptables-nft') await addTheirs()
    await hold.restore()
    t.ok(await hold.intact())

    // Each line of ours missing, doubled or changed is seen.
    const part = { plan: everything, gate, round: 1 }
    for (const family of families) {
      const problem = (lines: readonly string[]) => {
        const listing = parseListing(lines.join('\n'))
        const base = findBaseProblem(family, range, listing, 'needed')
        return base ?? findJailProblem(family, part, listing)
      }
      t.equal(problem(installed[family]), undefined)
      const ours = [...installed[family].entries()].filter(([, line]) => /AGENTJAIL|AJ-/.test(line))
      t.ok(ours.length > 50)
      for (const [index, line] of ours) {
        const without = installed[family].toSpliced(index, 1)
        t.not(problem(without), undefined, `IPv${family}: missing: ${line}`)
        if (!line.startsWith('-A')) continue
        t.not(problem(installed[family].toSpliced(index, 0, line)), undefined, `doubled: ${line}`)
        const chain = line.split(' ')[1] ?? ''
        const opened = installed[family].toSpliced(index, 0, `-A ${chain} -j ACCEPT`)
        t.not(problem(opened), undefined, `IPv${family}: an accept before: ${line}`)
      }
    }

    // Pins: the longer time counts, and a reload carries those of unchanged grants alone.
    const seconds = async (name: RegExp) => {
      const { stdout } = await inside.run([tools.ipset, 'save'])
      const line = stdout.split('\n').find((one) => one.startsWith('add ') && name.test(one))
      return line === undefined ? undefined : Number(/timeout (\d+)/.exec(line)?.[1])
    }
    const pin = (grant: string, address: string, time: number) =>
      hold.pin([{ grant, address, seconds: time }])
    await pin('g1', '203.0.113.1', 900)
    await pin('g1', '203.0.113.1', 5)
    await pin('g2', '2001:db8::2', 900)
    t.ok(((await seconds(/-g1 203\.0\.113\.1 /)) ?? 0) > 800, 'not shortened')
    await hold.update({ ...everything, pinned: [pinned('g1', 'another'), pinned('g2', 'one')] })
    t.ok(await hold.intact())
    t.ok(((await seconds(/-g2 203\.0\.113\.1 /)) ?? 0) > 800, 'carried, under its new name')
    t.equal(await seconds(/2001:db8::2/), undefined, 'withdrawn with its grant')
    await hold.update({ ...everything, kernel: [], pinned: [], loopbackConnect: [] })
    t.notMatch((await save(inside, tools))[4].join('\n'), /198\.51\.100\.0|--dport 3000/)
    t.notMatch((await save(inside, tools)).sets.join(' '), /-[pl][46]-/, 'no set of the old rules')

    // A gate started again has other ports.
    await hold.connectGate(gate.map((one) => ({ ...one, gatePort: one.gatePort + 10 })))
    t.ok(await hold.intact())
    const { stdout } = await inside.run([tools.ipset, 'save'])
    t.notMatch(stdout, /add aj-gates-tcp 4000/, 'its old ones are free again')

    await hold.close()
    t.strictSame(await save(inside, tools), {
      ...denied,
      ...(await emptyNat(inside, tools, denied)),
    })
    const tables = (await inside.run(['/usr/sbin/nft', 'list', 'tables'])).stdout
    t.notMatch(tables, /agentjail/, 'no guard without a jail')
    await backend.collect({ name: 'x', uid, isolation: 'uid' })
    await backend.uninstall()
    for (const family of families) {
      const left = (await save(inside, tools))[family].filter((line) => /^-A/.test(line))
      t.strictSame(
        left,
        theirs[family].filter((line) => /^-A/.test(line)),
        'theirs alone',
      )
    }
  })

  t.test(`${variant}: a jail's own namespace, and a reload there`, async (t) => {
    const { stateDir } = await makeHost(t)
    const backend = iptablesBackend({
      system,
      tools: findIptables(variant, others),
      range,
      stateDir,
    })
    const plan = { ...everything, isolation: 'namespace', pinned: [], kernel: [] } as const
    const hold = await backend.open(plan)
    t.teardown(() => hold.close())
    t.ok(await hold.intact())
    const next = { ...plan, gateTcp: [{ first: 53, last: 53 }] }
    await hold.update(next)
    t.ok(await hold.intact(), 'what was there before is not there twice')
    const inside = [others.nsenter, `--net=${hold.netns ?? ''}`, '--', `${variant}-save`] as const
    const { stdout } = await system.run(inside)
    t.notMatch(stdout, /--dport 443/, 'nor what was withdrawn at all')
    await system.run([...inside.slice(0, 3), variant, '-F', 'OUTPUT'] as unknown as typeof inside)
    t.notOk(await hold.intact())
    await hold.restore()
    t.ok(await hold.intact())
  })

  t.test(`${variant}: each step may fail, and nothing stays behind`, async (t) => {
    const { inside, state, stateDir } = await makeHost(t)
    const tools = findIptables(variant, others)
    const backend = iptablesBackend({ system: inside, tools, range, stateDir })
    await backend.ensureStaticDeny(range)
    const first = await backend.open(everything)
    await first.connectGate(gate)
    await first.close()
    const clean = await save(inside, tools)
    let failed = 0
    for (let step = 1; step < 60; step++) {
      const hold = await backend.open(everything)
      Object.assign(state, { steps: 0, failAt: step })
      const error: unknown = await hold.connectGate(gate).then(
        () => undefined,
        (reason: unknown) => reason,
      )
      state.failAt = Infinity
      await backend.collect({ name: 'x', uid, isolation: 'uid' })
      t.strictSame(await save(inside, tools), clean, `after a failure of step ${step}`)
      if (error === undefined) break
      failed += 1
    }
    t.ok(failed > 8, `${failed} steps failed`)
  })
}

const ruleLines = (text: string) =>
  text.split('\n').flatMap((line) => (/^\s+(meta|ct) /.test(line) ? [line.trim()] : []))

t.test('what is not the guard as it was made is seen', (t) => {
  t.equal(judgeGuard(range, []), 'absent')
  // A transaction as it is sent holds the same messages as an answer.
  const messages = (bytes: Buffer): Buffer[] => {
    const found: Buffer[] = []
    for (let at = 0; at < bytes.length; at += bytes.readUInt32LE(at))
      found.push(bytes.subarray(at, at + bytes.readUInt32LE(at)))
    return found
  }
  const whole = messages(guardBytes(range))
  t.equal(judgeGuard(range, whole), 'right')
  t.equal(judgeGuard({ ...range, last: range.last - 1 }, whole), 'other', 'another range')
  for (let n = 2; n < whole.length - 1; n++)
    t.equal(judgeGuard(range, whole.toSpliced(n, 1)), 'other', `message ${n} missing`)
  t.equal(judgeGuard(range, [...whole, ...whole.slice(-2)]), 'other', 'a rule too many')
  t.end()
})

/** Built-in chains of nat stay, empty, once they were used. */
const emptyNat = async (
  inside: System,
  tools: IptablesTools,
  before: Awaited<ReturnType<typeof save>>,
) => {
  const now = await save(inside, tools)
  const rulesOf = (lines: readonly string[]) => lines.filter((line) => line.startsWith('-A'))
  return Object.fromEntries(
    families.flatMap((family) =>
      JSON.stringify(rulesOf(now[family])) === JSON.stringify(rulesOf(before[family]))
        ? [[family, now[family]]]
        : [],
    ),
  )
}

t.test('what was refused, told once', (t) => {
  const reader = new DenialReader(['more'])
  const read = (...elements: [set: string, key: string, packets: number][]) =>
    reader
      .read(elements.map(([set, key, packets]) => ({ set, key, packets })))
      .map(({ proto, address, port, reason, count }) => [proto, address, port, reason, count])
  const cases: [key: string, expected: unknown[]][] = [
    ['203.0.113.1,tcp:443', ['tcp', '203.0.113.1', 443, 'port-not-granted', 1]],
    ['2001:db8::1,udp:53', ['udp', '2001:db8::1', 53, 'port-not-granted', 1]],
    ['203.0.113.1,sctp:9', ['sctp', '203.0.113.1', 9, 'protocol-not-granted', 1]],
    [
      '203.0.113.1,icmp:echo-request',
      ['icmp', '203.0.113.1', undefined, 'protocol-not-granted', 1],
    ],
    [
      '2001:db8::1,ipv6-icmp:128/0',
      ['icmpv6', '2001:db8::1', undefined, 'protocol-not-granted', 1],
    ],
    ['203.0.113.1,gre:0', ['gre', '203.0.113.1', undefined, 'protocol-not-granted', 1]],
  ]
  for (const [key, expected] of cases) t.strictSame(read(['set', key, 1]), [expected], key)
  t.strictSame(read(['a', '203.0.113.1,tcp:1', 3])[0]?.[4], 3)
  t.strictSame(read(['a', '203.0.113.1,tcp:1', 5])[0]?.[4], 2, 'what is new')
  t.strictSame(read(['a', '203.0.113.1,tcp:1', 5]), [], 'nothing new')
  t.strictSame(read(), [], 'its time ran out')
  t.strictSame(read(['a', '203.0.113.1,tcp:1', 6])[0]?.[4], 6, 'and it came back')
  t.strictSame(read(['more', '0.0.0.0/1', 4])[0], [
    'any',
    undefined,
    undefined,
    'address-not-granted',
    4,
  ])
  t.end()
})
