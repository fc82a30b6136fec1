/**
 * HTTP on 80 and TLS on 443, on every address of the world, as the vendors' front doors do it:
 * the certificate by the hello's name, the service by the Host header.
 * Invariant: a request for a name that no service has is recorded as a visit to the attacker.
 */
import { createServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { TLSSocket } from 'node:tls'
import { plainPort, services, type ServiceName } from '../addresses.js'
import type { leafMaker } from '../ca.js'
import { ends, type Record } from './evil.js'
import { github } from './git.js'
import { readBody, type Handler } from './http.js'
import { openai } from './openai.js'
import { npm } from './npm.js'
import { anthropic, plain, slack, upgrade } from './others.js'
import { pypi } from './pypi.js'
import type { Served } from './protocol.js'
import type { Telegram } from './telegram.js'

interface Site {
  readonly service: ServiceName
  readonly handle: Handler
}

const sites = (telegram: Telegram): Map<string, Site> => {
  const handlers: { readonly [name in ServiceName]: Handler } = {
    openai,
    telegram: telegram.handle,
    anthropic,
    slack,
    github,
    npm,
    pypi,
    cdn: plain,
    plain,
  }
  const map = new Map<string, Site>()
  for (const [service, { names }] of Object.entries(services)) {
    const site = { service: service as ServiceName, handle: handlers[service as ServiceName] }
    for (const name of names) if (!name.includes('evil')) map.set(name, site)
  }
  for (const name of ['alias.example', 'second.alias.example']) {
    map.set(name, { service: 'plain', handle: plain })
  }
  return map
}

const listener = (
  telegram: Telegram,
  record: Record,
  report: (served: Served) => void,
): RequestListener => {
  const known = sites(telegram)
  return (request, response) => {
    const host = (request.headers.host ?? '').replace(/:\d+$/, '')
    const site =
      known.get(host) ?? (host.endsWith('.wild.example') ? known.get('plain.example') : undefined)
    const sni = (request.socket as Partial<TLSSocket>).servername
    const [method, path] = [request.method ?? '', request.url ?? '/']
    const visit = ends(request.socket)
    void readBody(request)
      .then(async (body) => {
        if (site === undefined) {
          const data = body.toString('latin1')
          const asked = { method, url: path, host }
          record({ ...visit, ...(sni ? { sni } : {}), request: asked, data })
          response.end(`evil received ${body.length} bytes\n`)
          return
        }
        const url = new URL(path, 'http://lab/')
        await site.handle({ request, response, method, url, body })
        const { headers } = request
        const { service } = site
        const status = response.statusCode
        report({ service, host, method, url: path, headers, body: body.toString(), status })
      })
      .catch(() => request.socket.destroy())
  }
}

export const startWeb = (
  telegram: Telegram,
  leaf: ReturnType<typeof leafMaker>,
  record: Record,
  report: (served: Served) => void,
): Promise<unknown> => {
  const listen = listener(telegram, record, report)
  const plainServers = [80, plainPort].map((port) => ({ port, server: createServer(listen) }))
  const tlsServer = createTlsServer(
    {
      SNICallback: (name, done) => {
        leaf(name.toLowerCase()).then((context) => done(null, context), done)
      },
    },
    listen,
  )
  tlsServer.on('upgrade', upgrade)
  // A hello that does not end in a session is news too: its bytes arrived.
  tlsServer.on('tlsClientError', (_error, socket: TLSSocket) => {
    record({ ...ends(socket), data: 'tls handshake not completed' })
  })
  return Promise.all([
    ...plainServers.map(
      ({ port, server }) => new Promise<void>((resolve) => server.listen(port, '::', resolve)),
    ),
    new Promise<void>((resolve) => tlsServer.listen(443, '::', resolve)),
  ])
}
