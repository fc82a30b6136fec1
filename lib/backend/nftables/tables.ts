/**
 * The tables that agentjail loads: their names, and what their rules have in common. Pure.
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
import type { UidRange } from '../types.js'
import { ct, differ, equal, field, masked, meta } from './ast.js'
import type { Expression, Rule, Statement } from './ast.js'

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
export const passMark = 0x616a6a61

export const uids = (range: UidRange): Expression => ({ range: [range.first, range.last] })

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
export function othersFirst(range: UidRange, chain: string, verdict: Statement): Rule[] {
  const others = outside(range)
  return others === undefined ? [] : [{ chain, expr: [others, verdict] }]
}

/** Packets of the side that opened a flow: the gate's answers belong to the same flow and are not the jail's. */
export const original = equal(ct('direction'), 'original')
export const reply = equal(ct('direction'), 'reply')

export const ownLoopback = equal(field('ip', 'daddr'), { prefix: { addr: '127.0.0.0', len: 8 } })

export function matchCidr(
  cidr: { readonly family: 4 | 6; readonly address: string; readonly prefix: number },
  side: 'daddr' | 'saddr' = 'daddr',
): Statement {
  const whole = cidr.prefix === (cidr.family === 4 ? 32 : 128)
  return equal(
    field(cidr.family === 4 ? 'ip' : 'ip6', side),
    whole ? cidr.address : { prefix: { addr: cidr.address, len: cidr.prefix } },
  )
}
