/**
 * Serves the DNS filter on inherited sockets, over UDP and TCP (RFC 7766).
 * Invariant: a client can hold only a bounded number of connections, unanswered queries and unread answers.
 */
import type dgram from 'node:dgram'
import type net from 'node:net'
import type { DnsFilter } from './filter.js'

const maxTcpClients = 64
const tcpIdleMs = 10_000
/** Unanswered UDP queries at most; more are dropped, and clients ask again. */
const maxPending = 1024
/** Unanswered queries of one TCP connection before reading stops. */
const maxPendingTcp = 32

export interface Served {
  close(): void
}

/** Answers from the address that was asked: on the jail's loopback the kernel picks it by the peer's. */
export function serveDnsUdp(socket: dgram.Socket, filter: DnsFilter): Served {
  let pending = 0
  const send = (answer: Buffer, peer: dgram.RemoteInfo): void => {
    // A peer that is gone or unreachable is no concern of the filter.
    socket.send(answer, peer.port, peer.address, () => undefined)
  }
  socket.on('error', () => undefined)
  socket.on('message', (message, peer) => {
    const answer = filter.answer(message, 'udp', peer.port)
    if (answer === undefined) return
    if (!(answer instanceof Promise)) {
      send(answer, peer)
      return
    }
    if (pending >= maxPending) return
    pending++
    void answer.then((late) => {
      pending--
      send(late, peer)
    })
  })
  return {
    close: () => {
      socket.close()
    },
  }
}

export function serveDnsTcp(server: net.Server, filter: DnsFilter): Served {
  const clients = new Set<net.Socket>()
  server.on('connection', (socket) => {
    if (clients.size >= maxTcpClients) {
      socket.destroy()
      return
    }
    clients.add(socket)
    socket.on('close', () => clients.delete(socket))
    serveClient(socket, filter)
  })
  return {
    close: () => {
      server.close()
      for (const socket of clients) socket.destroy()
    },
  }
}

function serveClient(socket: net.Socket, filter: DnsFilter): void {
  let received: Buffer = Buffer.alloc(0)
  let pending = 0
  socket.setTimeout(tcpIdleMs, () => {
    socket.destroy()
  })
  socket.on('error', () => undefined)
  const send = (answer: Buffer): void => {
    if (socket.destroyed) return
    const length = Buffer.alloc(2)
    length.writeUInt16BE(answer.length)
    socket.write(Buffer.concat([length, answer]))
  }
  // A client that does not read its answers is not read either.
  const isFull = (): boolean => pending >= maxPendingTcp || socket.writableNeedDrain
  const goOn = (): void => {
    readMore()
    if (!isFull()) socket.resume()
  }
  const readMore = (): void => {
    while (!isFull() && received.length >= 2) {
      const end = 2 + received.readUInt16BE(0)
      if (received.length < end) break
      const message = Buffer.from(received.subarray(2, end))
      received = received.subarray(end)
      const answer = filter.answer(message, 'tcp', socket.remotePort)
      if (answer === undefined) {
        socket.destroy()
        return
      }
      if (!(answer instanceof Promise)) {
        send(answer)
        continue
      }
      pending++
      void answer.then((late) => {
        pending--
        send(late)
        goOn()
      })
    }
    if (isFull()) socket.pause()
  }
  socket.on('drain', goOn)
  socket.on('data', (chunk: Buffer) => {
    received = received.length === 0 ? chunk : Buffer.concat([received, chunk])
    readMore()
  })
}
