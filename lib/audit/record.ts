/**
 * The one shape of a decision: the same words in the DNS answer, the log, the live line and the summary.
 * Invariant: a record never holds a secret, and never free text from the network longer than 256 characters.
 */

/** Why something was allowed or denied. `reasonText` has the words for each. */
export const reasons = {
  granted: 'granted by the policy',
  'name-not-granted': 'the policy grants no such name',
  'name-denied': 'the policy denies this name',
  'address-not-granted': 'no granted name has this address',
  'address-denied': 'the policy denies this address',
  'address-private': 'private, loopback, link-local or metadata address',
  'address-outside-within': 'the address is outside the ranges the policy gives for this name',
  'port-not-granted': 'the policy grants no such port',
  'protocol-not-granted': 'the policy grants no such protocol',
  'record-type-refused': 'this DNS record type leads around the gate',
  'query-malformed': 'malformed DNS query',
  'query-rate': 'too many DNS queries',
  'wildcard-budget': 'too many new names under a wildcard',
  'upstream-failed': 'the name could not be resolved upstream',
  'dial-failed': 'the destination could not be reached',
  'sni-missing': 'no server name in the TLS hello',
  'sni-mismatch': 'the TLS server name is not granted on this port',
  'tls-unreadable': 'not a readable TLS hello',
  'ech-refused': 'encrypted client hello to a name that is not granted',
  'host-mismatch': 'the Host header is not the granted name',
  'http-malformed': 'malformed or ambiguous HTTP',
  'method-not-granted': 'the policy grants no such method',
  'path-not-granted': 'the policy grants no such path',
  'body-too-large': 'the request body is larger than the policy allows',
  'body-not-granted': 'a field of the request body has a value that the policy does not grant',
  'credential-mismatch': "the request carries a key that is not the policy's",
  'credential-missing': 'the request carries no key where the policy pins one',
  'credential-extra': 'the request carries a further credential',
  'credential-elsewhere': 'a placeholder was sent to another host',
  'upstream-certificate': "the destination's certificate is not valid for its name",
  'budget-upload': 'the upload budget is used up',
  'budget-rate': 'too many requests a second',
  'budget-connections': 'too many connections',
  'grant-withdrawn': 'the grant was withdrawn',
  timeout: 'nothing was sent in time',
} as const

export type ReasonCode = keyof typeof reasons

export type Layer = 'dns' | 'tcp' | 'udp' | 'sni' | 'http' | 'kernel'

/** One decision, as the gate and the kernel readers report it. The log adds `v`, `time`, `jail`, `uid`. */
export interface Decision {
  readonly verdict: 'allow' | 'deny'
  readonly reason: ReasonCode
  readonly layer: Layer
  readonly direction: 'out' | 'in'
  /** `tcp`, `udp`, `icmp`, `icmpv6`, or the number of another protocol. */
  readonly proto: string
  readonly address?: string
  readonly port?: number
  readonly name?: string
  /** Where `name` is not known: the names whose address it is, at most four. */
  readonly names?: readonly string[]
  /** `g1`, ... of the policy; present when a grant decided. */
  readonly grant?: string
  readonly method?: string
  readonly path?: string
  /** Bytes up and down, on the closing record of a connection. */
  readonly up?: number
  readonly down?: number
  /** How many alike were folded into this one; absent: 1. */
  readonly count?: number
  /** A short fact more: the record type, the key's hash, what was seen instead. At most 256 characters. */
  readonly detail?: string
  readonly pid?: number
  readonly command?: string
}

/** One line of the audit log. */
export interface AuditRecord extends Decision {
  readonly v: 1
  /** ISO 8601, UTC, milliseconds. */
  readonly time: string
  readonly jail: string
  readonly uid: number
}
