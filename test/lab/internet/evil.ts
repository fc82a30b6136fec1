/**
 * The attacker: echoes and records whatever arrives, TCP and UDP, on many ports of its addresses.
 * Invariant: a leak succeeds here; nothing that arrives goes unrecorded, an empty connection neither.
 */
import { createSocket } from 'node:dgram'
import { createServer, type Socket } from 'node:net'
import { evil, evilPorts } from '../addresses.js'
import type { Visit } from './protocol.js'

export type Record = (visit: Visit) => void

/** How much of one connection is kept; the rest is echoed and forgotten. */
const kept = 65_536

const plainAddress = (address: string | undefined) => address?.replace(/^::ffff:/, '') ?? ''

/** The ends of a connection, as a visit reports them. */
export const ends = (socket: Socket) => ({
  time: Date.now(),
  proto: 'tcp' as const,
  local: plainAddress(socket.localAddress),
  localPort: socket.localPort ?? 0,
  remote: plainAddress(socket.remoteAddress),
  remotePort: socket.remotePort ?? 0,
})

/** Echoes; recorded at once when it opens, and again with its data when it ends. */
export const echo =
  (record: Record) =>
  (socket: Socket): void => {
    const visit = ends(socket)
    record({ ...visit, data: '' })
    let data = ''
    socket.on('data', (chunk: Buffer) => {
      if (data.length < kept) data += chunk.toString('latin1').slice(0, kept - data.length)
      socket.write(chunk)
    })
    socket.on('end', () => socket.end())
    socket.on('error', () => undefined)
    socket.on('close', () => data !== '' && record({ ...visit, data }))
  }

const listenTcp = (address: string, port: number, record: Record) =>
  new Promise<void>((resolve, reject) => {
    const server = createServer({ allowHalfOpen: true }, echo(record))
    server.on('error', reject)
    server.listen({ host: address, port, ipv6Only: address.includes(':') }, resolve)
  })

const listenUdp = (address: string, port: number, record: Record) =>
  new Promise<void>((resolve, reject) => {
    const type = address.includes(':') ? 'udp6' : 'udp4'
    const socket = createSocket({ type, ipv6Only: type === 'udp6' })
    socket.on('error', reject)
    socket.on('message', (message, from) => {
      const { address: remote, port: remotePort } = from
      const time = Date.now()
      const data = message.toString('latin1')
      record({ time, proto: 'udp', local: address, localPort: port, remote, remotePort, data })
      socket.send(message, remotePort, remote)
    })
    socket.bind({ address, port }, resolve)
  })

export const startEvil = (record: Record): Promise<unknown> =>
  Promise.all(
    [evil.v4, evil.v6].flatMap((address) => [
      ...evilPorts.map((port) => listenTcp(address, port, record)),
      ...[...evilPorts, 80, 443].map((port) => listenUdp(address, port, record)),
    ]),
  )
