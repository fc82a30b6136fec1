/**
 * Connects to one of several addresses, the next started when the one before is slow (RFC 8305).
 * Invariant: exactly one connection survives; the others are destroyed.
 */
import net from 'node:net'
import { keepAlive } from './keep-alive.js'

/** RFC 8305 section 5: "Connection Attempt Delay", 250 ms recommended. */
const attemptDelayMs = 250
const connectTimeoutMs = 15_000

export interface DialOptions {
  /** Where the connection is read into; it is handed over paused then. */
  readonly onread?: net.OnReadOpts
  /** For whom: when this closes, the attempt is given up. */
  readonly client?: net.Socket
  readonly timeoutMs?: number
}

export interface Dialled {
  readonly socket: net.Socket
  /** The one of the addresses that took the connection. */
  readonly address: string
}

/** Rejects with the last error when no address takes the connection. */
export function dialAddresses(
  addresses: readonly string[],
  port: number,
  options: DialOptions = {},
): Promise<Dialled> {
  return new Promise((resolve, reject) => {
    const attempts = new Set<net.Socket>()
    let next = 0
    let delay: NodeJS.Timeout | undefined
    let lastError: Error = new Error('no address to connect to')

    const finish = (settle: () => void, winner?: net.Socket): void => {
      clearTimeout(delay)
      clearTimeout(overall)
      options.client?.off('close', onGone)
      next = addresses.length
      for (const attempt of attempts) if (attempt !== winner) attempt.destroy()
      attempts.clear()
      settle()
    }
    const start = (): void => {
      clearTimeout(delay)
      const address = addresses[next++]
      if (address === undefined) {
        if (attempts.size === 0) finish(() => reject(lastError))
        return
      }
      const socket = net.connect({
        host: address,
        port,
        allowHalfOpen: true,
        noDelay: true,
        ...(options.onread === undefined ? {} : { onread: options.onread }),
      })
      attempts.add(socket)
      const onError = (error: Error): void => {
        lastError = error
        if (attempts.delete(socket)) start()
      }
      socket.once('error', onError)
      socket.once('connect', () => {
        if (!attempts.has(socket)) return
        socket.off('error', onError)
        if (options.onread !== undefined) socket.pause()
        keepAlive(socket)
        finish(() => resolve({ socket, address }), socket)
      })
      if (next < addresses.length) delay = setTimeout(start, attemptDelayMs)
    }
    const onGone = (): void => {
      finish(() => reject(new Error('given up')))
    }
    const overall = setTimeout(() => {
      finish(() => reject(new Error('the connection timed out')))
    }, options.timeoutMs ?? connectTimeoutMs)
    if (options.client?.destroyed === true) {
      onGone()
      return
    }
    options.client?.once('close', onGone)
    start()
  })
}
