/**
 * What the session asks of a launcher, and what it gets back.
 * Invariant: a launch spec is plain data; compiling it to argv and pipes is pure.
 */
import type { FsRules, Isolation, Limits } from '../policy/types.js'

interface ServiceUser {
  readonly name: string
  readonly uid: number
  readonly gid: number
  /** Absolute; 0700, the user's own. */
  readonly home: string
}

export interface LaunchSpec {
  readonly jail: string
  readonly user: ServiceUser
  /** As given after `--`; looked up on the jail's PATH. */
  readonly command: readonly [string, ...string[]]
  /** Absolute; the workspace unless `fs` says otherwise. */
  readonly cwd: string
  /** The whole environment of the command, already rebuilt. */
  readonly env: ReadonlyMap<string, string>
  readonly isolation: Isolation
  /** Path of the network namespace to join, e.g. /proc/4711/ns/net; absent in `uid` and `basic`. */
  readonly netns?: string
  /** Control group to join, below /sys/fs/cgroup: the firewall knows the command's sockets by it. Made where missing. */
  readonly group?: string
  readonly fs: FsRules
  /** Absent: the host's own system directories. */
  readonly image?: {
    /** Directory of an image's files, in the place of the host's. */
    readonly root: string
    /** The launch's own perl, its loader and libraries, which the image may lack. */
    readonly perl: string
    readonly loader: string
    readonly libraries: readonly string[]
  }
  readonly limits: Limits
  readonly userNamespaces: boolean
  /** Contents of the jail's /etc/resolv.conf and /etc/hosts. */
  readonly resolvConf: string
  readonly hosts: string
  /** PEM of a CA to trust in the jail in addition to the system's; mounted as a merged bundle. */
  readonly extraCa?: string
  /** Directories that hold agentjail itself, its policies and state: never writable inside. */
  readonly protect: readonly string[]
  /** The user who called (SUDO_UID or the real uid): keeps access to files made in the workspace. */
  readonly caller: { readonly uid: number; readonly gid: number }
  /** Open files for standard input and output; absent: those of the caller. */
  readonly stdio?: {
    readonly input: number
    readonly output: number
    /** One more, as a careless caller would leave it open: the launch must close it. */
    readonly stray?: number
  }
  /** A further command in a jail that runs: what its first command shares and undoes is not shared or undone again. */
  readonly joins?: boolean
  /** Pieces of the hardening to leave out; only `verify --without` sets it, to show that its probes can fail. */
  readonly without: readonly HardeningPiece[]
}

/** What can be left out on Linux, piece by piece. */
export const pieces = [
  'seccomp',
  'capabilities',
  'no-new-privs',
  'pid-namespace',
  'mount-namespace',
  'ipc-namespace',
  'close-descriptors',
  'groups',
  'network',
  'gate-names',
  'limits',
  'scopes',
] as const

/**
 * The same on macOS. `profile`: the seatbelt profile. `network`: what it and pf say of the network. `end`: that what is
 * left of the user is ended.
 */
export const macPieces = ['profile', 'network', 'gate-names', 'end'] as const

export type MacPiece = (typeof macPieces)[number]

export type HardeningPiece = (typeof pieces)[number] | MacPiece

/** How a command ended: exactly one of the two. */
export type Ending = { readonly code: number } | { readonly signal: NodeJS.Signals }

export interface Running {
  /** Process id, on the host, of the command itself (undefined once it has ended). */
  readonly commandPid: number | undefined
  /** Process id, on the host, of the jail's PID 1 (or of the supervisor in `basic`). */
  readonly initPid: number
  /** One line each for the user: what the launch did otherwise than they might expect. */
  readonly notes: readonly string[]
  /** Settles once the command ended and every process of its PID namespace is gone. */
  readonly ended: Promise<Ending>
  /** To the command alone. */
  signal(signal: NodeJS.Signals): void
  /** The command was stopped by a signal (Ctrl-Z), or continued. */
  onStopped(listener: (signal: NodeJS.Signals) => void): void
  /** The command was continued. */
  onContinued(listener: () => void): void
  /** PID 1 saw this signal too: it went to the whole process group, so it must not be forwarded. */
  onGroupSignal(listener: (signal: NodeJS.Signals) => void): void
  /** SIGKILL to everything in the jail. */
  kill(): void
  /** Lines for messages at exit: limits that were hit, what the command left that would act on the caller. */
  limitsHit(): Promise<readonly string[]>
}
