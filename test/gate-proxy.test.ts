/**
 * The gate as an explicit proxy: CONNECT, SOCKS5 and absolute-form requests over real sockets.
 */
import { execFile } from 'node:child_process'
import http from 'node:http'
import net from 'node:net'
import t from 'tap'
import { Decisions } from '../lib/gate/decisions.js'
import { serveProxy } from '../lib/gate/proxy/serve.js'
import { isToken, parseHttpRequest, parseSocksRequest } from '../lib/gate/proxy/target.js'
import { serverOptions } from '../lib/gate/relay.js'
import { assemble, grant, policy } from './gate-kit.js'
import { makeHello } from './gate-hellos.js'

const token = 'f00d'
const basic = `Proxy-Authorization: Basic ${Buffer.from(`jail:${token}`).toString('base64')}\r\n`

t.test('targets', (t) => {
  const head = (line: string, more = '') => parseHttpRequest(Buffer.from(`${line}\r\n${more}\r\n`))
  const table: [string, unknown][] = [
    [
      'CONNECT api.example.com:443 HTTP/1.1',
      { kind: 'connect', target: { kind: 'name', name: 'api.example.com', port: 443 } },
    ],
    [
      'CONNECT API.example.com.:443 HTTP/1.1',
      { kind: 'connect', target: { name: 'api.example.com' } },
    ],
    [
      'CONNECT [2001:db8::1]:443 HTTP/1.1',
      { kind: 'connect', target: { kind: 'address', address: '2001:db8::1' } },
    ],
    [
      'CONNECT [::ffff:127.0.0.1]:443 HTTP/1.1',
      { kind: 'connect', target: { kind: 'address', address: '127.0.0.1' } },
    ],
    [
      'CONNECT localhost:3000 HTTP/1.1',
      { kind: 'connect', target: { kind: 'address', address: '127.0.0.1' } },
    ],
    ['CONNECT 0x7f.1:443 HTTP/1.1', { kind: 'bad' }],
    ['CONNECT 2130706433:443 HTTP/1.1', { kind: 'bad' }],
    ['CONNECT api.example.com HTTP/1.1', { kind: 'bad' }],
    ['CONNECT api.example.com:0 HTTP/1.1', { kind: 'bad' }],
    ['CONNECT api.example.com:70000 HTTP/1.1', { kind: 'bad' }],
    ['CONNECT user@api.example.com:443 HTTP/1.1', { kind: 'bad' }],
    ['GET /local HTTP/1.1', { kind: 'bad' }],
    ['GET https://api.example.com/ HTTP/1.1', { kind: 'bad' }],
    ['GET http://user@api.example.com/ HTTP/1.1', { kind: 'bad' }],
    ['GET http://api.example.com/x HTTP/1.1', { kind: 'forward', port: 80 }],
    ['nonsense', { kind: 'bad' }],
  ]
  for (const [line, expected] of table) t.match(head(line), expected, line)
  t.equal(parseHttpRequest(Buffer.from('CONNECT a')), undefined, 'more')
  const forwarded = head(
    'GET http://api.example.com:8080/ HTTP/1.1',
    `${basic}Connection: keep-alive\r\nX: 1\r\n`,
  )
  t.match(forwarded, { kind: 'forward', port: 8080, password: token })
  if (forwarded?.kind === 'forward') {
    const text = forwarded.bytes.toString()
    t.notMatch(text, /proxy-|keep-alive/i, 'proxy headers end here')
    t.match(text, 'X: 1')
  }
  t.match(parseSocksRequest(Buffer.from([5, 1, 0, 1, 127, 0, 0, 1, 0, 80])), {
    target: { address: '127.0.0.1', port: 80 },
  })
  t.equal(parseSocksRequest(Buffer.from([5, 2, 0, 1, 127, 0, 0, 1, 0, 80])), 7, 'BIND')
  t.equal(parseSocksRequest(Buffer.from([5, 3, 0, 1, 127, 0, 0, 1, 0, 80])), 7, 'UDP ASSOCIATE')
  t.equal(parseSocksRequest(Buffer.from([5, 1, 0, 9, 1, 1])), 8, 'unknown kind of address')
  t.ok(isToken(token, token))
  t.notOk(isToken(undefined, ''), 'no password is not the empty one')
  t.end()
})

