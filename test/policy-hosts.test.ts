/** Host patterns and addresses: tables of what is taken and refused, and properties of the matcher. */
import fc from 'fast-check'
import { isIP } from 'node:net'
import t from 'tap'
import {
  canonicalAddress,
  classifyAddress,
  contains,
  formatCidr,
  parseAddress,
  parseCidr,
  unmapAddress,
} from '../lib/policy/addresses.js'
import {
  compileMatcher,
  formatHost,
  matchHost,
  normaliseName,
  parseHostPattern,
} from '../lib/policy/hosts.js'
import { isProblem } from '../lib/policy/problem.js'
import type { HostPattern } from '../lib/policy/types.js'

function pattern(text: string): HostPattern {
  const parsed = parseHostPattern(text)
  if (isProblem(parsed)) throw new Error(parsed.problem)
  return parsed
}

t.test('host patterns taken', async (t) => {
  const table: [string, HostPattern][] = [
    ['API.OpenAI.com.', { kind: 'exact', name: 'api.openai.com' }],
    ['*.slack.com', { kind: 'one', name: 'slack.com' }],
    ['**.slack.com', { kind: 'many', name: 'slack.com' }],
    ['_acme-challenge.example.com', { kind: 'exact', name: '_acme-challenge.example.com' }],
    ['xn--mnchen-3ya.example', { kind: 'exact', name: 'xn--mnchen-3ya.example' }],
    ['1.2.3.4.example.com', { kind: 'exact', name: '1.2.3.4.example.com' }],
  ]
  for (const [text, expected] of table) t.strictSame(parseHostPattern(text), expected, text)
  t.equal(formatHost(pattern('**.Slack.com')), '**.slack.com')
})

t.test('host patterns refused, with what would be right', async (t) => {
  const label = 'a'.repeat(64)
  const table: [string, string, string][] = [
    ['', 'the host is empty', 'write a name, e.g. api.example.com'],
    ['*', '"*" grants every name', 'name the hosts, e.g. api.example.com'],
    ['**', '"**" grants every name', 'name the hosts, e.g. api.example.com'],
    [
      'a.*.com',
      '"a.*.com" has a wildcard inside',
      'only a first label may be * (one label) or ** (one or more): *.example.com',
    ],
    [
      'api-*.example.com',
      '"api-*.example.com" has a wildcard inside',
      'only a first label may be * (one label) or ** (one or more): *.example.com',
    ],
    ['https://x.com/v1', '"https://x.com/v1" has a scheme', 'write the host alone: x.com'],
    [
      'x.com/v1',
      '"x.com/v1" has a path',
      'write the host alone: x.com; paths go under rules with inspect: http',
    ],
    ['me@x.com', '"me@x.com" has a user in it', 'write the host alone'],
    ['a.com b.com', '"a.com b.com" has a space in it', 'write one host an entry'],
    [
      'x.com:443',
      '"x.com:443" has a port in it',
      'write the port under ports, or HOST:PORT as a plain entry',
    ],
    ['10.0.0.1', '"10.0.0.1" is an address, not a name', 'put it under network.cidrs'],
    ['10.0.0.0/8', '"10.0.0.0/8" is an address, not a name', 'put it under network.cidrs'],
    ['0x7f.1', '"0x7f.1" is an address, not a name', 'put it under network.cidrs'],
    ['3405803842', '"3405803842" is an address, not a name', 'put it under network.cidrs'],
    ['[::1]', '"[::1]" is an address, not a name', 'put it under network.cidrs'],
    ['2001:db8::/32', '"2001:db8::/32" is an address, not a name', 'put it under network.cidrs'],
    [
      'münchen.example',
      '"m\\u{fc}nchen.example" is not in ASCII',
      'write its punycode: xn--mnchen-3ya.example',
    ],
    ['xn--a.example', '"xn--a.example" is not valid punycode', 'check the xn-- label'],
    ['a..com', '"a..com" has an empty label', 'one dot between labels'],
    ['a.com..', '"a.com.." has an empty label', 'one dot between labels'],
    [
      `${label}.com`,
      `a label of "${label.slice(0, 57)}..." has 64 characters`,
      'at most 63 (RFC 1035)',
    ],
    [`${'a.'.repeat(127)}com`, 'the host has 257 characters', 'at most 253 (RFC 1035)'],
    ['-a.com', '"-a.com": "-a" is not a host label', 'letters, digits and inner hyphens only'],
    ['a;b.com', '"a;b.com": "a;b" is not a host label', 'letters, digits and inner hyphens only'],
    ['intranet', '"intranet" has one label', 'write its full name'],
    ['x._tcp', '"x._tcp" ends in no top-level domain', 'write a full name, e.g. api.example.com'],
  ]
  for (const [text, problem, hint] of table) {
    t.strictSame(parseHostPattern(text), { problem, hint }, text.slice(0, 40))
  }
})

