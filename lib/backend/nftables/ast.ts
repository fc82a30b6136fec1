/**
 * nftables rules as data: the subset of libnftables-json(5) that agentjail uses, so that what the kernel
 * lists (`nft -j list`) can be compared with what was meant, member by member.
 * Invariant: no string in here comes from a user; names are made by `names.ts`, addresses are canonical.
 */
export type Expression =
  | {
      readonly meta: {
        readonly key: 'skuid' | 'oifname' | 'iifname' | 'l4proto' | 'mark' | 'nfproto'
      }
    }
  | {
      readonly payload: {
        readonly protocol: 'ip' | 'ip6' | 'th' | 'tcp' | 'udp'
        readonly field: 'daddr' | 'saddr' | 'dport' | 'sport'
      }
    }
  | { readonly ct: { readonly key: 'mark' | 'status' | 'direction' | 'state' } }
  /** Where the side that opened the flow meant to go, whatever address translation made of it. */
  | { readonly ct: { readonly key: 'ip6 daddr'; readonly dir: 'original' } }
  | { readonly socket: { readonly key: 'cgroupv2'; readonly level: number } }
  | { readonly concat: readonly Expression[] }
  | { readonly '&': readonly [Expression, number] }
  | { readonly range: readonly [number, number] }
  | { readonly prefix: { readonly addr: string; readonly len: number } }
  | { readonly set: readonly (string | number | Expression)[] }
  | { readonly elem: { readonly val: Expression; readonly timeout: number } }
  /** Of a control group, below /sys/fs/cgroup; made of agentjail's own words only. */
  | { readonly path: string }
  | string
  | number

export type Statement =
  | {
      readonly match: {
        readonly op: '==' | '!=' | 'in'
        readonly left: Expression
        readonly right: Expression
      }
    }
  | { readonly accept: null }
  | { readonly drop: null }
  | { readonly return: null }
  | { readonly jump: { readonly target: string } }
  | { readonly goto: { readonly target: string } }
  | {
      readonly reject:
        | { readonly type: 'tcp reset' }
        | { readonly type: 'icmpx'; readonly expr: 'admin-prohibited' }
    }
  | {
      readonly set: {
        readonly op: 'update' | 'add'
        readonly elem: Expression
        readonly set: string
      }
    }
  | { readonly mangle: { readonly key: Expression; readonly value: number } }
  | { readonly vmap: { readonly key: Expression; readonly data: string } }
  | { readonly counter: string }
  | { readonly redirect: { readonly port: number } }
  | { readonly dnat: { readonly family: 'ip6'; readonly addr: string } }
  | { readonly snat: { readonly family: 'ip6'; readonly addr: Expression } }

export interface Rule {
  readonly chain: string
  readonly expr: readonly Statement[]
}

export interface Chain {
  readonly name: string
  /** Absent: a chain that others jump to. */
  readonly hook?: {
    readonly type: 'filter' | 'nat'
    readonly hook: 'output' | 'input' | 'forward' | 'postrouting'
    readonly prio: number
    readonly policy: 'accept' | 'drop'
  }
}

export interface NamedSet {
  readonly kind: 'set' | 'map'
  readonly name: string
  readonly type: readonly (
    'ipv4_addr' | 'ipv6_addr' | 'inet_proto' | 'inet_service' | 'uid' | 'mark' | 'verdict'
  )[]
  /** Of a map: what it leads to. */
  readonly to?: 'verdict'
  readonly size?: number
  readonly flags: readonly ('dynamic' | 'timeout' | 'interval')[]
  /** Seconds. */
  readonly timeout?: number
  readonly counter?: boolean
}

export interface Element {
  readonly set: string
  readonly kind: 'set' | 'map'
  /** Canonical literals only. */
  readonly key: readonly (string | number)[]
  readonly verdict?: string
  /** Seconds. */
  readonly timeout?: number
}

export interface Table {
  readonly name: string
  readonly owner: boolean
  readonly counters: readonly string[]
  readonly sets: readonly NamedSet[]
  readonly chains: readonly Chain[]
  readonly rules: readonly Rule[]
  readonly elements: readonly Element[]
}

// Short forms, so that rules read like rules.
export const meta = (
  key: 'skuid' | 'oifname' | 'iifname' | 'l4proto' | 'mark' | 'nfproto',
): Expression => ({ meta: { key } })
export const ct = (key: 'mark' | 'status' | 'direction' | 'state'): Expression => ({ ct: { key } })
/** The control group, at that depth of the hierarchy, of the socket that sends or will receive. */
export const socketGroup = (level: number): Expression => ({ socket: { key: 'cgroupv2', level } })
export const field = (
  protocol: 'ip' | 'ip6' | 'th' | 'tcp' | 'udp',
  name: 'daddr' | 'saddr' | 'dport' | 'sport',
): Expression => ({ payload: { protocol, field: name } })
export const concat = (...parts: readonly Expression[]): Expression => ({ concat: parts })
export const masked = (value: Expression, mask: number): Expression => ({ '&': [value, mask] })
export const equal = (left: Expression, right: Expression): Statement => ({
  match: { op: '==', left, right },
})
export const differ = (left: Expression, right: Expression): Statement => ({
  match: { op: '!=', left, right },
})
export const has = (left: Expression, right: Expression): Statement => ({
  match: { op: 'in', left, right },
})
export const accept: Statement = { accept: null }
export const drop: Statement = { drop: null }
export const goto = (target: string): Statement => ({ goto: { target } })
export const resetTcp: Statement = { reject: { type: 'tcp reset' } }
export const prohibit: Statement = { reject: { type: 'icmpx', expr: 'admin-prohibited' } }
export const setMark = (value: number): Statement => ({ mangle: { key: meta('mark'), value } })
export const setCtMark = (value: number): Statement => ({ mangle: { key: ct('mark'), value } })
export const update = (set: string, elem: Expression): Statement => ({
  set: { op: 'update', elem, set: `@${set}` },
})
export const vmap = (key: Expression, map: string): Statement => ({
  vmap: { key, data: `@${map}` },
})
export const count = (name: string): Statement => ({ counter: name })
export const redirect = (port: number): Statement => ({ redirect: { port } })
export const leadTo = (addr: string): Statement => ({ dnat: { family: 'ip6', addr } })
/** The sender becomes whom it meant to reach: for a receiver that sees only the sender's address. */
export const sourceAsMeant: Statement = {
  snat: { family: 'ip6', addr: { ct: { key: 'ip6 daddr', dir: 'original' } } },
}

/** One port or range as nft lists it: a number, a range, or an anonymous set, in ascending order. */
export function ports(
  list: readonly { readonly first: number; readonly last: number }[],
): Expression {
  const parts = mergeRanges(list).map(({ first, last }): number | Expression =>
    first === last ? first : { range: [first, last] },
  )
  const [only] = parts
  return parts.length === 1 && only !== undefined ? only : { set: parts }
}

/** Sorted, with overlapping and adjacent ranges joined, as the kernel lists an anonymous interval set. */
function mergeRanges(
  list: readonly { readonly first: number; readonly last: number }[],
): { first: number; last: number }[] {
  const merged: { first: number; last: number }[] = []
  for (const { first, last } of [...list].sort((a, b) => a.first - b.first || a.last - b.last)) {
    const previous = merged.at(-1)
    // Adjacent single ports are kept apart (80, 81), as nft keeps them where no range is given.
    if (previous !== undefined && first <= previous.last)
      previous.last = Math.max(previous.last, last)
    else merged.push({ first, last })
  }
  return merged
}
