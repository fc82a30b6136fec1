/** Bundled policies, composition, loading from disk, the schema beside the parser, the commands. */
import { Ajv } from 'ajv'
import fc from 'fast-check'
import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, readFileSync, readdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { policyCommand } from '../lib/cli/commands/policy.js'
import { JailError } from '../lib/errors.js'
import { composeLayers } from '../lib/policy/compose.js'
import { exportPolicy } from '../lib/policy/export.js'
import { compileMatcher, formatHost } from '../lib/policy/hosts.js'
import { policyFromJson, policyToJson } from '../lib/policy/json.js'
import { type KeySet, keys } from '../lib/policy/keys.js'
import { bundleDir, listBundled, loadPolicies, loadPolicy } from '../lib/policy/loader.js'
import { formatProblem, parsePolicy } from '../lib/policy/parse.js'
import { formatPorts } from '../lib/policy/ports.js'
import { renderPolicy } from '../lib/policy/render.js'
import { fillSlots } from '../lib/policy/slots.js'
import type { Policy } from '../lib/policy/types.js'

function policyOf(...texts: string[]): Policy {
  const layers = texts.map((text, i) => {
    const parsed = parsePolicy(text, `${String(i)}.yaml`)
    if (parsed.problems) throw new Error(parsed.problems.map(formatProblem).join('\n'))
    return parsed.layer
  })
  const composed = composeLayers(layers, [{ name: 'x', source: 'x.yaml' }])
  if (composed.problems) throw new Error(composed.problems.map(formatProblem).join('\n'))
  return composed.policy
}

function shape(policy: Policy): string[] {
  return policy.grants.map(
    (g) =>
      `${g.id} ${formatHost(g.host)} ${g.proto} ${g.ports.map(formatPorts).join(' ')} ${g.inspect}`,
  )
}

async function failure(work: Promise<unknown>): Promise<string> {
  try {
    await work
  } catch (error) {
    if (!(error instanceof JailError)) throw error
    return `${error.code} ${error.message}${error.hint === undefined ? '' : ` | ${error.hint}`}`
  }
  return 'no failure'
}

/** Without what depends on where a thing was written. */
function meaning(policy: Policy): unknown {
  const text = policyToJson({ ...policy, name: '', source: '' })
  return JSON.parse(text, (key, value: unknown) => (key === 'origin' ? undefined : value))
}

const names = readdirSync(bundleDir())
  .filter((file) => file.endsWith('.yaml'))
  .map((file) => file.slice(0, -5))
  .sort()
const schema = JSON.parse(readFileSync(join(bundleDir(), 'policy.schema.json'), 'utf8')) as {
  properties: Record<string, unknown>
  definitions: Record<string, { properties?: Record<string, unknown> }>
}
const validate = new Ajv({ strict: true, strictTypes: false, strictRequired: false }).compile(
  schema,
)

t.test('every bundled policy loads, fits the schema, survives export and JSON', async (t) => {
  t.ok(names.length >= 30)
  for (const name of names) {
    const file = `${name}.yaml`
    const text = readFileSync(join(bundleDir(), file), 'utf8')
    t.ok(text.startsWith('# yaml-language-server: $schema=./policy.schema.json\n'), file)
    t.ok(validate(parse(text)), `${file}: ${JSON.stringify(validate.errors)}`)
    const policy = await loadPolicy(name)
    t.equal(policy.name, name)
    t.match(policy.description, /[\w)]\.$/, `${file} describes itself`)
    t.same(policyFromJson(policyToJson(policy)), policy, `${file} through JSON`)
    const again = policyOf(exportPolicy(policy))
    t.same(meaning(again), meaning(policy), `${file} through its export`)
    t.ok(validate(parse(exportPolicy(policy))), `${file}: its export fits the schema`)
    const shown = renderPolicy(policy)
    for (const grant of policy.grants) t.ok(shown.includes(formatHost(grant.host)))
  }
  const listed = await listBundled()
  t.same(
    listed.map(({ name }) => name),
    names,
  )
})

t.test('schema and parser know the same keys', async (t) => {
  for (const kind of Object.keys(keys) as KeySet[]) {
    const part = kind === 'policy' ? schema : schema.definitions[kind]
    t.same(Object.keys(part?.properties ?? {}).sort(), [...keys[kind]].sort(), kind)
  }
  const accepted = [
    'version: 1',
    'version: 1\nnetwork: { allow: [a.com, { host: b.com, ports: 80 }] }',
  ]
  const refused = [
    '{}',
    'version: 2',
    'version: 1\nadmin: {}',
    'version: 1\nnetwork: { allow: [{}] }',
  ]
  for (const text of accepted) t.ok(validate(parse(text)), text)
  for (const text of refused) t.notOk(validate(parse(text)), text)
})

