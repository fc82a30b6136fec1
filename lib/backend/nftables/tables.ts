/**
 * The tables agentjail loads, as data. Pure.
 *
 * `agentjail` is the static deny of the reserved uid range: on the host always, in every isolation. From the first jail
 * in `uid` isolation on it also denies flows by their mark, for which the kernel tracks connections, everybody's.
 * `agentjail_guard` is the same deny in a table that only its owner can flush or delete.
 * `agentjail_uid` opens, for jails in `uid` isolation only, what their policies grant. What it lets through it marks,
 * and the two denies refuse every packet of the range that has no mark: so whoever removes this table closes the jails.
 * What comes in over UDP is held the same way round: `agentjail_uid` marks the answers to what a jail asked of whom it
 * may ask; `agentjail_inward`, owned as the guard is, drops everything else for a socket of a jail, which the kernel
 * knows by its control group.
 * In a jail's own namespace the table is `agentjail_jail`.
 */
import type { PortRange } from '../../policy/types.js'
import { dummyAddresses } from '../namespace-addresses.js'
import type { GatePort, NetworkPlan, UidRange } from '../types.js'
import {
  accept,
  concat,
  count,
  ct,
  differ,
  drop,
  equal,
  field,
  goto,
  has,
  leadTo,
  masked,
  meta,
  ports,
  prohibit,
  redirect,
  resetTcp,
  setCtMark,
  setMark,
  socketGroup,
  sourceAsMeant,
  update,
  vmap,
} from './ast.js'
import type { Chain, Element, Expression, NamedSet, Rule, Statement, Table } from './ast.js'

export const tableName = {
  static: 'agentjail',
  guard: 'agentjail_guard',
  inward: 'agentjail_inward',
  uid: 'agentjail_uid',
  jail: 'agentjail_jail',
} as const

/**
 * Packet mark of a packet that a jail's grants let through, from the hook at priority 0 to the last deny, which takes it
 * off again before routing or any other tool's later hook can see it. ("ajja")
 */
const passMark = 0x616a6a61

/** Runs after `agentjail_uid` (0) has marked. */
const denyPriority = 10
/** The last to ask for the mark. */
const guardPriority = 12

const uids = (range: UidRange): Expression => ({ range: [range.first, range.last] })

/**
 * Packets of users who cannot be of the range: none of them shares the bits that all of its uids have in common. A mask
 * costs a packet half of what a range does (docs/performance.md). Undefined: the range has no bit in common.
 */
function outside({ first, last }: UidRange): Statement | undefined {
  const shared = Math.clz32(first ^ last)
  if (shared === 0) return undefined
  const mask = (0xffffffff << (32 - shared)) >>> 0
  return differ(masked(meta('skuid'), mask), (first & mask) >>> 0)
}

/** For every other user the first comparison of a chain is the last. */
function othersFirst(range: UidRange, chain: string, verdict: Statement): Rule[] {
  const others = outside(range)
  return others === undefined ? [] : [{ chain, expr: [others, verdict] }]
}
/** Transport protocols that have ports where `th` reads them: tcp, udp, dccp, sctp, udplite. */
const withPorts: Expression = { set: ['tcp', 'udp', 'dccp', 'sctp', 'udplite'] }

/** Packets of the side that opened a flow: the gate's answers belong to the same flow and are not the jail's. */
const original = equal(ct('direction'), 'original')
const reply = equal(ct('direction'), 'reply')

/**
 * The deny of the whole reserved range; loaded at boot.
 * @param extent `uids`: what sockets of these uids send; enough where no jail is on the host's network, and the kernel
 * need not track connections for it. `flows`: also what is left of a flow whose socket is closed.
 */
export function staticTable(range: UidRange, extent: 'uids' | 'flows' = 'uids'): Table {
  return denyTable(range, { name: tableName.static, owner: false, extent, passed: [accept] })
}

/** The same deny, in a table that a flush of the ruleset leaves alone while its owner lives. Takes the mark off. */
export function guardTable(range: UidRange): Table {
  const passed = [setMark(0), accept]
  return denyTable(range, { name: tableName.guard, owner: true, extent: 'flows', passed })
}

interface Deny {
  readonly name: string
  readonly owner: boolean
  readonly extent: 'uids' | 'flows'
  /** What becomes of a packet with the mark. */
  readonly passed: readonly Statement[]
}

