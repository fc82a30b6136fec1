/** What passes, and how: rules, limits, streams, WebSockets, injected keys, upstream certificates. */
import https from 'node:https'
import net from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'
import zlib from 'node:zlib'
import t from 'tap'
import type { ReasonCode } from '../lib/audit/record.js'
import { createAuthority } from '../lib/gate/http/authority.js'
import { leave, takeLeft } from '../lib/gate/http/left-over.js'
import { MethodScan } from '../lib/gate/http/method-scan.js'
import type { HttpContext } from '../lib/gate/http/types.js'
import type { Grant, HttpRule } from '../lib/policy/types.js'
import { type Ask, ask, askHttp2, askRaw, grant, key, openStage, pin } from './http-stage.js'

const json = { 'content-type': 'application/json' }
const form = { 'content-type': 'application/x-www-form-urlencoded' }

interface Case {
  readonly rules?: readonly HttpRule[]
  readonly access?: Grant['access']
  readonly ask: Ask
  /** A reason, or the URL that must arrive. */
  readonly want: ReasonCode | `/${string}`
}

const models: HttpRule[] = [{ method: 'GET', path: '/v1/models/**' }]
const send: HttpRule[] = [{ method: 'POST', path: '/bot/send', json: { chat_id: [42, 'me'] } }]
const large: HttpRule[] = [{ method: 'POST', path: '/bot/send', json: { chat_id: [2 ** 53] } }]
const small: HttpRule[] = [{ method: 'POST', path: '/up', maxBody: 10 }]
const repos: HttpRule[] = [
  { method: 'GET', path: '/repos/acme/**' },
  { method: 'POST', path: '/repos/acme/*/pulls' },
  { method: 'GET', path: '/search', query: { type: ['code', 'issues'] } },
]
const posted = (body: string, headers: Ask['headers'] = json): Ask => ({
  method: 'POST',
  path: '/bot/send',
  headers: { ...headers },
  body,
})

const chat: HttpRule[] = [{ method: 'POST', path: '/bot/send' }]
const parts = { 'content-type': 'multipart/form-data; boundary=b' }
const part = (name: string): string =>
  `--b\r\nContent-Disposition: form-data; name="${name}"\r\n\r\ndelete\r\n--b--\r\n`

