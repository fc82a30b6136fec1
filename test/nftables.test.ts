/**
 * nftables plans: golden files, that nft itself takes them, and that reading back notices every single change.
 * Judges: the files under test/golden, nft in a network namespace of its own.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { nftablesBackend } from '../lib/backend/nftables/index.js'
import { DenialReader } from '../lib/backend/nftables/denials.js'
import { printTable } from '../lib/backend/nftables/print.js'
import { findDifference } from '../lib/backend/nftables/readback.js'
import { removalOf } from '../lib/backend/nftables/removal.js'
import { findStaticProblem } from '../lib/backend/nftables/static-deny.js'
import { guardTable, inwardTable, staticTable } from '../lib/backend/nftables/deny-tables.js'
import { namespaceTable } from '../lib/backend/nftables/namespace-table.js'
import { jailNames, uidBase } from '../lib/backend/nftables/uid-base.js'
import { uidJail } from '../lib/backend/nftables/uid-jail.js'
import type { Table } from '../lib/backend/nftables/ast.js'
import type { NetworkPlan } from '../lib/backend/types.js'
import { networkPlan } from '../lib/plan/network.js'
import { loadPolicy } from '../lib/policy/loader.js'
import { realSystem } from '../lib/system/real.js'
import { root } from './lab/paths.js'

const range = { first: 1_900_000_000, last: 1_900_099_999 }
const request = { jail: 'my-bot', uid: 1_900_000_007, range }
const tools = {
  nft: '/usr/sbin/nft',
  ip: '/sbin/ip',
  unshare: '/usr/bin/unshare',
  nsenter: '/usr/bin/nsenter',
  perl: '/usr/bin/perl',
}
const backend = nftablesBackend({ system: realSystem(), tools, stateDir: '/nonexistent' })

/** nft looks for a group's number below /sys/fs/cgroup when it loads. */
const withGroups = `mount -t cgroup2 none /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/agentjail_golden || exit 1
"$@"; code=$?; rmdir /sys/fs/cgroup/agentjail_golden; exit $code`

/** As in slim images, where nft lists protocols by number. */
const withoutProtocols = 'mount --bind /dev/null /etc/protocols && "$@"'

/** nft with these commands in a namespace that ends with it; what it listed, if asked. */
const nft = (argv: readonly string[], input: string, first = '"$@"') => {
  const { status, stdout, stderr } = spawnSync(
    '/usr/bin/unshare',
    [
      ...['--net', '--mount', '--', 'sh', '-c', withGroups, 'sh'],
      ...['sh', '-c', first, 'sh', '/usr/sbin/nft', ...argv],
    ],
    { input, encoding: 'utf8', timeout: 20_000 },
  )
  return { status, stdout, stderr }
}

/** Loads tables, then changes, then lists one table: all in one namespace. */
const listAfter = (
  tables: readonly Table[],
  changes: readonly string[],
  name: string,
  first?: string,
): unknown => {
  const lines = [...tables.flatMap(printTable), ...changes].map((line) => `${line}\n`).join('')
  const { stdout, stderr } = nft(['-j', '-i'], `${lines}list table inet ${name}\n`, first)
  const last = stdout.trim().split('\n').at(-1) ?? ''
  if (!last.startsWith('{')) throw new Error(`nft: ${stderr}`)
  return JSON.parse(last) as unknown
}

const plans: [name: string, plan: () => Promise<NetworkPlan>][] = (
  ['namespace', 'uid'] as const
).map((isolation) => [
  `openai-telegram.${isolation}`,
  async () => networkPlan(await loadPolicy('openai-telegram'), { ...request, isolation }),
])
const rich: NetworkPlan = {
  ...request,
  isolation: 'uid',
  ipv6: true,
  gateTcp: [
    { first: 53, last: 53 },
    { first: 443, last: 443 },
  ],
  gateUdp: [{ first: 53, last: 53 }],
  pinned: [
    {
      grant: 'g1',
      key: 'a',
      proto: 'tcp',
      ports: [
        { first: 22, last: 22 },
        { first: 8000, last: 8010 },
      ],
    },
    { grant: 'g2', key: 'b', proto: 'udp', ports: [{ first: 4000, last: 4000 }] },
  ],
  kernel: [
    {
      grant: 'c1',
      cidr: { family: 4, address: '192.0.2.0', prefix: 24 },
      proto: 'tcp',
      ports: [{ first: 5432, last: 5432 }],
    },
  ],
  loopbackConnect: [3000],
  loopbackListen: [3001],
  groups: 'agentjail_golden',
}
plans.push(['everything.uid', () => Promise.resolve(rich)])