t.test('grants: ports, inspection, localhost', async (t) => {
  const policy = policyOf(`version: 1
network:
  allow:
    - a.com
    - b.com:22
    - localhost:3000
    - { host: c.com, ports: [22, "440-450", 80] }
    - { host: d.com, ports: [3478], proto: udp }
    - { hosts: [e.com, f.com], ports: 8443, inspect: sni }
    - { host: localhost, ports: ["4000-4001"] }`)
  t.same(shape(policy), [
    'g1 a.com tcp 443 sni',
    'g2 b.com tcp 22 none',
    'g3 c.com tcp 80 443 sni',
    'g4 c.com tcp 22 440-442 444-450 none',
    'g5 d.com udp 3478 none',
    'g6 e.com tcp 8443 sni',
    'g7 f.com tcp 8443 sni',
  ])
  t.same(policy.loopback.connect, [3000, 4000, 4001])
  t.same(policy.grants[0]?.origin, { file: '0.yaml', line: 4, column: 7 })
})

t.test('composition: unions, least limits, the later wins', async (t) => {
  const policy = policyOf(
    `version: 1
description: base
isolation: uid
network: { allow: [a.com, b.com], deny: [x.com], ipv6: false, dns: { maxTtl: 30s, rate: 7 } }
env: { pass: [A], set: { K: base, L: base } }
fs: { write: [./a] }
limits: { memory: 1GiB, pids: 10 }`,
    `version: 1
description: child
network: { allow: [b.com, c.com], deny: [y.com], dns: { rate: 9 } }
env: { pass: [A, B], set: { K: child } }
fs: { write: [./b] }
limits: { memory: 2GiB, pids: 5, time: 1h }`,
  )
  t.same(shape(policy), ['g1 a.com tcp 443 sni', 'g2 b.com tcp 443 sni', 'g3 c.com tcp 443 sni'])
  t.same(
    policy.denies.map((d) => d.host?.name),
    ['x.com', 'y.com'],
  )
  t.same(policy.limits, { memory: 1024 ** 3, pids: 5, time: 3600 })
  t.same([policy.description, policy.isolation, policy.ipv6], ['child', 'uid', false])
  t.same([policy.dns.maxTtl, policy.dns.rate, policy.dns.pinExtra], [30, 9, 120])
  t.same(policy.env.pass, ['A', 'B'])
  t.same(
    [...policy.env.set],
    [
      ['K', 'child'],
      ['L', 'base'],
    ],
  )
  t.same(policy.fs.write, ['./a', './b'])
})

t.test('what only shows when files come together', async (t) => {
  const grant = 'network: { allow: [{ host: a.com, inspect: http, credential: k }] }'
  const table: [string[], string][] = [
    [
      [`version: 1\n${grant}`],
      '0.yaml:2:62: no credential is named "k"; declare it: credentials: {k: {from: env:NAME, in: header:authorization}}',
    ],
    [
      ['version: 1\ncredentials: { k: { from: env:K, in: basic } }'],
      '0.yaml:2:16: the credential "k" is used by no grant; add credential: k to the grant that may carry it, or drop it',
    ],
    [
      [
        `version: 1\n${grant}\ncredentials: { k: { from: env:K, in: basic } }`,
        'version: 1\nnetwork: { allow: [a.com] }',
      ],
      '1.yaml:2:20: "a.com" port 443 has inspect: sni here and inspect: http at 0.yaml:2; drop this entry, or extend another policy',
    ],
  ]
  for (const [texts, expected] of table) {
    t.throws(() => policyOf(...texts), { message: expected })
  }
})

t.test('credential slots', async (t) => {
  const policy = await loadPolicy('moltbot')
  const all = [...policy.credentials.keys()]
  t.same(fillSlots(policy, new Set(all)).policy, policy)
  const none = fillSlots(policy, new Set())
  t.same(none.missing, [])
  t.same(none.empty.map(({ id }) => id).sort(), [...all].sort())
  t.equal(none.policy.credentials.size, 0)
  for (const grant of none.policy.grants) {
    t.same([grant.inspect, grant.rules, grant.credential], ['sni', [], undefined], grant.id)
  }
  const bot = fillSlots(policy, new Set(['slack'])).policy.grants.filter(
    (grant) => grant.host.name === 'slack.com',
  )
  t.same(
    bot.map((grant) => [grant.inspect, grant.credential]),
    [['http', 'slack']],
    'an empty slot opens no unpinned way beside a filled one',
  )
  const required = policyOf(`version: 1
network: { allow: [{ host: a.com, inspect: http, credential: k }] }
credentials: { k: { from: env:K, in: header:x-key } }`)
  t.same(
    fillSlots(required, new Set()).missing.map(({ id }) => id),
    ['k'],
  )
})