const cases: Case[] = [
  { rules: models, ask: { path: '/v1/models' }, want: '/v1/models' },
  { rules: models, ask: { path: '/v1/models/a/b?x=%20y' }, want: '/v1/models/a/b?x=%20y' },
  { rules: models, ask: { path: '/v1/models/a', method: 'HEAD' }, want: '/v1/models/a' },
  { rules: models, ask: { path: '/v1//models/./x/../y' }, want: '/v1/models/y' },
  { rules: models, ask: { path: '/v1/%6dodels/%7e' }, want: '/v1/models/~' },
  { rules: models, ask: { path: '/v1/models/../files' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models/%2e%2e/files' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models/%2E./files' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models/..%2ffiles' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models/..%5cfiles' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models/%252e%252e/files' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models/..;x/files' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models/%00' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models/%zz' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/../../v1/models' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/V1/models' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/modelsx' }, want: 'path-not-granted' },
  { rules: models, ask: { path: '/v1/models', method: 'POST' }, want: 'method-not-granted' },
  {
    rules: models,
    ask: { path: '/v1/models', headers: { 'X-HTTP-Method-Override': 'DELETE' } },
    want: 'method-not-granted',
  },
  {
    rules: models,
    ask: { path: '/v1/models', headers: { x_http_method_override: 'DELETE' } },
    want: 'method-not-granted',
  },
  { rules: models, ask: { path: '/v1/models?a=1&_method=DELETE' }, want: 'method-not-granted' },
  { rules: models, ask: { path: '/v1/models?a=_method' }, want: '/v1/models?a=_method' },
  { rules: chat, ask: posted('a=1&_method=delete', form), want: 'method-not-granted' },
  { rules: chat, ask: posted('a=1&_method=delete', {}), want: 'method-not-granted' },
  { rules: chat, ask: posted('{"_method":"delete"}'), want: 'method-not-granted' },
  {
    rules: chat,
    ask: posted(String.raw`{"\u005fme\u0074hod" :"delete"}`),
    want: 'method-not-granted',
  },
  { rules: chat, ask: posted(part('_method'), parts), want: 'method-not-granted' },
  { rules: chat, ask: posted(part('method'), parts), want: '/bot/send' },
  { rules: chat, ask: posted(String.raw`{"text":"\"_method\": &_method=put"}`), want: '/bot/send' },
  { rules: send, ask: posted('chat_id=42&_method=delete', form), want: 'method-not-granted' },
  { access: 'read-write', ask: posted('_method=delete', form), want: 'method-not-granted' },
  { access: 'full', ask: posted('_method=delete', form), want: '/bot/send' },
  {
    rules: models,
    ask: { path: '/v1/models', headers: { 'x-original-url': '/v1/files' } },
    want: 'path-not-granted',
  },
  { rules: repos, ask: { path: '/repos/acme/x/issues' }, want: '/repos/acme/x/issues' },
  { rules: repos, ask: { path: '/repos/evil/x/issues' }, want: 'path-not-granted' },
  {
    rules: repos,
    ask: { method: 'POST', path: '/repos/acme/x/pulls' },
    want: '/repos/acme/x/pulls',
  },
  {
    rules: repos,
    ask: { method: 'POST', path: '/repos/acme/x/y/pulls' },
    want: 'method-not-granted',
  },
  { rules: repos, ask: { path: '/search?type=code&q=1' }, want: '/search?type=code&q=1' },
  { rules: repos, ask: { path: '/search?type=users' }, want: 'path-not-granted' },
  { rules: repos, ask: { path: '/search?type=code&type=users' }, want: 'path-not-granted' },
  { rules: repos, ask: { path: '/search?type=code&Type[]=users' }, want: 'path-not-granted' },
  { rules: repos, ask: { path: '/search' }, want: 'path-not-granted' },
  { rules: send, ask: posted('{"chat_id":42,"text":"x"}'), want: '/bot/send' },
  { rules: send, ask: posted('{"chat_id":"42"}'), want: '/bot/send' },
  { rules: send, ask: posted('chat_id=me&text=x', form), want: '/bot/send' },
  { rules: send, ask: posted('{"chat_id":43}'), want: 'body-not-granted' },
  // The same number to a parser of 64-bit floats alone.
  { rules: large, ask: posted('{"chat_id":9007199254740993}'), want: 'body-not-granted' },
  { rules: send, ask: posted('{"text":"x"}'), want: 'body-not-granted' },
  { rules: send, ask: posted('{"chat_id":[42]}'), want: 'body-not-granted' },
  { rules: send, ask: posted('{"chat_id":43,"chat_id":42}'), want: 'body-not-granted' },
  { rules: send, ask: posted('{"chat_id":42,"Chat_ID":43}'), want: 'body-not-granted' },
  { rules: send, ask: posted('{"a":{"chat_id":42}}'), want: 'body-not-granted' },
  { rules: send, ask: posted('[{"chat_id":42}]'), want: 'body-not-granted' },
  { rules: send, ask: posted('chat_id=42&chat_id=43', form), want: 'body-not-granted' },
  { rules: send, ask: posted('chat_id=42;chat_id=43', form), want: 'body-not-granted' },
  { rules: send, ask: posted('{"chat_id":42}', {}), want: 'body-not-granted' },
  {
    rules: send,
    ask: { ...posted('{"chat_id":42}'), path: '/bot/send?chat_id=43' },
    want: 'path-not-granted',
  },
  {
    rules: send,
    ask: posted(Buffer.from('\ufeff{"chat_id":42}', 'utf16le').toString('latin1'), {
      'content-type': 'application/json; charset=utf-16',
    }),
    want: 'body-not-granted',
  },
  { rules: small, ask: { method: 'POST', path: '/up', body: '0123456789' }, want: '/up' },
  {
    rules: small,
    ask: { method: 'POST', path: '/up', body: '0123456789+' },
    want: 'body-too-large',
  },
  {
    rules: small,
    ask: {
      method: 'POST',
      path: '/up',
      body: '0123456789+',
      headers: { 'transfer-encoding': 'chunked' },
    },
    want: 'body-too-large',
  },
  { access: 'read-only', ask: { path: '/@scope%2fname' }, want: '/@scope%2fname' },
  { access: 'read-only', ask: { method: 'POST', path: '/x' }, want: 'method-not-granted' },
  {
    access: 'read-only',
    ask: { path: '/x', body: 'upload', headers: { 'content-length': '6' } },
    want: 'body-too-large',
  },
  {
    access: 'read-only',
    ask: { path: '/x', headers: { connection: 'upgrade', upgrade: 'websocket' } },
    want: 'method-not-granted',
  },
  { access: 'read-write', ask: { method: 'POST', path: '/x', body: 'y' }, want: '/x' },
  { access: 'read-write', ask: { method: 'DELETE', path: '/x' }, want: 'method-not-granted' },
  { access: 'full', ask: { method: 'DELETE', path: '/x' }, want: '/x' },
]

t.test('rules and access', async (t) => {
  for (const { rules = [], access = 'full', ask: request, want } of cases) {
    const stage = await openStage({ grants: [grant({ rules, access })] })
    const reply = await ask(stage, request)
    const title = `${request.method ?? 'GET'} ${request.path ?? ''} ${String(request.body ?? '')}`
    if (want.startsWith('/')) {
      t.same([reply.status, stage.seen.map(({ url }) => url)], [200, [want]], title)
      t.equal(stage.seen[0]?.body, request.body ?? '', `${title}: body`)
    } else {
      t.equal(reply.headers['x-agentjail-denied'], want, title)
      t.same(stage.denials(), [want], `${title}: logged once`)
      // A limit met midway cuts the request: the origin never sees a whole one.
      t.same(
        stage.seen.filter(({ body }) => body !== ''),
        [],
        `${title}: nothing left`,
      )
    }
    await stage.close()
  }
})

t.test('a field _method, in each spelling that servers read, wherever it is cut', (t) => {
  const isSeen = (format: 'form' | 'json', chunks: readonly string[]): boolean => {
    const scan = new MethodScan(format)
    return chunks.some((chunk) => scan.look(Buffer.from(chunk)) !== undefined)
  }
  for (const name of [
    '_method',
    '%5Fmethod',
    '_%4d%65THOD',
    '.method',
    '+%20_method',
    '_method%00x',
  ])
    for (const before of ['', 'a=b&', 'a;'])
      for (let at = 0; at < name.length; at++) {
        const text = `${before}${name}=put`
        const cut = before.length + at
        t.ok(isSeen('form', [text.slice(0, cut), text.slice(cut)]), `${text} at ${cut}`)
      }
  t.ok(isSeen('form', ['a=b&', ' '.repeat(9000), '_met', 'hod=put']), 'behind many blanks')
  for (let at = 0; at < 20; at++) {
    const text = String.raw`{"\u005Fmethod" : "put"}`
    t.ok(isSeen('json', [text.slice(0, at), text.slice(at)]), `${text} at ${at}`)
  }
  for (const other of ['my_method=1', 'a=_method=1', '_methods=1', 'method=1', '_method'])
    t.notOk(isSeen('form', [...other]), other)
  for (const other of ['{"a":"_method"}', String.raw`{"a":"\"_method\":"}`, '{"x_method":1}'])
    t.notOk(isSeen('json', [other]), other)
  t.end()
})

t.test('a refused client is told what the policy would need', async (t) => {
  const rules = [{ method: 'GET', path: '/v1/models' }]
  const stage = await openStage({
    grants: [grant({ rules, credential: 'k' })],
    credentials: [pin()],
  })
  const headers = { authorization: `Bearer ${key}` }
  const told = async (request: Ask) =>
    JSON.parse((await ask(stage, request)).body) as Record<string, unknown>
  const path = await told({ path: '/v1/files', headers })
  t.match(path, { reason: 'path-not-granted', policy: { yaml: /GET.*\/v1\/files/ } })
  const missing = await told({ path: '/v1/models' })
  t.match(missing, { reason: 'credential-missing', advice: /the key that the policy names/ })
  const leak = await told({ path: `/v1/${key}`, headers })
  t.notMatch(JSON.stringify(leak), key, 'and no key')
  await stage.close()
})

t.test('events arrive one by one, over both versions', async (t) => {
  for (const version of ['1', '2']) {
    let next: (() => void) | undefined
    const stage = await openStage({
      grants: [grant()],
      onRequest: (_request, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream', trailer: 'x-sum' })
        let sent = 0
        // The next token is written only once the last one was read at the other end.
        next = () => {
          if (sent < 5) response.write(`data: ${String(sent++)}\n\n`)
          else {
            response.addTrailers({ 'x-sum': '5' })
            response.end()
          }
        }
        response.flushHeaders()
      },
    })
    const got: string[] = []
    const step = (chunk: string) => {
      got.push(chunk)
      next?.()
    }
    if (version === '1') {
      const trailers = await new Promise((resolve, reject) => {
        https
          .get({
            host: '127.0.0.1',
            port: stage.port,
            servername: 'api.example.com',
            ca: stage.ca.pem,
            headers: { host: 'api.example.com' },
            agent: false,
          })
          .on('error', reject)
          .on('response', (response) => {
            response.on('data', (chunk: Buffer) => {
              step(chunk.toString())
            })
            response.on('end', () => {
              resolve(response.trailers)
            })
            next?.()
          })
      })
      t.same(trailers, { 'x-sum': '5' })
    } else {
      const { connect } = await import('node:http2')
      const session = connect('https://api.example.com', {
        createConnection: () =>
          tls.connect({
            host: '127.0.0.1',
            port: stage.port,
            servername: 'api.example.com',
            ca: stage.ca.pem,
            ALPNProtocols: ['h2'],
          }),
      })
      const stream = session.request({ ':path': '/' })
      let trailers: unknown
      stream.on('trailers', (fields) => {
        trailers = { ...fields }
      })
      stream.on('response', () => next?.())
      for await (const chunk of stream) step((chunk as Buffer).toString())
      t.match(trailers, { 'x-sum': '5' })
      session.close()
    }
    t.same(
      got,
      [0, 1, 2, 3, 4].map((n) => `data: ${String(n)}\n\n`),
    )
    await stage.close()
  }
})

t.test('a response cut short upstream is cut short for the client', async (t) => {
  const stage = await openStage({
    grants: [grant()],
    onRequest: (_request, response) => {
      response.writeHead(200, { 'content-length': '100' })
      response.write('part', () => response.socket?.destroy())
    },
  })
  await t.rejects(ask(stage), { code: 'ECONNRESET' })
  const [reply] = await askHttp2(stage, [{ headers: { ':path': '/' } }])
  t.match(reply?.body, /Error/)
  await stage.close()
})

t.test('Expect: 100-continue is answered only where the request is granted', async (t) => {
  const stage = await openStage({ grants: [grant()] })
  const head = 'Content-Length: 2\r\nExpect: 100-continue\r\n\r\n'
  const good = await askRaw(stage, `POST /x HTTP/1.1\r\nHost: api.example.com\r\n${head}`)
  t.match(good, /^HTTP\/1\.1 100 Continue/)
  const bad = await askRaw(stage, `POST /x HTTP/1.1\r\nHost: www.example.org\r\n${head}`)
  t.match(bad, /^HTTP\/1\.1 421 /)
  await stage.close()
})

t.test('an offer of h2c is left out, and the request served as it is', async (t) => {
  const stage = await openStage({ grants: [grant()] })
  const request = (path: string) =>
    `POST ${path} HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 5\r\n\r\nhello`
  const reply = await askRaw(stage, request('/one') + request('/two'))
  // What comes right behind is served as well, or the connection closes, so that it is sent again.
  const answers = reply.split(/(?=HTTP\/1\.1 200 )/)
  t.match(answers[0], /^HTTP\/1\.1 200 [\s\S]*got hello/)
  if (answers.length === 1) t.match(reply, /^connection: close\r$/im)
  t.same(
    stage.seen.map(({ url, body }) => [url, body]),
    [
      ['/one', 'hello'],
      ['/two', 'hello'],
    ].slice(0, answers.length),
  )
  t.notMatch(JSON.stringify(stage.seen), /upgrade|http2/i)
  await stage.close()
})

t.test('WebSocket: bytes both ways, counted, closed with either side', async (t) => {
  const limit: { reached?: ReasonCode } = {}
  const stage = await openStage({
    grants: [grant()],
    budget: { request: () => undefined, upload: () => limit.reached },
    onUpgrade: (request, socket) => {
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Key: ${request.headers['sec-websocket-key'] ?? ''}\r\n\r\n`,
      )
      socket.on('data', (chunk) => socket.write(`echo ${chunk.toString()}`))
    },
  })
  const socket = tls.connect({
    host: '127.0.0.1',
    port: stage.port,
    servername: 'api.example.com',
    ca: stage.ca.pem,
  })
  let text = ''
  const until = async (pattern: RegExp) => {
    while (!pattern.test(text)) {
      await new Promise((resolve) => socket.once('data', resolve))
    }
  }
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  socket.write(
    'GET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\nearly',
  )
  await until(/echo early/)
  t.match(text, /^HTTP\/1\.1 101 [\s\S]*X-Key: abc/)
  socket.write('later')
  await until(/echo later/)
  t.same(
    stage.servings[0]?.grantsInUse().map(({ id }) => id),
    ['g1'],
  )
  limit.reached = 'budget-upload'
  socket.write('too much')
  await new Promise((resolve) => socket.once('close', resolve))
  t.same(stage.denials(), ['budget-upload'])
  t.notMatch(text, /too much/)
  await stage.close()
})

t.test('WebSocket asked for before the answer to the request ahead of it', async (t) => {
  const stage = await openStage({
    grants: [grant()],
    onUpgrade: (_request, socket) => {
      socket.end(
        'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsocket',
      )
    },
  })
  const reply = await askRaw(
    stage,
    'GET /ahead HTTP/1.1\r\nHost: api.example.com\r\n\r\nGET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
  )
  t.match(reply, /^HTTP\/1\.1 200 [\s\S]*got [\s\S]*HTTP\/1\.1 101 [\s\S]*socket$/)
  await stage.close()
})

t.test('WebSocket without TLS', async (t) => {
  const stage = await openStage({
    grants: [grant({ inspect: 'sni', ports: [{ first: 80, last: 80 }] })],
    onUpgrade: (_request, socket) => {
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
      )
      socket.on('data', (chunk) => socket.write(`echo ${chunk.toString()}`))
      socket.on('end', () => socket.end())
    },
  })
  const socket = net.connect(stage.plainPort, '127.0.0.1')
  let text = ''
  socket.on('data', (chunk: Buffer) => {
    text += chunk.toString()
  })
  socket.write(
    'GET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly',
  )
  for (const [said, next] of [
    ['echo early', 'later'],
    ['echo later', ''],
  ] as const) {
    while (!text.includes(said)) await new Promise((resolve) => socket.once('data', resolve))
    if (next !== '') socket.write(next)
  }
  t.match(text, /^HTTP\/1\.1 101 /)
  socket.destroy()
  await stage.close()
})

t.test('inject: the placeholder is swapped on the way out, the key on the way back', async (t) => {
  const placeholder = 'sk-placeholder-0001'
  t.equal(placeholder.length, key.length)
  for (const [title, given, place, format] of [
    [
      'header',
      { headers: { authorization: `Bearer ${placeholder}` } },
      'authorization',
      'Bearer {}',
    ],
    ['header, absent', {}, 'authorization', 'Bearer {}'],
    ['own header', { headers: { 'x-api-key': placeholder } }, 'x-api-key', '{}'],
    ['base64', {}, 'authorization', 'Basic {b64:x-access-token:}'],
  ] as const) {
    const stage = await openStage({
      grants: [grant({ credential: 'k' })],
      credentials: [
        pin({ mode: 'inject', placeholder, in: { kind: 'header', name: place }, format }),
      ],
      onRequest: (request, response) => {
        const text = JSON.stringify(request.headers)
        const echo = String(request.headers[place])
        response.setHeader('x-echo', echo)
        response.setHeader('trailer', 'x-sum')
        response.statusMessage = `OK ${echo}`
        response.addTrailers({ 'x-sum': echo })
        response.setHeader('set-cookie', 'a=b')
        if (request.url === '/gzip') {
          response.setHeader('content-encoding', 'gzip')
          response.end(zlib.gzipSync(text))
        } else if (request.url === '/split') {
          const at = text.indexOf(key) + 7
          response.write(text.slice(0, at), () => response.end(text.slice(at)))
        } else response.end(text)
      },
    })
    for (const path of ['/', '/gzip', '/split']) {
      const reply = await ask(stage, { ...given, path })
      t.equal(reply.status, 200, title)
      for (const form of [key, Buffer.from(`x-access-token:${key}`).toString('base64')]) {
        t.notMatch(JSON.stringify(reply), form, `${title} ${path}: no key comes back`)
      }
      t.ok(reply.trailers['x-sum'], `${title} ${path}: trailers come`)
      t.equal(reply.headers['set-cookie'], undefined)
      if (!format.includes('b64')) t.match(reply.body, new RegExp(placeholder))
    }
    const sent = stage.seen[0]?.headers.join(' ') ?? ''
    const expected = format.includes('b64')
      ? Buffer.from(`x-access-token:${key}`).toString('base64')
      : key
    t.match(sent, expected, `${title}: the key leaves`)
    t.notMatch(sent, placeholder)
    const other = await ask(stage, { headers: { [place]: 'Bearer sk-somebody-elses-key' } })
    t.equal(other.headers['x-agentjail-denied'], 'credential-mismatch')
    const real = await ask(stage, { headers: { [place]: `Bearer ${key}` } })
    t.equal(real.headers['x-agentjail-denied'], 'credential-mismatch', 'not even the real one')
    await stage.close()
  }
  for (const [place, given, sent] of [
    [{ kind: 'query', name: 'key' }, { path: `/x?key=${placeholder}&a=1` }, `/x?key=${key}&a=1`],
    [{ kind: 'query', name: 'key' }, { path: '/x?a=1' }, `/x?a=1&key=${key}`],
    [{ kind: 'path', prefix: 'bot' }, { path: `/bot${placeholder}/getMe` }, `/bot${key}/getMe`],
    [
      { kind: 'body', name: 'token' },
      { method: 'POST', path: '/f', headers: form, body: `a=1&token=${placeholder}` },
      `a=1&token=${key}`,
    ],
    [
      { kind: 'body', name: 'token' },
      { method: 'POST', path: '/j', headers: json, body: `{"token": "${placeholder}"}` },
      `{"token": "${key}"}`,
    ],
  ] as const) {
    const stage = await openStage({
      grants: [grant({ credential: 'k' })],
      credentials: [pin({ mode: 'inject', placeholder, in: place, format: '{}' })],
    })
    const reply = await ask(stage, given)
    t.equal(reply.status, 200)
    t.match(
      [stage.seen[0]?.url, stage.seen[0]?.body],
      sent.startsWith('/') ? [sent] : [/^\//, sent],
    )
    t.notMatch(JSON.stringify(stage.decisions), new RegExp(`${key}|${placeholder}`))
    await stage.close()
  }
  const stage = await openStage({
    grants: [grant({ credential: 'k' })],
    credentials: [
      pin({ mode: 'inject', placeholder, in: { kind: 'body', name: 'token' }, format: '{}' }),
    ],
  })
  const spill = await ask(stage, {
    method: 'POST',
    headers: json,
    body: JSON.stringify({ text: placeholder, token: placeholder }),
  })
  t.equal(spill.headers['x-agentjail-denied'], 'body-not-granted')
  await stage.close()
})

t.test('budgets end a request, and say why', async (t) => {
  let left = 5
  const dialled: net.Socket[] = []
  const stage = await openStage({
    grants: [grant()],
    onDial: (socket) => dialled.push(socket),
    budget: {
      request: () => undefined,
      upload: (_grant, bytes) => {
        if ((left -= bytes) >= 0) return undefined
        // As the gate does: what the grant still has open is cut at once.
        for (const socket of dialled) socket.resetAndDestroy()
        return 'budget-upload'
      },
    },
  })
  t.equal((await ask(stage, { method: 'POST', body: 'abcde' })).status, 200)
  const reply = await ask(stage, { method: 'POST', body: 'f' })
  t.same([reply.status, reply.headers['x-agentjail-denied']], [429, 'budget-upload'])
  t.same(stage.denials(), ['budget-upload'])
  await stage.close()
  const second = await openStage({
    grants: [grant()],
    budget: { request: () => 'budget-rate', upload: () => undefined },
  })
  t.equal((await ask(second)).status, 429)
  t.same([second.denials(), second.dials()], [['budget-rate'], 0])
  await second.close()
})

t.test('the host must prove its name', async (t) => {
  const stranger = await createAuthority('stranger')
  for (const options of [{ upstreamCa: stranger.pem }, { originName: 'www.example.org' }]) {
    const stage = await openStage({
      grants: [grant({ credential: 'k' })],
      credentials: [pin()],
      ...options,
    })
    const reply = await ask(stage, { headers: { authorization: `Bearer ${key}` } })
    t.same([reply.status, stage.denials(), stage.seen], [502, ['upstream-certificate'], []])
    await stage.close()
  }
})

t.test(
  'several grants of one host: any of them may allow, inspected ones alone decide',
  async (t) => {
    const stage = await openStage({
      grants: [
        grant({ id: 'g1', inspect: 'sni' }),
        grant({ id: 'g2', rules: [{ method: 'GET', path: '/a' }], credential: 'k' }),
        grant({ id: 'g3', rules: [{ method: 'GET', path: '/b' }], credential: 'l' }),
      ],
      credentials: [pin(), pin({ id: 'l', value: 'xapp-second-key' })],
    })
    const get = async (path: string, token: string) =>
      (await ask(stage, { path, headers: { authorization: `Bearer ${token}` } })).status
    t.equal(await get('/a', key), 200)
    t.equal(await get('/b', 'xapp-second-key'), 200)
    t.equal(await get('/a', 'xapp-second-key'), 403)
    t.equal(await get('/c', key), 403)
    t.same(stage.denials(), ['credential-mismatch', 'path-not-granted'])
    await stage.close()
  },
)

t.test('what is not HTTP or not TLS ends at once', async (t) => {
  const stage = await openStage({ grants: [grant()] })
  t.match(await askRaw(stage, 'SSH-2.0-x\r\n\r\n'), /^HTTP\/1\.1 400/)
  t.same(stage.denials(), ['http-malformed'])
  const socket = net.connect(stage.port, '127.0.0.1')
  socket.write('plain text, no hello\r\n')
  await new Promise((resolve) =>
    socket
      .once('close', resolve)
      .resume()
      .on('error', () => undefined),
  )
  t.same(stage.denials(), ['http-malformed', 'tls-unreadable'])
  t.equal(stage.dials(), 0)
  await stage.close()
})

t.test('odd answers of a host: none of them ends the gate', async (t) => {
  const answers: Record<string, string> = {
    '/head': 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: a\r\n\r\n',
    '/none': 'HTTP/1.1 204 No Content\r\n\r\n',
    '/same': 'HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n',
    '/types':
      'HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 0\r\n\r\n',
    '/early':
      'HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n',
    '/high': 'HTTP/1.1 200 OK\r\nX-A: \xe9\r\nContent-Length: 0\r\n\r\n',
    '/switch': 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n',
    '/garbage': 'SSH-2.0-x\r\n\r\n',
    '/both': 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    '/status': 'HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n',
  }
  const stage = await openStage({
    grants: [grant()],
    onRequest: (request, response) =>
      response.socket?.end(answers[request.url ?? ''] ?? '', 'latin1'),
  })
  const want: Record<string, number> = { '/none': 204, '/same': 304, '/status': 999 }
  const bad = new Set(['/switch', '/garbage', '/both'])
  for (const path of Object.keys(answers)) {
    const method = path === '/head' ? 'HEAD' : 'GET'
    const status = bad.has(path) ? 502 : (want[path] ?? 200)
    t.equal((await ask(stage, { path, method })).status, status, `HTTP/1.1 ${path}`)
    const [reply] = await askHttp2(stage, [{ headers: { ':path': path, ':method': method } }])
    // HTTP/2 has one content type, and statuses to 599.
    const other = path === '/types' || path === '/status' ? 502 : status
    t.equal(reply?.status, other, `HTTP/2 ${path}`)
  }
  await stage.close()
})

t.test(
  'a connection left idle is given on: same host and grant, one client at a time',
  async (t) => {
    const dialled: net.Socket[] = []
    const other = grant({ id: 'g2', rules: [{ method: 'GET', path: '/other' }] })
    const stage = await openStage({
      grants: [
        grant({ rules: [{ method: '*', path: '/x' }] }),
        other,
        grant({ name: 'b.example' }),
      ],
      onDial: (socket) => dialled.push(socket),
    })
    /** The client has closed, and the gate has seen it. */
    const settled = async () => {
      const ended = () => stage.decisions.filter(({ up }) => up !== undefined).length
      const before = stage.servings.length
      while (ended() < before) await new Promise((resolve) => setTimeout(resolve, 2))
    }
    const send = async (request: Ask) => {
      const { status } = await ask(stage, request)
      await settled()
      return [status, stage.dials()]
    }
    t.same(await send({ path: '/x' }), [200, 1])
    t.same(await send({ path: '/x', method: 'POST', body: 'a' }), [200, 1], 'given on')
    t.same(await send({ path: '/other' }), [200, 2], 'another grant of the host')
    t.same(await send({ name: 'b.example' }), [200, 3], 'another host')
    const both = await Promise.all([ask(stage, { path: '/x' }), ask(stage, { path: '/x' })])
    t.same([both.map(({ status }) => status), stage.dials()], [[200, 200], 4], 'two at a time')
    await settled()

    const headers = { authorization: 'Negotiate abcd' }
    t.same(await send({ path: '/x', headers }), [200, 4], 'a login takes one')
    await Promise.all([ask(stage, { path: '/x' }), ask(stage, { path: '/x' })])
    t.equal(stage.dials(), 5, 'and its connection is nobody else\u2019s: one of two was left')
    await stage.close()
  },
)

t.test(
  'a request on a connection given on that the host just ends is sent once more',
  async (t) => {
    const answered = new WeakSet<object>()
    const stage = await openStage({
      grants: [grant()],
      onRequest: ({ socket }, response) => {
        if (answered.has(socket)) socket.destroy()
        else response.end('ok')
        answered.add(socket)
      },
    })
    const send = async (request: Ask) => {
      const { status } = await ask(stage, request)
      // The client has closed, and the gate has seen it.
      const ended = () => stage.decisions.filter(({ up }) => up !== undefined).length
      while (ended() < stage.servings.length) await new Promise((resolve) => setTimeout(resolve, 2))
      return [status, stage.dials()]
    }
    t.same(await send({ path: '/a' }), [200, 1])
    t.same(await send({ path: '/b' }), [200, 2], 'by a connection of its own')
    // Of a body that went by nothing is kept.
    t.same(await send({ path: '/c', method: 'POST', body: 'c' }), [502, 2], 'but no body twice')
    await stage.close()
  },
)

t.test('a connection left idle that the host ends or speaks on is not given on', async (t) => {
  const context = {} as HttpContext
  for (const [what, act] of [
    ['nothing', () => undefined],
    ['speaks', (socket: Duplex) => socket.push('HTTP/1.1 200 OK\r\n\r\n')],
    ['ends', (socket: Duplex) => socket.push(null)],
    ['breaks', (socket: Duplex) => socket.destroy(new Error('reset'))],
  ] as const) {
    const socket = new Duplex({ read: () => undefined, write: (_chunk, _encoding, done) => done() })
    leave(context, 'key', socket)
    act(socket)
    await new Promise((resolve) => setImmediate(resolve))
    t.equal(takeLeft(context, 'other'), undefined)
    t.equal(takeLeft(context, 'key'), what === 'nothing' ? socket : undefined, what)
    t.equal(socket.destroyed, what !== 'nothing', what)
  }
})

t.test('a client that goes away ends its request upstream, and is no denial', async (t) => {
  const { connect } = await import('node:http2')
  const ended: string[] = []
  const stage = await openStage({
    grants: [grant({ rules: [...send, { method: 'POST', path: '/slow' }] })],
    onRequest: (request, response) => {
      response.on('close', () => ended.push(request.url ?? ''))
      response.writeHead(200)
      response.write('begun')
    },
  })
  for (const [path, body] of [
    ['/bot/send', '{"chat_id"'],
    ['/slow', 'part of a body'],
  ] as const) {
    const session = connect('https://api.example.com', {
      createConnection: () =>
        tls.connect({
          host: '127.0.0.1',
          port: stage.port,
          servername: 'api.example.com',
          ca: stage.ca.pem,
          ALPNProtocols: ['h2'],
        }),
    })
    const stream = session.request({ ':path': path, ':method': 'POST', ...json })
    stream.on('error', () => undefined)
    stream.write(body)
    if (path === '/slow') await new Promise((resolve) => stream.once('data', resolve))
    else await new Promise((resolve) => setTimeout(resolve, 50))
    session.destroy()
  }
  while (ended.length === 0) await new Promise((resolve) => setTimeout(resolve, 10))
  t.same(ended, ['/slow'])
  t.same(stage.denials(), [])
  t.equal((await ask(stage, { method: 'POST', path: '/none' })).status, 403, 'the gate lives')
  await stage.close()
})
