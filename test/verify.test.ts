/**
 * How `agentjail verify` judges: a witness outside overrules the probe, silence is no success, what is known to be
 * open is open all the same; and every probe and documented opening is in the docs.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { failures, judge } from '../lib/verify/judge.js'
import { documented, means, probes, type Means } from '../lib/verify/probes.js'
import { renderFindings } from '../lib/verify/report.js'
import type { InsideLine, Witness } from '../lib/verify/types.js'
import { root } from './lab/paths.js'

const quiet: Witness = {
  arrived: new Set(),
  counters: { icmp: 0, icmpv6: 0, udpLite: 0 },
  control: true,
  leftover: false,
}
const onlyWitness = new Set(['udp', 'tcp-port', 'icmp', 'sni-other', 'dns-tunnel'])
/** As a jail that holds reports. */
const held: InsideLine[] = [...probes.map(({ id }) => id), 'done'].map((id) => ({
  id,
  open: onlyWitness.has(id) ? null : false,
  why: 'refused',
}))
const without = (id: string) => held.filter((line) => line.id !== id)
const withOpen = (id: string) => [...without(id), { id, open: true, why: 'it went' }]

const rows: readonly [
  title: string,
  lines: readonly InsideLine[],
  witness: Partial<Witness>,
  isolation: 'namespace' | 'uid',
  id: string,
  verdict: string,
  fails: boolean,
  present?: readonly Means[],
][] = [
  ['all refused', held, {}, 'namespace', 'udp', 'closed', false],
  ['the probe itself got through', withOpen('setuid'), {}, 'namespace', 'setuid', 'open', true],
  [
    'the probe saw nothing, the target did',
    held,
    { arrived: new Set(['udp']) },
    'namespace',
    'udp',
    'open',
    true,
  ],
  [
    'packets counted by the kernel',
    held,
    { counters: { icmp: 1, icmpv6: 0, udpLite: 0 } },
    'namespace',
    'icmp',
    'open',
    true,
  ],
  ['a probe that is silent', without('keyring'), {}, 'namespace', 'keyring', 'not-testable', true],
  ['nothing said at all', [], {}, 'namespace', 'udp', 'not-testable', true],
  [
    'the way was never open',
    held,
    { control: false },
    'namespace',
    'sni-other',
    'not-testable',
    false,
  ],
  ['a process that stayed', held, { leftover: true }, 'namespace', 'leftover', 'open', true],
  ['cut off before the end', without('done'), {}, 'namespace', 'leftover', 'not-testable', true],
  ['known in uid', withOpen('abstract-socket'), {}, 'uid', 'abstract-socket', 'open', false],
  [
    'not known where the kernel can close it',
    withOpen('abstract-socket'),
    {},
    'uid',
    'abstract-socket',
    'open',
    true,
    ['abstract-socket'],
  ],
  [
    'the means of another',
    withOpen('inbound-udp'),
    {},
    'uid',
    'inbound-udp',
    'open',
    false,
    ['abstract-socket'],
  ],
  [
    'not known in namespace',
    withOpen('abstract-socket'),
    {},
    'namespace',
    'abstract-socket',
    'open',
    true,
  ],
]

t.test('verdicts', async (t) => {
  for (const [title, lines, witness, isolation, id, verdict, fails, present] of rows) {
    const findings = judge(lines, { ...quiet, ...witness }, isolation, new Set(present))
    t.equal(findings.length, probes.length, title)
    t.equal(findings.find((one) => one.id === id)?.verdict, verdict, title)
    t.equal(failures(findings).length > 0, fails, `${title}: exit code`)
  }
})

t.test('the table', async (t) => {
  const lines = [...without('setuid'), { id: 'setuid', open: true, why: 'ran \u001b[2J as\nroot' }]
  const about = { policy: 'p', isolation: 'namespace', colour: false }
  const text = renderFindings(judge(lines, quiet, 'namespace', new Set()), about)
  t.match(text, /A set-user-ID program +OPEN +ran \?\[2J as\?root\n/)
  t.match(text, /NOT HELD: setuid/)
  t.notMatch(text, /[^\n -~]/)
})

/** `FILE` _title_, _title_; in the cells of tables. */
t.test('every test that the docs name is there', async (t) => {
  let tests = 0
  for (const name of ['security', 'escapes']) {
    const text = readFileSync(join(root, `docs/${name}.md`), 'utf8').replaceAll('\\_', '\u0000')
    for (const cell of text.split('|')) {
      for (const [, file = '', titles = ''] of cell.matchAll(
        /`((?:system\/)?[a-z-]+\.test\.ts)`((?:,? _[^_]+_)*)/g,
      )) {
        const source = readFileSync(join(root, 'test', file), 'utf8').replaceAll("\\'", "'")
        for (const [, title = ''] of titles.matchAll(/_([^_]+)_/g)) {
          tests++
          const wanted = title.replaceAll('\u0000', '_')
          t.ok(source.includes(wanted), `${name}.md: ${file}: ${wanted}`)
        }
      }
    }
  }
  t.ok(tests > 50, `${tests} of them`)
})

t.test('the docs', async (t) => {
  const issues = readFileSync(join(root, 'docs/known-issues.md'), 'utf8')
  for (const id of documented.uid) t.ok(issues.includes(`\`${id}\``), id)
  t.same(Object.keys(means).sort(), [...documented.uid].sort(), 'each has a means that closes it')
  const security = readFileSync(join(root, 'docs/security.md'), 'utf8')
  t.ok(security.includes(`tries ${probes.length} ways out`))
  t.same(documented.namespace, [])
  t.equal(new Set(probes.map(({ id }) => id)).size, probes.length)
  for (const { id, opens } of probes) t.ok(opens.length > 0, `${id} can fail`)
})
