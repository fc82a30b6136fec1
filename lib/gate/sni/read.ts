/**
 * Collects bytes from a fresh connection until its ClientHello can be judged.
 * Invariant: at most one hello's worth of bytes is held, for a bounded time; the socket is left paused.
 */
import type { Socket } from 'node:net'
import { type Hello, maxHelloBytes, parseHello } from './hello.js'

/** A client that says nothing for this long is not going to. */
export const helloTimeoutMs = 10_000

export interface HelloRead {
  readonly hello: Exclude<Hello, { kind: 'more' }> | { readonly kind: 'timeout' | 'closed' }
  /** All bytes read, to be replayed to the destination. */
  readonly bytes: Buffer
}

/** Bytes of the hello with a header for each of its records. */
const maxBytes = maxHelloBytes + 1024

/** Reads until the hello is whole, bad, late, or the client has gone. Never rejects. */
export function readHello(
  socket: Socket,
  first: Buffer = Buffer.alloc(0),
  timeoutMs = helloTimeoutMs,
): Promise<HelloRead> {
  return new Promise((resolve) => {
    let bytes = first
    const timer = setTimeout(() => {
      end({ kind: 'timeout' })
    }, timeoutMs)
    const end = (hello: HelloRead['hello']): void => {
      clearTimeout(timer)
      socket.off('data', onData)
      socket.off('end', onGone)
      socket.off('close', onGone)
      socket.off('error', onGone)
      socket.pause()
      resolve({ hello, bytes })
    }
    const judge = (): void => {
      const hello = parseHello(bytes)
      if (hello.kind !== 'more') end(hello)
      else if (bytes.length > maxBytes) end({ kind: 'unreadable', detail: 'hello too long' })
    }
    const onData = (chunk: Buffer): void => {
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
      judge()
    }
    const onGone = (): void => {
      end({ kind: 'closed' })
    }
    socket.on('data', onData)
    socket.on('end', onGone)
    socket.on('close', onGone)
    socket.on('error', onGone)
    if (bytes.length > 0) judge()
    socket.resume()
  })
}
