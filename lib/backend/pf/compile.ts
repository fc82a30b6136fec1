/**
 * All running jails -> the one ruleset of agentjail's anchor. Pure.
 * Invariant: the last rules deny every TCP and UDP packet of the reserved uid range, and each jail's own
 * rules end in a denial of its uid; what passes before them is what its policy grants, and nothing else.
 *
 * Why it looks as it does (pf.conf(5), xnu bsd/net/pf.c):
 * - Every rule is quick: no later rule, ours or another anchor's, can overtake a denial.
 * - Every pass is `no state`: pf looks up states before rules and a state knows no uid, so a stateful pass
 *   would outlive its grant and its socket. Stateless, a withdrawn address is closed at the next packet.
 * - Denials carry `port 1:65535`: pf does not test the user of fragments, but skips rules with ports for
 *   them, so that nobody else's fragments (NAT of a virtual machine) are dropped. Port 0 never passes pf.
 * - No ICMP rule: pf cannot tell whose an ICMP packet is, and other users' must not be cut.
 */
import { JailError } from '../../errors.js'
import type { Cidr, PortRange } from '../../policy/types.js'
import type { UidRange } from '../types.js'
import type { PfJail, PfTakeover } from './jail.js'
import { label, pinTable, selfTable } from './names.js'
import type {
  PfAddress,
  PfEndpoint,
  PfPort,
  PfRedirect,
  PfRule,
  PfRuleset,
  PfTable,
} from './types.js'

/** `self`: the machine's own addresses, needed only where a jail is transparent. */
export function compilePf(
  jails: readonly PfJail[],
  reserved: UidRange,
  self: readonly string[] = [],
): PfRuleset {
  refuseSharedTakeovers(jails)
  const transparent = jails.some((jail) => jail.takeovers.length > 0)
  // Link-local addresses carry their interface within them while pf looks at them: the range is what matches.
  const selfAddresses = [
    '127.0.0.0/8',
    '::1',
    'fe80::/10',
    ...self.filter((address) => !/^fe[89ab]/.test(address)),
  ]
  return {
    tables: [
      ...(transparent ? [{ name: selfTable, addresses: [...new Set(selfAddresses)] }] : []),
      ...jails.flatMap(tablesOf),
    ],
    redirects: jails.flatMap(redirectsOf),
    rules: [...jails.flatMap(rulesOf), ...baseRules(reserved)],
  }
}

/** An inbound redirect is blind to users: two jails' packets for one port could not be told apart. */
function refuseSharedTakeovers(jails: readonly PfJail[]): void {
  const owners = new Map<string, string>()
  for (const jail of jails)
    for (const { proto, port } of jail.takeovers) {
      const key = `${proto}/${String(port)}`
      const owner = owners.get(key)
      if (owner !== undefined)
        throw new JailError(
          'BACKEND',
          `jails ${owner} and ${jail.name} both take over port ${key}: macOS cannot tell them apart`,
          { hint: `run one of them without "transparent: true": the proxy gate serves any number` },
        )
      owners.set(key, jail.name)
    }
}

/** Without content: a load for one jail must not undo what another jail has pinned meanwhile. */
function tablesOf(jail: PfJail): PfTable[] {
  return jail.pinned.map(({ grant }) => ({ name: pinTable(jail.uid, grant) }))
}

/**
 * Packets that a transparent jail's route-to sent to lo0. `rdr` cannot test the user; what tells them from
 * everybody else's loopback traffic is that their destination is no address of this machine.
 */
function redirectsOf(jail: PfJail): PfRedirect[] {
  return jail.takeovers.flatMap(({ proto, port, to }) =>
    loopbacks.map(({ family, cidr }) => ({
      interface: 'lo0',
      family,
      proto,
      from: any,
      to: { address: table(selfTable, true), port: is(port) },
      target: { address: cidr.address, port: to },
    })),
  )
}

