/**
 * What `run` will do, as plain data. Pure: policy + facts + request in, plan out.
 */
import type { NetworkPlan, RenderedRules, UidRange } from '../backend/types.js'
import type { GatePolicy } from '../gate/protocol.js'
import type { LaunchSpec } from '../launch/types.js'
import type { Isolation, Policy } from '../policy/types.js'
import type { JailName } from './names.js'

/** Set by the machine's administrator; see `lib/setup/config.ts`. */
export interface Settings {
  readonly uidRange: UidRange
  readonly stateDir: string
  readonly logDir: string
  readonly homeDir: string
  readonly gateUser: string
}

/** Looked up before planning; nothing here is a choice. */
export interface Facts {
  readonly platform: 'linux' | 'darwin'
  readonly settings: Settings
  /** The account to be used: as it is, or as it will be made. */
  readonly account: AccountFacts
  /** The host's resolvers. */
  readonly resolvers: readonly { readonly address: string; readonly port: number }[]
  /** The host's own addresses, which no answer may lead to. */
  readonly hostAddresses: readonly string[]
  readonly caller: { readonly uid: number; readonly gid: number }
  readonly callerEnv: Readonly<Record<string, string | undefined>>
  /** Absolute path of the Node that runs agentjail: its directory is on the jail's PATH. */
  readonly nodePath: string
  /** agentjail's own package, and what else must never be writable in a jail. */
  readonly protect: readonly string[]
  readonly hostName: string
  /** Where the jails' control groups are, below /sys/fs/cgroup: `agentjail` in the version 2 hierarchy; absent: there is none. */
  readonly groups?: string | undefined
}

export interface AccountFacts {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
  readonly exists: boolean
}

/** What the user asked for. */
export interface RunRequest {
  readonly jail: JailName
  readonly command: readonly [string, ...string[]]
  readonly cwd: string
  readonly isolation: Isolation
  /** As named on the command line. */
  readonly policies: readonly string[]
}

export interface Plan {
  readonly jail: JailName
  readonly policy: Policy
  readonly isolation: Isolation
  readonly policies: readonly string[]
  readonly account: AccountFacts
  readonly network: NetworkPlan
  readonly gate: GatePolicy
  /** `netns`, `extraCa` and the credentials' part of the environment are known only at run time. */
  readonly launch: LaunchSpec
}

/** A plan with the backend's rules printed, for people and for `--json`. */
export interface RenderedPlan {
  readonly plan: Plan
  readonly rules: readonly RenderedRules[]
}
