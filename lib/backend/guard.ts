/**
 * The guard: the static deny once more, in an nftables table owned by a process of ours, which a flush or a delete by
 * anybody else leaves alone. One owner for the whole machine, alive while any jail runs in `uid` isolation.
 * Invariant: the guard only denies; its end opens nothing, since the static deny says the same.
 */
import { errorMessage, JailError } from '../errors.js'
import { identityOf, isAlive } from '../system/process-identity.js'
import type { Argv, System } from '../system/types.js'

export interface GuardPlace {
  readonly fifo: string
  /** Who holds it: `{pid, start, boot}`, and what its rules are about: `subject`. */
  readonly record: string
}

export const guardPlace = (stateDir: string): GuardPlace => ({
  fifo: `${stateDir}/guard.fifo`,
  record: `${stateDir}/guard.json`,
})

/** How one backend makes its guard and looks at it. */
export interface GuardMaker {
  /** Owns what it is told to make on standard input, and ends by the line `quit`. */
  readonly owner: Argv
  /** For the owner, one line. */
  readonly rules: string
  /** What of the machine the rules name by a number that is given anew with the thing; another one wants a new guard. */
  readonly subject?: () => Promise<number | undefined>
  /** What the kernel has, compared with `rules`. */
  look(): Promise<'right' | 'other' | 'absent'>
}

/** Milliseconds between looks, and how many. */
const pause = 3
const patience = 700

/** Guard in force when it resolves; started if need be. Call it under the lock. */
export async function ensureGuard(
  system: System,
  place: GuardPlace,
  maker: GuardMaker,
): Promise<void> {
  if (await isGuardUp(system, place, maker)) return
  await endGuard(system, place, maker)
  const pid = await system.detach(maker.owner, place.fifo)
  const holder = { ...(await identityOf(system, pid)), subject: await maker.subject?.() }
  await system.writeFile(place.record, JSON.stringify(holder), 0o600)
  await system.feed(place.fifo, `${maker.rules}\n`).catch((error: unknown) => {
    throw new JailError('BACKEND', `the guard cannot be told its rules: ${errorMessage(error)}`)
  })
  for (let tries = 0; tries < patience; tries++) {
    if (await isGuardUp(system, place, maker)) return
    await system.sleep(pause)
  }
  throw new JailError('VERIFY_FAILED', 'the guard table is not in force', {
    hint: 'isolation uid needs a kernel with owned nftables tables (5.12 or later) and, where control groups of version 2 are mounted, nft_socket: use isolation namespace',
  })
}

/** Whether its owner lives and its rules read back as written. */
export async function isGuardUp(
  system: System,
  place: GuardPlace,
  maker: Pick<GuardMaker, 'look' | 'subject'>,
): Promise<boolean> {
  const holder = await readHolder(system, place)
  if (holder === undefined) return false
  if (maker.subject !== undefined && holder.subject !== (await maker.subject())) return false
  return (await maker.look()) === 'right'
}

/** Whether its owner lives: nobody else can have changed what was read back before. */
export const isGuardHeld = async (system: System, place: GuardPlace): Promise<boolean> =>
  (await readHolder(system, place)) !== undefined

/** Ends the owner and with it the table, also one that was never recorded. Idempotent; under the lock. */
export async function endGuard(
  system: System,
  place: GuardPlace,
  maker: Pick<GuardMaker, 'look'>,
): Promise<void> {
  if ((await system.lstat(place.fifo)) === undefined) return
  const pid = (await readHolder(system, place))?.pid
  // A warden killed between start and record leaves an owner that only its FIFO reaches; nobody reads: an error.
  await system.feed(place.fifo, 'quit\n').catch(() => undefined)
  if (pid !== undefined) system.kill(pid, 'SIGKILL')
  await system.removeFile(place.record)
  for (let tries = 0; tries < patience; tries++) {
    if ((await maker.look()) === 'absent') {
      await system.removeFile(place.fifo)
      return
    }
    await system.sleep(pause)
  }
  throw new JailError('STATE', 'the guard table does not go: its owner is not known', {
    hint: 'find the process that owns it (nft list table inet agentjail_guard), and end it',
  })
}

async function readHolder(
  system: System,
  place: GuardPlace,
): Promise<{ readonly pid: number; readonly subject: unknown } | undefined> {
  const text = await system.readFile(place.record)
  if (text === undefined) return undefined
  try {
    const { pid, start, boot, subject } = JSON.parse(text) as Record<string, unknown>
    return typeof pid === 'number' &&
      typeof start === 'number' &&
      typeof boot === 'string' &&
      (await isAlive(system, { pid, start, boot }))
      ? { pid, subject }
      : undefined
  } catch {
    return undefined
  }
}
