/**
 * What pf does with a packet, from pf.conf(5): states first, then the main filter list with its anchors;
 * the last match wins, the first quick match anywhere ends it. Written from the manual, for parsed text:
 * it never sees agentjail's own rule types.
 */
import { BlockList, isIPv4 } from 'node:net'
import {
  noUid,
  type End,
  type FilterRule,
  type Host,
  type Matchers,
  type NumberTest,
  type Parsed,
} from './ast.js'

export interface Packet {
  readonly direction: 'in' | 'out'
  readonly on: string
  readonly proto: 'tcp' | 'udp' | 'icmp' | 'ipv6-icmp'
  readonly from: string
  readonly fromPort?: number
  readonly to: string
  readonly toPort?: number
  /** Of TCP, e.g. `S`, `SA`, `A`, `R`. */
  readonly flags?: string
  /** Owner of the local socket; undefined: forwarded, or nobody listens. */
  readonly uid?: number
  /** A fragment after the first: neither ports nor owner are known. */
  readonly fragment?: boolean
}

export interface PfWorld {
  readonly enabled: boolean
  /** Interfaces that pf does not look at. */
  readonly skipped?: readonly string[]
  readonly main: Parsed
  readonly anchors: ReadonlyMap<string, Parsed>
  /** By `anchor path` + `\0` + name; the main ruleset's path is empty. */
  readonly tables: ReadonlyMap<string, readonly string[]>
  readonly states: State[]
}

export interface State {
  readonly proto: string
  readonly from: string
  readonly to: string
}

export interface Verdict {
  readonly action: 'pass' | 'drop' | 'return'
  readonly label?: string
  readonly log: boolean
  readonly routeTo?: string
  /** `state`, or the anchor path of the rule that decided (empty: main ruleset or no rule). */
  readonly by: string
}

export function evaluate(world: PfWorld, packet: Packet): Verdict {
  if (!world.enabled || world.skipped?.includes(packet.on) === true)
    return { action: 'pass', log: false, by: '' }
  if (packet.fragment !== true && hasState(world, packet))
    return { action: 'pass', log: false, by: 'state' }
  let last: { rule: FilterRule; anchor: string } | undefined
  const walk = (path: string): boolean => {
    const rules = path === '' ? world.main : world.anchors.get(path)
    for (const rule of rules?.statements ?? []) {
      if (rule.kind !== 'filter' && rule.kind !== 'anchor') continue
      if (!matches(world, path, rule, packet)) continue
      if (rule.kind === 'filter') {
        last = { rule, anchor: path }
        if (rule.quick) return true
        continue
      }
      const before = last
      for (const child of called(world, path, rule.path)) if (walk(child)) return true
      if (rule.quick && last !== before) return true
    }
    return false
  }
  walk('')
  if (last === undefined) return { action: 'pass', log: false, by: '' }
  const { rule, anchor } = last
  if (rule.action === 'pass' && rule.state === 'keep') world.states.push(stateOf(packet))
  return {
    action: rule.action,
    log: rule.log !== undefined,
    by: anchor,
    ...(rule.label === undefined ? {} : { label: rule.label }),
    ...(rule.routeTo === undefined || rule.action !== 'pass' ? {} : { routeTo: rule.routeTo.on }),
  }
}

/** Where an inbound packet is redirected to, by the first matching rdr of main or of anchors below com.apple. */
export function redirect(
  world: PfWorld,
  packet: Packet,
): { readonly address: string; readonly port: number } | undefined {
  if (!world.enabled || packet.direction !== 'in') return undefined
  if (world.skipped?.includes(packet.on) === true) return undefined
  for (const path of ['', ...called(world, '', 'com.apple/*')]) {
    const rules = path === '' ? world.main : world.anchors.get(path)
    for (const rule of rules?.statements ?? []) {
      if (rule.kind !== 'rdr' || !matches(world, path, rule, packet)) continue
      const target = rule.target
      if (target === undefined) return undefined
      return { address: target.address, port: target.port ?? packet.toPort ?? 0 }
    }
  }
  return undefined
}

/** `x/*`: all anchors directly below x, by strcmp; `x`: that one. One level, as macOS does. */
function called(world: PfWorld, from: string, path: string): string[] {
  const full = from === '' ? path : `${from}/${path}`
  if (!full.endsWith('/*')) return world.anchors.has(full) ? [full] : []
  const prefix = full.slice(0, -1)
  return [...world.anchors.keys()]
    .filter((each) => each.startsWith(prefix) && !each.slice(prefix.length).includes('/'))
    .sort((a, b) => (a < b ? -1 : 1))
}

