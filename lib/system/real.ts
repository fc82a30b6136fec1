/**
 * The operating system itself, behind the one door.
 * Invariant: absolute programs, no shell, a clean environment with LC_ALL=C, every call bounded in time.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import {
  closeSync,
  constants,
  fsyncSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { errnoCode, JailError } from '../errors.js'
import { holdDir, leaveDir } from './held-dir.js'
import { findProcesses } from './processes-of.js'
import type { Argv, CommandResult, FileStat, RunOptions, Session, System } from './types.js'

const cleanEnvironment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }
/** An interactive nft writes its history into $HOME, or into / without one: nowhere, then. */
export const sessionEnvironment = { ...cleanEnvironment, HOME: '/dev/null' }
const defaultTimeout = 10_000
/** A listing of a large ruleset is a few megabytes; more than this is not an answer. */
const maxOutput = 64 * 1024 * 1024

/** Runs on this machine. */
export function realSystem(): System {
  return {
    platform: process.platform === 'darwin' ? 'darwin' : 'linux',
    run: runCommand,
    open: openSession,
    detach: detachProcess,
    feed: soon(feedFifo),
    processStart: soon(readProcessStart),
    bootId: soon(readBootId),
    processesOf: soon(findProcesses),
    readFile: soon((path) => absentAsUndefined(() => readFileSync(path, 'utf8'))),
    writeFile: soon(writeAtomically),
    removeFile: soon((path) => {
      absentAsUndefined(() => {
        unlinkSync(path)
      })
    }),
    makeDir: soon((path, mode) => {
      try {
        mkdirSync(path, { recursive: true, mode })
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error)
        throw new JailError('STATE', `cannot make ${path}: ${why}`, {
          hint: `check that ${dirname(path)} is writable and has space`,
          cause: error,
        })
      }
    }),
    removeDir: soon((path) => {
      rmSync(path, { recursive: true, force: true })
    }),
    chown: soon(lchownSync),
    claimFile: soon(claimAtomically),
    holdDir: soon(holdDir),
    leaveDir: soon(leaveDir),
    list: soon((path) => absentAsUndefined(() => readdirSync(path)) ?? []),
    lstat: soon(statLink),
    kill: (pid, signal) => {
      try {
        return process.kill(pid, signal)
      } catch (error) {
        if (errnoCode(error) === 'ESRCH') return false
        throw error
      }
    },
    now: () => Date.now(),
    // Not `performance`: that is loaded only when it is asked for, which takes a millisecond.
    monotonic: () => Number(process.hrtime.bigint()) / 1e6,
    sleep: (milliseconds) => delay(milliseconds),
  }
}

/**
 * Done at once, told by a promise. The files are small, of /proc, /etc or a tmpfs, and there at once: a thread of the
 * pool for each step costs ten times the step.
 */
function soon<A extends readonly unknown[], R>(
  work: (...args: A) => R,
): (...args: A) => Promise<R> {
  return (...args) =>
    new Promise((resolve) => {
      resolve(work(...args))
    })
}

async function runCommand(argv: Argv, options: RunOptions = {}): Promise<CommandResult> {
  const [program, ...args] = argv
  return await new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env: { ...cleanEnvironment, ...options.env },
      cwd: '/',
      stdio: ['pipe', 'pipe', 'pipe'],
      // What the terminal sends to the command's group would end a change half-way.
      detached: options.onTerminal !== true,
    })
    if (!hasPipes(child)) {
      child.on('error', (error) => {
        reject(cannotRun(program, error))
      })
      return
    }
    const out: Buffer[] = []
    const err: Buffer[] = []
    let size = 0
    const collect = (into: Buffer[]) => (chunk: Buffer) => {
      size += chunk.length
      if (size <= maxOutput) into.push(chunk)
      else child.kill('SIGKILL')
    }
    const limit = options.timeout ?? defaultTimeout
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, limit)
    child.stdout.on('data', collect(out))
    child.stderr.on('data', collect(err))
    child.stdin.on('error', () => undefined)
    child.stdin.end(options.input ?? '')
    child.on('error', (error) => {
      clearTimeout(timer)
      reject(cannotRun(program, error))
    })
    child.on('close', (code) => {
      clearTimeout(timer)
      const stderr = Buffer.concat(err).toString('utf8')
      resolve({
        code: code ?? 128,
        stdout: Buffer.concat(out).toString('utf8'),
        stderr: late ? `${stderr}no answer within ${limit} ms` : stderr,
      })
    })
  })
}

/** Out of descriptors, Node gives a child without streams, whatever its type says. */
function hasPipes(child: { readonly stdin: unknown }): boolean {
  return child.stdin !== undefined && child.stdin !== null
}

function cannotRun(program: string, error: Error): JailError {
  return new JailError('TOOL_MISSING', `cannot run ${program}: ${error.message}`, { cause: error })
}

function openSession(argv: Argv): Session {
  const [program, ...args] = argv
  const child = spawn(program, args, {
    env: sessionEnvironment,
    cwd: '/',
    stdio: ['pipe', 'pipe', 'pipe'],
    // A Ctrl-C is for the command.
    detached: true,
  })
  child.on('error', () => undefined)
  if (!hasPipes(child)) throw cannotRun(program, new Error('no descriptor is free for it'))
  return sessionOver(child)
}

