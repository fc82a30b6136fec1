/**
 * Watches that what was installed stays installed, and puts it back.
 * Invariant: a hold that is not intact is restored or the command is stopped; nothing in between.
 */
import { errorMessage } from '../errors.js'

export interface Watched {
  intact(): Promise<boolean>
  restore(): Promise<void>
}

export interface WatchOptions {
  /** Milliseconds between looks. */
  readonly every: number
  readonly onRestored: () => void
  /** It could not be put back. */
  readonly onLost: (why: string) => void
}

export interface Watch {
  stop(): Promise<void>
}

/** Looks until stopped; one look at a time. */
export function watch(watched: Watched, options: WatchOptions): Watch {
  let timer: NodeJS.Timeout | undefined
  let current: Promise<void> = Promise.resolve()
  let stopped = false
  const look = async (): Promise<void> => {
    try {
      if (!(await watched.intact())) {
        await watched.restore()
        options.onRestored()
      }
    } catch (error) {
      if (!stopped) options.onLost(errorMessage(error))
      return
    }
    schedule()
  }
  const schedule = (): void => {
    if (stopped) return
    timer = setTimeout(() => {
      current = look()
    }, options.every)
  }
  schedule()
  return {
    stop: async () => {
      stopped = true
      clearTimeout(timer)
      await current
    },
  }
}
