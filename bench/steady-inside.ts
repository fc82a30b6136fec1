/**
 * Inside a network namespace of its own: traffic of a user without a jail with 0 to 1,000 jails' tables installed, and
 * of a jailed user through a grant; the tables are the backend's own. Prints JSON. Arguments: rounds, seconds.
 */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { printTable } from '../lib/backend/nftables/print.js'
import { guardTable, staticTable, uidBase, uidJail } from '../lib/backend/nftables/tables.js'
import type { NetworkPlan } from '../lib/backend/types.js'
import { root } from '../test/lab/paths.js'

const range = { first: 1_900_000_000, last: 1_900_099_999 }
const address = '203.0.113.10'
const port = 9000
const counts = [0, 10, 100, 1000]
const modes = ['udp', 'connects', 'bytes'] as const

const planOf = (index: number): NetworkPlan => ({
  jail: `j${index}`,
  uid: range.first + index,
  isolation: 'uid',
  range,
  ipv6: true,
  gateTcp: [{ first: 443, last: 443 }],
  gateUdp: [],
  pinned: [{ grant: 'g1', key: 'g1', proto: 'tcp', ports: [{ first: 22, last: 22 }] }],
  kernel: (['tcp', 'udp'] as const).map((proto) => ({
    grant: 'g2',
    cidr: { family: 4, address, prefix: 32 },
    proto,
    ports: [{ first: port, last: port + 1 }],
  })),
  loopbackConnect: [],
  loopbackListen: [],
})

function install(jails: number): void {
  const gate = [
    { proto: 'udp', port: 53, gatePort: 40_053 },
    { proto: 'tcp', port: 53, gatePort: 40_053 },
    { proto: 'tcp', port: 443, gatePort: 40_443 },
  ] as const
  const commands = ['flush ruleset']
  if (jails > 0) {
    // Owned by nobody here: the owner flag is about who may delete.
    const guard = { ...guardTable(range), flags: [] }
    for (const table of [staticTable(range), guard, uidBase(range)])
      commands.push(...printTable(table))
  }
  for (let n = 0; n < jails; n++) commands.push(...printTable(uidJail(planOf(n), gate)))
  execFileSync('/usr/sbin/nft', ['-f', '-'], { input: `${commands.join('\n')}\n` })
}

const flow = join(root, 'bench/flow.pl')
const measure = (mode: string, seconds: number, uid: number, to = port): number =>
  Number(
    execFileSync(
      '/usr/bin/setpriv',
      [
        `--reuid=${uid}`,
        '--clear-groups',
        '/usr/bin/perl',
        flow,
        mode,
        address,
        String(to),
        String(seconds),
      ],
      { encoding: 'utf8' },
    ),
  )

const rounds = Number(process.argv[2] ?? 3)
const seconds = Number(process.argv[3] ?? 0.4)
for (const args of [
  ['link', 'set', 'lo', 'up'],
  ['addr', 'add', `${address}/32`, 'dev', 'lo'],
])
  execFileSync('/usr/sbin/ip', args)
const server = spawn('/usr/bin/setpriv', [
  '--pdeathsig',
  'KILL',
  'perl',
  flow,
  'serve',
  address,
  String(port),
])
await once(server.stdout, 'data')
const samples: Record<string, number[]> = {}
const note = (key: string, value: number): void => {
  ;(samples[key] ??= []).push(value)
}
const other = 65_000
for (let round = 0; round < rounds; round++) {
  // What any table that redirects brings along: connection tracking. Many machines have it anyway.
  execFileSync('/usr/sbin/nft', ['-f', '-'], {
    input:
      'flush ruleset\nadd table inet t\nadd chain inet t o { type nat hook output priority -100; }\n',
  })
  for (const mode of modes) note(`tracked ${mode}`, measure(mode, seconds, other))
  for (const jails of counts) {
    install(jails)
    for (const mode of modes) {
      note(`other ${mode} ${jails}`, measure(mode, seconds, other))
      // At once after, so that both see the same moment of the machine.
      if (jails === 1000) note(`jailed ${mode}`, measure(mode, seconds, range.first))
    }
    if (jails === 1000) note('refused ms', measure('refused', seconds, range.first, 81))
  }
}
server.kill('SIGKILL')
process.stdout.write(JSON.stringify({ counts, samples }))
process.exit(0)
