/** The table inside a jail's own network namespace. Pure. */
import { dummyAddresses } from '../namespace-addresses.js'
import type { NetworkPlan } from '../types.js'
import {
  accept,
  differ,
  drop,
  equal,
  field,
  goto,
  leadTo,
  meta,
  ports,
  redirect,
  sourceAsMeant,
} from './ast.js'
import type { Chain, Rule, Table } from './ast.js'
import { denialRules, denialSets, overflowCounter } from './refusals.js'
import { ownLoopback, tableName } from './tables.js'

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
      expr: [ownLoopback, accept],
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