t.test('loading from disk', async (t) => {
  const dir = t.testdir({
    'my.yaml': 'version: 1\nextends: [openai, ./base.yaml]\n',
    'base.yaml': 'version: 1\nnetwork: { allow: [base.example.com] }\n',
    'bad.yaml': 'version: 1\nnaem: x\nextends: [also-bad.yaml]\n',
    'also-bad.yaml': 'version: 1\nnetwork: { allow: ["*"] }\n',
    'ring-a.yaml': 'version: 1\nextends: [ring-b.yaml]\n',
    'ring-b.yaml': 'version: 1\nextends: [./ring-a.yaml]\n',
    'lost.yaml': 'version: 1\nextends: [opnai]\n',
    'gone.yaml': 'version: 1\nextends: [openai, ./nope.yaml]\n',
    'open.yaml': 'version: 1\n',
    'theirs.yaml': 'version: 1\n',
    'big.yaml': `version: 1\n#${'x'.repeat(1024 * 1024)}\n`,
    'binary.yaml': Buffer.from([0xff, 0xfe, 0]),
    wide: { 'p.yaml': 'version: 1\n' },
  })
  const uid = process.getuid?.() ?? 0
  t.equal(uid, 0, 'needs root, to give files away')
  // Where the tests lie, a default access list may reign; with one, the group's bits are no more than its mask.
  execFileSync('setfacl', ['-R', '-b', dir])
  for (const file of readdirSync(dir)) chmodSync(join(dir, file), file === 'wide' ? 0o777 : 0o644)
  chmodSync(join(dir, 'wide', 'p.yaml'), 0o644)
  chmodSync(join(dir, 'open.yaml'), 0o664)
  chownSync(join(dir, 'theirs.yaml'), 4242, 4242)
  symlinkSync(join(dir, 'wide', 'p.yaml'), join(dir, 'link.yaml'))
  const options = { cwd: dir, callerUid: 0 }

  const mine = await loadPolicy('./my.yaml', options)
  t.same(shape(mine), ['g1 api.openai.com tcp 443 http', 'g2 base.example.com tcp 443 sni'])
  t.same([mine.name, mine.source], ['my', './my.yaml'])
  const both = await loadPolicies(['openai', 'bundle:telegram', 'base.yaml'], options)
  t.equal(both.name, 'openai+telegram+base')
  t.equal(both.grants.length, 3)

  const table: [string, string][] = [
    [
      'bad.yaml',
      `POLICY_INVALID bad.yaml:2:1: unknown key "naem" in the policy; did you mean name?\n${dir}/also-bad.yaml:2:20: "*" grants every name; name the hosts, e.g. api.example.com`,
    ],
    [
      'ring-a.yaml',
      `POLICY_INVALID ${dir}/ring-b.yaml:2:11: extends runs in a circle: ring-a.yaml -> ${dir}/ring-b.yaml -> ${dir}/ring-a.yaml; drop one of them`,
    ],
    [
      'lost.yaml',
      'POLICY_NOT_FOUND lost.yaml:2:11: no bundled policy is named "opnai" | did you mean openai? agentjail policy list shows all; a file needs its path: ./NAME.yaml',
    ],
    [
      'gone.yaml',
      `POLICY_INVALID gone.yaml:2:19: there is no policy file ${dir}/nope.yaml; a path starts from the directory of this file; a bundled policy has no slash`,
    ],
    [
      'telegrm',
      'POLICY_NOT_FOUND no bundled policy is named "telegrm" | did you mean telegram? agentjail policy list shows all; a file needs its path: ./NAME.yaml',
    ],
    [
      'a b; rm',
      'POLICY_NOT_FOUND no bundled policy is named "a b; rm" | agentjail policy list shows all; a file needs its path: ./NAME.yaml',
    ],
    [
      '../none',
      'POLICY_NOT_FOUND there is no policy file ../none | check the path; a bundled policy is named without a slash (agentjail policy list)',
    ],
    ['./wide', 'POLICY_NOT_FOUND ./wide is not a file | name a policy file, e.g. ./policy.yaml'],
    [
      'open.yaml',
      'POLICY_UNSAFE the policy open.yaml can be written by others (mode 664) | run: chmod go-w open.yaml',
    ],
    [
      'theirs.yaml',
      'POLICY_UNSAFE the policy theirs.yaml belongs to uid 4242 | it must belong to root or to you: chown 0 theirs.yaml',
    ],
    [
      'wide/p.yaml',
      `POLICY_UNSAFE ${dir}/wide, above the policy, can be written by others (mode 777) | run: chmod go-w ${dir}/wide`,
    ],
    [
      'link.yaml',
      `POLICY_UNSAFE ${dir}/wide, above the policy, can be written by others (mode 777) | run: chmod go-w ${dir}/wide`,
    ],
    ['big.yaml', 'POLICY_INVALID big.yaml is larger than 1 MiB | split it and use extends'],
    ['binary.yaml', 'POLICY_INVALID binary.yaml is not UTF-8 text | save it as plain UTF-8'],
  ]
  for (const [ref, expected] of table)
    t.equal(await failure(loadPolicy(ref, options)), expected, ref)
  const own = await loadPolicy('theirs.yaml', { cwd: dir, callerUid: 4242 })
  t.equal(own.name, 'theirs', "the caller's own file is taken")
})

