/**
 * What commands need of the operating system beyond `System` and `Backend`, behind one interface.
 * Invariant: chosen once, in `context.ts`; nothing else asks which platform this is.
 */
import type { AccountRequest } from '../account/fit.js'
import type { AccountFacts, Facts, Plan } from '../plan/types.js'
import type { JailName } from '../plan/names.js'
import type { Isolation } from '../policy/types.js'
import type { Decision } from '../audit/record.js'
import type { Ending } from '../launch/types.js'
import type { RegistryEntry } from './registry.js'
import type { SignalRelay } from './signals.js'

export interface WardenEvents {
  /** Every decision, allowed and denied. */
  readonly onDecisions: (decisions: readonly Decision[]) => void
  /** For the user: restored rules, a gate started again, limits hit. */
  readonly onNotice: (text: string) => void
  /** Another policy is in force. */
  readonly onPolicy: (plan: Plan) => void
}

/** Runs one jail. */
export interface JailWarden {
  /** Claims, installs, launches, waits, undoes. Throws when the command was not launched. */
  run(signals: SignalRelay): Promise<Ending>
  /** Records the audit log could not take. */
  readonly dropped: number
}

/** An account marked as agentjail's. */
export interface JailAccount {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
  /** `agentjail JAIL`. */
  readonly comment: string
}

export interface Platform {
  /** From here on neither this process nor what it starts leaves its memory, which holds keys, in a file. */
  forbidCoreDumps(): Promise<void>
  /** The home of the account with this uid, as the system keeps it; undefined: it tells of none. */
  homeOf(uid: number): Promise<string | undefined>
  /** What would be used or made; changes nothing. */
  findAccount(request: AccountRequest): Promise<AccountFacts>
  listAccounts(): Promise<readonly JailAccount[]>
  /** With its home; refuses while a process of it lives. Under the lock. */
  removeAccount(account: JailAccount): Promise<void>
  /** What is used for the isolation asked for. `note`: told where it is another than the user named. */
  isolationFor(
    named: Isolation | undefined,
    policy: Isolation,
    note: (text: string) => void,
  ): Isolation
  makeWarden(
    plan: Plan,
    facts: Facts,
    events: WardenEvents,
    upstreamCa: string | undefined,
  ): JailWarden
  /** Runs a further command in a jail that runs. Throws PLATFORM where that cannot be done. */
  join(
    jail: JailName,
    command: readonly [string, ...string[]],
    signals: SignalRelay,
  ): Promise<Ending>
  /** What a killed warden left besides processes and rules. Idempotent. */
  cleanLaunch(entry: RegistryEntry): Promise<void>
  /** Whether a program draws on the terminal. */
  isTerminalBusy(): Promise<boolean>
}