t.test('names are normalised or refused', async (t) => {
  t.equal(normaliseName('API.OpenAI.COM.'), 'api.openai.com')
  for (const bad of [
    '',
    '.',
    'localhost',
    'a..b',
    'a.b..',
    '10.0.0.1',
    '::1',
    '*.a.com',
    'a b.com',
  ]) {
    t.equal(normaliseName(bad), undefined, bad)
  }
})

t.test('a wildcard covers what it visibly covers', async (t) => {
  const table: [string, string, boolean][] = [
    ['a.com', 'a.com', true],
    ['a.com', 'x.a.com', false],
    ['*.a.com', 'a.com', false],
    ['*.a.com', 'x.a.com', true],
    ['*.a.com', 'y.x.a.com', false],
    ['*.a.com', 'xa.com', false],
    ['**.a.com', 'a.com', false],
    ['**.a.com', 'x.a.com', true],
    ['**.a.com', 'y.x.a.com', true],
    ['**.a.com', 'ba.com', false],
    ['**.a.com', 'x.a.com.evil.com', false],
  ]
  for (const [text, name, expected] of table) {
    t.equal(matchHost(pattern(text), name), expected, `${text} ${name}`)
  }
})

const label = fc.constantFrom('a', 'b', 'c', 'ab', 'x1')
const name = fc.array(label, { minLength: 1, maxLength: 5 }).map((l) => `${l.join('.')}.com`)
const anyPattern = fc.record({
  kind: fc.constantFrom('exact' as const, 'one' as const, 'many' as const),
  name,
})

/** Written from the definition, label by label, without string tricks. */
function covers(p: HostPattern, host: string): boolean {
  const [have, want] = [host.split('.').reverse(), p.name.split('.').reverse()]
  if (!want.every((l, i) => have[i] === l)) return false
  const extra = have.length - want.length
  return p.kind === 'exact' ? extra === 0 : p.kind === 'one' ? extra === 1 : extra >= 1
}

t.test('the compiled matcher and the plain one agree with the definition', async (t) => {
  fc.assert(
    fc.property(fc.array(anyPattern, { maxLength: 20 }), name, (patterns, host) => {
      const entries = patterns.map((p, id) => ({ id, host: p }))
      const expected = entries.filter((e) => covers(e.host, host)).map((e) => e.id)
      const plain = entries.filter((e) => matchHost(e.host, host)).map((e) => e.id)
      const compiled = compileMatcher(entries).match(host)
      const rank = (e: (typeof entries)[number]): number =>
        ['exact', 'one', 'many'].indexOf(e.host.kind) * 1000 - e.host.name.length
      const ranks = compiled.map(rank)
      return (
        plain.join() === expected.join() &&
        compiled
          .map((e) => e.id)
          .sort((a, b) => a - b)
          .join() === expected.join() &&
        ranks.every((r, i) => i === 0 || r >= (ranks[i - 1] ?? 0))
      )
    }),
    { numRuns: 2000 },
  )
  t.pass()
})

t.test('addresses: only what Node also takes, in canonical form', async (t) => {
  const texts = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.ipV4Extended(),
    fc.stringMatching(/^[0-9a-f:.]{0,20}$/),
  )
  fc.assert(
    fc.property(texts, (text) => {
      const family = isIP(text)
      const bytes = parseAddress(text)
      if (family === 0) return bytes === undefined
      const canonical = canonicalAddress(text) ?? ''
      // The URL parser is the second opinion on canonical IPv6.
      const url = family === 6 ? new URL(`http://[${text}]/`).hostname.slice(1, -1) : text
      return bytes?.length === (family === 4 ? 4 : 16) && canonical === url
    }),
    { numRuns: 5000 },
  )
  t.equal(unmapAddress('::ffff:203.0.113.10'), '203.0.113.10')
  t.equal(unmapAddress('2001:DB8:0:0::1'), '2001:db8::1')
  t.equal(unmapAddress('fe80::1%eth0'), undefined)
})

