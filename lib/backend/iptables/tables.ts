/**
 * The chains and sets agentjail loads, as data. Pure.
 *
 * Two layers in each family. `filter`: uids of the reserved range go to AGENTJAIL_HELD, which leads a running jail's uid
 * to its own chain and refuses every other; what a jail's chain lets through gets a packet mark and goes on to the
 * machine's own rules. `security`, which comes after `filter` and which hardly any tool flushes: what is of the range
 * and has no mark is dropped, and the mark is taken off. So whoever empties one of the two closes the jails.
 *
 * Chain names hold the uid, not the jail's name: iptables takes 28 characters, and ipset 31.
 */
import { JailError } from '../../errors.js'
import type { GatePort, NetworkPlan, UidRange } from '../types.js'
import type { Family, IpSet, Rule, SetElement, Table, TableName, Target } from './ast.js'

/** Between our two layers; the same as that of the nftables backend. ("ajja") */
export const passMark = 0x616a6a61
/** Connection mark: this tag, and the uid's place in the range. */
const flowTag = 0x61600000
const tagMask = 0xfff00000
const maxRange = 0x100000
/** All connection marks of jails. */
export const flowRange = (): UidRange => ({ first: flowTag, last: flowTag + maxRange - 1 })
/**
 * Seconds that what goes to an address whose pin has run out may go on, at most. A connection ends when another machine
 * gets the address; datagrams go on to whoever has it, so they get what conntrack gives a stream of them.
 */
const flowSeconds = { tcp: 3600, udp: 120 } as const

export const main = 'AGENTJAIL'
export const chains = {
  held: `${main}_HELD`,
  flows: `${main}_FLOWS`,
  gates: `${main}_GATES`,
  pass: `${main}_PASS`,
  reject: `${main}_REJECT`,
} as const

export const gateSets = { tcp: 'aj-gates-tcp', udp: 'aj-gates-udp' } as const

const goto = (chain: string): Target => ({ goto: chain })
const drop: Target = { verdict: 'DROP' }

/** How the kernel comes to our chains: first of each built-in one. */
export const entry = (table: TableName, range: UidRange): Rule => ({
  chain: 'OUTPUT',
  // Redirects are the range's own affair, and listed jail by jail.
  ...(table === 'nat' ? { owner: range } : {}),
  then: { jump: main },
})

const ofFlows = { isOriginal: true, connmark: { value: flowTag, mask: tagMask } } as const

/** The deny of the whole range: in both isolations, always. AGENTJAIL_HELD and _FLOWS lead to running jails before it. */
export function staticTables(range: UidRange): Table[] {
  if (range.last - range.first >= maxRange) {
    throw new JailError(
      'CONFIG_INVALID',
      `the range of reserved uids is too large for the iptables backend: ${range.last - range.first + 1}, at most ${maxRange}`,
    )
  }
  return [
    {
      name: 'security',
      chains: [{ name: main }],
      rules: [
        { chain: main, owner: range, notMark: passMark, then: drop },
        // Queued data of a socket that its process has closed has no uid any more; its flow still has the jail's mark.
        { chain: main, ...ofFlows, notMark: passMark, then: drop },
        { chain: main, mark: passMark, then: { setMark: 0 } },
      ],
    },
    {
      name: 'filter',
      chains: [{ name: main }, { name: chains.pass }, { name: chains.reject }],
      rules: [
        // The range first: every other user pays comparisons only, whatever the number of jails.
        { chain: main, owner: range, then: goto(chains.held) },
        { chain: main, ...ofFlows, then: goto(chains.flows) },
        { chain: main, out: 'lo', then: goto(chains.gates) },
        { chain: chains.pass, then: { setMark: passMark } },
        // TCP by reset: with an ICMP refusal alone a connect over IPv6 waits for its time-out.
        { chain: chains.reject, proto: 'tcp', then: { reject: 'tcp-reset' } },
        { chain: chains.reject, then: { reject: 'prohibited' } },
      ],
    },
  ]
}

/** The ends of the chains that running jails are led from: what none of them takes. */
export const heldEnd: Rule = { chain: chains.held, then: goto(chains.reject) }
export const flowsEnd: Rule = { chain: chains.flows, then: drop }

/** A jail's gate is for that jail: nobody else may connect to it. */
export const gateRules: readonly Rule[] = (['tcp', 'udp'] as const).map((proto) => ({
  chain: chains.gates,
  proto,
  inSet: { name: gateSets[proto], by: 'dst' },
  then: goto(chains.reject),
}))

export const sharedSets: readonly IpSet[] = (['tcp', 'udp'] as const).map((proto) => ({
  name: gateSets[proto],
  type: 'bitmap:port',
}))

/** The connection mark of a jail. Throws on a uid outside the range, which nothing would hold. */
function flowMark(uid: number, range: UidRange): number {
  if (uid < range.first || uid > range.last)
    throw new JailError('ACCOUNT', `uid ${uid} is outside the reserved range`)
  return flowTag + (uid - range.first)
}

