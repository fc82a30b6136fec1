/** Reading what pfctl prints. */
import t from 'tap'
import {
  findDifference,
  parseReferences,
  parseServices,
  parseStates,
  parseTable,
} from '../../lib/backend/pf/listing.js'

t.test('services', (t) => {
  const services = parseServices('https 443/tcp # x\nhttp 80/tcp www\n#a 1/tcp\n')
  t.strictSame(
    [...services],
    [
      ['https/tcp', 443],
      ['http/tcp', 80],
      ['www/tcp', 80],
    ],
  )
  t.end()
})

t.test('references', (t) => {
  const text = `TOKENS:
PID      Process Name                 TOKEN                    TIMESTAMP
512      pfctl                        15837426475845698137     0 days 00:00:11
99       com.apple.Some Thing         15837426475845698138     1 days 00:00:11
`
  t.strictSame(
    [...parseReferences(text)],
    [
      ['15837426475845698137', 512],
      ['15837426475845698138', 99],
    ],
  )
  t.strictSame([...parseReferences('No pf starter references held\n')], [])
  t.end()
})

t.test('rules: ports by number or by name, addresses as macOS writes them', (t) => {
  const services = parseServices('https 443/tcp\nhttps 443/udp\n')
  const rule = (to: string, port: string): string =>
    `pass out quick on ! lo0 inet6 proto tcp from any to ${to} port = ${port} user = 1900000001 no state label "aj:1900000001:c1"`
  const cases: [listed: string, expected: string, isSame: boolean][] = [
    [rule('2001:db8::1', '443'), rule('2001:db8::1', '443'), true],
    [rule('2001:db8::1', 'https'), rule('2001:db8::1', '443'), true],
    [rule('2001:db8::1', 'imap'), rule('2001:db8::1', '443'), false],
    [rule('::0.5.0.6', '443'), rule('::5:6', '443'), true],
    [rule('::0.5.0.0/112', '443'), rule('::5:0/112', '443'), true],
    [rule('::0.5.0.7', '443'), rule('::5:6', '443'), false],
  ]
  for (const [listed, expected, isSame] of cases)
    t.equal(findDifference([expected], `${listed}\n`, services) === undefined, isSame, listed)
  t.match(findDifference(['a'], '', services), /^missing: a$/)
  t.match(findDifference([], 'pass all\n', services), /^unexpected: pass all$/)
  t.end()
})

t.test('tables', (t) => {
  t.strictSame(parseTable('   192.0.2.1\n   10.0.0.0/8\n   ::0.5.0.0/112\n  !2001:db8::\n'), [
    '192.0.2.1',
    '10.0.0.0/8',
    '::5:0/112',
    '!2001:db8::',
  ])
  t.end()
})

t.test('states: both ends, whatever stands between and around them', (t) => {
  const cases: [line: string, left: string, right: string][] = [
    [
      'ALL tcp 192.168.1.13:57474 -> 23.205.82.58:443       ESTABLISHED:ESTABLISHED',
      '192.168.1.13',
      '23.205.82.58',
    ],
    [
      'ALL udp 2001:db8::1[53] <- 2001:db8::2[999]       MULTIPLE:SINGLE',
      '2001:db8::1',
      '2001:db8::2',
    ],
    // Shared by NAT with a virtual machine; redirected; UDP filtered by address only.
    [
      'ALL tcp 192.168.64.2:5000 -> 192.168.1.10:61000 -> 203.0.113.25:465       ESTABLISHED:ESTABLISHED',
      '192.168.64.2',
      '203.0.113.25',
    ],
    [
      'en0 tcp 127.0.0.1:49582 <- 203.0.113.25:443 <- 192.168.1.10:5000    SYN_SENT:CLOSED',
      '127.0.0.1',
      '192.168.1.10',
    ],
    [
      'ALL udp 192.168.64.2:5000 -> 192.168.1.10:61000 -> ~203.0.113.25:3478       MULTIPLE:MULTIPLE',
      '192.168.64.2',
      '203.0.113.25',
    ],
    [
      'ALL udp 192.168.64.2:5000 -> 203.0.113.25~:3478       MULTIPLE:MULTIPLE',
      '192.168.64.2',
      '203.0.113.25',
    ],
    ['ALL esp 192.0.2.1:0000abcd -> 192.0.2.2       0:0', '192.0.2.1', '192.0.2.2'],
    ['ALL icmp 192.0.2.1:8 -> 192.0.2.2:12       0:0', '192.0.2.1', '192.0.2.2'],
    ['ALL ipv6-icmp ::0.5.0.6[8] -> 2001:db8::1[12]       0:0', '::5:6', '2001:db8::1'],
  ]
  for (const [line, left, right] of cases)
    t.strictSame(parseStates(`${line}\n`), [{ left, right }], line)
  t.strictSame(parseStates('STATES:\n   age 00:00:01, expires in 24:00:00\n'), [])
  t.end()
})
