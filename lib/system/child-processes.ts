/**
 * Programs of the system, started: for an answer, for a conversation, or to outlive this process.
 * Invariant: absolute programs, no shell, a clean environment with LC_ALL=C; who waits for an answer waits a bounded time.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { closeSync, constants, openSync, writeSync } from 'node:fs'
import { JailError } from '../errors.js'
import { removeFile } from './files.js'
import type { Argv, CommandResult, RunOptions, Session } from './types.js'

const cleanEnvironment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }
/** An interactive nft writes its history into $HOME, or into / without one: nowhere, then. */
export const sessionEnvironment = { ...cleanEnvironment, HOME: '/dev/null' }
const defaultTimeout = 10_000
/** A listing of a large ruleset is a few megabytes; more than this is not an answer. */
const maxOutput = 64 * 1024 * 1024

/** Ends it at `timeout`, 10 s by default. Throws TOOL_MISSING where it cannot be run. */
export async function runCommand(argv: Argv, options: RunOptions = {}): Promise<CommandResult> {
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

/** A program that is talked to over its standard streams. Throws TOOL_MISSING. */
export function openSession(argv: Argv): Session {
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

/** Starts a program that outlives this process and reads from `fifo`, which is made anew; gives its pid. */
export async function detachProcess(argv: Argv, fifo: string): Promise<number> {
  const [program, ...args] = argv
  removeFile(fifo)
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

/** Throws where nobody reads it. */
export function feedFifo(fifo: string, text: string): void {
  // Without a reader this fails at once instead of waiting for one.
  const file = openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW)
  try {
    writeSync(file, text)
  } finally {
    closeSync(file)
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
