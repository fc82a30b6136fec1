/**
 * Connections to hosts that a client connection left idle when it ended, for the next one: a program that opens one after
 * another (curl in a loop, git, most command lines) is spared a handshake with the host each time.
 * Invariant: a connection is given on for the same host, port and grant only, within the same jail, and never one that the
 * host has said anything on unasked.
 */
import type { Duplex } from 'node:stream'
import type { HttpContext } from './types.js'

/** Milliseconds; less than servers close idle connections after (Node and Apache 5 s, nginx 75 s, load balancers 60 s). */
const keptMs = 1500
/** For one host and grant. */
const maxKept = 8

interface LeftOver {
  readonly socket: Duplex
  readonly release: () => void
}

const pools = new WeakMap<HttpContext, Map<string, LeftOver[]>>()
const givenOn = new WeakSet<Duplex>()

/** It was used before, by another connection of the jail: the host may have closed it at this very moment. */
export function isGivenOn(socket: Duplex | null): boolean {
  return socket !== null && givenOn.has(socket)
}

/** Keeps an idle connection for a moment; `key` says all that it may be used for. */
export function leave(context: HttpContext, key: string, socket: Duplex): void {
  const pool = pools.get(context) ?? new Map<string, LeftOver[]>()
  pools.set(context, pool)
  const kept = pool.get(key) ?? []
  if (socket.destroyed || kept.length >= maxKept) {
    socket.destroy()
    return
  }
  pool.set(key, kept)
  const end = (): void => {
    socket.destroy()
  }
  const forget = (): void => {
    const at = kept.findIndex((each) => each.socket === socket)
    if (at !== -1) kept.splice(at, 1)
    if (kept.length === 0 && pool.get(key) === kept) pool.delete(key)
  }
  const timer = setTimeout(end, keptMs)
  timer.unref()
  const ending = ['data', 'end', 'error', 'timeout'] as const
  for (const event of ending) socket.on(event, end)
  socket.once('close', forget)
  socket.resume()
  kept.push({
    socket,
    release: () => {
      clearTimeout(timer)
      forget()
      for (const event of ending) socket.off(event, end)
      socket.off('close', forget)
      givenOn.add(socket)
    },
  })
}

/** The one left last, if there is any. */
export function takeLeft(context: HttpContext, key: string): Duplex | undefined {
  const left = pools.get(context)?.get(key)?.at(-1)
  left?.release()
  return left?.socket
}