function denyTable(range: UidRange, { name, owner, extent, passed }: Deny): Table {
  const chain = 'output'
  const prio = owner ? guardPriority : denyPriority
  const held = equal(meta('skuid'), uids(range))
  return {
    name,
    owner,
    counters: [],
    sets: [],
    elements: [],
    chains: [{ name: chain, hook: { type: 'filter', hook: 'output', prio, policy: 'accept' } }],
    rules: [
      ...othersFirst(range, chain, accept),
      { chain, expr: [equal(meta('mark'), passMark), ...passed] },
      // TCP by reset: with an ICMP refusal alone a connect over IPv6 waits for its time-out.
      { chain, expr: [held, equal(meta('l4proto'), 'tcp'), resetTcp] },
      { chain, expr: [held, prohibit] },
      // Queued data of a socket that its process has closed has no uid any more; its flow still has the jail's mark.
      ...(extent === 'uids'
        ? []
        : [{ chain, expr: [original, equal(ct('mark'), uids(range)), drop] }]),
    ],
  }
}

/** @param groups path below /sys/fs/cgroup of the group that holds those of all jails: a child of the root. */
export function inwardTable(groups: string): Table {
  const hook = { type: 'filter', hook: 'input', prio: denyPriority, policy: 'accept' } as const
  return {
    name: tableName.inward,
    owner: true,
    counters: [],
    sets: [],
    elements: [],
    chains: [{ name: 'input', hook }],
    rules: [
      { chain: 'input', expr: [equal(meta('mark'), passMark), setMark(0), accept] },
      {
        chain: 'input',
        expr: [equal(meta('l4proto'), 'udp'), equal(socketGroup(1), { path: groups }), drop],
      },
    ],
  }
}

const ownLoopback = equal(field('ip', 'daddr'), { prefix: { addr: '127.0.0.0', len: 8 } })

/** The second line inside a jail's namespace: only `lo`, and of that only what the gate serves. */
export function namespaceTable(plan: NetworkPlan): Table {
  const chains: Chain[] = [
    { name: 'input', hook: { type: 'filter', hook: 'input', prio: 0, policy: 'drop' } },
    { name: 'forward', hook: { type: 'filter', hook: 'forward', prio: 0, policy: 'drop' } },
    { name: 'output', hook: { type: 'filter', hook: 'output', prio: 0, policy: 'drop' } },
    { name: 'to_gate', hook: { type: 'nat', hook: 'output', prio: -100, policy: 'accept' } },
    { name: 'meant', hook: { type: 'nat', hook: 'postrouting', prio: 100, policy: 'accept' } },
    { name: 'jail' },
  ]
  const rules: Rule[] = [
    { chain: 'input', expr: [equal(meta('iifname'), 'lo'), accept] },
    { chain: 'output', expr: [differ(meta('oifname'), 'lo'), drop] },
    { chain: 'output', expr: [equal(meta('skuid'), plan.uid), goto('jail')] },
    // The gate's answers, and the kernel's own resets.
    { chain: 'output', expr: [equal(meta('oifname'), 'lo'), accept] },
    // An answer over UDP from 127/8 comes from 127.0.0.1. Redirected, it is given back the address that was asked.
    { chain: 'to_gate', expr: [ownLoopback, equal(field('udp', 'dport'), 53), redirect(53)] },
    ...datagramsOverIpv6(plan),
    ...namespaceGrants(plan),
    ...denialRules('jail'),
  ]
  return {
    name: tableName.jail,
    owner: false,
    counters: [overflowCounter],
    sets: denialSets(''),
    elements: [],
    chains,
    rules,
  }
}

/**
 * The gate learns where a datagram was meant to go from its sender's address: for a local destination the kernel's
 * source over IPv4 is the destination itself, over IPv6 an address of the interface. So over IPv6 its source is made
 * what it was meant for; and it is led to the address that the gate's answers come from, to be translated back.
 */
function datagramsOverIpv6({ gateUdp }: NetworkPlan): Rule[] {
  if (gateUdp.length === 0) return []
  const toGate = equal(field('udp', 'dport'), ports(gateUdp))
  const elsewhere = differ(field('ip6', 'daddr'), '::1')
  return [
    { chain: 'to_gate', expr: [elsewhere, toGate, leadTo(dummyAddresses.v6)] },
    { chain: 'meant', expr: [equal(meta('nfproto'), 'ipv6'), toGate, sourceAsMeant] },
  ]
}

