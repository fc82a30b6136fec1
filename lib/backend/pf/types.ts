/**
 * pf rules as data: the subset of pf.conf(5) that agentjail loads, no more.
 * Invariant: a value of these types prints to text that macOS's pfctl accepts; nothing here is free text.
 *
 * pf on macOS is OpenBSD 4.3's (xnu `bsd/net/pf.c`: pf.c 1.567, pfvar.h 1.259).
 */
import type { Cidr } from '../../policy/types.js'

/** A port test. `=` is printed back by its service name where it has one; ranges never are. */
export type PfPort =
  | { readonly op: '='; readonly port: number }
  | { readonly op: ':'; readonly first: number; readonly last: number }

export type PfAddress =
  | { readonly kind: 'any' }
  | { readonly kind: 'cidr'; readonly cidr: Cidr }
  | { readonly kind: 'table'; readonly name: string; readonly not: boolean }

export interface PfEndpoint {
  readonly address: PfAddress
  readonly port?: PfPort
}

/**
 * A test of the socket's owner: the effective uid when the socket was made; TCP and UDP only.
 * `between` excludes both ends (`below >< above` of pf.conf). `!=` is left out on purpose: it is
 * true for packets that have no socket here (forwarded ones, ICMP of everybody).
 */
export type PfUser =
  | { readonly kind: 'is'; readonly uid: number }
  | { readonly kind: 'between'; readonly above: number; readonly below: number }

interface PfInterface {
  readonly name: string
  readonly not: boolean
}

/** A filter rule. Every rule is `quick`; every block is `block return`, so that programs fail at once. */
export interface PfRule {
  readonly action: 'pass' | 'block'
  readonly direction: 'in' | 'out'
  readonly log: boolean
  readonly interface?: PfInterface
  /** Send out through this interface instead (`pass out` only; pf refuses it without a direction). */
  readonly routeTo?: { readonly interface: string; readonly address: string }
  readonly family?: 4 | 6
  readonly proto: 'tcp' | 'udp'
  readonly from: PfEndpoint
  readonly to: PfEndpoint
  readonly user?: PfUser
  /** TCP only. `any` is no test; it keeps pf's default of `S/SA` from being added to a pass rule. */
  readonly flags?: 'any' | 'S/SA'
  /** Of pass rules. `none`: each packet is judged anew, so what is withdrawn is closed at its next packet. */
  readonly state?: 'none' | 'keep'
  /** At most 63 characters. Labelled rules are left alone by pfctl's optimizer and counted by `-s labels`. */
  readonly label: string
}

/** `rdr pass`: inbound only, and blind to users. */
export interface PfRedirect {
  readonly interface: string
  readonly family: 4 | 6
  readonly proto: 'tcp' | 'udp'
  readonly from: PfEndpoint
  readonly to: PfEndpoint
  readonly target: { readonly address: string; readonly port: number }
}

/** A `persist` table. `addresses` absent: a load leaves its content as it is. */
export interface PfTable {
  readonly name: string
  /** Addresses and CIDRs in canonical form. */
  readonly addresses?: readonly string[]
}

/** All that stands in agentjail's anchor; loaded in one transaction. */
export interface PfRuleset {
  readonly tables: readonly PfTable[]
  readonly redirects: readonly PfRedirect[]
  readonly rules: readonly PfRule[]
}
