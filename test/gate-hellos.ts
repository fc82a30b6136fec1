/**
 * ClientHellos for tests: made by hand field by field, and caught from Node's own TLS client.
 */
import net from 'node:net'
import tls from 'node:tls'

export interface HelloFields {
  /** Raw server_name extensions; default: one for `name`. */
  readonly serverNames?: readonly Buffer[]
  readonly name?: string
  readonly extensions?: readonly (readonly [number, Buffer])[]
  /** Payload bytes of each record. */
  readonly recordSize?: number
}

const uint16 = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff])
const vector16 = (data: Buffer): Buffer => Buffer.concat([uint16(data.length), data])

/** The data of a server_name extension with these entries. */
export function serverName(...entries: readonly (readonly [number, string])[]): Buffer {
  return vector16(
    Buffer.concat(
      entries.map(([type, text]) =>
        Buffer.concat([Buffer.from([type]), vector16(Buffer.from(text, 'latin1'))]),
      ),
    ),
  )
}

export function makeHello(fields: HelloFields): Buffer {
  const names =
    fields.serverNames ?? (fields.name === undefined ? [] : [serverName([0, fields.name])])
  const extensions = [
    ...names.map((data) => [0, data] as const),
    ...(fields.extensions ?? [[43, Buffer.from([2, 3, 4])] as const]),
  ]
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32, 7),
    Buffer.from([0]),
    vector16(Buffer.from([0x13, 0x01])),
    Buffer.from([1, 0]),
    vector16(
      Buffer.concat(
        extensions.map(([type, data]) => Buffer.concat([uint16(type), vector16(data)])),
      ),
    ),
  ])
  const handshake = Buffer.concat([Buffer.from([1, 0]), vector16(body)])
  return records(handshake, fields.recordSize ?? 16_384)
}

/** Cuts a handshake message into records. */
export function records(handshake: Buffer, size: number): Buffer {
  const out: Buffer[] = []
  for (let at = 0; at < handshake.length; at += size) {
    out.push(Buffer.from([22, 3, 1]), vector16(handshake.subarray(at, at + size)))
  }
  return Buffer.concat(out)
}

/** What Node's TLS client sends first. */
export async function nodeHello(options: tls.ConnectionOptions): Promise<Buffer> {
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as net.AddressInfo
  const hello = new Promise<Buffer>((resolve) => {
    server.once('connection', (socket) => {
      socket.on('error', () => undefined)
      socket.once('data', (bytes: Buffer) => {
        resolve(bytes)
        socket.destroy()
      })
    })
  })
  const client = tls.connect({ host: '127.0.0.1', port, ...options })
  client.on('error', () => undefined)
  const bytes = await hello
  client.destroy()
  server.close()
  return bytes
}
