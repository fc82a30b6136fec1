/**
 * Passes bytes both ways between two sockets, with back-pressure and half-close.
 * Invariant: a byte goes up only after `onUp` has agreed to it, and when one side breaks the other is reset.
 */
import type { Socket } from 'node:net'

/** One side has said it is done: the other may stay silent this long. */
const halfClosedIdleMs = 600_000

export interface Splice {
  /** Asked before bytes go up; false: nothing more does. It has cut the connection then. */
  readonly onUp: (bytes: number) => boolean
  readonly onDown: (bytes: number) => void
  /** Both sides are closed. */
  readonly onEnd: () => void
}

/** `head` goes up first. Both sockets must have `allowHalfOpen`. */
export function splice(client: Socket, upstream: Socket, head: Buffer, hooks: Splice): void {
  let open = 2
  const onClose = (other: Socket) => (hadError: boolean) => {
    if (hadError) other.resetAndDestroy()
    // Destroyed without both ends: an abort on our side or theirs.
    else if (!other.destroyed && !other.writableEnded) other.end()
    if (--open === 0) hooks.onEnd()
  }
  client.on('error', () => undefined)
  upstream.on('error', () => undefined)
  client.on('close', onClose(upstream))
  upstream.on('close', onClose(client))

  if (head.length > 0) {
    if (!hooks.onUp(head.length)) return
    upstream.write(head)
  }
  pump(client, upstream, hooks.onUp)
  pump(upstream, client, (bytes) => {
    hooks.onDown(bytes)
    return true
  })
  client.resume()
  upstream.resume()
}

function pump(from: Socket, to: Socket, allow: (bytes: number) => boolean): void {
  from.on('data', (chunk: Buffer) => {
    if (!allow(chunk.length)) return
    if (!to.write(chunk)) from.pause()
  })
  to.on('drain', () => {
    from.resume()
  })
  const onEnd = (): void => {
    to.end()
    from.setTimeout(halfClosedIdleMs, () => from.destroy())
    to.setTimeout(halfClosedIdleMs, () => to.destroy())
  }
  // Node emits the end of a paused socket, too, when nothing is left to read: it may be past.
  if (from.readableEnded) onEnd()
  else from.on('end', onEnd)
}
