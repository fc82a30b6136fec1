/**
 * `allow` and `deny` on a policy in force, and the policy that `learn` writes: all by value.
 * Judge of what is open: the gate's own reading of a policy (`Grants`), not the code under test.
 */
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { JailError } from '../lib/errors.js'
import { Grants } from '../lib/gate/grants.js'
import { allowIn, denyIn } from '../lib/learn/amend.js'
import { parseDestination } from '../lib/learn/destination.js'
import { learnedPolicy } from '../lib/learn/learned.js'
import { Observer } from '../lib/learn/observe.js'
import { learnRules } from '../lib/learn/rules.js'
import { addToPolicyText, extendingPolicyText } from '../lib/learn/policy-file.js'
import { gatePolicy } from '../lib/plan/compile.js'
import { composeLayers } from '../lib/policy/compose.js'
import { parsePolicy } from '../lib/policy/parse.js'
import type { Policy } from '../lib/policy/types.js'

const load = (text: string): Policy => {
  const { layer, problems } = parsePolicy(text, 'p.yaml')
  if (layer === undefined) throw new Error(JSON.stringify(problems))
  const composed = composeLayers([layer], [{ name: 'p', source: 'p.yaml' }])
  if (composed.policy === undefined) throw new Error(JSON.stringify(composed.problems))
  return composed.policy
}

/** Whether the gate would let a connection through by this policy. */
const opens = (policy: Policy, place: string): boolean => {
  const [, host = '', port, proto] = /^(.*):(\d+)(?:\/(udp))?$/.exec(place) ?? []
  if (host === 'localhost') return policy.loopback.connect.includes(Number(port))
  const grants = new Grants(gatePolicy(policy, []), [])
  const kind = proto === 'udp' ? 'udp' : 'tcp'
  return /^[0-9.]+$|:/.test(host)
    ? grants.forAddress(host, Number(port), kind) !== undefined
    : grants.forPort(host, Number(port), kind).length > 0
}

const base = load(`version: 1
network:
  allow:
    - a.example.com
    - { host: many.example.com, ports: [443, 8000-8010] }
    - '*.wild.example.com'
    - localhost:3000
  cidrs: [{ cidr: 192.0.2.0/24, ports: [22, 25] }, { cidr: 198.51.100.7, ports: [53000], proto: udp }]
  deny: [denied.example.com]
`)

t.test('allow opens exactly that', (t) => {
  const cases: [text: string, opened: string, stillClosed: string[]][] = [
    ['b.example.com', 'b.example.com:443', ['b.example.com:80', 'x.b.example.com:443']],
    ['b.example.com:5432', 'b.example.com:5432', ['b.example.com:443']],
    ['b.example.com:123/udp', 'b.example.com:123/udp', ['b.example.com:123']],
    ['a.example.com:22', 'a.example.com:22', ['a.example.com:80']],
    ['203.0.113.9:25', '203.0.113.9:25', ['203.0.113.8:25', '203.0.113.9:26']],
    ['[2001:db8::9]:25', '2001:db8::9:25', ['2001:db8::8:25']],
    ['203.0.113.9:5000/udp', '203.0.113.9:5000/udp', ['203.0.113.9:5000']],
    ['localhost:4000', 'localhost:4000', ['localhost:4001']],
  ]
  for (const [text, opened, closed] of cases) {
    t.notOk(opens(base, opened), `${text}: closed before`)
    const { policy, changed } = allowIn(base, parseDestination(text, 'agentjail allow'))
    t.ok(changed, text)
    t.ok(opens(policy, opened), `${text} opens ${opened}`)
    for (const place of closed) t.notOk(opens(policy, place), `${text} does not open ${place}`)
    t.same(policy.grants.slice(0, base.grants.length), base.grants, 'the others keep their ids')
    const ids = [...policy.grants, ...policy.cidrs].map(({ id }) => id)
    t.equal(new Set(ids).size, ids.length, 'ids are unique')
    t.notOk(allowIn(policy, parseDestination(text, 'x')).changed, 'twice changes nothing')
    const back = denyIn(policy, parseDestination(text, 'agentjail deny'))
    t.notOk(opens(back.policy, opened), `deny takes ${text} back`)
  }
  t.end()
})

