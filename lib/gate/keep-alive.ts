/**
 * Keep-alive probes for connections that live: four system calls that a short one is spared.
 */
import type { Socket } from 'node:net'

/** So that a dead peer of a silent connection is noticed in the end. */
const keepAliveMs = 60_000
/** How old a connection may get before it is set. */
const sweepMs = 10_000

const young = new Set<Socket>()
let timer: NodeJS.Timeout | undefined

/** Turns probes on for `socket` within `sweepMs`, if it is open then. */
export function keepAlive(socket: Socket): void {
  young.add(socket)
  socket.once('close', forget)
  timer ??= setInterval(sweep, sweepMs).unref()
}

function forget(this: Socket): void {
  young.delete(this)
}

function sweep(): void {
  for (const socket of young) {
    socket.off('close', forget)
    socket.setKeepAlive(true, keepAliveMs)
  }
  young.clear()
}