t.test('serves', async (t) => {
  const target = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined)
    socket.on('data', (chunk) => socket.write(chunk))
    socket.on('end', () => socket.end('bye'))
  })
  const site = http.createServer((request, response) => {
    response.end(`hello from ${request.headers.host ?? ''}`)
  })
  await new Promise<void>((resolve) => target.listen(0, '127.0.0.1', resolve))
  await new Promise<void>((resolve) => site.listen(0, '127.0.0.1', resolve))
  const { port } = target.address() as net.AddressInfo
  const sitePort = (site.address() as net.AddressInfo).port
  const names = ['raw.example.com', 'tls.example.com', 'site.example.com']
  const parts = assemble(
    policy({
      grants: [
        grant('raw.example.com', port),
        grant('site.example.com', sitePort),
        grant('tls.example.com', port, { inspect: 'sni' }),
      ],
      loopbackConnect: [port],
      dns: { hosts: names.map((name) => [name, ['127.0.0.1']] as const) },
    }),
  )
  const proxy = net.createServer(serverOptions)
  const decisions = new Decisions(() => Promise.resolve())
  serveProxy(proxy, { names: parts.names, relay: parts.relay, decisions, token })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  const proxyPort = (proxy.address() as net.AddressInfo).port
  t.teardown(() => {
    for (const server of [target, site, proxy]) server.close()
    parts.connections.cutAll()
  })

  /** Sends the parts one by one, each after an answer to the one before; gives all that came back. */
  const talk = (...steps: readonly (Buffer | string)[]) =>
    new Promise<string>((resolve) => {
      const socket = net.connect({ port: proxyPort, host: '127.0.0.1', allowHalfOpen: true })
      const rest = [...steps]
      let text = ''
      const step = (): void => {
        const next = rest.shift()
        if (next === undefined) return
        if (rest.length === 0) socket.end(next)
        else socket.write(next)
      }
      socket.on('data', (chunk: Buffer) => {
        text += chunk.toString('latin1')
        step()
      })
      socket.on('end', () => {
        socket.destroy()
        resolve(text)
      })
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(`${text}${error.code ?? ''}`))
      step()
    })
  const connect = (host: string, to: number, auth = basic) =>
    `CONNECT ${host}:${String(to)} HTTP/1.1\r\n${auth}\r\n`
  const established = 'HTTP/1.1 200 Connection established\r\n\r\n'
  const hello = makeHello({ name: 'tls.example.com' })
  const socks = (name: string, to: number) =>
    Buffer.concat([
      Buffer.from([5, 1, 0, 3, name.length]),
      Buffer.from(name),
      Buffer.from([to >> 8, to & 255]),
    ])
  const login = Buffer.concat([
    Buffer.from([1, 4]),
    Buffer.from('jail'),
    Buffer.from([token.length]),
    Buffer.from(token),
  ])
  const socksOk = '\x05\0\0\x01\0\0\0\0\0\0'

  const table: [string, string, RegExp | string][] = [
    ['CONNECT', await talk(connect('raw.example.com', port), 'ping'), `${established}pingbye`],
    [
      'CONNECT to an inspected name',
      await talk(connect('tls.example.com', port), hello),
      `${established}${hello.toString('latin1')}bye`,
    ],
    [
      'another server name inside',
      await talk(connect('tls.example.com', port), makeHello({ name: 'raw.example.com' })),
      `${established}ECONNRESET`,
    ],
    [
      'no TLS inside',
      await talk(connect('tls.example.com', port), 'GET / HTTP/1.1\r\n\r\n'),
      `${established}ECONNRESET`,
    ],
    [
      'a name not granted',
      await talk(connect('evil.example', 443)),
      /^HTTP\/1.1 403 Forbidden[^]*name-not-granted/,
    ],
    [
      'a port not granted',
      await talk(connect('raw.example.com', 1)),
      /^HTTP\/1.1 403 Forbidden[^]*port-not-granted/,
    ],
    [
      'an address',
      await talk(connect('203.0.113.10', 443)),
      /^HTTP\/1.1 403 Forbidden[^]*address-not-granted/,
    ],
    ['loopback, granted', await talk(connect('localhost', port), 'ping'), `${established}pingbye`],
    [
      'loopback, other',
      await talk(connect('127.0.0.1', 22)),
      /^HTTP\/1.1 403 Forbidden[^]*port-not-granted/,
    ],
    ['no token', await talk(connect('raw.example.com', port, '')), /^HTTP\/1.1 407 /],
    [
      'a wrong token',
      await talk(connect('raw.example.com', port, basic.replace('Basic ', 'Basic x'))),
      /^HTTP\/1.1 407 /,
    ],
    [
      'SOCKS',
      await talk(Buffer.from([5, 1, 2]), login, socks('raw.example.com', port), 'ping'),
      `\x05\x02\x01\0${socksOk}pingbye`,
    ],
    [
      'SOCKS, not granted',
      await talk(Buffer.from([5, 1, 2]), login, socks('evil.example', port)),
      /^\x05\x02\x01\0\x05\x02/,
    ],
    ['SOCKS without a token', await talk(Buffer.from([5, 1, 0])), '\x05\xff'],
    [
      'SOCKS, a wrong token',
      await talk(Buffer.from([5, 1, 2]), Buffer.from([1, 1, 97, 1, 98])),
      '\x05\x02\x01\x01',
    ],
    [
      'SOCKS4',
      await talk(Buffer.from([4, 1, 0, 80, 1, 2, 3, 4, 0, 13, 10, 13, 10])),
      /^HTTP\/1.1 400/,
    ],
  ]
  for (const [title, got, expected] of table) {
    if (typeof expected === 'string') t.equal(got, expected, title)
    else t.match(got, expected, title)
  }

  const curl = await new Promise<string>((resolve) => {
    const url = `http://site.example.com:${String(sitePort)}/`
    const through = `socks5h://jail:${token}@127.0.0.1:${String(proxyPort)}`
    execFile('curl', ['-sS', '-m', '10', '-x', through, url], (error, stdout) =>
      resolve(error?.message ?? stdout),
    )
  })
  t.equal(curl, `hello from site.example.com:${String(sitePort)}`, 'curl through SOCKS5h')
})
