/**
 * The one lock: around changes to what jails share (accounts, the host's rules, the registry's clearing).
 * A holder is known by its process, never by a time (`lock-holder.ts`): a clock that jumps frees no lock and keeps none.
 * Invariant: held for milliseconds, never while a command runs; a dead holder is none.
 */
import { errnoCode, errorMessage, JailError } from '../errors.js'
import type { System } from '../system/types.js'
import { LockHolder } from './lock-holder.js'

/** Part of a `Context`. */
export interface LockPlace {
  readonly system: System
  /** The lock lies beside the state directory. */
  readonly config: { readonly stateDir: string }
}

/** Milliseconds. On a busy machine a hundred that each make an account wait two minutes for one another. */
const patience = 300_000
const pause = { first: 2, factor: 1.3, most: 100 } as const

/** Runs `work` while holding the lock. Throws STATE where it cannot be had, or was taken away meanwhile. */
export async function withLock<T>(place: LockPlace, work: () => Promise<T>): Promise<T> {
  const release = await acquire(place)
  try {
    return await work()
  } finally {
    await release()
  }
}

type Release = () => Promise<void>

async function acquire({ system, config: { stateDir } }: LockPlace): Promise<Release> {
  const { default: lockfile } = await import('proper-lockfile')
  const fs = await LockHolder.create(system)
  const deadline = system.monotonic() + patience
  for (let wait: number = pause.first; ; wait = Math.min(wait * pause.factor, pause.most)) {
    try {
      const release = await lockfile.lock(stateDir, {
        fs,
        realpath: false,
        // The default throws from a timer. Letting go tells it.
        onCompromised: () => undefined,
      })
      return () => release().catch(refuse)
    } catch (error) {
      if (error instanceof JailError) throw error
      if (errnoCode(error) !== 'ELOCKED') {
        throw new JailError('STATE', `cannot take the lock: ${errorMessage(error)}`, {
          cause: error,
        })
      }
    }
    if (system.monotonic() > deadline) {
      throw new JailError('STATE', 'another agentjail holds the lock and does not let go', {
        hint: `if none is running, remove ${stateDir}.lock`,
      })
    }
    // Not all at once. Its own tries again know no deadline but a count, and try again what will not change.
    await system.sleep(wait * (0.5 + Math.random()))
  }
}

function refuse(error: unknown): never {
  const isTaken = ['ETAKEN', 'ERELEASED'].includes(errnoCode(error) ?? '')
  throw new JailError(
    'STATE',
    isTaken
      ? 'the lock was taken away while it was held: this process was stopped'
      : `cannot let go of the lock: ${errorMessage(error)}`,
  )
}
