/**
 * A reader that goes away (`agentjail logs | head`, a closed terminal) is no error of ours; a full disk is one.
 * Invariant: a running jail's warden never ends because nobody reads its messages any more.
 */
import { setImmediate } from 'node:timers/promises'
import { errnoCode, errorMessage, JailError } from '../errors.js'

/**
 * For the life of the process. Commands see `stdout.destroyed` and stop.
 * The function given back throws STATE where standard output did not take what was written to it.
 */
export function outliveReaders(): () => Promise<void> {
  let lost: unknown
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', (error: unknown) => {
      // Node destroys the stream; without a listener it would end the process.
      if (stream === process.stdout && errnoCode(error) !== 'EPIPE') lost = error
    })
  }
  return async () => {
    // Node tells of a failed write in the next turn.
    await setImmediate()
    if (lost === undefined) return
    throw new JailError('STATE', `standard output was not written: ${errorMessage(lost)}`, {
      hint: 'what was printed is not complete',
    })
  }
}
