/**
 * Every decision of a jail, from the gate and from the kernel: named, logged, counted, told.
 * Invariant: what the gate says may be anything, and goes through `sanitiseDecisions` first; no key of the policy
 * goes any further.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { Askers, type Asker } from '../audit/askers.js'
import { NameBook } from '../audit/names.js'
import type { Decision } from '../audit/record.js'
import { sanitiseDecisions } from '../audit/sanitise.js'
import type { NetworkHold } from '../backend/types.js'
import type { Scrub } from '../credentials/scrub.js'

/** Milliseconds: what the gate answered a moment before the kernel refused, and its name, has arrived by then. */
const gatePatience = 80

/** The part of an audit log that is written to. */
export interface LedgerLog {
  write(decisions: readonly Decision[]): void
  drop(count: number): void
}

export class Ledger {
  /** Decisions, and bytes from the jail and to it. */
  readonly tally = { allowed: 0, denied: 0, up: 0, down: 0 }
  readonly #names = new NameBook()
  readonly #askers = new Askers()
  /** When the kernel was asked the last time: what it tells next was refused since. */
  #since = 0
  #reading: Promise<void> = Promise.resolve()
  readonly #onDecisions: (decisions: readonly Decision[]) => void
  readonly #scrub: Scrub
  readonly #monotonic: () => number
  #log: LedgerLog | undefined

  /** `monotonic`: milliseconds. */
  constructor(
    onDecisions: (decisions: readonly Decision[]) => void,
    scrub: Scrub,
    monotonic: () => number,
  ) {
    this.#onDecisions = onDecisions
    this.#scrub = scrub
    this.#monotonic = monotonic
  }

  /** From here on decisions are logged too. */
  writeTo(log: LedgerLog): void {
    this.#log = log
  }

  /** Takes what the gate reports. */
  hear(message: { readonly decisions: unknown; readonly dropped: number }): void {
    const { decisions, bad } = sanitiseDecisions(message.decisions)
    this.#record(decisions)
    this.#log?.drop(bad)
    this.#log?.drop(message.dropped)
  }

  /** A granted name is being looked up by this process; `undefined`: by one that was not found. */
  asked(name: string, asker: Asker | undefined): void {
    this.#askers.add(name, asker, this.#monotonic())
  }

  /** Takes what the kernel refused since the last time; what a reading under way has found is told before this resolves. */
  read(hold: Pick<NetworkHold, 'denials'> | undefined, isLast = false): Promise<void> {
    const both = [this.#reading, this.#readOnce(hold, isLast)]
    this.#reading = Promise.all(both).then(() => undefined)
    return this.#reading
  }

  async #readOnce(hold: Pick<NetworkHold, 'denials'> | undefined, isLast: boolean): Promise<void> {
    const since = this.#since
    this.#since = this.#monotonic()
    try {
      const denials = (await hold?.denials(isLast)) ?? []
      if (denials.length > 0) await delay(gatePatience)
      this.#record(denials, (denial) => this.#withAsker(denial, since))
    } catch {
      // The rules are gone for a moment: the watch deals with it.
    }
  }

  #withAsker(denial: Decision, since: number): Decision {
    const { name, names, pid } = denial
    if (pid !== undefined) return denial
    const meant = name === undefined ? (names ?? []) : [name]
    return { ...denial, ...this.#askers.of(meant, since, this.#monotonic()) }
  }

  /** `complete`: adds what is known of a decision that has its name. */
  #record(
    given: readonly Decision[],
    complete: (decision: Decision) => Decision = (decision) => decision,
  ): void {
    if (given.length === 0) return
    const named = this.#names.name(given)
    const decisions = named.map((each) => scrubbed(complete(each), this.#scrub))
    this.#log?.write(decisions)
    for (const { verdict, up, down, count } of decisions) {
      this.tally[verdict === 'allow' ? 'allowed' : 'denied'] += count ?? 1
      this.tally.up += up ?? 0
      this.tally.down += down ?? 0
    }
    this.#onDecisions(decisions)
  }
}

/** A key that the command used as a name, in a path or on a command line is no key in the log. */
function scrubbed(decision: Decision, scrub: Scrub): Decision {
  const out: { -readonly [K in keyof Decision]: Decision[K] } = { ...decision }
  for (const field of ['name', 'method', 'path', 'detail', 'command'] as const) {
    const text = out[field]
    if (text !== undefined) out[field] = scrub(text)
  }
  if (out.names !== undefined) out.names = out.names.map(scrub)
  return out
}
