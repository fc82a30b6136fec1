/**
 * From what the probe said and what was seen outside to verdicts. Pure.
 * Invariant: a probe that said nothing, and one whose witness could not have seen anything, is never called closed.
 */
import type { Isolation } from '../policy/types.js'
import { knownOpen, means, probes, type Means, type Probe } from './probes.js'
import type { Finding, InsideLine, Verdict, Witness } from './types.js'

/** Of a probe that said nothing, or was never reached: that is no success. */
const silence = 'the probe did not report'

/** Judged by what arrived at the target or at a service of the host. */
const byArrival = new Set([
  ...['tcp-direct', 'tcp-port', 'tcp-ipv6', 'tcp-mapped', 'tcp-device', 'mptcp'],
  ...['udp', 'udp-ipv6', 'quic', 'dns-other', 'dns-tunnel', 'sni-other', 'loopback-udp'],
  ...['loopback-tcp', 'loopback-ipv6', 'host-address', 'abstract-socket', 'path-socket'],
])
/** Judged by counters of the target's kernel. */
const byCounter: Readonly<Record<string, keyof Witness['counters']>> = {
  icmp: 'icmp',
  'icmp-ipv6': 'icmpv6',
  'udp-lite': 'udpLite',
}

/** What there is to judge: probes, those known to be open here, and what closes one of them elsewhere. */
export interface Book {
  readonly probes: readonly Omit<Probe, 'opens'>[]
  readonly known: readonly string[]
  readonly lacks: Readonly<Record<string, string>>
}

/** On Linux. `present`: what of the means this machine has. */
export function judge(
  lines: readonly InsideLine[],
  witness: Witness,
  isolation: Isolation,
  present: ReadonlySet<Means>,
): Finding[] {
  return judgeBy({ probes, known: knownOpen(isolation, present), lacks: means }, lines, witness)
}

export function judgeBy(book: Book, lines: readonly InsideLine[], witness: Witness): Finding[] {
  const known = new Set(book.known)
  return book.probes.map(({ id, group, title }) => {
    const { verdict, why } = verdictOf(id, lines, witness)
    const documented = verdict === 'open' && known.has(id)
    const lacking = documented ? book.lacks[id] : undefined
    const lacks = lacking === undefined ? '' : `; not here: ${lacking}`
    return { id, group, title, verdict, documented, why: why + lacks }
  })
}

function verdictOf(
  id: string,
  lines: readonly InsideLine[],
  witness: Witness,
): { readonly verdict: Verdict; readonly why: string } {
  if (id === 'leftover') {
    const ended = lines.some((line) => line.id === 'done')
    if (witness.leftover) return { verdict: 'open', why: 'it went on after the end' }
    return ended
      ? { verdict: 'closed', why: 'it ended with the command' }
      : { verdict: 'not-testable', why: silence }
  }
  const said = lines.find((line) => line.id === id)
  if (said === undefined) return { verdict: 'not-testable', why: silence }
  if (said.open === true) return { verdict: 'open', why: said.why }
  const blind = witness.blind?.get(id)
  if (blind !== undefined) return { verdict: 'not-testable', why: blind }
  const counter = byCounter[id]
  if (counter !== undefined) {
    if (witness.counters[counter] > 0) return { verdict: 'open', why: 'it arrived outside' }
    return { verdict: 'closed', why: said.why }
  }
  if (byArrival.has(id)) {
    if (witness.arrived.has(id)) return { verdict: 'open', why: 'it arrived outside' }
    if (said.open === null && !witness.control && needsControl.has(id)) {
      return { verdict: 'not-testable', why: 'the allowed connection did not arrive either' }
    }
    return { verdict: 'closed', why: said.why }
  }
  return said.open === null
    ? { verdict: 'not-testable', why: said.why }
    : { verdict: 'closed', why: said.why }
}

/** For these the way itself is open, to granted names: that it works must have been seen. */
const needsControl = new Set(['dns-tunnel', 'sni-other', 'tcp-direct'])

/** Open beyond what is documented, or without a report at all: the exit code. */
export function failures(findings: readonly Finding[]): readonly Finding[] {
  return findings.filter(
    ({ verdict, documented: isKnown, why }) => (verdict === 'open' && !isKnown) || why === silence,
  )
}
