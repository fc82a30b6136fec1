/**
 * What the doctor looks at, and what it finds.
 * Invariant: a check changes nothing; only a finding's `repair` does, and only when asked.
 */
import type { Config } from '../setup/config.js'
import type { Distro } from '../system/distro.js'
import type { Found } from '../system/tools.js'
import type { System } from '../system/types.js'

/** `warn`: works, with less; `fail`: jails will not start, or not hold. */
export type FindingState = 'ok' | 'warn' | 'fail'

export interface Finding {
  readonly state: FindingState
  /** What is the case. */
  readonly detail: string
  /** What to do; absent where `ok`. */
  readonly fix?: string
  /** Does it, where that is safe: nothing of others is changed. */
  readonly repair?: () => Promise<void>
}

export interface DoctorFacts {
  readonly system: System
  readonly config: Config
  /** Why `config` is only the default: the file's mistakes. */
  readonly configProblem?: string
  readonly distro: Distro
  readonly isRoot: boolean
  readonly findTool: (name: string) => Found
  /** Milliseconds since the epoch: when this release was made; a clock before it is wrong. */
  readonly released: number
  /** Whether a DNS server answers, within some seconds. Never rejects. */
  readonly askResolver: (server: { address: string; port: number }) => Promise<boolean>
  /** Loads every policy there is to load; the messages of those that do not. */
  readonly brokenPolicies: () => Promise<readonly string[]>
  /** `agentjail gc`. */
  readonly collect: () => Promise<void>
}

export interface Check {
  /** Short and stable, for scripts. */
  readonly name: string
  /** Why it matters, one sentence. */
  readonly why: string
  run(facts: DoctorFacts): Promise<Finding>
}

export const ok = (detail: string): Finding => ({ state: 'ok', detail })

const asRoot = 'sudo agentjail doctor'

/** For what only root can see. */
export const needsRoot = (what: string): Finding => ({
  state: 'warn',
  detail: `${what} can only be seen by root`,
  fix: asRoot,
})

/** Of a finding of `needsRoot`. */
export const isUnseen = ({ fix }: { readonly fix?: string }): boolean => fix === asRoot