function namespaceGrants(plan: NetworkPlan): Rule[] {
  const loopback: Rule[] = [
    // Its own loopback: nothing of the host is there but what the gate serves.
    {
      chain: 'jail',
      expr: [equal(field('ip', 'daddr'), { prefix: { addr: '127.0.0.0', len: 8 } }), accept],
    },
    { chain: 'jail', expr: [equal(field('ip6', 'daddr'), '::1'), accept] },
    // Look-ups and datagrams of a grant over IPv6, led there before.
    { chain: 'jail', expr: [equal(field('ip6', 'daddr'), dummyAddresses.v6), accept] },
  ]
  const tcp: Rule = {
    chain: 'jail',
    expr: [equal(field('tcp', 'dport'), ports(plan.gateTcp)), accept],
  }
  const udp: Rule = {
    chain: 'jail',
    // IPv4 only: over IPv6 they are led to the jail's own address by now.
    expr: [
      equal(meta('nfproto'), 'ipv4'),
      equal(field('udp', 'dport'), ports(plan.gateUdp)),
      accept,
    ],
  }
  return [
    ...loopback,
    ...(plan.gateTcp.length > 0 ? [tcp] : []),
    ...(plan.gateUdp.length > 0 ? [udp] : []),
  ]
}

export const overflowCounter = 'denied_overflow'

/** Names of the sets that hold what was refused; `suffix` keeps jails apart in a shared table. */
export const deniedSet = (family: 4 | 6, kind: 'port' | 'other', suffix: string): string =>
  `denied${family}_${kind}${suffix}`

/** Destinations kept apart in each of those sets. */
export const deniedSize = 1024

function denialSets(suffix: string): NamedSet[] {
  return ([4, 6] as const).flatMap((family): NamedSet[] => {
    const address = family === 4 ? 'ipv4_addr' : 'ipv6_addr'
    const common = {
      kind: 'set',
      size: deniedSize,
      flags: ['dynamic', 'timeout'],
      timeout: 600,
      counter: true,
    } as const
    return [
      {
        ...common,
        name: deniedSet(family, 'port', suffix),
        type: [address, 'inet_proto', 'inet_service'],
      },
      { ...common, name: deniedSet(family, 'other', suffix), type: [address, 'inet_proto'] },
    ]
  })
}

/**
 * Refuse, and count by destination. When a set is full its `update` fails and the rule with it:
 * the packet falls through to the overflow counter, so that nothing is refused uncounted.
 */
function denialRules(chain: string, suffix = '', overflow = overflowCounter): Rule[] {
  const perFamily = (family: 4 | 6): Rule[] => {
    const daddr = field(family === 4 ? 'ip' : 'ip6', 'daddr')
    const byPort = update(
      deniedSet(family, 'port', suffix),
      concat(daddr, meta('l4proto'), field('th', 'dport')),
    )
    const other = update(deniedSet(family, 'other', suffix), concat(daddr, meta('l4proto')))
    return [
      { chain, expr: [equal(meta('l4proto'), 'tcp'), byPort, resetTcp] },
      { chain, expr: [equal(meta('l4proto'), withPorts), byPort, prohibit] },
      { chain, expr: [differ(meta('l4proto'), withPorts), other, prohibit] },
    ]
  }
  return [
    ...perFamily(4),
    ...perFamily(6),
    { chain, expr: [count(overflow)] },
    { chain, expr: [equal(meta('l4proto'), 'tcp'), resetTcp] },
    { chain, expr: [prohibit] },
  ]
}

/** As `denialRules`, for one range, ahead of the grants. */
function deniedCidrRules(
  chain: string,
  suffix: string,
  cidr: { readonly family: 4 | 6; readonly address: string; readonly prefix: number },
): Rule[] {
  const { family } = cidr
  const daddr = field(family === 4 ? 'ip' : 'ip6', 'daddr')
  const here = matchCidr(cidr)
  const byPort = update(
    deniedSet(family, 'port', suffix),
    concat(daddr, meta('l4proto'), field('th', 'dport')),
  )
  return [
    { chain, expr: [here, equal(meta('l4proto'), 'tcp'), byPort, resetTcp] },
    { chain, expr: [here, equal(meta('l4proto'), withPorts), byPort, prohibit] },
    { chain, expr: [here, equal(meta('l4proto'), 'tcp'), resetTcp] },
    { chain, expr: [here, prohibit] },
  ]
}