t.test('deny closes it', (t) => {
  const cases: [text: string, closed: string[], stillOpen: string[]][] = [
    ['a.example.com', ['a.example.com:443'], ['many.example.com:443']],
    [
      'many.example.com:8003',
      ['many.example.com:8003'],
      ['many.example.com:443', 'many.example.com:8002', 'many.example.com:8004'],
    ],
    ['many.example.com', ['many.example.com:443', 'many.example.com:8000'], ['a.example.com:443']],
    ['x.wild.example.com', ['x.wild.example.com:443'], ['y.wild.example.com:443']],
    ['*.wild.example.com', ['x.wild.example.com:443'], ['a.example.com:443']],
    ['localhost:3000', ['localhost:3000'], []],
    ['192.0.2.1', ['192.0.2.1:22', '192.0.2.1:25'], ['192.0.2.2:22']],
    ['198.51.100.7:53000/udp', ['198.51.100.7:53000/udp'], ['192.0.2.2:22']],
  ]
  for (const [text, closed, open] of cases) {
    for (const place of [...closed, ...open]) t.ok(opens(base, place), `${place}: open before`)
    const { policy } = denyIn(base, parseDestination(text, 'agentjail deny'))
    for (const place of closed) t.notOk(opens(policy, place), `${text} closes ${place}`)
    for (const place of open) t.ok(opens(policy, place), `${text} leaves ${place}`)
    t.notOk(denyIn(policy, parseDestination(text, 'x')).changed, 'twice changes nothing')
  }
  const one = denyIn(base, parseDestination('x.wild.example.com', 'agentjail deny')).policy
  const again = allowIn(one, parseDestination('x.wild.example.com', 'agentjail allow'))
  t.ok(again.changed && opens(again.policy, 'x.wild.example.com:443'), 'allow lifts its own denial')
  t.end()
})

t.test('refused', (t) => {
  const cases: [run: () => unknown, message: RegExp, hint: RegExp][] = [
    [() => parseDestination('*.com', 'x'), /"\*\.com"/, /domain/],
    [() => parseDestination('*', 'x'), /every name/, /./],
    [() => parseDestination('https://a.example.com', 'x'), /./, /HOST|host/],
    [() => parseDestination('a.example.com:0', 'x'), /port 0/, /1 to 65535/],
    [() => parseDestination('a.example.com:99999', 'x'), /99999/, /65535/],
    [() => parseDestination('a.example.com:53', 'x'), /DNS/, /./],
    [() => parseDestination('169.254.169.254', 'x'), /./, /./],
    [() => parseDestination('localhost', 'x'), /loopback/, /localhost:PORT/],
    [() => parseDestination('localhost:53/udp', 'x'), /loopback/, /localhost:PORT/],
    [() => parseDestination('', 'x'), /destination/, /HOST:PORT/],
    [() => parseDestination('a b.example.com', 'x'), /space/, /./],
    [
      () => allowIn(base, parseDestination('denied.example.com', 'x')),
      /denied at p.yaml:9/,
      /remove that line/,
    ],
    [
      () => denyIn(base, parseDestination('x.wild.example.com:443', 'x')),
      /wider grant at p.yaml:6/,
      /deny NAME x.wild.example.com;/,
    ],
    [() => denyIn(base, parseDestination('192.0.2.1:22', 'x')), /wider grant/, /192\.0\.2\.1/],
  ]
  for (const [run, message, hint] of cases) {
    try {
      run()
      t.fail(`${String(run)} does not throw`)
    } catch (error) {
      t.ok(error instanceof JailError, String(error))
      t.match((error as JailError).message, message)
      t.match((error as JailError).hint, hint, (error as JailError).message)
    }
  }
  t.end()
})

t.test('a policy file keeps what it says', (t) => {
  const add = (text: string, to: string) =>
    addToPolicyText(text, parseDestination(to, 'agentjail allow'), 'p.yaml')
  const file = `# mine
version: 1
name: p # a name
network:
  allow:
    # the first
    - a.example.com

  deny: [x.example.com] # never
`
  t.equal(
    add(file, 'b.example.com:22'),
    file.replace('a.example.com\n', 'a.example.com\n    - b.example.com:22\n'),
  )
  t.equal(
    add('version: 1\n', 'b.example.com'),
    'version: 1\nnetwork:\n  allow:\n    - b.example.com\n',
  )
  t.equal(
    add('version: 1\nnetwork: { allow: [a.example.com] }\n', 'b.example.com'),
    'version: 1\nnetwork: {allow: [a.example.com, b.example.com]}\n',
  )
  t.match(add('version: 1\nnetwork:\n', '203.0.113.9:25'), /cidrs:\n +- cidr: 203.0.113.9\/32/)
  t.throws(() => add('version: 1\nnetwork: 3\n', 'b.example.com'), { code: 'POLICY_INVALID' })
  t.throws(() => add(file, 'x.example.com'), { message: /denied on line/ })
  const made = load(extendingPolicyText('bot', ['npm'], parseDestination('b.example.com:22', 'x')))
  t.ok(opens(made, 'b.example.com:22'))
  t.end()
})

