/**
 * Remembers which process looked a name up, so that a denial of the kernel, which knows no process any more, can tell
 * who tried: whoever asked for the name.
 * Invariant: bounded; where it could have been one of several, or one that was not found, it is nobody.
 */

/** A process, as the host numbers it, and its words. */
export interface Asker {
  readonly pid: number
  readonly command: string
}

interface Look {
  /** `undefined`: it was not found. */
  readonly asker: Asker | undefined
  readonly at: number
}

/** Names remembered, and looks at each; the oldest go first. */
const maxNames = 256
const maxLooks = 16
/** Milliseconds: who asked longer ago is not taken for who tried now. */
const holds = 10_000

/** Times are monotonic milliseconds. */
export class Askers {
  readonly #looks = new Map<string, Look[]>()

  add(name: string, asker: Asker | undefined, at: number): void {
    const looks = [...(this.#looks.get(name) ?? []), { asker, at }].slice(-maxLooks)
    this.#looks.delete(name)
    const [oldest] = this.#looks.keys()
    if (this.#looks.size >= maxNames && oldest !== undefined) this.#looks.delete(oldest)
    this.#looks.set(name, looks)
  }

  /**
   * Who tried between `since` and `now`: who asked in that time, else who asked last before it.
   * @param names one of which was meant
   */
  of(names: readonly string[], since: number, now: number): Asker | undefined {
    const looks = names
      .flatMap((name) => this.#looks.get(name) ?? [])
      .filter(({ at }) => now - at < holds)
    const recent = looks.filter(({ at }) => at >= since)
    const candidates = recent.length > 0 ? recent : looks
    const [first] = candidates
    const isOne = candidates.every(({ asker }) => asker?.command === first?.asker?.command)
    return isOne ? first?.asker : undefined
  }
}
