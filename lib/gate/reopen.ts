/**
 * Makes another socket of a connection: only a socket that was made with `onread` can read into buffers of ours,
 * and a server's sockets are made without.
 * Invariant: every byte is read once, by the old socket or by the new.
 */
import net, { type OnReadOpts, type Socket } from 'node:net'

/** What Node keeps the connection's descriptor in; a TLS socket or a pipe of another kind has no such. */
interface Handle {
  reading: boolean
  readStop(): void
}

interface WithHandle {
  _handle: Handle | null
}

export interface Reopened {
  readonly socket: Socket
  /** What the old socket had read and not yet given out. */
  readonly early: Buffer
}

/** The old socket must be paused; it is closed, and the new one does not read before it is resumed. */
export function reopen(old: Socket, onread: OnReadOpts): Reopened {
  const holder = old as unknown as WithHandle
  const early = takeRead(old)
  const handle = holder._handle
  if (handle !== null) {
    handle.readStop()
    handle.reading = false
  }
  holder._handle = null
  const socket = new net.Socket({
    handle,
    onread,
    allowHalfOpen: true,
    // Nothing is read until the new owner is ready.
    pauseOnCreate: true,
  } as net.SocketConstructorOpts)
  old.destroy()
  // It was closed meanwhile: so is its successor.
  if (handle === null) socket.destroy()
  return { socket, early }
}

/** What a paused socket has read and not given out. */
export function takeRead(socket: Socket): Buffer {
  const chunks: Buffer[] = []
  while (socket.readableLength > 0) {
    const chunk = socket.read() as Buffer | null
    if (chunk === null) break
    chunks.push(chunk)
  }
  return chunks.length === 1 ? (chunks[0] ?? none) : Buffer.concat(chunks)
}

const none = Buffer.alloc(0)
