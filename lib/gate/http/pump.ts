/**
 * Passes a body on: what comes in one turn of the event loop goes out in one write, since each costs an encryption
 * and a system call of its own. Node hands TLS records on one by one, each with its ticks: the turn's end comes after them.
 * Invariant: nothing waits for a later turn, and while the taker is full the source is paused.
 */
import type { Readable, Writable } from 'node:stream'

/** Bytes that one side of a connection holds before the other is paused: several TLS records (16 KiB each). */
export const highWaterMark = 256 * 1024

/** Does not end `to`. */
export function pump(from: Readable, to: Writable): void {
  let isCorked = false
  const uncork = () => {
    if (!isCorked) return
    isCorked = false
    to.uncork()
  }
  // Each write to what was closed meanwhile is told as an error of its own.
  to.on('error', () => undefined)
  from.on('data', (chunk: Buffer) => {
    if (to.destroyed) return
    if (!isCorked) {
      isCorked = true
      to.cork()
      setImmediate(uncork)
    }
    if (!to.write(chunk)) from.pause()
  })
  // Newer Node writes the end of a chunked body ahead of what is still held back.
  from.once('end', uncork)
  to.on('drain', () => {
    from.resume()
  })
}
