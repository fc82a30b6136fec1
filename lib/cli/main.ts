/**
 * The command line: words to a command, errors to stderr and an exit code.
 * Invariant: every command's code is loaded only when it runs; users see one line, never a stack trace.
 */
import { errorMessage, exitCode, JailError } from '../errors.js'
import { endLike } from '../session/signals.js'
import { outliveReaders } from './closed-readers.js'
import type { Ending } from '../launch/types.js'
import { closeInherited } from './descriptors.js'
import { parseRunArgs } from './run-args.js'

/** Never throws; sets `process.exitCode`, or ends the process by the signal that ended the command. */
export async function main(argv: readonly string[]): Promise<void> {
  const debug = argv.includes('--debug') && argv.indexOf('--debug') < separator(argv)
  const allWritten = outliveReaders()
  try {
    closeInherited()
    const ending = await dispatch(argv, allWritten)
    if (ending !== undefined) {
      endLike(ending)
      // A run has undone all it did: nothing is left to wait for.
      if (isTold()) process.exit()
    }
  } catch (error) {
    process.exitCode = tellError(error, debug)
  }
  endSoon()
}

/** Milliseconds. */
const linger = 3_000

/** All is done: what was left open by an error keeps nobody waiting. What is still to be read is waited for. */
function endSoon(): void {
  setTimeout(() => {
    if (isTold()) process.exit()
    endSoon()
  }, linger).unref()
}

/** No output is left that a slow reader has not taken. */
function isTold(): boolean {
  return process.stdout.writableLength + process.stderr.writableLength === 0
}

/** Tells the user what was thrown; gives the exit code. */
export function tellError(error: unknown, debug: boolean): number {
  process.stderr.write(
    debug ? `${String(error instanceof Error ? error.stack : error)}\n` : describe(error),
  )
  return error instanceof JailError ? error.exit : exitCode.refused
}

async function dispatch(
  argv: readonly string[],
  allWritten: () => Promise<void>,
): Promise<Ending | undefined> {
  const run = parseRunArgs(argv, process.argv[1] ?? '')
  if (run === undefined) {
    const ending = await (await import('./parse.js')).parse(argv)
    await allWritten()
    return ending
  }
  const { runCommand } = await import('./commands/run.js')
  return await runCommand(run, { stdout: process.stdout, stderr: process.stderr, env: process.env })
}

/** `process.cwd()` in a directory that was removed. */
function isDirectoryGone(error: unknown): boolean {
  return (error as NodeJS.ErrnoException | undefined)?.syscall === 'uv_cwd'
}

function separator(argv: readonly string[]): number {
  const index = argv.indexOf('--')
  return index < 0 ? argv.length : index
}

function describe(error: unknown): string {
  if (isDirectoryGone(error))
    return 'agentjail: the working directory is not there any more; go into one that is\n'
  if (!(error instanceof JailError))
    return `agentjail: unexpected: ${errorMessage(error)} (--debug shows where)\n`
  const hint = error.hint === undefined ? '' : `; ${error.hint}`
  // Policy mistakes are a list already, one line each.
  return error.code === 'POLICY_INVALID' || error.code === 'CONFIG_INVALID'
    ? `${error.message}${hint}\n`
    : `agentjail: ${error.message}${hint}\n`
}
