/** The part of `agentjail_uid` that is one jail's: its grants, by port, address and pin. Pure. */
import type { PortRange } from '../../policy/types.js'
import type { GatePort, NetworkPlan } from '../types.js'
import {
  accept,
  concat,
  ct,
  differ,
  drop,
  equal,
  field,
  has,
  meta,
  ports,
  redirect,
  setCtMark,
  setMark,
  update,
} from './ast.js'
import type { Element, Expression, NamedSet, Rule, Statement, Table } from './ast.js'
import { denialRules, denialSets, deniedCidrRules } from './refusals.js'
import { matchCidr, original, ownLoopback, passMark, reply, tableName } from './tables.js'
import { jailNames } from './uid-base.js'

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
    expr: [equal(meta('oifname'), 'lo'), ownLoopback, port, ...pass],
  }
  const v6: Rule = {
    chain,
    expr: [equal(meta('oifname'), 'lo'), equal(field('ip6', 'daddr'), '::1'), port, ...pass],
  }
  return plan.ipv6 ? [v4, v6] : [v4]
}
