/**
 * Entry of the HTTP gate: one client connection, terminated here, each request judged and rebuilt.
 * Invariant: what is sent upstream is built from what was judged, never copied through.
 */
import type { Socket } from 'node:net'
import type { HttpContext, HttpServing } from './types.js'

/**
 * Serves a TLS connection of the jail by terminating it with the jail's CA.
 * `sniName`: normalised, already known to have an `inspect: http` grant on `port`.
 * `helloBytes`: what was read from the socket so far (it must be paused); replayed to TLS.
 */
export function serveTls(
  socket: Socket,
  _sniName: string,
  _helloBytes: Buffer,
  _port: number,
  _context: HttpContext,
): HttpServing {
  socket.destroy()
  return { grantsInUse: () => [] }
}

/** Serves plain HTTP: the Host of each request is the name. `firstBytes`: what was read so far, if any. */
export function servePlain(
  socket: Socket,
  _port: number,
  _context: HttpContext,
  _firstBytes?: Buffer,
): HttpServing {
  socket.destroy()
  return { grantsInUse: () => [] }
}
