/**
 * Passes bytes both ways between two connections, with back-pressure and half-close.
 * Invariant: a byte goes up only after `onUp` has agreed to it, and when one side breaks the other is reset.
 */
import type { Socket } from 'node:net'
import { reset } from './connections.js'
import { Lane } from './lane.js'
import { reopen } from './reopen.js'

/** One side has said it is done: the other may stay silent this long. */
const halfClosedIdleMs = 600_000

export interface Splice {
  /** Asked before bytes go up; false: nothing more does. It has cut the connection then. */
  readonly onUp: (bytes: number) => boolean
  readonly onDown: (bytes: number) => void
  /** Both sides are closed. */
  readonly onEnd: () => void
}

/**
 * `head` goes up first. `accepted` must be paused and is used up; `upstream` must be paused and read into `down`; both
 * must have `allowHalfOpen`. `start` begins; before and after, `cut` resets both sides.
 */
export function splice(
  accepted: Socket,
  upstream: Socket,
  down: Lane,
  head: Buffer,
  hooks: Splice,
): { readonly start: () => void; readonly cut: () => void } {
  const up = new Lane()
  const { socket: client, early } = reopen(accepted, up.onread)
  up.join(client, upstream, hooks.onUp)
  down.join(upstream, client, (bytes) => {
    hooks.onDown(bytes)
    return true
  })
  let open = 2
  const onClose = (other: Socket) => (hadError: boolean) => {
    if (hadError) reset(other)
    // Destroyed without both ends: an abort on our side or theirs.
    else if (!other.destroyed && !other.writableEnded) other.end()
    if (--open === 0) hooks.onEnd()
  }
  for (const [socket, other] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    socket.on('error', () => undefined)
    socket.on('close', onClose(other))
    socket.on('end', () => {
      other.end()
      for (const each of [socket, other]) {
        each.setTimeout(halfClosedIdleMs, () => each.destroy())
      }
    })
  }
  const start = (): void => {
    const first = early.length === 0 ? head : Buffer.concat([head, early])
    if (first.length > 0) {
      if (!hooks.onUp(first.length)) return
      upstream.write(first)
    }
    client.resume()
    upstream.resume()
  }
  return {
    start,
    cut: () => {
      reset(client, upstream)
    },
  }
}
