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

/**
 * Milliseconds that one holder may have it: a hundred that each make an account take minutes, one after another, and
 * none of them long.
 */
const patience = 120_000
const pause = { first: 2, factor: 1.3, most: 100 } as const

/** Runs `work` while holding the lock. Throws STATE where it cannot be had, or was taken away meanwhile. */
export async function withLock<T>(place: LockPlace, work: () => Promise<T>): Promise<T>
/** @param isDone asked while it is waited for: true ends the waiting, and nothing is run. */
export async function withLock(
  place: LockPlace,
  work: () => Promise<void>,
  isDone: () => Promise<boolean>,
): Promise<void>
export async function withLock<T>(
  place: LockPlace,
  work: () => Promise<T>,
  isDone?: () => Promise<boolean>,
): Promise<T | undefined> {
  const release = await acquire(place, isDone)
  if (release === undefined) return undefined
  try {
    return await work()
  } finally {
    await release()
  }
}

type Release = () => Promise<void>

/** Undefined: `isDone`. */
async function acquire(
  { system, config: { stateDir } }: LockPlace,
  isDone?: () => Promise<boolean>,
): Promise<Release | undefined> {
  const { default: lockfile } = await import('proper-lockfile')
  const fs = await LockHolder.create(system)
  let holder: string | undefined
  let since = 0
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
    if (fs.holder === undefined || fs.holder !== holder) {
      holder = fs.holder
      since = system.monotonic()
    } else if (system.monotonic() - since > patience) {
      throw new JailError(
        'STATE',
        `pid ${holder.split('-')[0] ?? ''} holds the lock and does not let go`,
        {
          hint: `if it is no agentjail, remove ${stateDir}.lock`,
        },
      )
    }
    if (isDone !== undefined && (await isDone())) return undefined
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