t.test('golden files, which nft takes as they are', async (t) => {
  for (const [name, make] of plans) {
    const rendered = backend.render(await make()).filter(({ format }) => format === 'nft')
    const text = rendered.map(({ title, text }) => `# ${title}\n${text}`).join('\n')
    const path = join(root, 'test/golden', `${name}.nft`)
    if (process.env['TAP_SNAPSHOT'] === '1') writeFileSync(path, text)
    t.equal(text, readFileSync(path, 'utf8'), `${name}.nft`)
    const { status, stderr } = nft(['-c', '-f', '-'], text)
    t.equal(status, 0, `${name}: nft -c: ${stderr}`)
  }
})

const gate = [
  { proto: 'udp', port: 53, gatePort: 40_000 },
  { proto: 'tcp', port: 53, gatePort: 40_001 },
  { proto: 'tcp', port: 443, gatePort: 40_002 },
] as const

t.test(
  'read back: as written is intact; each rule, chain, set and element gone or more is told',
  async (t) => {
    const base = uidBase(range, 'agentjail_golden')
    const cases: [name: string, loaded: Table[], table: Table, extent: 'whole' | 'part'][] = [
      ['static', [staticTable(range)], staticTable(range), 'whole'],
      ['static, flows', [staticTable(range, 'flows')], staticTable(range, 'flows'), 'whole'],
      [
        'namespace',
        [namespaceTable({ ...rich, isolation: 'namespace' })],
        namespaceTable({ ...rich, isolation: 'namespace' }),
        'whole',
      ],
      ['base', [base], base, 'part'],
      ['inward', [inwardTable('agentjail_golden')], inwardTable('agentjail_golden'), 'whole'],
      ['jail', [base, uidJail(rich, gate)], uidJail(rich, gate), 'part'],
    ]
    for (const [name, loaded, table, extent] of cases) {
      const listing = listAfter(loaded, [], table.name) as { nftables: Record<string, unknown>[] }
      t.equal(findDifference(table, listing, extent), undefined, `${name}: intact`)
      const byNumber = listAfter(loaded, [], table.name, withoutProtocols)
      t.equal(findDifference(table, byNumber, extent), undefined, `${name}: intact, by number`)
      t.ok(findDifference(table, { nftables: [] }, extent), `${name}: nothing there`)
      const chains = new Set(table.chains.map((chain) => chain.name))
      const sets = new Set([...table.sets.map((set) => set.name)])
      let mutants = 0
      for (const [index, item] of listing.nftables.entries()) {
        const [kind = '', body] = Object.entries(item)[0] ?? []
        const about = body as Record<string, unknown>
        const isOurs =
          (kind === 'rule' && chains.has(String(about['chain']))) ||
          (kind === 'chain' && chains.has(String(about['name']))) ||
          ((kind === 'set' || kind === 'map') && sets.has(String(about['name'])))
        if (!isOurs) continue
        const without = { nftables: listing.nftables.toSpliced(index, 1) }
        t.ok(findDifference(table, without, extent), `${name}: without ${kind} ${index}`)
        mutants++
        if (kind !== 'rule') continue
        const open = { rule: { ...about, expr: [{ accept: null }] } }
        const changed = { nftables: listing.nftables.with(index, open) }
        t.ok(findDifference(table, changed, extent), `${name}: rule ${index} changed`)
        const more = { nftables: listing.nftables.toSpliced(index, 0, open) }
        t.ok(findDifference(table, more, extent), `${name}: a rule more before ${index}`)
      }
      t.ok(mutants > 1, `${name}: ${mutants} parts looked at`)
    }
    for (const map of ['jails', 'flows', 'answers', 'redirects']) {
      const listing = listAfter(
        [base, uidJail(rich, gate)],
        [`delete element inet agentjail_uid ${map} { ${request.uid} }`],
        'agentjail_uid',
      )
      t.match(findDifference(uidJail(rich, gate), listing, 'part'), new RegExp(`element of ${map}`))
    }
  },
)

t.test('the guard is the static deny, owned, and takes the mark off', async (t) => {
  const [first, ...rest] = printTable(guardTable(range))
  t.equal(first, 'add table inet agentjail_guard { flags owner; }')
  t.same(
    rest.map((line) =>
      line
        .replaceAll('agentjail_guard', 'agentjail')
        .replace('priority 12', 'priority 10')
        .replace('meta mark set 0 ', ''),
    ),
    printTable(staticTable(range, 'flows')).slice(1),
  )
})

