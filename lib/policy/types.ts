/**
 * The normalised policy: what the loader makes of YAML, and all that any later stage sees.
 * Invariant: every value here is already parsed and bounded; nothing downstream re-parses text.
 */

/** How a jail is held. `basic` is `uid` without bubblewrap: less is closed, and what is lost is printed. */
export type Isolation = 'namespace' | 'uid' | 'basic'

/** Where a value was written, 1-based, for messages. `file` is a path or `bundle:NAME`. */
export interface Origin {
  readonly file: string
  readonly line: number
  readonly column: number
}

/**
 * A host pattern, lower case, punycode, without the trailing dot.
 * `exact`: the name itself. `one` is `*.x`: exactly one more label. `many` is `**.x`: one or more. The apex is in neither.
 */
export interface HostPattern {
  readonly kind: 'exact' | 'one' | 'many'
  /** For `exact` the whole name, else the part after the wildcard. */
  readonly name: string
}

/** Inclusive; 1-65535; first <= last. */
export interface PortRange {
  readonly first: number
  readonly last: number
}

/** A canonical CIDR (or single address as /32, /128): host bits zero, no IPv4-mapped IPv6. */
export interface Cidr {
  readonly family: 4 | 6
  readonly address: string
  readonly prefix: number
}

type Inspect = 'none' | 'sni' | 'http'
type Access = 'read-only' | 'read-write' | 'full'

export interface HttpRule {
  /** Upper case, or `*`. */
  readonly method: string
  /** A path glob: `*` one segment, `**` any; `{token}` stands for the credential. Starts with `/`. */
  readonly path: string
  /** Query parameters that must be present with one of these values. */
  readonly query?: Readonly<Record<string, readonly string[]>>
  /** Top-level JSON body fields that must have one of these values. */
  readonly json?: Readonly<Record<string, readonly (string | number | boolean)[]>>
  /** Bytes. */
  readonly maxBody?: number
}

export interface GrantLimits {
  readonly conns?: number
  /** Requests (http) or connections (otherwise) a second. */
  readonly rps?: number
  /** Bytes from the jail to the host, over the run. */
  readonly uploadBytes?: number
}

/** One allowed destination by name. `id` is stable within a policy: `g1`, `g2`, ... in order. */
export interface Grant {
  readonly id: string
  readonly host: HostPattern
  readonly ports: readonly PortRange[]
  readonly proto: 'tcp' | 'udp'
  readonly inspect: Inspect
  readonly access: Access
  readonly rules: readonly HttpRule[]
  /** Answers and dials must fall in one of these, when not empty. */
  readonly within: readonly Cidr[]
  /** Private addresses in answers are allowed (exact names only). */
  readonly private: boolean
  /** Key into `Policy.credentials`. */
  readonly credential?: string
  readonly limits: GrantLimits
  readonly reason?: string
  readonly origin: Origin
}

export interface CidrGrant {
  readonly id: string
  readonly cidr: Cidr
  readonly ports: readonly PortRange[]
  readonly proto: 'tcp' | 'udp'
  readonly origin: Origin
}

/** A denial that wins over every grant. Exactly one of `host`, `cidr`. */
export interface Deny {
  readonly host?: HostPattern
  readonly cidr?: Cidr
  readonly reason?: string
  readonly origin: Origin
}

export interface DnsSettings {
  /** Empty: the host's own resolvers. */
  readonly upstream: readonly { readonly address: string; readonly port: number }[]
  readonly types: readonly ('A' | 'AAAA' | 'SRV')[]
  /** Seconds. */
  readonly maxTtl: number
  readonly pinExtra: number
  /** Queries a second. */
  readonly rate: number
  readonly wildcard: {
    readonly labels: number
    readonly labelLength: number
    readonly newNames: number
  }
  /** Fixed answers. */
  readonly hosts: ReadonlyMap<string, readonly string[]>
}

export type CredentialSource =
  | { readonly kind: 'env'; readonly name: string }
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'exec'; readonly argv: readonly string[] }
  | { readonly kind: 'keychain'; readonly item: string }
  | { readonly kind: 'systemd'; readonly name: string }

export type CredentialPlace =
  | { readonly kind: 'header'; readonly name: string }
  | { readonly kind: 'query'; readonly name: string }
  /** The path segment that holds it: `prefix` before it within its segment (`bot` for Telegram). */
  | { readonly kind: 'path'; readonly prefix: string }
  | { readonly kind: 'basic' }
  | { readonly kind: 'body'; readonly name: string }

export interface Credential {
  readonly id: string
  readonly from: CredentialSource
  readonly mode: 'pin' | 'inject'
  readonly in: CredentialPlace
  /** `{}` stands for the value; default `{}` (header authorization: `Bearer {}`). */
  readonly format: string
  /** The variable that shows the value (pin) or its placeholder (inject) to the command. */
  readonly env?: string
  /** A slot: with no value found, grants that name it fall back to `inspect: sni` without it. */
  readonly optional: boolean
  readonly origin: Origin
}

/** Absent: not limited. */
export interface Limits {
  /** Bytes. */
  readonly memory?: number
  /** CPUs, e.g. 1.5. */
  readonly cpu?: number
  readonly pids?: number
  readonly openFiles?: number
  /** Bytes of the private /tmp. */
  readonly tmp?: number
  /** Seconds of wall clock. */
  readonly time?: number
  /** Bytes from the jail, all grants together. */
  readonly egressBytes?: number
}

/** Absolute paths, or relative to the working directory of the run (`./x`), or to the policy's home (`~/x`). */
export interface FsRules {
  readonly read: readonly string[]
  readonly write: readonly string[]
  readonly deny: readonly string[]
}

export interface Policy {
  readonly name: string
  readonly description?: string
  /** The file the user named, or `bundle:NAME`. */
  readonly source: string
  readonly isolation: Isolation
  /** Log only: nothing is refused by name (learn uses this). Private and metadata addresses stay closed. */
  readonly report: boolean
  /** With `report`: TLS of names that nothing grants is terminated, so that requests are logged. */
  readonly reportHttp?: boolean
  readonly grants: readonly Grant[]
  readonly cidrs: readonly CidrGrant[]
  readonly denies: readonly Deny[]
  readonly loopback: { readonly connect: readonly number[]; readonly listen: readonly number[] }
  readonly ipv6: boolean
  readonly dns: DnsSettings
  readonly credentials: ReadonlyMap<string, Credential>
  readonly env: { readonly pass: readonly string[]; readonly set: ReadonlyMap<string, string> }
  readonly fs: FsRules
  readonly limits: Limits
  /** May create user namespaces (seccomp otherwise refuses). */
  readonly userNamespaces: boolean
  /** macOS: redirect inspected ports instead of setting proxy variables. */
  readonly transparent: boolean
}