function rulesOf(jail: PfJail): PfRule[] {
  return [
    ...listenRules(jail),
    noInboundConnections(jail),
    ...gateRules(jail),
    ...jail.loopback.connect.flatMap((port) => loopbackConnectRules(jail, port)),
    ...deniedRules(jail),
    // Before what the gate takes over: a grant by address goes straight to it, whatever other grant names its port.
    ...jail.kernel.flatMap(({ grant, proto, ports, cidr }) =>
      kernelRules(jail, grant, proto, ports, literal(cidr), cidr.family),
    ),
    ...jail.takeovers.flatMap((takeover) => takeoverRules(jail, takeover)),
    ...jail.pinned.flatMap(({ grant, proto, ports }) =>
      kernelRules(jail, grant, proto, ports, table(pinTable(jail.uid, grant)), undefined),
    ),
    ...denials(jail.uid),
  ]
}

/**
 * `loopback.listen`: others on this machine may connect. The port opens nothing from within: the jail could
 * bind it and connect from there to any loopback service.
 */
function listenRules({ uid, loopback, ipv6 }: PfJail): PfRule[] {
  return loopback.listen.flatMap((port) =>
    loopbacksOf(ipv6).flatMap(({ family, cidr }) => {
      const here: PfEndpoint = { address: literal(cidr), port: is(port) }
      const there: PfEndpoint = { address: literal(cidr) }
      const name = label(uid, `listen-${String(port)}`)
      const common = { ...onLoopback, family, proto: 'tcp', user: user(uid), label: name } as const
      const open = { ...common, flags: 'any', state: 'none' } as const
      return [
        block('out', { ...common, from: here, to: there, flags: 'S/SA' }),
        pass('out', { ...open, from: here, to: there }),
        pass('in', { ...open, from: there, to: here }),
      ]
    }),
  )
}

/** Stands before every rule that lets replies in, so that those need no test of flags. */
function noInboundConnections({ uid }: PfJail): PfRule {
  return block('in', {
    proto: 'tcp',
    from: any,
    to: { ...any, port: allPorts },
    user: user(uid),
    flags: 'S/SA',
    label: label(uid, 'deny-inbound'),
  })
}

/** The jail reaches its own gate; nobody else does, and the taken over ports only by being taken over. */
function gateRules({ uid, proxy, takeovers }: PfJail): PfRule[] {
  const closed = takeovers.flatMap(({ proto, to }) =>
    loopbacks.map((at) => gateOfAnother(uid, at, proto, to)),
  )
  if (proxy === undefined) return closed
  return [
    ...loopbackService(uid, loopbacks[0], proxy, 'gate'),
    gateOfAnother(uid, loopbacks[0], 'tcp', proxy),
    ...closed,
  ]
}

function gateOfAnother(uid: number, at: Loopback, proto: 'tcp' | 'udp', port: number): PfRule {
  return block('out', {
    ...onLoopback,
    family: at.family,
    proto,
    from: any,
    to: { address: literal(at.cidr), port: is(port) },
    label: label(uid, 'gate-of-another'),
  })
}

function loopbackConnectRules({ uid, ipv6 }: PfJail, port: number): PfRule[] {
  return loopbacksOf(ipv6).flatMap((at) =>
    loopbackService(uid, at, port, `connect-${String(port)}`),
  )
}

/** To one loopback port and back: loopback packets are judged going out and again coming in. */
function loopbackService(uid: number, at: Loopback, port: number, name: string): PfRule[] {
  const service: PfEndpoint = { address: literal(at.cidr), port: is(port) }
  const client: PfEndpoint = { address: literal(at.cidr) }
  const common = {
    ...onLoopback,
    family: at.family,
    proto: 'tcp',
    user: user(uid),
    flags: 'any',
    state: 'none',
    label: label(uid, name),
  } as const
  return [
    pass('out', { ...common, from: client, to: service }),
    pass('in', { ...common, from: service, to: client }),
  ]
}

/** In both directions: a UDP socket would hear a denied address that a grant's range includes. */
function deniedRules({ uid, denied }: PfJail): PfRule[] {
  return denied.flatMap((cidr) => {
    const far: PfEndpoint = { address: literal(cidr), port: allPorts }
    return (['tcp', 'udp'] as const).flatMap((proto) => {
      const name = label(uid, 'denied-cidr')
      const common = { family: cidr.family, proto, user: user(uid), label: name }
      return [
        block('out', { ...common, from: any, to: far }),
        block('in', { ...common, from: far, to: any }),
      ]
    })
  })
}

/**
 * Sends the jail's packets for this port to lo0, where the redirect takes them to the gate. Not on lo0, or a
 * service of somebody else on 127.0.0.1 would be reached; stateful, because replies carry the original
 * destination. The gate judges each connection, so no grant hangs on the state.
 */