/**
 * The part of `agentjail_uid` that stands however many jails there are.
 * @param groups as of `inwardTable`, which takes off what is marked here of what comes in; undefined: there is none.
 */
export function uidBase(range: UidRange, groups?: string): Table {
  const map = (name: string, type: 'uid' | 'mark'): NamedSet => ({
    kind: 'map',
    name,
    type: [type],
    to: 'verdict',
    flags: [],
  })
  const gates = (name: string): NamedSet => ({
    kind: 'set',
    name,
    type: ['inet_service'],
    flags: [],
  })
  const hook = (name: 'output' | 'input', prio: number) =>
    ({ type: 'filter', hook: name, prio, policy: 'accept' }) as const
  return {
    name: tableName.uid,
    owner: false,
    counters: [],
    sets: [
      map('jails', 'uid'),
      map('flows', 'mark'),
      map('answers', 'mark'),
      map('redirects', 'uid'),
      gates('gates_tcp'),
      gates('gates_udp'),
    ],
    elements: [],
    chains: [
      // Before -100, where docker leads a container's DNS (127.0.0.11) to a server of its own; at one and the same
      // priority, who came last would be first.
      { name: 'to_gate', hook: { type: 'nat', hook: 'output', prio: -110, policy: 'accept' } },
      { name: 'output', hook: hook('output', 0) },
      ...(groups === undefined ? [] : [{ name: 'input', hook: hook('input', 0) }]),
      { name: 'others' },
      { name: 'held' },
      { name: 'orphans' },
    ],
    rules: [
      {
        chain: 'to_gate',
        expr: [equal(meta('skuid'), uids(range)), vmap(meta('skuid'), 'redirects')],
      },
      // Every other user pays comparisons only, whatever the number of jails.
      ...othersFirst(range, 'output', goto('others')),
      { chain: 'output', expr: [equal(meta('skuid'), uids(range)), goto('held')] },
      { chain: 'output', expr: [original, equal(ct('mark'), uids(range)), goto('orphans')] },
      { chain: 'output', expr: [goto('others')] },
      // A jail's gate is for that jail: nobody else may connect to it.
      { chain: 'others', expr: [differ(meta('oifname'), 'lo'), accept] },
      { chain: 'others', expr: [equal(field('tcp', 'dport'), '@gates_tcp'), resetTcp] },
      { chain: 'others', expr: [equal(field('udp', 'dport'), '@gates_udp'), prohibit] },
      { chain: 'held', expr: [vmap(meta('skuid'), 'jails')] },
      { chain: 'held', expr: [equal(meta('l4proto'), 'tcp'), resetTcp] },
      { chain: 'held', expr: [prohibit] },
      { chain: 'orphans', expr: [vmap(ct('mark'), 'flows')] },
      { chain: 'orphans', expr: [drop] },
      // Who opened the flow is in its mark; to whom it went is asked again of the jail's own chain.
      ...(groups === undefined
        ? []
        : [
            {
              chain: 'input',
              expr: [
                equal(meta('l4proto'), 'udp'),
                reply,
                equal(ct('mark'), uids(range)),
                vmap(ct('mark'), 'answers'),
              ],
            },
          ]),
    ],
  }
}

/** Names within `agentjail_uid` of one jail's parts. Hyphens become underscores, which jail names cannot hold. */
export function jailNames(jail: string) {
  const id = jail.replaceAll('-', '_')
  return {
    chain: `jail_${id}`,
    nat: `nat_${id}`,
    inward: `in_${id}`,
    overflow: `overflow_${id}`,
    suffix: `_${id}`,
    flows: (family: 4 | 6) => `live${family}_${id}`,
    pins: (family: 4 | 6, grant: string) => `pin${family}_${id}_${grant}`,
  }
}

const loopbackAddresses: readonly Statement[] = [ownLoopback, equal(field('ip6', 'daddr'), '::1')]

/**
 * Seconds that what goes to an address whose pin has run out may go on, at most. A connection ends when another machine
 * gets the address; datagrams go on to whoever has it, so they get what conntrack gives a stream of them.
 */
const flowSeconds = { tcp: 3600, udp: 120 } as const