/** Names of one jail's parts. `round` alternates, so that new sets stand beside old ones while rules change over. */
export function jailNames(uid: number) {
  return {
    chain: `AJ-${uid}`,
    pass: `AJ-${uid}-pass`,
    denied: `AJ-${uid}-denied`,
    nat: `AJ-${uid}-nat`,
    deniedSet: (family: Family) => `aj-${uid}-denied${family}`,
    overflowSet: (family: Family) => `aj-${uid}-more${family}`,
    pins: (family: Family, grant: string, round: number) =>
      `aj-${uid}-p${family}-${round}-${grant}`,
    live: (family: Family, grant: string, round: number) =>
      `aj-${uid}-l${family}-${round}-${grant}`,
    isSet: (name: string) => name.startsWith(`aj-${uid}-`),
    isChain: (name: string) => name === `AJ-${uid}` || name.startsWith(`AJ-${uid}-`),
  }
}

/** The uid of a jail that a chain belongs to. */
export function uidOfChain(name: string): number | undefined {
  const digits = /^AJ-(\d{1,10})(-|$)/.exec(name)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

/** Rules in chains that all jails share, of one jail: from HELD and FLOWS to its own. */
export function leads(uid: number, range: UidRange): { held: Rule; flow: Rule; nat: Rule } {
  const { chain, nat } = jailNames(uid)
  const owner = { first: uid, last: uid }
  const connmark = { value: flowMark(uid, range), mask: 0xffffffff }
  return {
    held: { chain: chains.held, owner, then: goto(chain) },
    flow: { chain: chains.flows, connmark, then: goto(chain) },
    nat: { chain: main, owner, then: goto(nat) },
  }
}

export const families = [4, 6] as const
const loopback = {
  4: { address: '127.0.0.0', prefix: 8 },
  6: { address: '::1', prefix: 128 },
} as const

/** Refuse, and count by destination; when the set is full, all that it has no room for together. */
function denialRules(family: Family, uid: number, end: string): Rule[] {
  const { denied: chain, deniedSet, overflowSet } = jailNames(uid)
  const name = deniedSet(family)
  return [
    { chain, inSet: { name, by: 'dst,dst' }, then: goto(end) },
    { chain, then: { addTo: name, by: 'dst,dst' } },
    { chain, inSet: { name, by: 'dst,dst', uncounted: true }, then: goto(end) },
    { chain, inSet: { name: overflowSet(family), by: 'dst' }, then: 'none' },
    { chain, then: goto(end) },
  ]
}

export function denialSets(uid: number): { sets: IpSet[]; elements: SetElement[] } {
  const { deniedSet, overflowSet } = jailNames(uid)
  return {
    sets: families.flatMap((family): IpSet[] => [
      {
        name: deniedSet(family),
        type: 'hash:ip,port',
        family,
        maxElements: 1024,
        timeout: 600,
        counters: true,
      },
      { name: overflowSet(family), type: 'hash:net', family, maxElements: 2, counters: true },
    ]),
    // Two halves are every address: their counters are those of all packets that come to the rule.
    elements: families.flatMap((family) =>
      (family === 4 ? ['0.0.0.0/1', '128.0.0.0/1'] : ['::/1', '8000::/1']).map((key) => ({
        set: overflowSet(family),
        key,
      })),
    ),
  }
}

/** Pins and the connections that began by one, for every grant by name. */
export function grantSets(plan: NetworkPlan, round: number): IpSet[] {
  const names = jailNames(plan.uid)
  return plan.pinned.flatMap(({ grant, proto }) =>
    families.flatMap((family): IpSet[] => [
      { name: names.pins(family, grant, round), type: 'hash:ip', family, timeout: 1 },
      {
        name: names.live(family, grant, round),
        type: 'hash:ip,port',
        family,
        timeout: flowSeconds[proto],
      },
    ]),
  )
}

/** One jail in `uid` isolation, once its gate's ports are known: its own chains of `filter` and `nat`. */
export function jailTables(
  family: Family,
  plan: NetworkPlan,
  gate: readonly GatePort[],
  round: number,
): Table[] {
  const names = jailNames(plan.uid)
  const { chain } = names
  const pass = goto(names.pass)
  const direct = plan.kernel.filter(({ cidr }) => cidr.family === family)
  const at = loopback[family]
  const local = family === 4 || plan.ipv6
  const port = (one: number) => ({ first: one, last: one })
  const rules: Rule[] = [
    ...gate.map(({ proto, gatePort }): Rule => ({
      chain,
      to: at,
      proto,
      dport: port(gatePort),
      isRedirected: true,
      then: pass,
    })),
    // Answers of what it serves there, not flows of its own: from such a port it could else connect to anything there.
    // Ahead of what it may connect to: an answer to a port of that number is no flow of the command's.
    ...(local ? plan.loopbackListen : []).map((one): Rule => ({
      chain,
      to: at,
      out: 'lo',
      proto: 'tcp',
      sport: port(one),
      isOriginal: false,
      then: goto(chains.pass),
    })),
    // Connections of the command's own: whoever connects to it from a port of that number gets no answer.
    ...(local ? plan.loopbackConnect : []).map((one): Rule => ({
      chain,
      to: at,
      out: 'lo',
      proto: 'tcp',
      dport: port(one),
      isOriginal: true,
      then: pass,
    })),
    ...(plan.denied ?? [])
      .filter((cidr) => cidr.family === family)
      .map(({ address, prefix }): Rule => ({
        chain,
        to: { address, prefix },
        then: goto(names.denied),
      })),
    ...direct.flatMap(({ cidr: { address, prefix }, proto, ports }) =>
      ports.map((dport): Rule => ({
        chain,
        ...(prefix === 0 ? {} : { to: { address, prefix } }),
        proto,
        dport,
        then: pass,
      })),
    ),
    ...plan.pinned.flatMap(({ grant, proto, ports }) => {
      const live = names.live(family, grant, round)
      const inSet = { name: names.pins(family, grant, round), by: 'dst' } as const
      return ports.flatMap((dport): Rule[] => [
        // Remembered by its own port, so that it outlives its pin by `flowSeconds` at most.
        {
          chain,
          proto,
          dport,
          inSet,
          then: { addTo: live, by: 'dst,src', refresh: flowSeconds[proto] },
        },
        { chain, proto, dport, inSet, then: pass },
        {
          chain,
          proto,
          dport,
          // A new connection from the port of an old one is none that goes on; of datagrams nobody can tell.
          ...(proto === 'tcp' ? { goesOn: true } : {}),
          inSet: { name: live, by: 'dst,src' },
          then: pass,
        },
      ])
    }),
    { chain, then: goto(names.denied) },
    { chain: names.pass, then: { setConnmark: flowMark(plan.uid, plan.range) } },
    { chain: names.pass, then: goto(chains.pass) },
    ...denialRules(family, plan.uid, chains.reject),
  ]
  const nat: Rule[] = [
    ...direct.flatMap(({ cidr: { address, prefix }, proto, ports }) =>
      ports.map((dport): Rule => ({
        chain: names.nat,
        ...(prefix === 0 ? {} : { to: { address, prefix } }),
        proto,
        dport,
        then: { verdict: 'RETURN' },
      })),
    ),
    ...gate.map(({ proto, port: meant, gatePort }): Rule => ({
      chain: names.nat,
      proto,
      dport: port(meant),
      then: { redirect: gatePort },
    })),
  ]
  return [
    { name: 'nat', chains: [{ name: names.nat }], rules: nat },
    {
      name: 'filter',
      chains: [{ name: chain }, { name: names.pass }, { name: names.denied }],
      rules,
    },
  ]
}

/** The second line inside a jail's namespace: only `lo`, and of that only what the gate serves. */
export function namespaceTables(family: Family, plan: NetworkPlan): Table[] {
  const { chain, denied } = jailNames(plan.uid)
  const accept: Target = { verdict: 'ACCEPT' }
  const owner = { first: plan.uid, last: plan.uid }
  // Over IPv6 the gate would not see where a datagram was meant to go (the kernel's source for all of it is ::1), and no
  // target makes of a source what is not written in the rule: refused here, where the address is known.
  const toGate = family === 4 ? plan.gateUdp : plan.gateUdp.filter(({ first }) => first === 53)
  return [
    {
      name: 'filter',
      chains: [
        { name: 'INPUT', policy: 'DROP' },
        { name: 'FORWARD', policy: 'DROP' },
        { name: 'OUTPUT', policy: 'DROP' },
        { name: chain },
        { name: denied },
        { name: chains.reject },
      ],
      rules: [
        { chain: 'INPUT', in: 'lo', then: accept },
        { chain: 'OUTPUT', out: 'not lo', then: drop },
        { chain: 'OUTPUT', owner, then: goto(chain) },
        // The gate's answers, and the kernel's own resets.
        { chain: 'OUTPUT', out: 'lo', then: accept },
        // Its own loopback: nothing of the host is there but what the gate serves.
        { chain, to: loopback[family], then: accept },
        ...plan.gateTcp.map((dport): Rule => ({ chain, proto: 'tcp', dport, then: accept })),
        ...toGate.map((dport): Rule => ({ chain, proto: 'udp', dport, then: accept })),
        { chain, then: goto(denied) },
        ...denialRules(family, plan.uid, chains.reject),
        { chain: chains.reject, proto: 'tcp', then: { reject: 'tcp-reset' } },
        { chain: chains.reject, then: { reject: 'prohibited' } },
      ],
    },
  ]
}
