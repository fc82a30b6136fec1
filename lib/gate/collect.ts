/**
 * Collects the first bytes of a connection until a parser has what it needs.
 * Invariant: a bounded number of bytes is held for a bounded time, and the socket is left paused.
 */
import type { Socket } from 'node:net'

/** A client that says nothing for this long is not going to. */
const firstBytesTimeoutMs = 10_000

export interface Collected<T> {
  /** The parser's verdict, or why there is none. */
  readonly value: T | 'timeout' | 'closed'
  /** All bytes read so far. */
  readonly bytes: Buffer
}

/**
 * `parse` gets all bytes so far and gives `undefined` for "more". It must bound their number itself.
 * `first`: bytes read before. Never rejects.
 */
export function collect<T>(
  socket: Socket,
  first: Buffer,
  parse: (bytes: Buffer) => T | undefined,
  timeoutMs = firstBytesTimeoutMs,
): Promise<Collected<T>> {
  return new Promise((resolve) => {
    let bytes = first
    const timer = setTimeout(() => {
      end('timeout')
    }, timeoutMs)
    const end = (value: Collected<T>['value']): void => {
      clearTimeout(timer)
      socket.off('data', onData)
      socket.off('end', onGone)
      socket.off('close', onGone)
      socket.pause()
      resolve({ value, bytes })
    }
    const judge = (): boolean => {
      const value = parse(bytes)
      if (value !== undefined) end(value)
      return value !== undefined
    }
    const onData = (chunk: Buffer): void => {
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
      judge()
    }
    const onGone = (): void => {
      end('closed')
    }
    if (bytes.length > 0 && judge()) return
    if (socket.destroyed || socket.readableEnded) {
      end('closed')
      return
    }
    socket.on('data', onData)
    socket.on('end', onGone)
    socket.on('close', onGone)
    socket.resume()
  })
}
