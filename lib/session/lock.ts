/**
 * The one lock: around changes to what jails share (accounts, the host's rules, the registry's clearing).
 * Invariant: held for milliseconds, never while a command runs.
 */
import { JailError } from '../errors.js'

/** Milliseconds after which a holder that no longer refreshes it counts as dead. */
const stale = 5_000
const update = 1_000

/** Runs `work` while holding the lock on `stateDir`. */
export async function withLock<T>(stateDir: string, work: () => Promise<T>): Promise<T> {
  const { default: lockfile } = await import('proper-lockfile')
  let compromised: Error | undefined
  let release: () => Promise<void>
  try {
    release = await lockfile.lock(stateDir, {
      realpath: false,
      stale,
      update,
      retries: { retries: 600, factor: 1.2, minTimeout: 10, maxTimeout: 150, randomize: true },
      // The default throws from a timer, which would end the process at a place nobody chose.
      onCompromised: (error) => {
        compromised = error
      },
    })
  } catch (error) {
    throw new JailError('STATE', 'another agentjail holds the lock and does not let go', {
      hint: `if none is running, remove ${stateDir}.lock`,
      cause: error,
    })
  }
  try {
    const result = await work()
    if (compromised !== undefined) {
      throw new JailError(
        'STATE',
        `the lock was taken away while it was held: ${compromised.message}`,
      )
    }
    return result
  } finally {
    await release().catch((error: unknown) => {
      // Someone else took it over after a long stop of this process: it is not ours to release.
      if (
        !(error instanceof Error && 'code' in error && error.code === 'ERELEASED') &&
        compromised === undefined
      )
        throw error
    })
  }
}
