/**
 * A reader that goes away (`agentjail logs | head`, a closed terminal) is no error of ours.
 * Invariant: a running jail's warden never ends because nobody reads its messages any more.
 */

/** For the life of the process. Commands see `stdout.destroyed` and stop. */
export function outliveReaders(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', () => {
      // Node destroys the stream; without a listener it would end the process.
    })
  }
}