t.test('removal: one jail goes whole, others and the base stay', async (t) => {
  const other = { ...rich, jail: 'my-bot-2', uid: request.uid + 1 }
  const otherGate = gate.map((port) => ({ ...port, gatePort: port.gatePort + 100 }))
  const loaded = [uidBase(range), uidJail(other, otherGate), uidJail(rich, gate)]
  const before = listAfter(loaded, [], 'agentjail_uid')
  const commands = removalOf(rich.jail, rich.uid, before)
  t.match(commands[0], /delete element inet agentjail_uid jails/, 'the way in goes first')
  const after = listAfter(loaded, commands, 'agentjail_uid')
  const strip = (listing: unknown) =>
    JSON.stringify(listing).replace(/"(handle|index)":\s?\d+,?/g, '')
  const alone = listAfter(loaded.slice(0, 2), [], 'agentjail_uid')
  t.equal(strip(after).length, strip(alone).length, 'as if it had never been there')
  t.equal(findDifference(uidJail(other, otherGate), after, 'part'), undefined)
  t.same(removalOf(rich.jail, rich.uid, after), [], 'idempotent')
})

t.test("names: no jail has another one's", async (t) => {
  t.equal(jailNames('a-b').chain, 'jail_a_b')
  const all = ['a', 'a-b', 'a-b-c', 'b'].flatMap((jail) => {
    const names = jailNames(jail)
    return [
      names.chain,
      names.nat,
      names.inward,
      names.overflow,
      names.pins(4, 'g1'),
      names.flows(6),
    ]
  })
  t.equal(new Set(all).size, all.length)
})

t.test('denials: what is new since the last reading, once', async (t) => {
  const { suffix, overflow } = jailNames('my-bot')
  const reader = new DenialReader(suffix, overflow)
  const listing = (packets: number, over: number, proto: string | number = 'udp') => ({
    nftables: [
      {
        set: {
          name: `denied4_port${suffix}`,
          elem: [{ elem: { val: { concat: ['203.0.113.66', proto, 53] }, counter: { packets } } }],
        },
      },
      { counter: { name: overflow, packets: over } },
    ],
  })
  t.match(reader.read(listing(3, 0)), [
    { address: '203.0.113.66', port: 53, proto: 'udp', count: 3 },
  ])
  t.same(reader.read(listing(3, 0)), [])
  t.match(reader.read(listing(5, 2)), [{ count: 2 }, { count: 2, proto: 'any' }])
  t.match(reader.read(listing(1, 2)), [{ count: 1 }], 'it ran out and came back')
  t.same(reader.read({ nftables: [{ set: { name: `denied4_port${suffix}` } }] }), [])
  t.match(reader.read(listing(1, 2)), [{ count: 1 }], 'so also where it counts as before')
  reader.forget()
  t.match(reader.read(listing(1, 2)), [{ count: 1 }, { count: 2 }], 'made anew')
  t.match(
    reader.read(listing(2, 2, 17)),
    [{ proto: 'udp', reason: 'port-not-granted' }],
    'listed by number',
  )
  t.same(reader.read('nonsense'), [])
})

t.test('the first comparison lets others by, and nobody of the range', (t) => {
  const ranges = [
    range,
    { first: 60_000, last: 60_000 },
    { first: 1, last: 4_294_967_294 },
    { first: 65_535, last: 65_536 },
    { first: 2_147_483_640, last: 2_147_483_656 },
  ]
  for (const { first, last } of ranges) {
    const [rule] = staticTable({ first, last }).rules
    const match = rule?.expr[0]
    const named = JSON.stringify(match)
    if (first === 1 || first === 2_147_483_640) {
      t.match(named, /"mark"/, `${String(first)}: no bit in common, no such comparison`)
      continue
    }
    const [, mask = 0, value = 0] =
      /"&":\[.*?,(\d+)\]\},"right":(\d+)/.exec(named)?.map(Number) ?? []
    const isOther = (uid: number): boolean => (uid & mask) >>> 0 !== value
    for (const uid of [first, last, Math.floor((first + last) / 2)])
      t.notOk(isOther(uid), `${String(uid)} of ${String(first)}-${String(last)}`)
    if (first === range.first) for (const uid of [0, 1000, 65_534]) t.ok(isOther(uid))
  }
  t.end()
})

t.test('the lesser static deny has the kernel track nothing; the fuller one does for it', (t) => {
  t.notMatch(printTable(staticTable(range)).join('\n'), / ct /)
  t.match(printTable(staticTable(range, 'flows')).join('\n'), / ct mark /)
  const full = listAfter([staticTable(range, 'flows')], [], 'agentjail')
  const less = listAfter([staticTable(range)], [], 'agentjail')
  t.equal(findStaticProblem(range, full), undefined, 'the fuller one is enough for both')
  t.equal(findStaticProblem(range, full, 'flows'), undefined)
  t.equal(findStaticProblem(range, less), undefined)
  t.match(findStaticProblem(range, less, 'flows'), /rule/)
  t.match(findStaticProblem(range, { nftables: [] }), /missing/)
  t.end()
})
