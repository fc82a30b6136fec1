/**
 * Reads the ClientHello of a fresh connection.
 * Invariant: at most one hello's worth of bytes is held; the socket is left paused.
 */
import type { Socket } from 'node:net'
import { collect } from './collect.js'
import { type Hello, maxHelloBytes, parseHello } from './sni/hello.js'

export interface HelloRead {
  readonly hello: Exclude<Hello, { kind: 'more' }> | { readonly kind: 'timeout' | 'closed' }
  /** All bytes read, to be replayed to the destination. */
  readonly bytes: Buffer
}

/** Bytes of the hello with a header for each of its records. */
const maxBytes = maxHelloBytes + 1024

/** Reads until the hello is whole, bad, late, or the client has gone. Never rejects. */
export async function readHello(
  socket: Socket,
  first: Buffer = Buffer.alloc(0),
  timeoutMs?: number,
): Promise<HelloRead> {
  const { value, bytes } = await collect(socket, first, judge, timeoutMs)
  return { hello: typeof value === 'string' ? { kind: value } : value, bytes }
}

function judge(bytes: Buffer): Exclude<Hello, { kind: 'more' }> | undefined {
  const hello = parseHello(bytes)
  if (hello.kind !== 'more') return hello
  if (bytes.length > maxBytes) return { kind: 'unreadable', detail: 'hello too long' }
  return undefined
}
