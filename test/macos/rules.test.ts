/** The text of rules: golden files, the strict grammar, and what pfctl would list. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'

import t from 'tap'
import { isAnchorPath, label, parseLabel } from '../../lib/backend/pf/names.js'
import {
  listedRedirects,
  listedRules,
  printRule,
  printRuleset,
} from '../../lib/backend/pf/print.js'
import type { PfRule } from '../../lib/backend/pf/types.js'
import { loadPolicy } from '../../lib/policy/loader.js'
import { formatRule } from './model/pf/format.js'
import { parsePf } from './model/pf/parse.js'
import { goldenPolicies } from './policies.js'
import { jailOf, noNames, rulesetOf } from './rulesets.js'

const goldenDir = new URL('../../../test/golden/', import.meta.url)

t.test('each policy compiles to its golden file', async (t) => {
  const all = goldenPolicies.map(jailOf)
  const cases: [string, string][] = [
    ...all.map((jail): [string, string] => [jail.name, printRuleset(rulesetOf([jail]))]),
    ['no-jail', printRuleset(rulesetOf([]))],
    ['all-together', printRuleset(rulesetOf(all))],
  ]
  for (const [name, text] of cases) {
    const file = new URL(`${name}.pf`, goldenDir)
    if (process.env['UPDATE_GOLDEN'] === '1' || (!existsSync(file) && process.env['CI'] !== 'true'))
      writeFileSync(file, text)
    t.equal(text, readFileSync(file, 'utf8'), `${name}.pf (UPDATE_GOLDEN=1 writes it anew)`)
  }
})

t.test('bundled policies: golden files, and the strict parser takes each', async (t) => {
  const names = readdirSync(new URL('../../../policies/', import.meta.url))
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => file.slice(0, -'.yaml'.length))
    .sort()
  t.ok(names.length > 20)
  for (const name of names) {
    const policy = await loadPolicy(name)
    const ruleset = rulesetOf([jailOf(policy, 0)])
    const { statements } = parsePf(printRuleset(ruleset), noNames)
    const listing = statements.filter(({ kind }) => kind === 'filter')
    t.strictSame(
      listing.map((rule) => formatRule(rule, new Map())),
      listedRules(ruleset),
      name,
    )
    if (!['openai-telegram', 'gmail', 'github-ssh', 'coding-agent', 'moltbot'].includes(name))
      continue
    const file = new URL(`bundled-${name}.pf`, goldenDir)
    const text = printRuleset(ruleset)
    if (process.env['UPDATE_GOLDEN'] === '1') writeFileSync(file, text)
    t.equal(text, readFileSync(file, 'utf8'), `bundled-${name}.pf`)
  }
})

t.test('the strict parser takes it, and lists it as agentjail expects it back', async (t) => {
  for (const [index, policy] of goldenPolicies.entries()) {
    const ruleset = rulesetOf([jailOf(policy, index)])
    const { statements } = parsePf(printRuleset(ruleset), noNames)
    const listing = (kind: string) =>
      statements.filter((rule) => rule.kind === kind).map((rule) => formatRule(rule, new Map()))
    t.strictSame(listing('filter'), listedRules(ruleset), policy.name)
    t.strictSame(listing('rdr'), listedRedirects(ruleset), policy.name)
  }
})

t.test('the strict parser refuses what pfctl refuses', async (t) => {
  const cases: [string, string, RegExp][] = [
    ['no final newline', 'pass out quick all no state', /syntax error/],
    ['comma before a newline', 'table <a> persist { 192.0.2.1,\n 192.0.2.2 }\n', /syntax error/],
    ['range of users with a colon', 'block out proto tcp all user 500:510\n', /unknown user/],
    ['negative user', 'block out proto tcp all user -2\n', /unknown user|illegal uid|syntax/],
    ['uid of nobody', 'block out proto tcp all user = 2147483647\n', /illegal uid value/],
    ['users without spaces', 'block out proto tcp all user 5><10\n', /unknown user 5/],
    ['state of a block', 'block out proto tcp all keep state\n', /doesn't make sense/],
    ['flags that never match', 'pass out proto tcp all flags A/S no state\n', /always false/],
    ['a word of pf as interface', 'pass out on log all no state\n', /syntax error/],
    ['a word of pf as table', 'table <log> persist\n', /syntax error/],
    ['a dot first', 'pass out inet from .1.2.3 to any no state\n', /syntax error/],
    ['route without direction', 'pass route-to (lo0 127.0.0.1) inet all\n', /direction must be/],
    ['route of the other family', 'pass out route-to (lo0 ::1) inet all\n', /no routing address/],
    [
      'redirect to the other family',
      'rdr on lo0 inet proto tcp from any to any port 53 -> ::1\n',
      /no translation address/,
    ],
    [
      'redirect of all ports but one',
      'rdr on lo0 inet proto tcp from any to any port != 53 -> 127.0.0.1\n',
      /invalid port operator/,
    ],
    ['range of ports with a hyphen', 'block out proto tcp to port 80-90\n', /unknown port 80-90/],
    ['user before proto', 'block out user 503 proto tcp all\n', /syntax error/],
    ['unknown user', 'block out proto tcp all user nobody-here\n', /unknown user/],
    ['flags on udp', 'pass out proto udp all flags any no state\n', /flags only apply to tcp/],
    ['port without proto', 'block out from any to any port 53\n', /port only applies/],
    ['port too high', 'block out proto tcp from any to any port 65536\n', /illegal port value/],
    ['wildcard name', 'table <a> persist { *.example.com }\n', /syntax error/],
    ['unknown name', 'table <a> persist { gone.example }\n', /no IP address found/],
    ['two labels', 'pass out all no state label "a" label "b"\n', /redefined/],
    ['long label', `pass out all no state label "${'a'.repeat(64)}"\n`, /label too long/],
    ['long table', `table <${'a'.repeat(32)}> persist\n`, /table name too long/],
    ['families mixed', 'pass inet proto tcp from any to ::1 no state\n', /no valid combination/],
    [
      'filter before rdr',
      'pass out all no state\nrdr pass on lo0 inet proto tcp all -> 127.0.0.1\n',
      /order/,
    ],
    ['hidden anchor', 'anchor "_mine" all\n', /reserved for internal use/],
    ['half a redirect', 'rdr pass on lo0 inet proto tcp from any to any\n', /syntax error/],
    ['unknown macro', 'pass out on $ext all no state\n', /macro 'ext' not defined/],
    ['divert', 'pass out all divert-to 127.0.0.1 port 1\n', /syntax error/],
    ['match', 'match out all\n', /syntax error/],
  ]
  for (const [name, text, message] of cases)
    t.throws(() => parsePf(text, noNames), { message }, name)
})

t.test('the printer refuses values that no type should have let in', async (t) => {
  const rule: PfRule = {
    action: 'block',
    direction: 'out',
    log: true,
    proto: 'tcp',
    from: { address: { kind: 'any' } },
    to: { address: { kind: 'any' }, port: { op: '=', port: 443 } },
    user: { kind: 'is', uid: 1_900_000_001 },
    label: 'aj:1:x',
  }
  t.equal(
    printRule(rule, 'file'),
    'block return out log quick proto tcp from any to any port = 443 user = 1900000001 label "aj:1:x"',
  )
  const cases: [string, Partial<PfRule>][] = [
    ['user root', { user: { kind: 'is', uid: 0 } }],
    ['user beyond 32 bits', { user: { kind: 'is', uid: 0xffff_ffff } }],
    ["macOS's number for no user", { user: { kind: 'is', uid: 0x7fff_ffff } }],
    ['empty uid range', { user: { kind: 'between', above: 5, below: 6 } }],
    ['port 0', { to: { address: { kind: 'any' }, port: { op: '=', port: 0 } } }],
    [
      'port range upside down',
      { to: { address: { kind: 'any' }, port: { op: ':', first: 9, last: 8 } } },
    ],
    ['interface group', { interface: { name: 'utun', not: false } }],
    ['interface with a rule in it', { interface: { name: 'lo0 all\npass', not: false } }],
    ['label that ends itself', { label: 'a" no state' }],
    ['label with a macro', { label: '$if' }],
    [
      'table with a rule in it',
      { to: { address: { kind: 'table', name: 'a>\npass all', not: false } } },
    ],
    [
      'literal without family',
      { to: { address: { kind: 'cidr', cidr: { family: 4, address: '192.0.2.1', prefix: 32 } } } },
    ],
    [
      'address with text',
      {
        family: 4,
        to: {
          address: { kind: 'cidr', cidr: { family: 4, address: '192.0.2.1 any', prefix: 32 } },
        },
      },
    ],
    ['flags on udp', { proto: 'udp', flags: 'S/SA' }],
    ['state on block', { state: 'none' }],
    [
      'route-to inwards',
      {
        action: 'pass',
        state: 'keep',
        direction: 'in',
        routeTo: { interface: 'lo0', address: '127.0.0.1' },
      },
    ],
  ]
  for (const [name, change] of cases)
    t.throws(() => printRule({ ...rule, ...change }, 'file'), { code: 'BACKEND' }, name)
})

t.test('names', async (t) => {
  t.strictSame(parseLabel(label(1_900_000_001, 'deny-out-tcp')), {
    uid: 1_900_000_001,
    what: 'deny-out-tcp',
  })
  t.strictSame(parseLabel('aj:base:deny-in-udp'), { uid: undefined, what: 'deny-in-udp' })
  t.equal(parseLabel('somebody else'), undefined)
  const paths: [string, boolean][] = [
    ['com.apple/agentjail', true],
    ['agentjail', true],
    ['com.apple/agentjail/503', false],
    ['com.apple', false],
    ['agentjail/x', false],
    ['_agentjail', false],
    ['com.apple/_agentjail', false],
    ['com.apple/250.ApplicationFirewall', false],
    ['com.apple/200.AirDrop.x', false],
    ['com.apple/agentjail-too-long', false],
    ['', false],
    ['com.apple/*', false],
  ]
  for (const [path, valid] of paths) t.equal(isAnchorPath(path), valid, JSON.stringify(path))
})
