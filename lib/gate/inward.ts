/**
 * Carries connections to granted ports of the host's loopback (`loopback.listen`) into the jail: a process of its own,
 * in the jail's network namespace, holding sockets that listen on the host's.
 * Invariant: it dials the jail's loopback only, and only the port that its listener stands for.
 */
import net from 'node:net'

/** What the warden sends, once: sockets by descriptor, and the port each stands for. */
export interface InwardStart {
  readonly type: 'start'
  readonly listeners: readonly { readonly fd: number; readonly port: number }[]
}

/** IPv4 first, then IPv6: the command may listen on either. */
const hosts = ['127.0.0.1', '::1'] as const

process.once('message', (message: InwardStart) => {
  for (const { fd, port } of message.listeners) {
    const server = net.createServer({ allowHalfOpen: true }, (client) => {
      carry(client, port)
    })
    server.on('error', fail)
    server.listen({ fd })
  }
  process.send?.({ type: 'ready' })
})
// The warden's end is the jail's end.
process.on('disconnect', () => process.exit(0))
if (process.send === undefined) fail(new Error('started by agentjail itself, not by hand'))

function carry(
  client: net.Socket,
  port: number,
  [host, ...others]: readonly string[] = hosts,
): void {
  if (host === undefined) {
    client.resetAndDestroy()
    return
  }
  client.on('error', () => undefined)
  const command = net.connect({ host, port, allowHalfOpen: true })
  const refused = (): void => {
    carry(client, port, others)
  }
  command.once('error', refused)
  command.once('connect', () => {
    command.off('error', refused)
    const end = (): void => {
      client.destroy()
      command.destroy()
    }
    client.on('error', end)
    command.on('error', end)
    client.pipe(command).pipe(client)
  })
}

function fail(error: Error): never {
  process.stderr.write(`inward: ${error.message}\n`)
  process.exit(1)
}