/** The part of `agentjail_uid` of one jail, once its gate's ports are known. */
export function uidJail(plan: NetworkPlan, gate: readonly GatePort[]): Table {
  const names = jailNames(plan.jail)
  const families = [4, 6] as const
  const pass = [setCtMark(plan.uid), setMark(passMark), accept]
  const flowKey = (family: 4 | 6): Expression =>
    concat(
      field(family === 4 ? 'ip' : 'ip6', 'daddr'),
      meta('l4proto'),
      field('th', 'sport'),
      field('th', 'dport'),
    )
  const gatePorts = (proto: 'tcp' | 'udp') =>
    gate
      .filter((port) => port.proto === proto)
      .map(({ gatePort }) => ({ first: gatePort, last: gatePort }))

  const toGate = (['tcp', 'udp'] as const)
    .filter((proto) => gatePorts(proto).length > 0)
    .flatMap((proto) =>
      loopbackAddresses.map((address): Rule => ({
        chain: names.chain,
        // Not by `oifname`: within this hook it still names the device of the route before the redirect.
        expr: [
          address,
          has(ct('status'), 'dnat'),
          equal(field(proto, 'dport'), ports(gatePorts(proto))),
          ...pass,
        ],
      })),
    )
  const loopback =
    plan.loopbackConnect.length === 0
      ? []
      : // Connections of the command's own: whoever connects to it from a port of that number gets no answer.
        loopbackRules(plan, names.chain, 'dport', plan.loopbackConnect, [original, ...pass])
  const served =
    plan.loopbackListen.length === 0
      ? []
      : // Answers only: from a port it may serve the command could else connect to anything on loopback.
        loopbackRules(plan, names.chain, 'sport', plan.loopbackListen, [
          reply,
          setMark(passMark),
          accept,
        ])
  const direct = plan.kernel.map((grant): Rule => ({
    chain: names.chain,
    expr: [matchCidr(grant.cidr), equal(field(grant.proto, 'dport'), ports(grant.ports)), ...pass],
  }))
  const pinned = plan.pinned.flatMap((grant) =>
    families.map((family): Rule => ({
      chain: names.chain,
      expr: [
        equal(field(family === 4 ? 'ip' : 'ip6', 'daddr'), `@${names.pins(family, grant.grant)}`),
        equal(field(grant.proto, 'dport'), ports(grant.ports)),
        // Remembered by its own ports, so that it outlives its pin by `flowSeconds` at most.
        update(names.flows(family), {
          elem: { val: flowKey(family), timeout: flowSeconds[grant.proto] },
        }),
        ...pass,
      ],
    })),
  )
  // Denials win over every grant, by address or by pin.
  const denied = (plan.denied ?? []).flatMap((cidr) =>
    deniedCidrRules(names.chain, names.suffix, cidr),
  )
  // A new TCP connection from the port of an old one is none that goes on; of datagrams nobody can tell.
  const goesOn = {
    tcp: [equal(meta('l4proto'), 'tcp'), differ(ct('state'), 'new')],
    udp: [equal(meta('l4proto'), 'udp')],
  } as const
  const live = (['tcp', 'udp'] as const)
    .filter((proto) => plan.pinned.some((grant) => grant.proto === proto))
    .flatMap((proto) =>
      families.map((family): Rule => ({
        chain: names.chain,
        expr: [...goesOn[proto], equal(flowKey(family), `@${names.flows(family)}`), ...pass],
      })),
    )
  const inward = answers(plan, names.inward, names)
  const exempt = plan.kernel.map((grant): Rule => ({
    chain: names.nat,
    expr: [matchCidr(grant.cidr), equal(field(grant.proto, 'dport'), ports(grant.ports)), accept],
  }))
  const redirects = gate.map(({ proto, port, gatePort }): Rule => ({
    chain: names.nat,
    expr: [equal(field(proto, 'dport'), port), redirect(gatePort)],
  }))
  return {
    name: tableName.uid,
    owner: false,
    counters: [names.overflow],
    sets: [
      ...denialSets(names.suffix),
      ...families.map((family): NamedSet => ({
        kind: 'set',
        name: names.flows(family),
        type: [
          family === 4 ? 'ipv4_addr' : 'ipv6_addr',
          'inet_proto',
          'inet_service',
          'inet_service',
        ],
        size: 65535,
        flags: ['dynamic', 'timeout'],
        timeout: flowSeconds.tcp,
      })),
      ...plan.pinned.flatMap((grant) =>
        families.map((family): NamedSet => ({
          kind: 'set',
          name: names.pins(family, grant.grant),
          type: [family === 4 ? 'ipv4_addr' : 'ipv6_addr'],
          flags: ['timeout'],
        })),
      ),
    ],
    chains: [{ name: names.chain }, { name: names.nat }, { name: names.inward }],
    rules: [
      ...toGate,
      // Ahead of what the command may connect to: an answer to a port of that number is no flow of the command's.
      ...served,
      ...loopback,
      ...denied,
      ...direct,
      ...pinned,
      ...live,
      ...denialRules(names.chain, names.suffix, names.overflow),
      ...exempt,
      ...redirects,
      ...inward,
    ],
    elements: [
      ...(['tcp', 'udp'] as const).flatMap((proto) =>
        gatePorts(proto).map(({ first }): Element => ({
          kind: 'set',
          set: `gates_${proto}`,
          key: [first],
        })),
      ),
      { kind: 'map', set: 'redirects', key: [plan.uid], verdict: names.nat },
      { kind: 'map', set: 'flows', key: [plan.uid], verdict: names.chain },
      { kind: 'map', set: 'answers', key: [plan.uid], verdict: names.inward },
      // Last: from here on the jail has what its policy grants.
      { kind: 'map', set: 'jails', key: [plan.uid], verdict: names.chain },
    ],
  }
}

