/**
 * Inside a network namespace of its own, with the tables of so many jails, made by the backend's own code: traffic of
 * whoever is asked for.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { printTable } from '../lib/backend/nftables/print.js'
import { guardTable, staticTable } from '../lib/backend/nftables/deny-tables.js'
import { uidBase } from '../lib/backend/nftables/uid-base.js'
import { uidJail } from '../lib/backend/nftables/uid-jail.js'
import type { NetworkPlan } from '../lib/backend/types.js'
import { root } from '../test/lab/paths.js'

const range = { first: 1_900_000_000, last: 1_900_099_999 }
const address = '203.0.113.10'
const port = 9000

/** @param grants how many; the one that is measured is the last. */
const planOf = (index: number, grants = 1): NetworkPlan => ({
  jail: `j${index}`,
  uid: range.first + index,
  isolation: 'uid',
  range,
  ipv6: true,
  gateTcp: [{ first: 443, last: 443 }],
  gateUdp: [],
  pinned: [{ grant: 'g1', key: 'g1', proto: 'tcp', ports: [{ first: 22, last: 22 }] }],
  kernel: Array.from({ length: grants }, (_, n) => grants - 1 - n).flatMap((before) =>
    (['tcp', 'udp'] as const).map((proto) => ({
      grant: `g${before + 2}`,
      cidr: { family: 4, address: before === 0 ? address : `198.18.0.${before}`, prefix: 32 },
      proto,
      ports: [{ first: port, last: port + 1 }],
    })),
  ),
  loopbackConnect: [],
  loopbackListen: [],
})

/** What stands for how many jails, or for none: what it costs to have any table at all. */
const others: Readonly<Record<string, readonly string[]>> = {
  // One chain that accepts everything, in one hook: less than that no table can cost.
  hook: [
    'add table inet t',
    'add chain inet t o { type filter hook output priority 0; policy accept; }',
  ],
  // The hooks of isolation uid, and a rule for which the kernel tracks connections, that no packet fits.
  tracked: [
    'add table inet t',
    'add chain inet t n { type nat hook output priority -100; policy accept; }',
    ...[0, 10, 12].map(
      (at) =>
        `add chain inet t o${String(at)} { type filter hook output priority ${String(at)}; policy accept; }`,
    ),
    'add chain inet t i { type filter hook input priority 0; policy accept; }',
    'add rule inet t o0 meta mark 1634364001 ct mark 1 drop',
  ],
  // Isolation namespace, whatever the number of jails.
  namespace: printTable(staticTable(range)),
}

function load(commands: readonly string[]): void {
  execFileSync('/usr/sbin/nft', ['-f', '-'], { input: `${commands.join('\n')}\n` })
}

function install(jails: number, grants?: number): void {
  const gate = [
    { proto: 'udp', port: 53, gatePort: 40_053 },
    { proto: 'tcp', port: 53, gatePort: 40_053 },
    { proto: 'tcp', port: 443, gatePort: 40_443 },
  ] as const
  const commands = ['flush ruleset']
  if (jails > 0) {
    // Owned by nobody here: the owner flag is about who may delete.
    const guard = { ...guardTable(range), owner: false }
    for (const table of [staticTable(range, 'flows'), guard, uidBase(range)])
      commands.push(...printTable(table))
  }
  for (let n = 0; n < jails; n++) commands.push(...printTable(uidJail(planOf(n, grants), gate)))
  load(commands)
}

const flow = join(root, 'bench/flow.pl')
/** Both sides keep to one processor: moved about, they scatter by more than what is to be measured. */
const onOne = ['taskset', '--cpu-list', '0']
const measure = (mode: string, seconds: number, uid: number, to = port): number =>
  Number(
    execFileSync(
      '/usr/bin/setpriv',
      [
        ...[`--reuid=${uid}`, '--clear-groups', ...onOne],
        ...['perl', flow, mode, address, String(to), String(seconds), ...servers],
      ],
      { encoding: 'utf8' },
    ),
  )

// Arguments: how many jails in isolation uid, or a name of `others`; how many grants each. Lines in: MODE SECONDS UID PORT.
const [which = '0', grants] = process.argv.slice(2)
for (const args of [
  ['link', 'set', 'lo', 'up'],
  ['addr', 'add', `${address}/32`, 'dev', 'lo'],
])
  execFileSync('/usr/sbin/ip', args)
const other = others[which]
if (other === undefined) install(Number(which), grants === undefined ? undefined : Number(grants))
else load(other)
const server = spawn('/usr/bin/setpriv', [
  ...['--pdeathsig', 'KILL', ...onOne, 'perl', flow, 'serve', address, String(port)],
])
const [said] = (await once(server.stdout, 'data')) as [Buffer]
const servers = said.toString('latin1').trim().split(' ')
process.stdout.write('ready\n')
for await (const line of createInterface({ input: process.stdin })) {
  const [mode = '', seconds, uid, to] = line.split(' ')
  process.stdout.write(`${measure(mode, Number(seconds), Number(uid), Number(to))}\n`)
}
server.kill('SIGKILL')