t.test('CIDRs', async (t) => {
  for (const ok of ['203.0.113.0/24', '203.0.113.7', '2001:db8::/32', '0.0.0.0/0', '::/0', '::1']) {
    const cidr = parseCidr(ok)
    t.equal(isProblem(cidr) ? cidr.problem : formatCidr(cidr), ok)
  }
  const refused: [string, string, string][] = [
    ['203.0.113.7/24', '"203.0.113.7/24" has bits set after its prefix', 'write 203.0.113.0/24'],
    [
      '203.0.113.010',
      '"203.0.113.010" is not a plain IPv4 address',
      'write four decimal numbers 0-255 without leading zeros, e.g. 203.0.113.0/24',
    ],
    [
      '0xcb007142',
      '"0xcb007142" is not a plain IPv4 address',
      'write four decimal numbers 0-255 without leading zeros, e.g. 203.0.113.0/24',
    ],
    [
      '10/8',
      '"10/8" is not a plain IPv4 address',
      'write four decimal numbers 0-255 without leading zeros, e.g. 203.0.113.0/24',
    ],
    ['10.0.0.0/33', '"10.0.0.0/33" has no valid prefix length', 'write 0 to 32 after the slash'],
    ['10.0.0.0/08', '"10.0.0.0/08" has no valid prefix length', 'write 0 to 32 after the slash'],
    ['10.0.0.0/', '"10.0.0.0/" has no valid prefix length', 'write 0 to 32 after the slash'],
    [
      'fe80::1%eth0',
      '"fe80::1%eth0" has a zone id',
      'write the address without % and what follows',
    ],
    ['::ffff:10.0.0.1', '"::ffff:10.0.0.1" is IPv4 mapped into IPv6', 'write 10.0.0.1 instead'],
    ['2001:DB8::/32', '"2001:DB8::/32" is not in canonical form', 'write 2001:db8::/32'],
    [
      'example.com',
      '"example.com" is not an address',
      'write an address or CIDR, e.g. 203.0.113.0/24',
    ],
  ]
  for (const [text, problem, hint] of refused)
    t.strictSame(parseCidr(text), { problem, hint }, text)
  const inside: [string, string, boolean][] = [
    ['160.79.104.0/23', '160.79.105.255', true],
    ['160.79.104.0/23', '160.79.106.0', false],
    ['2607:6bc0::/48', '2607:6bc0:0:ffff::1', true],
    ['2607:6bc0::/48', '2607:6bc0:1::1', false],
    ['0.0.0.0/0', '::1', false],
    ['::/0', '1.2.3.4', false],
    ['10.0.0.0/8', 'x', false],
  ]
  for (const [cidrText, address, expected] of inside) {
    const cidr = parseCidr(cidrText)
    t.equal(!isProblem(cidr) && contains(cidr, address), expected, `${cidrText} ${address}`)
  }
})

t.test('classes of addresses', async (t) => {
  const table: Record<string, string> = {
    public:
      '1.1.1.1 203.0.113.10 192.0.2.1 198.51.100.7 2606:4700::1 2001:db8::1 2001:4860:4860::8888 172.15.255.255 172.32.0.0 100.63.255.255 100.128.0.0 198.17.255.255 198.20.0.0 223.255.255.255 9.255.255.255 11.0.0.0',
    private: '10.0.0.1 172.16.0.0 172.31.255.255 192.168.1.1 fc00::1 fdff::1',
    shared: '100.64.0.0 100.127.255.255',
    loopback: '127.0.0.1 127.255.255.255 ::1',
    'link-local': '169.254.0.1 fe80::1 febf::1',
    metadata:
      '169.254.169.254 169.254.170.2 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 fd20:ce::254',
    multicast: '224.0.0.1 239.255.255.255 ff02::1',
    unspecified: '0.0.0.0 0.1.2.3 ::',
    benchmark: '198.18.0.1 198.19.255.255 2001:2::1',
    reserved: '192.0.0.8 240.0.0.1 255.255.255.255 fec0::1 100::1 4000::1 2001:10::1 2001:20::1',
    translated:
      '::ffff:8.8.8.8 ::8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::a00:1 64:ff9b:1::1 2002:a00:1::1 2001::1 192.88.99.1',
    invalid: 'example.com 10.1 010.0.0.1 fe80::1%eth0 ',
  }
  for (const [expected, addresses] of Object.entries(table)) {
    for (const address of addresses.split(' ')) t.equal(classifyAddress(address), expected, address)
  }
})
