/**
 * Services on the host that a jail must not reach, and knocks at the port of one that it must not open.
 * Invariant: what is kept of what they hear is bounded.
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'

export interface ServiceRequest {
  /** Of unix sockets that all may enter. */
  readonly paths: readonly string[]
  readonly heard: { text: string }
  readonly undo: (() => unknown)[]
}

/** On every address of the host by TCP, on 127.0.0.1 by UDP, on any free port, and on the paths. Its port. */
export async function openService({ paths, heard, undo }: ServiceRequest): Promise<number> {
  const note = (chunk: Buffer): void => {
    if (heard.text.length < 65_536) heard.text += chunk.toString('latin1')
  }
  const serve = async (where: object): Promise<number> => {
    const server = createServer((socket) => {
      socket.write('here\n')
      socket.on('data', note)
      socket.on('error', () => undefined)
    })
    server.listen(where)
    await once(server, 'listening')
    undo.push(() => {
      server.close()
    })
    const bound = server.address()
    return typeof bound === 'object' && bound !== null ? bound.port : 0
  }
  const hostPort = await serve({ port: 0 })
  for (const path of paths)
    // An abstract name has no mode.
    await serve(path.startsWith('\0') ? { path } : { path, writableAll: true, readableAll: true })
  const socket = createSocket('udp4')
  socket.on('message', note)
  socket.bind(hostPort, '127.0.0.1')
  await once(socket, 'listening')
  undo.push(() => {
    socket.close()
  })
  return hostPort
}

export function knock(host: string, port: number, text: string): void {
  sendDatagram(host, port, text)
  const stream = connect({ host, port }, () => {
    stream.end(text)
  })
  stream.setTimeout(1_000, () => stream.destroy())
  stream.on('error', () => undefined)
}

export function sendDatagram(host: string, port: number, text = 'agentjail'): void {
  const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4')
  socket.on('error', () => undefined)
  socket.send(text, port, host, () => {
    socket.close()
  })
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '0.0.0.0')
  await once(server, 'listening')
  const bound = server.address()
  server.close()
  await once(server, 'close')
  return typeof bound === 'object' && bound !== null ? bound.port : 0
}

export function answers(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port })
    const finish = (is: boolean): void => {
      socket.destroy()
      resolve(is)
    }
    socket.setTimeout(500, () => {
      finish(false)
    })
    socket.on('connect', () => {
      finish(true)
    })
    socket.on('error', () => {
      finish(false)
    })
  })
}
