/**
 * What proper-lockfile sees in place of a directory and its time: the process that holds it. The library judges a holder
 * by the age of a directory, so a clock that jumps would give a lock to two, or keep a dead holder's for hours; here a
 * live holder's directory has the latest time there is, and a dead one's the earliest.
 * Invariant: what takes a dead holder away takes no other's (`lib/system/held-dir.ts`).
 */
import { isAlive, ownIdentity } from '../system/process-identity.js'
import type { System } from '../system/types.js'

/** Milliseconds that a holder may be stopped (SIGSTOP, Ctrl-Z): then it is taken from it. */
const stoppedPatience = 5_000
/** The ends of what a Date can be (ECMA-262, Time Values). */
const dead = new Date(-8.64e15)
const alive = new Date(8.64e15)

/** Between one and the next of this process, which may ask for the lock twice at once. */
let serial = 0
/** This process's own, until it has let go: what failed to go away then is no holder any more. */
const held = new Set<string>()

type Callback<T = void> = (error: Error | null, value?: T) => void

/** One holder-to-be: the functions of node:fs that proper-lockfile asks for (its option `fs`). */
export class LockHolder {
  readonly #system: System
  readonly #name: string
  /** Monotonic milliseconds since when a holder was seen stopped, by its name. */
  readonly #stopped = new Map<string, number>()
  /** What the library set last. */
  #mtime = alive
  /** The holder that was found dead. */
  #dead: string | undefined
  /** Who had it, as last seen; another one each time that it is taken. */
  holder: string | undefined

  private constructor(system: System, name: string) {
    this.#system = system
    this.#name = name
  }

  static async create(system: System): Promise<LockHolder> {
    const { pid, start, boot } = await ownIdentity(system)
    return new LockHolder(system, `${pid}-${start}-${boot}-${serial++}`)
  }

  mkdir(path: string, done: Callback): void {
    answer(done, async () => {
      if (!(await this.#system.holdDir(path, this.#name))) throw errno('EEXIST')
      held.add(this.#name)
    })
  }

  stat(path: string, done: Callback<{ mtime: Date }>): void {
    answer(done, async () => {
      const [holder] = await this.#system.list(path)
      this.holder = holder
      if (holder === undefined) throw errno('ENOENT')
      if (holder === this.#name) return { mtime: this.#mtime }
      if (await this.#isHolding(holder)) return { mtime: alive }
      this.#dead = holder
      return { mtime: dead }
    })
  }

  utimes(_path: string, _accessed: Date, modified: Date, done: Callback): void {
    this.#mtime = modified
    done(null)
  }

  /** Its own once it has it; before that, the dead holder's. */
  rmdir(path: string, done: Callback): void {
    answer(done, async () => {
      const isOwn = held.delete(this.#name)
      const name = isOwn ? this.#name : this.#dead
      const wasThere = name !== undefined && (await this.#system.leaveDir(path, name))
      if (isOwn && !wasThere) throw errno('ETAKEN')
    })
  }

  /** At the end of the process, which makes it a dead holder. */
  rmdirSync(): void {
    held.delete(this.#name)
  }

  /** What is not a name of ours is somebody's: it is not taken away. */
  async #isHolding(holder: string): Promise<boolean> {
    const match = /^(\d+)-(\d+)-([0-9A-Fa-f-]{36})-\d+$/.exec(holder)
    if (match === null) return true
    const [, pid, start, boot = ''] = match
    if (Number(pid) === process.pid) return held.has(holder)
    const identity = { pid: Number(pid), start: Number(start), boot }
    if (!(await isAlive(this.#system, identity))) return false
    if (!(await isStopped(this.#system, identity.pid))) {
      this.#stopped.delete(holder)
      return true
    }
    const now = this.#system.monotonic()
    const since = this.#stopped.get(holder) ?? now
    this.#stopped.set(holder, since)
    return now - since < stoppedPatience
  }
}

/** proc(5): state T, or t for one that is traced. Elsewhere than on Linux nobody can tell. */
async function isStopped(system: System, pid: number): Promise<boolean> {
  const text = (await system.readFile(`/proc/${pid}/stat`)) ?? ''
  return /^[Tt] /.test(text.slice(text.lastIndexOf(')') + 2))
}

function answer<T>(done: Callback<T>, work: () => Promise<T>): void {
  work().then(
    (value) => {
      done(null, value)
    },
    (error: unknown) => {
      done(error instanceof Error ? error : new Error(String(error)))
    },
  )
}

const errno = (code: string) => Object.assign(new Error(code), { code })
