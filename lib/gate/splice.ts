/**
 * Passes bytes both ways between two connections, with back-pressure and half-close.
 * Invariant: a byte goes up only after `onUp` has agreed to it, and when one side breaks the other is reset.
 */
import type { Socket } from 'node:net'
import { laneOf } from './accept.js'
import { reset } from './connections.js'
import { Lane } from './lane.js'
import { reopen, takeRead } from './reopen.js'

/** One side has said it is done: the other may stay silent this long. */
const halfClosedIdleMs = 600_000

export interface Splice {
  /** Asked before bytes go either way; false: nothing more does. It has cut the connection then. */
  readonly onUp: (bytes: Uint8Array) => boolean
  readonly onDown: (bytes: Uint8Array) => boolean
  /** As `onUp`, of `head`. */
  readonly onHead: (bytes: Uint8Array) => boolean
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
  const { client, up, early } = intoLane(accepted)
  client.setNoDelay(true)
  up.join(client, upstream, hooks.onUp)
  down.join(upstream, client, hooks.onDown)
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
      onEnd(socket, other)
    })
  }
  const start = (): void => {
    if (head.length > 0 && !hooks.onHead(head)) return
    if (early.length > 0 && !hooks.onUp(early)) return
    const first = early.length === 0 ? head : Buffer.concat([head, early])
    if (first.length > 0) upstream.write(first)
    client.resume()
    upstream.resume()
    // It was done before there was somebody to tell.
    if (client.readableEnded) onEnd(client, upstream)
  }
  return {
    start,
    cut: () => {
      reset(client, upstream)
    },
  }
}

/** `socket` has said all that it will ever say. */
function onEnd(socket: Socket, other: Socket): void {
  // Nobody listens there any more and nothing waits: closing says it as well, in one system call.
  if (other.readableEnded && other.writableLength === 0) {
    other.destroy()
    return
  }
  other.end()
  other.setTimeout(halfClosedIdleMs, () => {
    socket.destroy()
    other.destroy()
  })
}

/** The connection on a socket that reads into a lane. */
function intoLane(accepted: Socket): { client: Socket; up: Lane; early: Buffer } {
  const known = laneOf(accepted)
  if (known !== undefined) return { client: accepted, up: known, early: takeRead(accepted) }
  const up = new Lane()
  const { socket: client, early } = reopen(accepted, up.onread)
  return { client, up, early }
}
