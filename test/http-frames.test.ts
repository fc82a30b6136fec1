/**
 * HTTP/2 frames as no client library writes them: what would be another request, another host or another framing once it
 * is HTTP/1.1 never comes to the origin. Judge: what the origin was asked.
 */
import { once } from 'node:events'
import tls from 'node:tls'
import t from 'tap'
import { field, frame, preface, type } from './h2-frames.js'
import { grant, openStage, type Stage } from './http-stage.js'

type Field = readonly [name: string, value: string]
const pseudo: readonly Field[] = [
  [':method', 'POST'],
  [':scheme', 'https'],
  [':path', '/x'],
  [':authority', 'api.example.com'],
]
const without = (name: string) => pseudo.filter(([each]) => each !== name)
const smuggled = 'GET /evil HTTP/1.1\r\nhost: evil.example\r\n\r\n'

interface Case {
  readonly title: string
  readonly fields: readonly Field[]
  readonly body?: string
  /** Default: refused. */
  readonly passes?: true
}
const more = (title: string, ...fields: readonly Field[]): Case => ({
  title,
  fields: [...pseudo, ...fields],
})
const cases: readonly Case[] = [
  { ...more('nothing odd'), passes: true },
  { ...more('host as :authority', ['host', 'api.example.com']), passes: true },
  { ...more('te: trailers', ['te', 'trailers']), passes: true },
  more('transfer-encoding', ['transfer-encoding', 'chunked']),
  {
    ...more('transfer-encoding with chunks', ['transfer-encoding', 'chunked']),
    body: `0\r\n\r\n${smuggled}`,
  },
  more('connection', ['connection', 'close, x-a']),
  more('keep-alive', ['keep-alive', 'timeout=5']),
  more('proxy-connection', ['proxy-connection', 'keep-alive']),
  more('upgrade', ['upgrade', 'h2c']),
  more('te of another kind', ['te', 'chunked']),
  more('another host', ['host', 'evil.example']),
  more('another host, second', ['host', 'api.example.com'], ['host', 'evil.example']),
  {
    title: 'another :authority',
    fields: [...without(':authority'), [':authority', 'evil.example']],
  },
  more('a second :authority', [':authority', 'evil.example']),
  more('a second :path', [':path', '/evil']),
  { title: 'host alone, another', fields: [...without(':authority'), ['host', 'evil.example']] },
  { title: 'neither host nor :authority', fields: without(':authority') },
  {
    ...more('content-length shorter than the body', ['content-length', '2']),
    body: `ab${smuggled}`,
  },
  { ...more('content-length longer than the body', ['content-length', '200']), body: 'ab' },
  {
    ...more('two content-lengths', ['content-length', '2'], ['content-length', '45']),
    body: `ab${smuggled}`,
  },
  { ...more('a line break in a value: left out', ['x-a', `b\r\n\r\n${smuggled}`]), passes: true },
  {
    ...more('a bare line feed in a value: left out', ['x-a', 'b\ntransfer-encoding: chunked']),
    passes: true,
  },
  { ...more('a NUL in a value: left out', ['x-a', 'b\0c']), passes: true },
  {
    ...more('a line break in a name: left out', ['x-a: b\r\ntransfer-encoding', 'chunked']),
    passes: true,
  },
  { ...more('a colon in a name: left out', ['host:', 'evil.example']), passes: true },
  more('an upper-case name', ['Transfer-Encoding', 'chunked']),
  more('an unknown pseudo-header', [':evil', 'x']),
  more('CONNECT fields', [':protocol', 'websocket']),
  {
    title: 'a request line in :path',
    fields: [...without(':path'), [':path', `/x HTTP/1.1\r\nhost: evil.example\r\n\r\nGET /evil`]],
  },
  { title: 'a blank in :path', fields: [...without(':path'), [':path', '/x HTTP/1.1']] },
  {
    title: 'a request line in :method',
    fields: [...without(':method'), [':method', 'GET /evil HTTP/1.1\r\nx: y']],
  },
  {
    title: 'a method of a proxy',
    fields: [
      [':method', 'CONNECT'],
      [':authority', 'evil.example:443'],
    ],
  },
  {
    title: 'another scheme',
    fields: [...without(':scheme'), [':scheme', 'http://evil.example/?']],
  },
]

/** Sends it on a connection of its own; resolves once the gate has said something of it, or closed. */
async function send(stage: Stage, { fields, body }: Case): Promise<void> {
  const socket = tls.connect({
    ...{ host: '127.0.0.1', port: stage.port, ca: stage.ca.pem, servername: 'api.example.com' },
    ALPNProtocols: ['h2'],
  })
  socket.on('error', () => undefined)
  await once(socket, 'secureConnect')
  const block = Buffer.concat(fields.map(([name, value]) => field(name, value)))
  socket.write(preface)
  socket.write(frame(type.headers, body === undefined ? 5 : 4, 1, block))
  if (body !== undefined) socket.write(frame(type.data, 1, 1, Buffer.from(body)))
  let got = Buffer.alloc(0)
  await new Promise<void>((resolve) => {
    socket.on('close', () => resolve())
    socket.on('data', (chunk: Buffer) => {
      got = Buffer.concat([got, chunk])
      if (isAnswered(got)) resolve()
    })
  })
  socket.destroy()
}

/** The stream's answer, its reset, or the connection's end. */
function isAnswered(bytes: Buffer): boolean {
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
    const kind = bytes[at + 3]
    if (kind === type.headers || kind === type.reset || kind === type.goaway) return true
  }
  return false
}

t.test('frames of HTTP/2', { timeout: 60_000 }, async (t) => {
  const stage = await openStage({ grants: [grant()] })
  t.teardown(() => stage.close())
  for (const one of cases) {
    const before = stage.seen.length
    await send(stage, one)
    const seen = stage.seen.slice(before)
    t.equal(seen.length, one.passes === true ? 1 : 0, `${one.title}: ${JSON.stringify(seen)}`)
    if (one.passes === true) t.match(seen, [{ method: 'POST', url: '/x' }], one.title)
  }
  t.notMatch(JSON.stringify(stage.seen), /evil|transfer-encoding/i, 'nothing of the other requests')
})
