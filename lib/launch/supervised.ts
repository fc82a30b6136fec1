/**
 * A launched command as the session sees it: events of the status pipe, signals down the control pipe.
 * Invariant: `ended` settles only when the outermost process is gone, and with it, by the kernel, every
 * process of the PID namespace; a jail that was killed from outside ends as SIGKILL.
 */
import type { ChildProcess } from 'node:child_process'
import { constants } from 'node:os'
import type { Readable, Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { JailError } from '../errors.js'
import { childrenOf, innerPidOf, isAlive } from './children.js'
import { fds } from './launch-plan.js'
import { parseStatus, type Status } from './status-lines.js'
import type { Ending, Running } from './types.js'

/** What the launch must undo, once, when everything has ended, told what was full (see `Status`); gives lines for the user: limits that were hit, what was left. */
export type Undo = (full: ReadonlySet<string>) => Promise<readonly string[]>

export class Supervised implements Running {
  readonly ended: Promise<Ending>
  readonly notes: readonly string[]
  initPid = 0
  commandPid: number | undefined
  readonly #child: ChildProcess
  readonly #control: Writable
  readonly #begun: Promise<void>
  readonly #stopped: ((signal: NodeJS.Signals) => void)[] = []
  readonly #continued: (() => void)[] = []
  readonly #group: ((signal: NodeJS.Signals) => void)[] = []
  #ending: Ending | undefined
  #error: string | undefined
  #started = false
  readonly #full = new Set<string>()
  #hits: Promise<readonly string[]> | undefined
  #settle: () => void = () => undefined

  constructor(child: ChildProcess, notes: readonly string[], undo: Undo) {
    this.#child = child
    this.notes = notes
    this.#control = child.stdio[fds.control] as Writable
    this.#begun = new Promise((resolve) => (this.#settle = resolve))
    const status = child.stdio[fds.status] as Readable
    let text = ''
    status.setEncoding('utf8').on('data', (data: string) => {
      const lines = (text + data).split('\n')
      text = lines.pop() ?? ''
      for (const line of lines) this.#heard(parseStatus(line))
    })
    this.ended = new Promise((resolve) => {
      let open = 2
      const last = (): void => {
        if (--open > 0) return
        this.commandPid = undefined
        this.#settle()
        this.#hits = this.#gone().then(() => undo(this.#full))
        // No word of the command's end: the jail was killed from outside.
        const ending = this.#ending ?? { signal: 'SIGKILL' }
        void this.#hits.finally(() => {
          resolve(ending)
        })
      }
      status.on('close', last)
      child.on('error', (error) => {
        this.#error = `${child.spawnfile}: ${error.message}`
        last()
      })
      child.on('exit', last)
    })
  }

  async begun(): Promise<this> {
    await this.#begun
    if (this.#error !== undefined || (!this.#started && this.#ending === undefined)) {
      this.kill()
      await this.ended
      throw new JailError('LAUNCH', `the launch failed: ${this.#error ?? 'bubblewrap gave up'}`)
    }
    return this
  }

  /** Where bwrap itself was killed, PID 1 dies a moment later, and waits for all others as it does. */
  async #gone(): Promise<void> {
    while (this.initPid !== 0 && isAlive(this.initPid)) await sleep(5)
  }

  /** The command, and the first step's descendant that is its parent: bubblewrap or unshare stand between. */
  #find(innerPid: number, parent = this.#child.pid ?? 0): boolean {
    const children = childrenOf(parent)
    this.commandPid = children.find((pid) => innerPidOf(pid) === innerPid)
    if (this.commandPid !== undefined) this.initPid = parent
    // The first step's other child, which made the maps of ids, may not be gone yet.
    return this.commandPid !== undefined || children.some((pid) => this.#find(innerPid, pid))
  }

  #heard(status: Status): void {
    switch (status.type) {
      case 'started':
        this.#started = true
        this.#find(status.innerPid)
        this.#settle()
        break
      case 'execfail':
        break
      case 'full':
        this.#full.add(status.what)
        break
      case 'stopped':
        for (const listener of this.#stopped) listener(status.signal)
        break
      case 'continued':
        for (const listener of this.#continued) listener()
        break
      case 'group-signal':
        for (const listener of this.#group) listener(status.signal)
        break
      case 'exit':
        this.#ending = { code: status.code }
        this.#settle()
        break
      case 'signaled':
        this.#ending = { signal: status.signal }
        this.#settle()
        break
      case 'error':
        this.#error ??= status.text
        break
    }
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#ending === undefined) this.#control.write(`${String(constants.signals[signal])}\n`)
  }

  onStopped(listener: (signal: NodeJS.Signals) => void): void {
    this.#stopped.push(listener)
  }

  onContinued(listener: () => void): void {
    this.#continued.push(listener)
  }

  onGroupSignal(listener: (signal: NodeJS.Signals) => void): void {
    this.#group.push(listener)
  }

  kill(): void {
    // PID 1 rather than bwrap: bwrap then waits until all of its namespace is gone. Before it is known, the first step,
    // with which the kernel ends all that it started.
    if (this.initPid === 0) this.#child.kill('SIGKILL')
    else if (this.#hits === undefined && isAlive(this.initPid))
      process.kill(this.initPid, 'SIGKILL')
  }

  limitsHit(): Promise<readonly string[]> {
    return this.#hits ?? Promise.resolve([])
  }
}
