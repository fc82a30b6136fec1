/**
 * Denials as they happen, on the caller's stderr.
 * Invariant: a full-screen program's screen is never written into; the first denial of its kind is
 * told at once or at the end, repeats only as counts.
 */
import { type ExplainPolicy, explain, explainLine } from './explain.js'
import { DenialFold, type FoldedDenial } from './fold.js'
import type { Decision } from './record.js'

export interface LiveOptions {
  readonly jail: string
  /** The policy in force; asked anew each time, since a reload replaces it. */
  readonly policy: () => ExplainPolicy
  readonly write: (text: string) => void
  /** stderr is a terminal: lines end in CR LF, so that raw mode does not make stairs of them. */
  readonly isTerminal: boolean
  /** Whether the terminal is in the hands of a program that draws on it; asked at most once a second. */
  readonly isBusy: () => Promise<boolean>
  /** Milliseconds, monotonic. */
  readonly monotonic: () => number
}

/** Lines a second at most; the rest waits for the summary. */
const maxPerSecond = 5
/** Milliseconds that an answer of `isBusy` holds. */
const busyHolds = 1_000

export class LiveDenials {
  readonly #options: LiveOptions
  readonly #fold = new DenialFold()
  #busy: { readonly until: number; readonly value: Promise<boolean> } | undefined
  #second = { start: -Infinity, lines: 0 }
  #held = 0
  #last: Promise<void> = Promise.resolve()

  constructor(options: LiveOptions) {
    this.#options = options
  }

  /** What was denied so far, for the summary. */
  get fold(): DenialFold {
    return this.#fold
  }

  /** Denials that were not told live. */
  get held(): number {
    return this.#held
  }

  add(decisions: readonly Decision[]): void {
    const texts: string[] = []
    for (const decision of decisions) {
      const before = this.#fold.total
      const entry = this.#fold.add(decision)
      const more = this.#fold.total - before
      const isNews = entry !== undefined && isRound(entry.count - more, entry.count)
      if (isNews && this.#hasRoom()) texts.push(this.#line(entry))
      else if (more > 0) this.#held += 1
    }
    if (texts.length > 0) this.#last = this.#last.then(() => this.#print(texts))
  }

  /** Everything that could be told has been. */
  async settled(): Promise<void> {
    await this.#last
  }

  #line({ decision, count }: FoldedDenial): string {
    const { jail, policy } = this.#options
    const text = explainLine(explain(decision, policy(), { jail }))
    return `agentjail: ${jail}: ${text}${count > 1 ? ` [${String(count)} times]` : ''}`
  }

  #hasRoom(): boolean {
    const now = this.#options.monotonic()
    if (now - this.#second.start >= 1_000) this.#second = { start: now, lines: 0 }
    this.#second.lines += 1
    return this.#second.lines <= maxPerSecond
  }

  async #print(texts: readonly string[]): Promise<void> {
    if (this.#options.isTerminal && (await this.#isBusy())) {
      this.#held += texts.length
      return
    }
    const end = this.#options.isTerminal ? '\r\n' : '\n'
    this.#options.write(texts.map((text) => text + end).join(''))
  }

  async #isBusy(): Promise<boolean> {
    const now = this.#options.monotonic()
    if (this.#busy === undefined || now >= this.#busy.until) {
      // An unknown terminal counts as busy: the summary tells it all the same.
      const value = this.#options.isBusy().catch(() => true)
      this.#busy = { until: now + busyHolds, value }
    }
    return await this.#busy.value
  }
}

/** Told at first, and each time the count passes 10, 100, ...: a loop cannot fill the screen. */
function isRound(before: number, after: number): boolean {
  return before === 0 || String(after).length > String(before).length
}
