/**
 * What passes between the parts of `agentjail verify`.
 * Invariant: where a witness outside the jail can tell, its word counts and not that of the probe.
 */
import type { Isolation, Policy } from '../policy/types.js'

/** What a platform tries, and how. */
export interface Battery {
  /** How many probes there are. */
  readonly size: number
  /** What `--without` may name. */
  readonly pieces: readonly string[]
  /** As root. `without`: of `pieces`. */
  run(request: BatteryRequest): Promise<{
    readonly isolation: Isolation
    readonly findings: readonly Finding[]
  }>
}

export interface BatteryRequest {
  readonly policy: Policy
  /** As named on the command line. */
  readonly policies: readonly string[]
  /** Absent: the policy's. */
  readonly isolation?: Isolation | undefined
  readonly without: readonly string[]
  readonly onNotice: (text: string) => void
}

/** For the probe inside, in one environment variable. No secret: the jail may know all of it. */
export interface InsideConfig {
  /** Marks everything that belongs to this run. */
  readonly nonce: string
  /** The target beyond the host: addresses of its own, reached through `device`. */
  readonly target4: string
  readonly target6: string
  readonly host4: string
  readonly device: string
  /** Names for the DNS filter and the TLS gate: only the first is granted. */
  readonly granted: string
  readonly other: string
  readonly tunnel: string
  /** Port of the listeners on the host's loopback and addresses. */
  readonly hostPort: number
  /** Port on which the probe listens for what comes from outside. */
  readonly inboundPort: number
  readonly abstractName: string
  readonly socketPath: string
  readonly messageKey: number
  readonly hostNetns: string
  readonly tmpMarker: string
  readonly tmpBytes: number
  readonly pids: number
  /** Whether the metadata address answers the host itself. */
  readonly metadata: boolean
  readonly canary: string
  readonly workspace: string
}

/** The same on macOS. */
export interface MacInsideConfig {
  readonly nonce: string
  /** Beyond the host, on the wire of the battery: the first two take what no grant names, the last is the granted name's. */
  readonly target4: string
  readonly target6: string
  readonly granted4: string
  readonly host4: string
  readonly granted: string
  readonly other: string
  readonly tunnel: string
  readonly hostPort: number
  readonly inboundPort: number
  readonly socketPath: string
  readonly metadata: boolean
  /** Whether the system resolver has a socket here. */
  readonly resolver: boolean
  /** A name that the system resolver has an answer for, and no file. */
  readonly hostName?: string
  readonly keychain: boolean
  readonly canary: string
  readonly tmpMarker: string
  /** A directory outside of the workspace that everybody may write to. */
  readonly open: string
  readonly workspace: string
  readonly pids: number
}

/** One line of what the probe inside prints. `open: null`: it cannot be tested here, or only a witness can tell. */
export interface InsideLine {
  readonly id: string
  readonly open: boolean | null
  readonly why: string
}

/** What was seen outside, by probe id; the kernel's counters count packets. */
export interface Witness {
  readonly arrived: ReadonlySet<string>
  readonly counters: { readonly icmp: number; readonly icmpv6: number; readonly udpLite: number }
  /** The allowed connection arrived: what did not arrive was refused, and not lost. */
  readonly control: boolean
  readonly leftover: boolean
  /** Probes whose witness could see nothing, and why. */
  readonly blind?: ReadonlyMap<string, string>
}

export type Verdict = 'closed' | 'open' | 'not-testable'

export interface Finding {
  readonly id: string
  readonly group: string
  readonly title: string
  readonly verdict: Verdict
  /** Open, and said to be so in docs/known-issues.md for this isolation. */
  readonly documented: boolean
  readonly why: string
}
