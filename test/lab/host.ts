/**
 * Runs programs on the lab's host, as a person at its console would.
 * Invariant: nothing waits for ever, and nothing of the test's own environment gets in.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { enter, type Sides } from './namespaces.js'
import { scriptPath } from './paths.js'

export interface RunOptions {
  /** `root` (default) or `alice`, who may sudo without a password. */
  readonly user?: 'root' | 'alice'
  /** Default: the user's home. */
  readonly cwd?: string
  /** Added to PATH, HOME, USER, LOGNAME, LANG, TERM; undefined removes one. */
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly input?: string
  /** Milliseconds; then SIGKILL, and `signal` says so. Default 20,000. */
  readonly timeout?: number
  /** On a pseudo-terminal of this size; stderr then comes with stdout. */
  readonly tty?: boolean | { readonly rows: number; readonly columns: number }
}

export interface Result {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
  readonly ms: number
}

/** A program that runs on the host; `child` is its nsenter, on the machine. */
export interface Spawned {
  readonly child: ChildProcess
  /** The program's own process id, on the machine; undefined once it ended. */
  pid(): number | undefined
  /** To the program alone, as kill(1) on the host would. False when it is gone. */
  kill(signal: NodeJS.Signals): boolean
  write(text: string): void
  /** Ends its standard input (not on a terminal: write '\x04' there). */
  end(): void
  resize(rows: number, columns: number): void
  /** What it wrote so far. */
  stdout(): string
  stderr(): string
  /** Resolves with the output once it matches; rejects after `timeout` ms or at the end. */
  until(pattern: RegExp, timeout?: number): Promise<string>
  readonly ended: Promise<Result>
}

const accounts = {
  root: { home: '/root', id: [] as string[] },
  alice: { home: '/home/alice', id: ['setpriv', '--reuid=1000', '--regid=1000', '--init-groups'] },
}

const hostArgv = (sides: Sides, argv: readonly string[], options: RunOptions): string[] => {
  const { home, id } = accounts[options.user ?? 'root']
  const tty = options.tty === true ? { rows: 24, columns: 80 } : options.tty
  const pty = tty
    ? ['perl', '-e', readFileSync(scriptPath('pty.pl'), 'utf8'), `${tty.rows}`, `${tty.columns}`]
    : []
  const at = ['env', '-C', options.cwd ?? home, '--']
  return [...enter.host(sides), '--', ...at, ...id, ...pty, ...argv]
}

const hostEnv = (options: RunOptions): Record<string, string> => {
  const user = options.user ?? 'root'
  const env = {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    HOME: accounts[user].home,
    USER: user,
    LOGNAME: user,
    LANG: 'C.UTF-8',
    TERM: 'xterm',
    ...options.env,
  }
  return Object.fromEntries(
    Object.entries<string | undefined>(env).flatMap(([k, v]) => (v === undefined ? [] : [[k, v]])),
  )
}

/** Starts a program on the host. The caller waits for `ended` or closes the lab. */
export const spawnOnHost = (
  sides: Sides,
  argv: readonly string[],
  options: RunOptions = {},
): Spawned => {
  const started = performance.now()
  const child = spawn('/usr/bin/nsenter', hostArgv(sides, argv, options), {
    stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
    env: hostEnv(options),
    detached: true,
  })
  let [stdout, stderr] = ['', '']
  const listeners = new Set<() => void>()
  child.stdout.setEncoding('utf8').on('data', (s: string) => {
    stdout += s
    for (const listener of listeners) listener()
  })
  child.stderr.setEncoding('utf8').on('data', (s: string) => {
    stderr += s
    for (const listener of listeners) listener()
  })
  child.stdin.on('error', () => undefined)
  const control = child.stdio[3] as unknown as NodeJS.WritableStream
  control.on('error', () => undefined)

  const pid = (): number | undefined => {
    try {
      const path = `/proc/${child.pid}/task/${child.pid}/children`
      return Number(readFileSync(path, 'utf8').trim().split(' ')[0]) || undefined
    } catch {
      return undefined
    }
  }
  const kill = (signal: NodeJS.Signals): boolean => {
    const target = pid()
    if (target === undefined) return false
    try {
      return process.kill(target, signal)
    } catch {
      return false
    }
  }
  const timer = setTimeout(() => {
    if (!kill('SIGKILL')) child.kill('SIGKILL')
  }, options.timeout ?? 20_000)
  const ended = new Promise<Result>((resolve, reject) => {
    child.on('error', reject)
    // A daemon that kept our pipe must not hold the test: `exit`, then a moment for the rest.
    child.on('exit', (code, signal) => {
      clearTimeout(timer)
      const finish = () =>
        resolve({ code, signal, stdout, stderr, ms: performance.now() - started })
      const late = setTimeout(finish, 500)
      child.on('close', () => {
        clearTimeout(late)
        finish()
      })
    })
  })
  const until = (pattern: RegExp, timeout = 10_000) =>
    new Promise<string>((resolve, reject) => {
      const done = (settle: () => void) => {
        clearTimeout(limit)
        listeners.delete(check)
        settle()
      }
      const fail = (why: string) =>
        done(() => reject(new Error(`${why} before ${pattern}: ${stdout}${stderr}`)))
      const check = () => {
        if (pattern.test(stdout + stderr)) done(() => resolve(stdout + stderr))
      }
      const limit = setTimeout(() => fail(`${timeout} ms passed`), timeout)
      listeners.add(check)
      void ended.then(() => fail('it ended'))
      check()
    })
  return {
    child,
    pid,
    kill,
    write: (text) => void child.stdin.write(text),
    end: () => void child.stdin.end(),
    resize: (rows, columns) => void control.write(`${rows} ${columns}\n`),
    stdout: () => stdout,
    stderr: () => stderr,
    until,
    ended,
  }
}

/** Runs a program on the host to its end. Standard input is `input`, else empty. */
export const runOnHost = (
  sides: Sides,
  argv: readonly string[],
  options: RunOptions = {},
): Promise<Result> => {
  const program = spawnOnHost(sides, argv, options)
  if (options.input !== undefined) program.write(options.input)
  if (!options.tty) program.end()
  return program.ended
}
