/**
 * What warden and gate say to each other over Node's IPC channel.
 * Invariant: the gate may ask for a pin, never for a rule; the warden treats every message of the gate as untrusted.
 */
import type { Decision } from '../audit/record.js'
import type { CidrGrant, CredentialPlace, Deny, DnsSettings, Grant } from '../policy/types.js'

/**
 * A socket the gate serves, opened for it before it started and inherited as `fd`.
 * `port` is the destination port the jail meant; 53 for DNS.
 * In `namespace` the local address of an accepted connection is the destination the jail meant;
 * in `redirect` it is loopback and means nothing.
 */
export interface Listener {
  readonly fd: number
  readonly proto: 'tcp' | 'udp'
  readonly role: 'dns' | 'relay' | 'proxy'
  /** 0: whatever port the client dialled (the accepted socket's local port). */
  readonly port: number
  /** Of the socket itself; default 6, dual-stack. A datagram socket of family 4 must say so. */
  readonly family?: 4 | 6
}

/** As `Listener`, for a socket that comes as a handle while the gate runs. */
export type HandedListener = Omit<Listener, 'fd'>

/** A credential with its value resolved. Lives only in memory of warden and gate. */
export interface ResolvedCredential {
  readonly id: string
  readonly mode: 'pin' | 'inject'
  readonly in: CredentialPlace
  readonly format: string
  readonly value: string
  /** For `inject`: what the command sees instead. */
  readonly placeholder?: string
}

/** What the gate enforces; everything here may change in a reload. JSON-safe (no Map). */
export interface GatePolicy {
  readonly grants: readonly Grant[]
  readonly cidrs: readonly CidrGrant[]
  readonly denies: readonly Deny[]
  readonly loopbackConnect: readonly number[]
  readonly ipv6: boolean
  readonly report: boolean
  /** As `Policy.reportHttp`. */
  readonly reportHttp?: boolean
  readonly dns: Omit<DnsSettings, 'hosts'> & {
    readonly hosts: readonly (readonly [string, readonly string[]])[]
  }
  readonly credentials: readonly ResolvedCredential[]
  readonly egressBytes?: number
}

export interface GateConfig {
  readonly jail: string
  /** `namespace`: the gate keeps pins. `redirect`: pins are asked of the warden. `proxy`: CONNECT/SOCKS5h (macOS). */
  readonly mode: 'namespace' | 'redirect' | 'proxy'
  readonly listeners: readonly Listener[]
  readonly policy: GatePolicy
  /** A CA of the jail's own, made by the gate itself, which answers with `ca`. */
  readonly wantCa: boolean
  /** Of a gate before this one, as it answered: the command trusts that CA. */
  readonly keptCa?: string
  /** The host's own addresses (never dialled unless granted). */
  readonly hostAddresses: readonly string[]
  /** The host's resolvers, for a policy that names none. */
  readonly upstreams: readonly { readonly address: string; readonly port: number }[]
  /** `proxy` mode: the password a client must send (Proxy-Authorization, SOCKS5 user/password), so that only the jail can use it. */
  readonly proxyToken?: string
  /** PEM bundle of extra upstream roots (tests, private CAs); else Node's and the system's. */
  readonly upstreamCa?: string
}

export type ToGate =
  | { readonly type: 'start'; readonly config: GateConfig }
  /** Replace the policy at once; connections whose grant is gone are cut before `updated` is answered. */
  | { readonly type: 'update'; readonly serial: number; readonly policy: GatePolicy }
  | { readonly type: 'pinned'; readonly serial: number; readonly ok: boolean }
  /** One more socket to serve, which travels with the message; answered with `serving`. */
  | { readonly type: 'listener'; readonly serial: number; readonly listener: HandedListener }
  /** The client's process was looked for. */
  | { readonly type: 'seen'; readonly serial: number; readonly found: boolean }
  | { readonly type: 'ping'; readonly serial: number }
  | { readonly type: 'stop' }

/** Addresses that a granted name has, to be let through the kernel on that grant's ports. */
export interface PinRequest {
  readonly type: 'pin'
  readonly serial: number
  readonly grant: string
  readonly name: string
  /** Seconds that the pin shall stand from now. */
  readonly pins: readonly { readonly address: string; readonly seconds: number }[]
}

export interface GateStats {
  readonly connections: number
  readonly up: number
  readonly down: number
  readonly pins: number
  readonly queries: number
}

/** A decision with the port of the client's own socket, where its process may be found by it. */
export interface ReportedDecision extends Decision {
  readonly client?: number
}

export type FromGate =
  /**
   * All listeners are served. `ca` is the PEM certificate of the jail's CA where `wantCa`; `keptCa`, with its key, is for
   * the gate that may have to take this one's place, and for nobody else.
   */
  | { readonly type: 'ready'; readonly ca?: string; readonly keptCa?: string }
  | {
      readonly type: 'decisions'
      readonly decisions: readonly ReportedDecision[]
      /** Not sent, for rate. */ readonly dropped: number
    }
  /**
   * A client is answered after `seen`. Without a name it is being denied, and the decision follows; with one it looks
   * up this granted name.
   */
  | {
      readonly type: 'client'
      readonly serial: number
      readonly proto: string
      readonly port: number
      readonly name?: string
    }
  | PinRequest
  | {
      readonly type: 'updated'
      readonly serial: number
      /** Connections cut. */ readonly cut: number
    }
  | { readonly type: 'serving'; readonly serial: number }
  | { readonly type: 'pong'; readonly serial: number; readonly stats: GateStats }
  | { readonly type: 'fatal'; readonly message: string }
