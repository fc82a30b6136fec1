/**
 * The one door to the operating system. Everything that changes or asks it goes through here,
 * so that a fake can stand in and can fail at any step.
 */

/** Absolute path of the program first; never a shell. */
export type Argv = readonly [string, ...string[]]

export interface CommandResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly input?: string
  /** Milliseconds; default 10,000. */
  readonly timeout?: number
  readonly env?: Readonly<Record<string, string>>
  /** It belongs to the terminal: asks it, and a Ctrl-C there is for it too. Else it has a session of its own. */
  readonly onTerminal?: boolean
}

/** A long-lived child that answers to lines on its standard input. */
export interface Session {
  readonly pid: number
  write(text: string): Promise<void>
  onLine(listener: (line: string) => void): void
  onErrorText(listener: (text: string) => void): void
  onExit(listener: (code: number | null, signal: NodeJS.Signals | null) => void): void
  /** Closes its standard input and waits for its end. */
  end(): Promise<void>
  kill(): void
  /** Lets this process end before it does. */
  unref(): void
}

export interface FileStat {
  readonly uid: number
  readonly gid: number
  /** Permission bits, e.g. 0o755. */
  readonly mode: number
  readonly kind: 'file' | 'directory' | 'symlink' | 'socket' | 'other'
  readonly mtimeMs: number
  readonly inode: number
}

export interface System {
  readonly platform: 'linux' | 'darwin'
  /** Runs to the end with LC_ALL=C and a clean environment; a non-zero code is a result, not an error. */
  run(argv: Argv, options?: RunOptions): Promise<CommandResult>
  open(argv: Argv): Session
  /** As `open`, by a process that can do it sooner; absent: there is none. */
  openSoon?(argv: Argv): Promise<Session>
  /** Starts a process that outlives this one, its standard input a FIFO that it holds open itself. */
  detach(argv: Argv, fifo: string): Promise<number>
  /** Writes to such a FIFO. */
  feed(fifo: string, text: string): Promise<void>
  /** Start time in clock ticks since boot, which with the boot id names a process for good; undefined: no such process. */
  processStart(pid: number): Promise<number | undefined>
  /** Random per boot. */
  bootId(): Promise<string>
  /** Process ids with this uid among their real, effective, saved or file-system uids. */
  processesOf(uid: number): Promise<readonly number[]>
  readFile(path: string): Promise<string | undefined>
  /** Atomic (temporary file in the same directory, fsync, rename). Mode as given. */
  writeFile(path: string, data: string, mode: number): Promise<void>
  removeFile(path: string): Promise<void>
  makeDir(path: string, mode: number): Promise<void>
  removeDir(path: string): Promise<void>
  /** Never follows a link. */
  chown(path: string, uid: number, gid: number): Promise<void>
  /** Makes the file with this content unless it exists; false when it does. Atomic. */
  claimFile(path: string, data: string, mode: number): Promise<boolean>
  /** Makes the directory `holder`'s unless somebody else has it; false then. Atomic. */
  holdDir(path: string, holder: string): Promise<boolean>
  /** It is `holder`'s no more; false when it was not. */
  leaveDir(path: string, holder: string): Promise<boolean>
  list(path: string): Promise<readonly string[]>
  lstat(path: string): Promise<FileStat | undefined>
  kill(pid: number, signal: NodeJS.Signals): boolean
  /** Milliseconds since the epoch. */
  now(): number
  /** Milliseconds, monotonic. */
  monotonic(): number
  sleep(milliseconds: number): Promise<void>
}