/**
 * Datagrams that answer the jail: from the gate, and from where its grants lead now. What was withdrawn is not heard
 * any more, though the kernel still knows the flow.
 */
function answers(
  plan: NetworkPlan,
  chain: string,
  names: ReturnType<typeof jailNames>,
): readonly Rule[] {
  const pass = [setMark(passMark), accept]
  const from = (family: 4 | 6): Expression => field(family === 4 ? 'ip' : 'ip6', 'saddr')
  const port = (list: readonly PortRange[]): Statement => equal(field('udp', 'sport'), ports(list))
  const pinned = plan.pinned.filter(({ proto }) => proto === 'udp')
  const families = [4, 6] as const
  return [
    { chain, expr: [has(ct('status'), 'dnat'), ...pass] },
    ...(plan.denied ?? []).map((cidr): Rule => ({ chain, expr: [matchCidr(cidr, 'saddr'), drop] })),
    ...plan.kernel
      .filter(({ proto }) => proto === 'udp')
      .map((grant): Rule => ({
        chain,
        expr: [matchCidr(grant.cidr, 'saddr'), port(grant.ports), ...pass],
      })),
    ...pinned.flatMap((grant) =>
      families.map((family): Rule => ({
        chain,
        expr: [
          equal(from(family), `@${names.pins(family, grant.grant)}`),
          port(grant.ports),
          ...pass,
        ],
      })),
    ),
    ...(pinned.length === 0 ? [] : families).map((family): Rule => {
      // The flow's key as it was written on the way out.
      const key = concat(from(family), meta('l4proto'), field('th', 'dport'), field('th', 'sport'))
      return { chain, expr: [equal(key, `@${names.flows(family)}`), ...pass] }
    }),
  ]
}

function loopbackRules(
  plan: NetworkPlan,
  chain: string,
  side: 'dport' | 'sport',
  list: readonly number[],
  pass: readonly Statement[],
): Rule[] {
  const port = equal(field('tcp', side), ports(list.map((first) => ({ first, last: first }))))
  const v4: Rule = {
    chain,
    expr: [
      equal(meta('oifname'), 'lo'),
      equal(field('ip', 'daddr'), { prefix: { addr: '127.0.0.0', len: 8 } }),
      port,
      ...pass,
    ],
  }
  const v6: Rule = {
    chain,
    expr: [equal(meta('oifname'), 'lo'), equal(field('ip6', 'daddr'), '::1'), port, ...pass],
  }
  return plan.ipv6 ? [v4, v6] : [v4]
}

function matchCidr(
  cidr: { readonly family: 4 | 6; readonly address: string; readonly prefix: number },
  side: 'daddr' | 'saddr' = 'daddr',
): Statement {
  const whole = cidr.prefix === (cidr.family === 4 ? 32 : 128)
  return equal(
    field(cidr.family === 4 ? 'ip' : 'ip6', side),
    whole ? cidr.address : { prefix: { addr: cidr.address, len: cidr.prefix } },
  )
}
