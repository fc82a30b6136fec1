/**
 * The one lock: around changes to what jails share (accounts, the host's rules, the registry's clearing).
 * A holder is known by its process, never by a time: a clock that jumps frees no lock and keeps none.
 * Invariant: held for milliseconds, never while a command runs; a dead holder is none.
 */
import { errorMessage, JailError } from '../errors.js'
import type { System } from '../system/types.js'
import { isAlive, ownIdentity } from './registry.js'

export interface LockPlace {
  readonly system: System
  /** The lock lies beside it. */
  readonly stateDir: string
}

/** Milliseconds. */
const patience = 120_000
/** Milliseconds that a holder may be stopped (SIGSTOP, Ctrl-Z): then it is taken from it. */
const stoppedPatience = 5_000
const pause = { first: 2, factor: 1.3, most: 40 } as const

/** Between one and the next of this process, which may ask for it twice at once. */
let serial = 0
/** This process's own, until it has let go: what failed to go away then is no holder any more. */
const held = new Set<string>()

/** Runs `work` while holding the lock. Throws STATE where it cannot be had, or was taken away meanwhile. */
export async function withLock<T>(place: LockPlace, work: () => Promise<T>): Promise<T> {
  const holder = await acquire(place)
  try {
    return await work()
  } finally {
    await release(place, holder)
  }
}

const pathOf = ({ stateDir }: LockPlace): string => `${stateDir}.lock`

async function acquire(place: LockPlace): Promise<string> {
  const { system } = place
  const { pid, start, boot } = await ownIdentity(system)
  const own = `${pid}-${start}-${boot}-${serial++}`
  const path = pathOf(place)
  const deadline = system.monotonic() + patience
  const stopped = new Map<string, number>()
  for (let wait: number = pause.first; ; wait = Math.min(wait * pause.factor, pause.most)) {
    if (await system.holdDir(path, own)) {
      held.add(own)
      return own
    }
    for (const holder of await system.list(path)) {
      if (await isHolding(system, holder, stopped)) continue
      // Whether it went away shows in the next try.
      await system.leaveDir(path, holder).catch(() => false)
    }
    if (system.monotonic() > deadline) {
      throw new JailError('STATE', 'another agentjail holds the lock and does not let go', {
        hint: `if none is running, remove ${path}`,
      })
    }
    // Not all at once.
    await system.sleep(wait * (0.5 + Math.random()))
  }
}

async function release(place: LockPlace, holder: string): Promise<void> {
  held.delete(holder)
  const wasHeld = await place.system.leaveDir(pathOf(place), holder).catch((error: unknown) => {
    throw new JailError('STATE', `cannot let go of the lock: ${errorMessage(error)}`)
  })
  if (wasHeld) return
  throw new JailError(
    'STATE',
    'the lock was taken away while it was held: this process was stopped',
  )
}

/** What is not a name of ours is somebody's: it is not taken away. */
async function isHolding(
  system: System,
  holder: string,
  stopped: Map<string, number>,
): Promise<boolean> {
  const match = /^(\d+)-(\d+)-([0-9A-Fa-f-]{36})-\d+$/.exec(holder)
  if (match === null) return true
  const [, pid, start, boot = ''] = match
  if (Number(pid) === process.pid) return held.has(holder)
  if (!(await isAlive(system, { pid: Number(pid), start: Number(start), boot }))) return false
  if (!(await isStopped(system, Number(pid)))) {
    stopped.delete(holder)
    return true
  }
  const since = stopped.get(holder) ?? system.monotonic()
  stopped.set(holder, since)
  return system.monotonic() - since < stoppedPatience
}

/** proc(5): state T, or t for one that is traced. Elsewhere than on Linux nobody can tell. */
async function isStopped(system: System, pid: number): Promise<boolean> {
  const text = (await system.readFile(`/proc/${pid}/stat`)) ?? ''
  return /^[Tt] /.test(text.slice(text.lastIndexOf(')') + 2))
}
