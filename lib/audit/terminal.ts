/**
 * Tells whether a program draws on the terminal.
 * The command's output does not pass through us, so the alternate screen cannot be seen; but every
 * program that draws reads single keys, and for that takes the terminal out of canonical mode.
 * Invariant: asks only, never changes a mode of the terminal.
 */
import type { System } from '../system/types.js'

/**
 * True where `/dev/tty` is not in canonical mode (termios(3), ICANON), or has no answer.
 * @param stty absolute path of stty(1)
 */
export async function isTerminalBusy(system: Pick<System, 'run'>, stty: string): Promise<boolean> {
  const options = { timeout: 1_000, onTerminal: true }
  const { code, stdout } = await system.run([stty, '-F', '/dev/tty', '-a'], options)
  return code !== 0 || !isCanonical(stdout)
}

/** Of `stty -a`: the flags are words, a leading dash means off. */
export function isCanonical(listing: string): boolean {
  return listing.split(/[\s;]+/).includes('icanon')
}
