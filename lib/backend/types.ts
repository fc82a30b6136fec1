/**
 * One interface for everything that can hold a jail's network.
 * Invariant: `open` returns only after every rule was installed and read back as written; what it throws leaves denial.
 */
import type { Decision } from '../audit/record.js'
import type { PortRange } from '../policy/types.js'

/** Inclusive range of uids reserved for jails. */
export interface UidRange {
  readonly first: number
  readonly last: number
}

/** One destination that packets may take straight through the kernel, without the gate. */
export interface KernelGrant {
  readonly grant: string
  readonly cidr: { readonly family: 4 | 6; readonly address: string; readonly prefix: number }
  readonly proto: 'tcp' | 'udp'
  readonly ports: readonly PortRange[]
}

/** What the kernel shall enforce for one jail; plain data, made by `lib/plan`. */
export interface NetworkPlan {
  readonly jail: string
  readonly uid: number
  readonly isolation: 'namespace' | 'uid'
  readonly range: UidRange
  readonly ipv6: boolean
  /** Destination ports that the gate serves, in `namespace` by listening on them, in `uid` by redirect. */
  readonly gateTcp: readonly PortRange[]
  readonly gateUdp: readonly PortRange[]
  /** Grants by name whose addresses are pinned at run time (`uid` only): grant id to ports. */
  readonly pinned: readonly {
    readonly grant: string
    /** What the grant says, whole: pins stand through a reload only where this is unchanged. */
    readonly key: string
    readonly proto: 'tcp' | 'udp'
    readonly ports: readonly PortRange[]
  }[]
  /** Grants by address (`uid` only; in `namespace` the gate relays them). */
  readonly kernel: readonly KernelGrant[]
  /** Destinations that the policy denies by address: they win over `kernel` and over pins. Absent: none. */
  readonly denied?: readonly KernelGrant['cidr'][]
  /** Ports of the host's loopback that the jail may connect to, and may serve. */
  readonly loopbackConnect: readonly number[]
  readonly loopbackListen: readonly number[]
  /**
   * Path below /sys/fs/cgroup of the control group (version 2) that holds a group for each jail (`uid` only): what
   * the kernel knows a receiving socket by. Absent: the machine has none, and datagrams from outside come in.
   */
  readonly groups?: string
}

/** Rules as they will be loaded, for people and golden files. */
export interface RenderedRules {
  readonly title: string
  /** File name suffix: what would check it. */
  readonly format: 'nft' | 'pf' | 'iptables' | 'ipset' | 'ip'
  readonly text: string
}

/** Loopback ports on which the gate listens (`uid`): destination port meant, to the gate's port. */
export interface GatePort {
  readonly proto: 'tcp' | 'udp'
  readonly port: number
  readonly gatePort: number
  /** `proxy`: the CONNECT and SOCKS5h listener (macOS), which takes over no port: `port` is its own. */
  readonly role?: 'proxy'
}

export interface Pin {
  readonly address: string
  readonly grant: string
  /** Seconds from now. */
  readonly seconds: number
}

/** Listens for changes of what holds a jail. */
export interface RuleMonitor {
  stop(): void
}

/** The network of one running jail. */
export interface NetworkHold {
  /** For the launcher to join; absent where the jail stays on the host's network. */
  readonly netns: string | undefined
  /**
   * `namespace`: the rules are in and read back. Before that nothing may be let into the namespace, which has no `lo`
   * yet. Where the jail stays on the host's network: at once, its rules go in with `connectGate`.
   */
  readonly installed: Promise<void>
  /** `uid`: the gate's ports are known only once it listens; static deny and rules go in (and are read back) here. */
  connectGate(ports: readonly GatePort[]): Promise<void>
  /** In force in the kernel when this resolves. */
  pin(pins: readonly Pin[]): Promise<void>
  /** Applies another plan in one transaction; withdrawn destinations are closed when it resolves. */
  /** `ports`: all of the gate's, where the plan needs more than before; absent: as they were. */
  update(plan: NetworkPlan, ports?: readonly GatePort[]): Promise<void>
  /** What the kernel refused since the last call; `isLast`: no other follows, nothing is put off. */
  denials(isLast?: boolean): Promise<readonly Decision[]>
  /** True when everything installed still reads back as written. */
  intact(): Promise<boolean>
  /** As `intact`, but only what is cheap to look at. Absent: `intact` is. */
  glance?(): Promise<boolean>
  /** Hears of changes as they happen. Absent: they are looked for. Throws where it cannot be started. */
  monitor?(onChange: () => void, onEnd: () => void): RuleMonitor
  /**
   * Puts back what is missing; throws when that fails.
   * @param mended for a change of what jails share. Absent: the caller has the lock.
   */
  restore(mended?: Mended): Promise<void>
  /** Lets go of what this process itself has open; the rules stay as they are. Idempotent. */
  release?(): void
  /**
   * Rules out, and `release`. Only after no process of the uid lives. True: nothing of it is left, `Backend.collect` would
   * find none.
   */
  close(): Promise<boolean>
}

/** Runs a change under the lock. */
export type Locked = <T>(work: () => Promise<T>) => Promise<T>

/** Where the caller has the lock already. */
export const unlocked: Locked = (work) => work()

/** Runs a change under the lock, unless while it is waited for somebody else has done the same. */
export type Mended = (work: () => Promise<void>, isDone: () => Promise<boolean>) => Promise<void>

export interface Backend {
  readonly name: 'nftables' | 'iptables' | 'pf'
  /** Exactly what will be loaded for a plan, in order. Pure. */
  render(plan: NetworkPlan): readonly RenderedRules[]
  /**
   * The deny of the whole reserved range: installed if absent, read back always.
   * @param locked for a change; a look needs no lock. Absent: the caller has it.
   */
  ensureStaticDeny(range: UidRange, locked?: Locked): Promise<void>
  /** As a hold's, for the static deny. */
  monitorStaticDeny?(onChange: () => void, onEnd: () => void): RuleMonitor
  open(plan: NetworkPlan): Promise<NetworkHold>
  /** Removes what a jail that no longer runs left behind. Idempotent. */
  collect(jail: {
    readonly name: string
    readonly uid: number
    readonly isolation: 'namespace' | 'uid'
  }): Promise<void>
  /** Removes everything of agentjail, static deny included. */
  uninstall(): Promise<void>
}
