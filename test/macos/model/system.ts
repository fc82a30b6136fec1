/**
 * A modelled Mac behind the one door for effects, all in memory: each step can be made to fail, by number.
 */
import type {
  CommandResult,
  FileStat,
  RunOptions,
  Session,
  System,
} from '../../../lib/system/types.js'
import { runTool } from './tools.js'
import { freshMac, type MacState } from './state.js'

export class StepFailure extends Error {}

export class FakeMac implements System {
  readonly platform = 'darwin'
  readonly state: MacState = freshMac()
  /** Milliseconds; moves only when someone sleeps. */
  time = 1_000_000
  /** Steps so far, and the one that fails (counted from 1); `crash`: every later one fails too. */
  steps = 0
  failAt: number | undefined
  crash = false
  readonly sessions: FakeSession[] = []
  /** Answers in place of a tool. */
  intercept: ((argv: readonly string[]) => CommandResult | undefined) | undefined
  onStep: (() => void) | undefined
  /** Every process that a state file names is said to be gone. */
  forgetsProcesses = false
  /** Signals do nothing. */
  isDeaf = false

  /** A step that changes or asks something; pure reading of time is none. */
  step(what: string): void {
    this.steps++
    const fails =
      this.failAt !== undefined &&
      (this.crash ? this.steps >= this.failAt : this.steps === this.failAt)
    this.onStep?.()
    if (fails) throw new StepFailure(`step ${String(this.steps)} failed: ${what}`)
  }

  async run(
    argv: readonly [string, ...string[]],
    options: RunOptions = {},
  ): Promise<CommandResult> {
    try {
      this.step(argv.join(' '))
    } catch (error) {
      // A command that fails says so by its exit code; it has changed nothing.
      if (error instanceof StepFailure) return { code: 1, stdout: '', stderr: `${error.message}\n` }
      throw error
    }
    return this.intercept?.(argv) ?? runTool(this.state, argv, options.input ?? '')
  }

  open(argv: readonly [string, ...string[]]): Session {
    this.step(argv.join(' '))
    runTool(this.state, argv, '')
    const session = new FakeSession(this.state.nextPid++)
    this.sessions.push(session)
    return session
  }

  detach(): Promise<number> {
    return Promise.reject(new Error('not on macOS'))
  }

  feed(): Promise<void> {
    return Promise.reject(new Error('not on macOS'))
  }

  async processStart(pid: number): Promise<number | undefined> {
    if (this.forgetsProcesses) return undefined
    return this.state.processes.some((one) => one.pid === pid) || pid === process.pid
      ? 1
      : undefined
  }

  async bootId(): Promise<string> {
    return this.state.boot
  }

  async processesOf(uid: number): Promise<readonly number[]> {
    this.step(`processes of ${String(uid)}`)
    return this.state.processes.filter((one) => one.uid === uid).map(({ pid }) => pid)
  }

  async readFile(path: string): Promise<string | undefined> {
    this.step(`read ${path}`)
    return this.state.files[path]?.text
  }

  async writeFile(path: string, text: string, mode: number): Promise<void> {
    this.step(`write ${path}`)
    this.state.files[path] = { kind: 'file', text, mode, uid: 0, gid: 0 }
  }

  async removeFile(path: string): Promise<void> {
    this.step(`remove ${path}`)
    Reflect.deleteProperty(this.state.files, path)
  }

  async makeDir(path: string, mode: number): Promise<void> {
    this.step(`make directory ${path}`)
    this.state.files[path] ??= { kind: 'directory', text: '', mode, uid: 0, gid: 0 }
  }

  async removeDir(path: string): Promise<void> {
    this.step(`remove directory ${path}`)
    for (const each of Object.keys(this.state.files))
      if (each === path || each.startsWith(`${path}/`))
        Reflect.deleteProperty(this.state.files, each)
  }

  async chown(path: string, uid: number, gid: number): Promise<void> {
    this.step(`chown ${path}`)
    const file = this.state.files[path]
    if (file !== undefined) Object.assign(file, { uid, gid })
  }

  async claimFile(path: string, text: string, mode: number): Promise<boolean> {
    this.step(`claim ${path}`)
    if (this.state.files[path] !== undefined) return false
    this.state.files[path] = { kind: 'file', text, mode, uid: 0, gid: 0 }
    return true
  }

  async holdDir(path: string, holder: string): Promise<boolean> {
    this.step(`hold ${path}`)
    if ((await this.list(path)).length > 0) return false
    this.state.files[`${path}/${holder}`] = { kind: 'file', text: '', mode: 0o600, uid: 0, gid: 0 }
    return true
  }

  async leaveDir(path: string, holder: string): Promise<boolean> {
    this.step(`leave ${path}`)
    const held = this.state.files[`${path}/${holder}`] !== undefined
    Reflect.deleteProperty(this.state.files, `${path}/${holder}`)
    return held
  }

  async list(path: string): Promise<readonly string[]> {
    this.step(`list ${path}`)
    const prefix = `${path}/`
    return Object.keys(this.state.files)
      .filter((each) => each.startsWith(prefix) && !each.slice(prefix.length).includes('/'))
      .map((each) => each.slice(prefix.length))
  }

  async lstat(path: string): Promise<FileStat | undefined> {
    this.step(`stat ${path}`)
    const file = this.state.files[path]
    return file === undefined
      ? undefined
      : { uid: file.uid, gid: file.gid, mode: file.mode, kind: file.kind, mtimeMs: 0, inode: 0 }
  }

  kill(pid: number, signal: NodeJS.Signals): boolean {
    if (this.isDeaf) return true
    const index = this.state.processes.findIndex((one) => one.pid === pid)
    if (index === -1) return false
    if (signal === 'SIGKILL' || signal === 'SIGTERM') this.state.processes.splice(index, 1)
    return true
  }

  now(): number {
    return this.time
  }

  monotonic(): number {
    return this.time
  }

  async sleep(milliseconds: number): Promise<void> {
    this.time += milliseconds
  }
}

export class FakeSession implements Session {
  readonly pid: number
  killed = false
  readonly #lines: ((line: string) => void)[] = []

  constructor(pid: number) {
    this.pid = pid
  }

  /** What the modelled program writes. */
  say(line: string): void {
    for (const listener of this.#lines) listener(line)
  }

  onLine(listener: (line: string) => void): void {
    this.#lines.push(listener)
  }

  write(): Promise<void> {
    return Promise.resolve()
  }

  onErrorText(): void {
    return
  }

  onExit(): void {
    return
  }

  end(): Promise<void> {
    this.killed = true
    return Promise.resolve()
  }

  kill(): void {
    this.killed = true
  }

  unref(): void {
    return
  }
}
