/** What pf logs of a jail, as decisions. */
import t from 'tap'
import { parseLogLine } from '../../lib/backend/pf/log.js'
import { mail, openJail, setUp } from './backend-kit.js'
import { policy } from './policies.js'
import { uidOf } from './rulesets.js'

t.test('denials of the kernel', async (t) => {
  const { mac, backend } = setUp()
  const hold = await openJail(backend, mail)
  await openJail(backend, policy('other'), 1)
  const rules = (mac.state.pf.anchors['com.apple/agentjail'] ?? '')
    .split('\n')
    .filter((line) => /^(pass|block)/.test(line))
  const line = (uid: number, what: string, packet: string): string => {
    const index = rules.findIndex((rule) => rule.includes(`"aj:${String(uid)}:${what}"`))
    return `13:00:00.000001 rule 4.agentjail.${String(index)}/0(match): block ${what.includes('-in-') ? 'in' : 'out'} on en0: ${packet}`
  }
  const session = mac.sessions[0]
  session?.say(
    line(
      uidOf(0),
      'deny-out-tcp',
      '192.168.1.10.51234 > 203.0.113.66.443: Flags [S], seq 1, length 0',
    ),
  )
  session?.say(
    line(
      uidOf(0),
      'deny-out-tcp',
      '192.168.1.10.51234 > 203.0.113.66.443: Flags [S], seq 1, length 0',
    ),
  )
  session?.say(
    line(
      uidOf(0),
      'deny-out-tcp',
      '2001:db8:f::10.51234 > 2001:db8::66.465: Flags [S], seq 1, length 0',
    ),
  )
  session?.say(
    line(uidOf(0), 'deny-out-udp', '192.168.1.10.5353 > 8.8.8.8.53: 4660+ A? evil.example. (30)'),
  )
  session?.say(line(uidOf(0), 'deny-in-udp', '203.0.113.66.9 > 192.168.1.10.4000: UDP, length 3'))
  session?.say(line(uidOf(1), 'deny-out-tcp', '192.168.1.10.1 > 203.0.113.77.443: Flags [S]'))
  session?.say(
    '13:00:00.000001 rule 3/0(match): block out on en0: 192.168.1.10.1 > 203.0.113.78.443: Flags [S]',
  )
  session?.say('tcpdump: nonsense')
  const common = { verdict: 'deny', layer: 'kernel', direction: 'out', count: 1 }
  t.strictSame(await hold.denials(), [
    {
      ...common,
      proto: 'tcp',
      address: '203.0.113.66',
      port: 443,
      reason: 'port-not-granted',
      count: 2,
    },
    { ...common, proto: 'tcp', address: '2001:db8::66', port: 465, reason: 'address-not-granted' },
    { ...common, proto: 'udp', address: '8.8.8.8', port: 53, reason: 'port-not-granted' },
    {
      ...common,
      direction: 'in',
      proto: 'udp',
      address: '203.0.113.66',
      port: 4000,
      reason: 'port-not-granted',
    },
  ])
  t.strictSame(await hold.denials(), [])
  t.equal(
    parseLogLine(
      '13:00:00.000001 rule 4.agentjail.1/0(match): block out on en0: $(x) > 1.1.1.1.443: Flags',
    ),
    undefined,
  )
})
