/**
 * Watches that what was installed stays installed, and puts it back.
 * Looks when it hears of a change, now and then besides, and often where nothing can be heard.
 * Invariant: a hold that is not intact is restored or the command is stopped; nothing in between.
 */
import type { RuleMonitor } from '../backend/types.js'
import { errorMessage, JailError } from '../errors.js'

export interface Watched {
  readonly intact: () => Promise<boolean>
  /** As `intact`, but only what is cheap. Absent: `intact` is. */
  readonly glance?: () => Promise<boolean>
  /** Absent: nothing can be heard. Throws where it cannot be started. */
  readonly monitor?: (onChange: () => void, onEnd: () => void) => RuleMonitor
  readonly restore: () => Promise<void>
}

export interface WatchOptions {
  /** Milliseconds between looks where nothing is heard; also until the listening begins. */
  readonly every: number
  /** Milliseconds between glances while changes are heard of. */
  readonly glanceEvery?: number
  readonly onRestored: () => void
  /** It could not be put back. */
  readonly onLost: (why: string) => void
}

export interface Watch {
  stop(): Promise<void>
}

const glanceDefault = 5_000

/** What was put back may be damaged again before it is read back: a tool that changes one thing after another, say. */
const maxTries = 3

/** Looks until stopped; one look at a time. */
export function watch(watched: Watched, options: WatchOptions): Watch {
  const looker = new Looker(watched, options)
  return { stop: () => looker.stop() }
}

class Looker {
  readonly #watched: Watched
  readonly #options: WatchOptions
  #timer: NodeJS.Timeout | undefined
  #monitor: RuleMonitor | undefined
  #current: Promise<void> | undefined
  /** Something changed since the last look began. */
  #changed = false
  #stopped = false

  constructor(watched: Watched, options: WatchOptions) {
    this.#watched = watched
    this.#options = options
    this.#schedule()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#monitor?.stop()
    await this.#current
  }

  #schedule(): void {
    if (this.#stopped) return
    const { every, glanceEvery = glanceDefault } = this.#options
    this.#timer = setTimeout(
      () => {
        this.#listen()
        this.#begin()
      },
      this.#monitor === undefined ? every : glanceEvery,
    )
  }

  /** It says once that it listens, which counts as a change. */
  #listen(): void {
    if (this.#monitor !== undefined || this.#watched.monitor === undefined) return
    const change = (): void => {
      this.#changed = true
      this.#begin()
    }
    const end = (): void => {
      this.#monitor = undefined
      change()
    }
    try {
      this.#monitor = this.#watched.monitor(change, end)
    } catch {
      // Looked for instead, as often as where there is none.
    }
  }

  #begin(): void {
    if (this.#stopped || this.#current !== undefined) return
    clearTimeout(this.#timer)
    this.#current = this.#look().then((isHeld) => {
      this.#current = undefined
      if (!isHeld) return
      if (this.#changed) this.#begin()
      else this.#schedule()
    })
  }

  /** False: it is lost, and was told. */
  async #look(): Promise<boolean> {
    const { intact, glance } = this.#watched
    const isCheap = this.#monitor !== undefined && !this.#changed && glance !== undefined
    this.#changed = false
    let isIntact = isCheap ? glance : intact
    for (let tries = 1; ; tries++) {
      try {
        await this.#mend(isIntact)
        return true
      } catch (error) {
        if (this.#stopped) return false
        if (tries < maxTries && error instanceof JailError && error.code === 'VERIFY_FAILED') {
          isIntact = intact
          continue
        }
        this.#options.onLost(errorMessage(error))
        return false
      }
    }
  }

  async #mend(isIntact: () => Promise<boolean>): Promise<void> {
    if (await isIntact()) return
    await this.#watched.restore()
    this.#options.onRestored()
  }
}
