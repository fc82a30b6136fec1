/** Port 22 of github.com: for now an SSH greeting (RFC 4253, section 4.2), then an echo. */
import { createServer } from 'node:net'
import { services } from '../addresses.js'
import { echo, type Record } from './evil.js'

export const startSsh = (record: Record): Promise<unknown> =>
  Promise.all(
    [services.github.v4, services.github.v6].map(
      (host) =>
        new Promise<void>((resolve) => {
          const server = createServer({ allowHalfOpen: true }, (socket) => {
            socket.write('SSH-2.0-lab\r\n')
            echo(record)(socket)
          })
          server.listen({ host, port: 22, ipv6Only: host.includes(':') }, resolve)
        }),
    ),
  )