t.test('agentjail policy list, show, check', async (t) => {
  const dir = t.testdir({ 'bad.yaml': 'version: 1\nnaem: x\nnetwork: { allow: ["*"] }\n' })
  chmodSync(join(dir, 'bad.yaml'), 0o644)
  const run = async (
    action: 'list' | 'show' | 'check',
    names: string[],
    more: { json?: boolean; yaml?: boolean } = {},
  ): Promise<{ code: number; out: string; err: string }> => {
    let [out, err] = ['', '']
    const io = {
      stdout: { write: (text: string) => (out += text) },
      stderr: { write: (text: string) => (err += text) },
    }
    const args = { action, names, json: false, ...more }
    const code = await policyCommand(args, io, { cwd: dir, callerUid: 0 })
    return { code, out, err }
  }
  const list = await run('list', [])
  t.match(list.out, /^openai-telegram +A Telegram bot that talks to OpenAI\.$/m)
  const show = await run('show', ['openai-telegram'])
  t.match(
    show.out,
    /^ {2}api\.openai\.com +tcp 443 +requests inspected, key openai +bundle:openai:\d+$/m,
  )
  t.match((await run('show', ['npm'], { yaml: true })).out, /^ {4}- host: registry\.npmjs\.org$/m)
  t.match(JSON.parse((await run('show', ['npm'], { json: true })).out), { policy: { name: 'npm' } })
  const check = await run('check', ['npm', './bad.yaml'])
  t.same(check, {
    code: 2,
    out: 'npm: ok\n',
    err: './bad.yaml:2:1: unknown key "naem" in the policy; did you mean name?\n./bad.yaml:3:20: "*" grants every name; name the hosts, e.g. api.example.com\n',
  })
  t.equal((await run('check', ['npm'])).code, 0)
  t.equal(
    await failure(run('check', [])),
    'USAGE policy check needs a policy | for example: agentjail policy check ./policy.yaml',
  )
})

t.test('any text ends in a layer or in problems, never in a throw', async (t) => {
  const piece = fc.constantFrom(
    ...'version: 1|\n|network:|  allow:|    - a.com|    - |{|}|[|]|: |"|#|&a |*a |!!x |- |credentials:|  k:|\t|null|1|__proto__: x|? |env: {set: |fs:|limits:|ports: [1-2]|host: '.split(
      '|',
    ),
  )
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
      const parsed = parsePolicy(pieces.join(''), 'p.yaml')
      return (parsed.layer === undefined) !== (parsed.problems === undefined)
    }),
    { numRuns: 500 },
  )
  t.pass()
})

t.test('a matcher of 10,000 names finds each', async (t) => {
  const entries = Array.from({ length: 10_000 }, (_, i) => ({
    host: { kind: 'exact' as const, name: `h${String(i)}.example.com` },
  }))
  const matcher = compileMatcher(entries)
  t.ok(entries.every((entry) => matcher.match(entry.host.name)[0] === entry))
  t.notOk(matcher.has('h10000.example.com'))
})

t.test('the examples in docs/policies.md are right', async (t) => {
  const text = readFileSync(join(bundleDir(), '..', 'docs', 'policies.md'), 'utf8')
  const examples = [...text.matchAll(/```yaml\n([^]*?)```/g)].map((match) => match[1] ?? '')
  t.ok(examples.length >= 3)
  for (const example of examples) {
    t.same(parsePolicy(example, 'docs').problems, undefined)
    t.ok(validate(parse(example)))
  }
  for (const name of Object.values(keys).flat()) t.ok(text.includes(name), `${name} is described`)
})