const out = { direction: 'out', proto: 'tcp', verdict: 'allow', reason: 'granted' } as const
const seen = (name: string, port: number, layer: 'sni' | 'tcp') => [
  { ...out, layer, name, port, address: '192.0.2.1' } as const,
  { ...out, layer, name, port, address: '192.0.2.1', up: 10, down: 20 } as const,
]

t.test('observations to a policy', (t) => {
  const observer = new Observer()
  observer.add([
    ...seen('b.example.com', 443, 'sni'),
    ...seen('b.example.com', 22, 'tcp'),
    ...seen('bare.example.com', 443, 'tcp'),
    ...seen('one.example.com', 443, 'sni'),
    { ...out, layer: 'tcp', address: '192.0.2.9', port: 8080 },
    { ...out, layer: 'dns', name: 'asked.example.com', port: 53 },
    { ...out, layer: 'sni', name: 'had.example.com', port: 443, grant: 'g1' },
    {
      ...out,
      verdict: 'deny',
      reason: 'address-private',
      layer: 'tcp',
      address: '10.0.0.1',
      port: 80,
    },
  ])
  const bundle = (name: string, ...hosts: string[]) => ({
    name,
    policy: load(JSON.stringify({ version: 1, network: { allow: hosts } })),
  })
  const request = {
    name: 'p',
    command: 'node',
    observed: observer.result(),
    bundles: [bundle('one', 'one.example.com'), bundle('two', 'b.example.com', 'more.example.com')],
    bases: [],
    pass: ['KEY_NAME'],
    http: false,
  }
  const text = learnedPolicy(request)
  t.match(text, /^extends:\n {2}- one # one\.example\.com\nnetwork:/m, 'only what opens no more')
  t.match(text, /^ {2}# {3}- asked\.example\.com$/m)
  t.match(text, /^ {2}# {3}10\.0\.0\.1:80 tcp: private/m)
  const learned = load(text.replace(/^extends:\n.*\n/m, ''))
  const places = ['b.example.com:443', 'b.example.com:22', 'bare.example.com:443', '192.0.2.9:8080']
  for (const place of places) t.ok(opens(learned, place), place)
  const closed = [
    'asked.example.com:443',
    'more.example.com:443',
    'had.example.com:443',
    '10.0.0.1:80',
  ]
  for (const place of closed) t.notOk(opens(learned, place), place)
  t.equal(learned.grants.find(({ host }) => host.name === 'bare.example.com')?.inspect, 'none')
  const nothing = { ...request, observed: new Observer().result(), pass: [] }
  t.equal(load(learnedPolicy(nothing)).grants.length, 0, 'nothing seen is a policy too')
  t.same(learnRules(['GET /v1/items/12', 'GET /v1/items/13', 'POST /x/{token}/send']), [
    { method: 'GET', path: '/v1/items/*' },
    { method: 'POST', path: '/x/*/send' },
  ])
  t.same(learnRules(['GET /@scope%2fname']), [], 'no rule can name an encoded slash')
  t.end()
})

t.test('a full disk under the new file is told as such', (t) => {
  const module = new URL('../lib/learn/new-file.js', import.meta.url).href
  const program = `
    const { planNewFile } = await import(${JSON.stringify(module)})
    try {
      planNewFile('/mnt/x.yaml', 'x.yaml', { uid: 0, gid: 0 }).write('version: 1'.repeat(1000))
    } catch ({ code, message }) {
      console.log(code, message)
    }`
  const full = 'mount -t tmpfs -o size=4k none /mnt && cd /mnt && exec "$@"'
  const { stdout, stderr } = spawnSync(
    'unshare',
    ['--mount', 'sh', '-c', full, 'sh', process.execPath, '--input-type=module', '-e', program],
    { encoding: 'utf8', timeout: 20_000 },
  )
  t.match(stdout, /^STATE x\.yaml cannot be written: .*ENOSPC/, stderr)
  t.end()
})
