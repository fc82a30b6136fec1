/** Rules that refuse, and count what they refuse by destination. Pure. */
import { concat, count, differ, equal, field, meta, prohibit, resetTcp, update } from './ast.js'
import type { Expression, NamedSet, Rule } from './ast.js'
import { matchCidr } from './tables.js'

/** Transport protocols that have ports where `th` reads them: tcp, udp, dccp, sctp, udplite. */
const withPorts: Expression = { set: ['tcp', 'udp', 'dccp', 'sctp', 'udplite'] }

export const overflowCounter = 'denied_overflow'

/** Names of the sets that hold what was refused; `suffix` keeps jails apart in a shared table. */
export const deniedSet = (family: 4 | 6, kind: 'port' | 'other', suffix: string): string =>
  `denied${family}_${kind}${suffix}`

/** Destinations kept apart in each of those sets. */
export const deniedSize = 1024

export function denialSets(suffix: string): NamedSet[] {
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
export function denialRules(chain: string, suffix = '', overflow = overflowCounter): Rule[] {
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
export function deniedCidrRules(
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