function matches(world: PfWorld, anchor: string, rule: Matchers, packet: Packet): boolean {
  if (rule.direction !== undefined && rule.direction !== packet.direction) return false
  if (rule.on !== undefined && (rule.on.name === packet.on) === rule.on.not) return false
  if (rule.family !== undefined && rule.family !== (isIPv4(packet.from) ? 4 : 6)) return false
  if (rule.proto !== undefined && rule.proto !== packet.proto) return false
  if (!hostMatches(world, anchor, rule.from, packet.from)) return false
  if (!hostMatches(world, anchor, rule.to, packet.to)) return false
  if (packet.fragment === true)
    // pf_test_fragment: rules that test ports or flags are skipped; the user is not looked at.
    return rule.from.port === undefined && rule.to.port === undefined && rule.flags === undefined
  if (!portMatches(rule.from.port, packet.fromPort)) return false
  if (!portMatches(rule.to.port, packet.toPort)) return false
  if (rule.flags !== undefined && rule.flags.mask !== '') {
    if (packet.proto !== 'tcp') return false
    const seen = (packet.flags ?? '').split('').filter((flag) => rule.flags?.mask.includes(flag))
    if (seen.sort().join('') !== rule.flags.set.split('').sort().join('')) return false
  }
  return rule.user === undefined || userMatches(rule.user, packet)
}

function userMatches(test: NumberTest, packet: Packet): boolean {
  const known = packet.proto === 'tcp' || packet.proto === 'udp' ? packet.uid : undefined
  const uid = known ?? noUid
  // An unknown owner satisfies only `!=`, and `= unknown`.
  if (uid === noUid && test.op !== '!=' && !(test.op === '=' && test.a === noUid)) return false
  return numberMatches(test, uid)
}

function portMatches(test: NumberTest | undefined, port: number | undefined): boolean {
  return test === undefined || (port !== undefined && numberMatches(test, port))
}

function numberMatches({ op, a, b = 0 }: NumberTest, value: number): boolean {
  switch (op) {
    case '=':
      return value === a
    case '!=':
      return value !== a
    case '<':
      return value < a
    case '<=':
      return value <= a
    case '>':
      return value > a
    case '>=':
      return value >= a
    case '><':
      return value > a && value < b
    case '<>':
      return value < a || value > b
    case ':':
      return value >= a && value <= b
  }
}

function hostMatches(world: PfWorld, anchor: string, end: End, address: string): boolean {
  return hostIs(world, anchor, end.host, address) !== end.not
}

function hostIs(world: PfWorld, anchor: string, host: Host, address: string): boolean {
  switch (host.kind) {
    case 'any':
      return true
    case 'net':
      return inNet(address, `${host.address}/${String(host.prefix)}`)
    case 'table': {
      const own = world.tables.get(`${anchor}\0${host.name}`) ?? world.tables.get(`\0${host.name}`)
      let best: { prefix: number; not: boolean } | undefined
      for (const entry of own ?? []) {
        const not = entry.startsWith('!')
        const net = not ? entry.slice(1) : entry
        const prefix = Number(net.split('/')[1] ?? 128)
        if (inNet(address, net) && (best === undefined || prefix > best.prefix))
          best = { prefix, not }
      }
      return best !== undefined && !best.not
    }
  }
}

const lists = new Map<string, { family: 'ipv4' | 'ipv6'; list: BlockList }>()

export function inNet(address: string, net: string): boolean {
  let known = lists.get(net)
  if (known === undefined) {
    const [base = '', length] = net.split('/')
    const family = isIPv4(base) ? 'ipv4' : 'ipv6'
    const list = new BlockList()
    list.addSubnet(base, Number(length ?? (family === 'ipv4' ? 32 : 128)), family)
    known = { family, list }
    lists.set(net, known)
  }
  const family = isIPv4(address) ? 'ipv4' : 'ipv6'
  return family === known.family && known.list.check(address, family)
}

function stateOf(packet: Packet): State {
  return {
    proto: packet.proto,
    from: `${packet.from} ${String(packet.fromPort)}`,
    to: `${packet.to} ${String(packet.toPort)}`,
  }
}

function hasState(world: PfWorld, packet: Packet): boolean {
  const own = stateOf(packet)
  return world.states.some(
    ({ proto, from, to }) =>
      proto === own.proto &&
      ((from === own.from && to === own.to) || (from === own.to && to === own.from)),
  )
}