function takeoverRules({ uid }: PfJail, { proto, port }: PfTakeover): PfRule[] {
  return loopbacks.map(({ family, cidr }) =>
    pass('out', {
      interface: { name: 'lo0', not: true },
      routeTo: { interface: 'lo0', address: cidr.address },
      family,
      proto,
      from: any,
      to: { ...any, port: is(port) },
      user: user(uid),
      ...(proto === 'tcp' ? { flags: 'S/SA' as const } : {}),
      state: 'keep',
      label: label(uid, `takeover-${proto}-${String(port)}`),
    }),
  )
}

/** Not on lo0: the machine's own addresses are reached there, and they are loopback, not network. */
function kernelRules(
  jail: PfJail,
  grant: string,
  proto: 'tcp' | 'udp',
  ports: readonly PortRange[],
  address: PfAddress,
  family: 4 | 6 | undefined,
): PfRule[] {
  // Without IPv6 no table holds such an address; the rule says it once more.
  const only = family ?? (jail.ipv6 ? undefined : 4)
  return ports.flatMap((range) => {
    const far: PfEndpoint = { address, port: portTest(range.first, range.last) }
    const common = {
      interface: { name: 'lo0', not: true },
      ...(only === undefined ? {} : { family: only }),
      proto,
      user: user(jail.uid),
      ...(proto === 'tcp' ? { flags: 'any' as const } : {}),
      state: 'none',
      label: label(jail.uid, grant),
    } as const
    return [
      pass('out', { ...common, from: any, to: far }),
      pass('in', { ...common, from: far, to: any }),
    ]
  })
}

function denials(uid: number): PfRule[] {
  return (['out', 'in'] as const).flatMap((direction) =>
    (['tcp', 'udp'] as const).map((proto) =>
      block(direction, {
        proto,
        from: any,
        to: { ...any, port: allPorts },
        user: user(uid),
        label: label(uid, `deny-${direction}-${proto}`),
      }),
    ),
  )
}

/** A uid of the reserved range that runs no jail has no network at all. */
function baseRules({ first, last }: UidRange): PfRule[] {
  return (['out', 'in'] as const).flatMap((direction) =>
    (['tcp', 'udp'] as const).map((proto) =>
      block(direction, {
        proto,
        from: any,
        to: { ...any, port: allPorts },
        user: { kind: 'between', above: first - 1, below: last + 1 },
        label: `aj:base:deny-${direction}-${proto}`,
      }),
    ),
  )
}

interface Loopback {
  readonly family: 4 | 6
  readonly cidr: Cidr
}

const loopbacks: readonly [Loopback, Loopback] = [
  { family: 4, cidr: { family: 4, address: '127.0.0.1', prefix: 32 } },
  { family: 6, cidr: { family: 6, address: '::1', prefix: 128 } },
]

/** `ipv6: false` closes ::1 as well. */
function loopbacksOf(ipv6: boolean): readonly Loopback[] {
  return ipv6 ? loopbacks : [loopbacks[0]]
}

const any: PfEndpoint = { address: { kind: 'any' } }
const allPorts: PfPort = { op: ':', first: 1, last: 65_535 }
const onLoopback = { interface: { name: 'lo0', not: false } } as const

type Rest = Omit<PfRule, 'action' | 'direction' | 'log'>

function pass(direction: 'in' | 'out', rest: Rest): PfRule {
  return { action: 'pass', direction, log: false, ...rest }
}

/** Logged, for the audit; `block return`, so that nothing hangs. */
function block(direction: 'in' | 'out', rest: Rest): PfRule {
  return { action: 'block', direction, log: true, ...rest }
}

function user(uid: number): { kind: 'is'; uid: number } {
  return { kind: 'is', uid }
}

/** pf lists a whole family as `any`. */
function literal(cidr: Cidr): PfAddress {
  if (cidr.prefix === 0) return { kind: 'any' }
  return { kind: 'cidr', cidr }
}

function table(name: string, not = false): PfAddress {
  return { kind: 'table', name, not }
}

function is(port: number): PfPort {
  return { op: '=', port }
}

function portTest(first: number, last: number): PfPort {
  return first === last ? is(first) : { op: ':', first, last }
}