/** Over a child that has pipes for its standard streams. */
export function sessionOver(child: ChildProcessWithoutNullStreams): Session {
  child.stdin.on('error', () => undefined)
  return {
    pid: child.pid ?? 0,
    write: (text) =>
      new Promise((resolve, reject) => {
        child.stdin.write(text, (error) => {
          if (error) reject(error)
          else resolve()
        })
      }),
    onLine: (listener) => {
      byLine(child.stdout, listener)
    },
    onErrorText: (listener) => {
      child.stderr.setEncoding('utf8').on('data', listener)
    },
    onExit: (listener) => {
      child.on('close', listener)
    },
    end: () =>
      new Promise((resolve) => {
        if (child.exitCode !== null || child.signalCode !== null) {
          resolve()
          return
        }
        child.on('close', () => {
          resolve()
        })
        child.stdin.end()
      }),
    kill: () => {
      child.kill('SIGKILL')
    },
    unref: () => {
      child.unref()
    },
  }
}

async function detachProcess(argv: Argv, fifo: string): Promise<number> {
  const [program, ...args] = argv
  absentAsUndefined(() => {
    unlinkSync(fifo)
  })
  const made = await runCommand(['/usr/bin/mkfifo', '-m', '0600', fifo])
  if (made.code !== 0) throw new JailError('STATE', `cannot make ${fifo}: ${made.stderr.trim()}`)
  // Opened for reading and writing: it never sees an end, whoever writes to it and leaves.
  const input = openSync(fifo, constants.O_RDWR | constants.O_NOFOLLOW)
  try {
    const child = spawn(program, args, {
      env: sessionEnvironment,
      cwd: '/',
      detached: true,
      stdio: [input, 'ignore', 'ignore'],
    })
    child.on('error', () => undefined)
    child.unref()
    if (child.pid === undefined) throw new JailError('TOOL_MISSING', `cannot run ${program}`)
    return child.pid
  } finally {
    closeSync(input)
  }
}

function feedFifo(fifo: string, text: string): void {
  // Without a reader this fails at once instead of waiting for one.
  const file = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW)
  try {
    writeSync(file, text)
  } finally {
    closeSync(file)
  }
}

function readProcessStart(pid: number): number | undefined {
  const text = readProc(`/proc/${pid}/stat`)
  if (text === undefined) return undefined
  // proc(5): the command in parentheses may hold anything; field 3 is the state, field 22 the start time.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return fields[0] === 'Z' || fields[0] === 'X' ? undefined : Number(fields[19])
}

function readBootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

/** A process may end while it is read: ESRCH is absence too. */
function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1')
  } catch (error) {
    const code = errnoCode(error)
    if (code === 'ENOENT' || code === 'ESRCH') return undefined
    throw error
  }
}

function byLine(stream: NodeJS.ReadableStream, listener: (line: string) => void): void {
  let rest = ''
  stream.setEncoding('utf8')
  stream.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) listener(line)
  })
}

function writeAtomically(path: string, data: string, mode: number): void {
  throughTemporary(path, data, mode, (temporary) => {
    renameSync(temporary, path)
  })
}

function claimAtomically(path: string, data: string, mode: number): boolean {
  let claimed = true
  throughTemporary(path, data, mode, (temporary) => {
    try {
      // link(2) fails where the name exists: the content is whole from the first instant.
      linkSync(temporary, path)
    } catch (error) {
      if (errnoCode(error) !== 'EEXIST') throw error
      claimed = false
    }
    unlinkSync(temporary)
  })
  return claimed
}

function throughTemporary(
  path: string,
  data: string,
  mode: number,
  place: (temporary: string) => void,
): void {
  // The directory is root's alone: the name need be unique, not secret.
  const temporary = `${path}.${process.pid}-${process.hrtime.bigint().toString(36)}.tmp`
  try {
    const file = openSync(
      temporary,
      constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW,
      mode,
    )
    try {
      writeFileSync(file, data)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    place(temporary)
  } catch (error) {
    absentAsUndefined(() => {
      unlinkSync(temporary)
    })
    throw new JailError(
      'STATE',
      `cannot write ${path}: ${error instanceof Error ? error.message : String(error)}`,
      {
        hint: `check that ${dirname(path)} is writable and has space`,
        cause: error,
      },
    )
  }
}

function statLink(path: string): FileStat | undefined {
  const stat = absentAsUndefined(() => lstatSync(path))
  if (stat === undefined) return undefined
  const kind = stat.isFile()
    ? 'file'
    : stat.isDirectory()
      ? 'directory'
      : stat.isSymbolicLink()
        ? 'symlink'
        : stat.isSocket()
          ? 'socket'
          : 'other'
  return {
    uid: stat.uid,
    gid: stat.gid,
    mode: stat.mode & 0o7777,
    kind,
    mtimeMs: stat.mtimeMs,
    inode: stat.ino,
  }
}

function absentAsUndefined<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined
    throw error
  }
}
