/** Keys that are not the policy's, and every way to smuggle one: nothing of it may reach the origin. */
import t from 'tap'
import type { ReasonCode } from '../lib/audit/record.js'
import type { ResolvedCredential } from '../lib/gate/protocol.js'
import { fuzzHttp } from './fuzz/http.js'
import {
  type Ask,
  ask,
  askHttp2,
  askPlain,
  askRaw,
  attacker,
  grant,
  key,
  openStage,
  pin,
  type Stage,
} from './http-stage.js'

const bearer = { authorization: `Bearer ${key}` }
const basic = (password: string, user = 'x-access-token') => ({
  authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`,
})
const form = { 'content-type': 'application/x-www-form-urlencoded' }
const json = { 'content-type': 'application/json' }

const webSocket = (protocols: string | undefined) => ({
  headers: {
    ...bearer,
    connection: 'upgrade',
    upgrade: 'websocket',
    'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
    'sec-websocket-protocol': protocols,
  },
})

interface Case {
  readonly title: string
  readonly credential: ResolvedCredential
  readonly ask: Ask
  /** Absent: allowed. */
  readonly reason?: ReasonCode
  readonly status?: number
  /** Seen only in the body: the connection is open by then, and not a byte of the body has left. */
  readonly inBody?: boolean
  /** What must have left. */
  readonly sent?: RegExp
}

const byHeader = pin()
const byApiKey = pin({ in: { kind: 'header', name: 'x-api-key' }, format: '{}' })
const byQuery = pin({ in: { kind: 'query', name: 'key' }, format: '{}' })
const byPath = pin({ in: { kind: 'path', prefix: 'bot' }, format: '{}', value: '12345:AAbbCC' })
const byBasic = pin({ in: { kind: 'basic' }, format: '{}' })
const byBody = pin({ in: { kind: 'body', name: 'token' }, format: '{}' })
const placeholder = 'sk-0000000000abcdef'
const intoBody = pin({ in: { kind: 'body', name: 'token' }, mode: 'inject', placeholder })
const post = { method: 'POST', body: 'data' }

const cases: Case[] = [
  { title: 'header: right key', credential: byHeader, ask: { headers: bearer } },
  {
    title: 'header: right key, `token` scheme, any case',
    credential: byHeader,
    ask: { headers: { AUTHORIZATION: `token ${key}` } },
    sent: new RegExp(`Bearer ${key}`),
  },
  {
    title: "header: attacker's key",
    credential: byHeader,
    ask: { ...post, headers: { authorization: `Bearer ${attacker}` } },
    reason: 'credential-mismatch',
  },
  {
    title: 'header: none',
    credential: byHeader,
    ask: post,
    reason: 'credential-missing',
  },
  {
    title: 'header: right key with more after it',
    credential: byHeader,
    ask: { headers: { authorization: `Bearer ${key}, Bearer ${attacker}` } },
    reason: 'credential-mismatch',
  },
  ...[
    ['x-api-key', attacker],
    ['X-API-Key', attacker],
    ['api-key', attacker],
    ['x-goog-api-key', attacker],
    ['cookie', 'session=1'],
    ['proxy-authorization', `Bearer ${attacker}`],
    ['x-auth-token', attacker],
    ['private-token', attacker],
    ['x-amz-security-token', attacker],
    ['OpenAI-Organization', 'org-attacker'],
    ['OpenAI-Project', 'proj-attacker'],
    ['ChatGPT-Account-Id', 'attacker'],
    ['x_api_key', attacker],
    ['x.api.key', attacker],
    ['X-RapidAPI-Key', attacker],
  ].map(([name = '', value]): Case => ({
    title: `header: further credential ${name}`,
    credential: byHeader,
    ask: { ...post, headers: { ...bearer, [name]: value } },
    reason: 'credential-extra',
  })),
  ...['key', 'api_key', 'access_token', 'Access-Token', '%61ccess_token', 'token', 'a=1;key'].map(
    (name): Case => ({
      title: `header: further credential in the query as ${name}`,
      credential: byHeader,
      ask: { headers: bearer, path: `/v1/x?a=b&${name}=${attacker}` },
      reason: 'credential-extra',
    }),
  ),
  {
    title: 'header: further credential in a form',
    credential: byHeader,
    ask: { method: 'POST', headers: { ...bearer, ...form }, body: `a=b&%74oken=${attacker}` },
    reason: 'credential-extra',
  },
  {
    title: 'header: further credential in a multipart body',
    credential: byHeader,
    ask: {
      method: 'POST',
      headers: { ...bearer, 'content-type': 'multipart/form-data; boundary=x' },
      body: `--x\r\nContent-Disposition: form-data; name="token"\r\n\r\n${attacker}\r\n--x--`,
    },
    reason: 'credential-extra',
    inBody: true,
  },
  ...[
    [
      'behind a quoted file name that looks like a name',
      'Content-Disposition: form-data; filename="; name=x"; name="token"',
    ],
    ['in a folded line', 'Content-Disposition: form-data;\r\n name="token"'],
    ['in pieces (RFC 2231)', 'Content-Disposition: form-data; name*0="to"; name*1="ken"'],
    ['encoded (RFC 2231)', "Content-Disposition: form-data; name*=utf-8''%74oken"],
    ['with an escaped letter', 'Content-Disposition: form-data; name="to\\ken"'],
    [
      'in a line longer than what is kept of the chunk before',
      `Content-Disposition: form-data; x="${'y'.repeat(40_000)}"; name="token"`,
    ],
  ].map(([how = '', line = '']): Case => ({
    title: `header: further credential in a multipart body, ${how}`,
    credential: byHeader,
    ask: {
      method: 'POST',
      headers: { ...bearer, 'content-type': 'multipart/form-data; boundary=x' },
      body: `--x\r\n${line}\r\n\r\n${attacker}\r\n--x--`,
    },
    ...(/longer|pieces/.test(how)
      ? { reason: 'http-malformed', status: 400 }
      : { reason: 'credential-extra' }),
    inBody: true,
  })),
  {
    title: 'header: multipart fields that are no credential',
    credential: byHeader,
    ask: {
      method: 'POST',
      headers: { ...bearer, 'content-type': 'multipart/form-data; boundary=x' },
      body: `--x\r\nContent-Disposition: form-data; name="file"; filename="my token.txt"\r\n\r\nname=token; content-disposition: x ${'z'.repeat(20_000)}\r\n--x--`,
    },
  },
  {
    title: 'header: a multipart body that cannot be read',
    credential: byHeader,
    ask: {
      method: 'POST',
      headers: {
        ...bearer,
        'content-type': 'multipart/form-data; boundary=x',
        'content-encoding': 'gzip',
      },
      body: 'xx',
    },
    reason: 'body-not-granted',
  },
  ...[
    undefined,
    'x',
    ', application/x-www-form-urlencoded',
    'application/x-www-form-urlencoded x',
  ].map((type): Case => ({
    title: `header: further credential in a form of type ${String(type)}`,
    credential: byHeader,
    ask: {
      method: 'POST',
      headers: { ...bearer, ...(type === undefined ? {} : { 'content-type': type }) },
      body: `a=b&token=${attacker}`,
    },
    reason: 'credential-extra',
  })),
  {
    title: 'header: the type that a body is judged by, taken off by Connection',
    credential: byHeader,
    ask: {
      method: 'POST',
      headers: { ...bearer, ...json, connection: 'close, content-type' },
      body: `{"a":"&token=${attacker}&"}`,
    },
    reason: 'http-malformed',
    status: 400,
  },
  ...[
    ['a key as OpenAI takes it', `realtime, openai-insecure-api-key.${attacker}`],
    ['an account', 'realtime, openai-organization.org-attacker'],
    ['a bearer as Kubernetes takes it', 'base64url.bearer.authorization.k8s.io.c2stOTg3NjU0MzIxMA'],
    ['a key alone', `chat, ${attacker}`],
  ].map(([what = '', protocols]): Case => ({
    title: `header: WebSocket protocols with ${what}`,
    credential: byHeader,
    ask: webSocket(protocols),
    reason: 'credential-extra',
  })),
  {
    title: 'header: WebSocket protocols that are none',
    credential: byHeader,
    ask: webSocket(
      'realtime, openai-beta.realtime-v1, graphql-transport-ws, v4.base64.channel.k8s.io',
    ),
  },
  {
    title: 'header: harmless headers and parameters pass',
    credential: byHeader,
    ask: {
      headers: { ...bearer, 'idempotency-key': 'x', 'x-stainless-lang': 'js' },
      path: '/v1/x?page_token=1&limit=2',
    },
  },
  { title: 'x-api-key: right', credential: byApiKey, ask: { headers: { 'X-Api-Key': key } } },
  {
    title: "x-api-key: attacker's",
    credential: byApiKey,
    ask: { ...post, headers: { 'x-api-key': attacker } },
    reason: 'credential-mismatch',
  },
  {
    title: 'x-api-key: right, as a bearer',
    credential: byApiKey,
    ask: { headers: bearer },
    sent: new RegExp(`^Bearer ${key}$`),
  },
  {
    title: "x-api-key: attacker's as a bearer",
    credential: byApiKey,
    ask: { ...post, headers: { authorization: `Bearer ${attacker}` } },
    reason: 'credential-mismatch',
  },
  {
    title: 'x-api-key: right, and a bearer',
    credential: byApiKey,
    ask: { ...post, headers: { 'x-api-key': key, authorization: `Bearer ${attacker}` } },
    reason: 'credential-extra',
  },
  { title: 'query: right', credential: byQuery, ask: { path: `/x?a=1&key=${key}` } },
  {
    title: "query: attacker's",
    credential: byQuery,
    ask: { path: `/x?key=${attacker}` },
    reason: 'credential-mismatch',
  },
  {
    title: 'query: both',
    credential: byQuery,
    ask: { path: `/x?key=${key}&key=${attacker}` },
    reason: 'credential-extra',
  },
  {
    title: 'query: second in another spelling',
    credential: byQuery,
    ask: { path: `/x?key=${key}&%4bey=${attacker}` },
    reason: 'credential-extra',
  },
  ...['APPID', 'appid[]', 'app%69d%00', ' appid'].map((name): Case => ({
    title: `query: a name of its own, second as ${name}`,
    credential: pin({ in: { kind: 'query', name: 'appid' }, format: '{}' }),
    ask: { path: `/x?appid=${key}&${name.replace(' ', '%20')}=${attacker}` },
    reason: 'credential-extra',
  })),
  {
    title: 'header: a name of its own, second in the spelling that CGI makes the same',
    credential: pin({ in: { kind: 'header', name: 'x-team' }, format: '{}' }),
    ask: { headers: { 'x-team': key, x_team: attacker } },
    reason: 'credential-extra',
  },
  {
    title: 'query: none',
    credential: byQuery,
    ask: { path: '/x' },
    reason: 'credential-missing',
  },
  { title: 'path: right', credential: byPath, ask: { path: '/bot12345:AAbbCC/getMe' } },
  {
    title: 'path: right, encoded colon, dot segments',
    credential: byPath,
    ask: { path: '/x/.././bot12345%3AAAbbCC//getMe' },
    sent: /^\/bot12345:AAbbCC\/getMe$/,
  },
  {
    title: "path: attacker's",
    credential: byPath,
    ask: { path: '/bot666:evil/sendMessage' },
    reason: 'credential-mismatch',
  },
  {
    title: "path: right, then back up to the attacker's",
    credential: byPath,
    ask: { path: '/bot12345:AAbbCC/../bot666:evil/sendMessage' },
    reason: 'credential-mismatch',
  },
  {
    title: 'path: encoded dot segments',
    credential: byPath,
    ask: { path: '/bot12345:AAbbCC/%2e%2e/bot666:evil/sendMessage' },
    reason: 'path-not-granted',
  },
  {
    title: 'path: encoded slash',
    credential: byPath,
    ask: { path: '/bot12345:AAbbCC%2f..%2fbot666:evil/sendMessage' },
    reason: 'path-not-granted',
  },
  {
    title: 'path: encoded prefix',
    credential: byPath,
    ask: { path: '/%62ot666:evil/sendMessage' },
    reason: 'credential-mismatch',
  },
  {
    title: "path: attacker's behind the prefix in upper case, the right one later",
    credential: byPath,
    ask: { path: '/BOT666:evil/bot12345:AAbbCC/sendMessage' },
    reason: 'credential-mismatch',
  },
  ...['/bot12345:AAbbCC;x/getMe', '/bot12345:AAbbCC%3Bx/getMe', '/bot/12345:AAbbCC/getMe'].map(
    (path): Case => ({
      title: `path: ${path}`,
      credential: byPath,
      ask: { path },
      reason: 'credential-mismatch',
    }),
  ),
  {
    title: 'basic: right, any user, which is rewritten',
    credential: byBasic,
    ask: { headers: basic(key, attacker) },
    sent: new RegExp(basic(key).authorization.replaceAll('+', '\\+')),
  },
  {
    title: "basic: attacker's",
    credential: byBasic,
    ask: { ...post, headers: basic(attacker) },
    reason: 'credential-mismatch',
  },
  {
    title: "basic: attacker's as a bearer",
    credential: byBasic,
    ask: { ...post, headers: { authorization: `Bearer ${attacker}` } },
    reason: 'credential-mismatch',
  },
  {
    title: 'body: right (form)',
    credential: byBody,
    ask: { method: 'POST', headers: form, body: `a=1&token=${key}` },
  },
  {
    title: 'body: right (JSON)',
    credential: byBody,
    ask: { method: 'POST', headers: json, body: JSON.stringify({ token: key }) },
  },
  {
    title: "body: attacker's",
    credential: byBody,
    ask: { method: 'POST', headers: json, body: JSON.stringify({ token: attacker }) },
    reason: 'credential-mismatch',
  },
  {
    title: 'body: twice in JSON',
    credential: byBody,
    ask: { method: 'POST', headers: json, body: `{"token":"${attacker}","tok\\u0065n":"${key}"}` },
    reason: 'body-not-granted',
  },
  {
    title: 'body: twice in a form',
    credential: byBody,
    ask: { method: 'POST', headers: form, body: `token=${key}&Token=${attacker}` },
    reason: 'body-not-granted',
  },
  {
    title: 'body: twice in JSON, one far from its colon',
    credential: byBody,
    ask: {
      method: 'POST',
      headers: json,
      body: `{"token"${' '.repeat(200)}:"${attacker}","token":"${key}"}`,
    },
    reason: 'body-not-granted',
  },
  {
    title: 'body: a further key in JSON, far from its colon',
    credential: byBody,
    ask: {
      method: 'POST',
      headers: json,
      body: `{"api_key"${'\n'.repeat(200)}:"${attacker}","token":"${key}"}`,
    },
    reason: 'credential-extra',
  },
  {
    title: 'body: placeholder (JSON)',
    credential: intoBody,
    ask: { method: 'POST', headers: json, body: `{"token":"${placeholder}","note":"x"}` },
  },
  {
    title: 'body: the placeholder in escapes, and as it is where the key would be seen',
    credential: intoBody,
    ask: {
      method: 'POST',
      headers: json,
      body: `{"token":"\\u0073${placeholder.slice(1)}","note":"${placeholder}"}`,
    },
    reason: 'body-not-granted',
  },
  {
    title: 'body: the same, in a name',
    credential: intoBody,
    ask: {
      method: 'POST',
      headers: json,
      body: `{"token":"\\u0073${placeholder.slice(1)}","${placeholder}":1}`,
    },
    reason: 'body-not-granted',
  },
  {
    title: 'body: compressed',
    credential: byBody,
    ask: { method: 'POST', headers: { ...json, 'content-encoding': 'gzip' }, body: 'xx' },
    reason: 'body-not-granted',
  },
]

t.test('keys', async (t) => {
  for (const { title, credential, ask: request, reason, status = 403, sent, inBody } of cases) {
    const stage = await openStage({
      grants: [grant({ credential: 'k' })],
      credentials: [credential],
    })
    const reply = await ask(stage, request)
    if (reason === undefined) {
      t.equal(reply.status, 200, title)
      if (sent !== undefined) {
        const lines = [stage.seen[0]?.url ?? '', ...(stage.seen[0]?.headers ?? [])]
        t.ok(
          lines.some((line) => sent.test(line)),
          `${title}: what left`,
        )
      }
    } else {
      t.same(
        [reply.status, reply.headers['x-agentjail-denied'], stage.denials(), stage.dials()],
        [status, reason, [reason], inBody === true ? 1 : 0],
        title,
      )
      t.same(stage.seen, [], `${title}: nothing arrives`)
    }
    const log = JSON.stringify(stage.decisions) + (reason === undefined ? '' : reply.body)
    for (const secret of [key, attacker, 'AAbbCC', '666:evil']) {
      if (log.includes(secret)) t.fail(`${title}: a key in the log or the answer`)
    }
    await stage.close()
  }
})

t.test('git is asked for its password first, and that is no denial', async (t) => {
  const stage = await openStage({ grants: [grant({ credential: 'k' })], credentials: [byBasic] })
  const reply = await ask(stage)
  t.equal(reply.status, 401)
  t.match(reply.headers['www-authenticate'], /^Basic realm=/)
  t.same([stage.denials(), stage.dials()], [[], 0])
  await stage.close()
})

const host = 'Host: api.example.com\r\n'
const auth = `Authorization: Bearer ${key}\r\n`
const evil = `GET /evil HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer ${attacker}\r\n\r\n`

t.test('smuggling', async (t) => {
  for (const [title, text, expected] of [
    [
      'CL and TE',
      `POST / HTTP/1.1\r\n${host}${auth}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${evil}`,
      400,
    ],
    [
      'two lengths',
      `POST / HTTP/1.1\r\n${host}${auth}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`,
      400,
    ],
    [
      'TE not last chunked',
      `POST / HTTP/1.1\r\n${host}${auth}Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n`,
      400,
    ],
    [
      'TE twice',
      `POST / HTTP/1.1\r\n${host}${auth}Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
    ],
    [
      'space before the colon',
      `GET / HTTP/1.1\r\n${host}Authorization : Bearer ${attacker}\r\n\r\n`,
      400,
    ],
    ['obs-fold', `GET / HTTP/1.1\r\n${host}Authorization: Bearer\r\n ${attacker}\r\n\r\n`, 400],
    [
      'obs-fold in a harmless field',
      `GET / HTTP/1.1\r\n${host}${auth}X-A: b\r\n Authorization: Bearer ${attacker}\r\n\r\n`,
      0,
    ],
    [
      'bare LF',
      `GET / HTTP/1.1\n${host}${auth}X-A: b\nAuthorization: Bearer ${attacker}\r\n\r\n`,
      400,
    ],
    [
      'bare CR in a value',
      `GET / HTTP/1.1\r\n${host}${auth}X-A: b\rAuthorization: Bearer ${attacker}\r\n\r\n`,
      400,
    ],
    ['NUL in a value', `GET / HTTP/1.1\r\n${host}${auth}X-A: b\0c\r\n\r\n`, 400],
    ['two Hosts', `GET / HTTP/1.1\r\n${host}Host: evil.example.org\r\n${auth}\r\n`, 400],
    ['no Host', `GET / HTTP/1.1\r\n${auth}\r\n`, 400],
    [
      'two Authorizations',
      `GET / HTTP/1.1\r\n${host}${auth}authorization: Bearer ${attacker}\r\n\r\n`,
      403,
    ],
    [
      'Authorization named by Connection',
      `GET / HTTP/1.1\r\n${host}Connection: authorization\r\n${auth}\r\n`,
      400,
    ],
    [
      'a WebSocket with a body',
      `GET / HTTP/1.1\r\n${host}${auth}Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: ${String(evil.length)}\r\n\r\n${evil}`,
      400,
    ],
    [
      'a WebSocket with a chunked body',
      `GET / HTTP/1.1\r\n${host}${auth}Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${evil}`,
      400,
    ],
    [
      'a WebSocket asked for by POST',
      `POST / HTTP/1.1\r\n${host}${auth}Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: ${String(evil.length)}\r\n\r\n${evil}`,
      0,
    ],
    [
      'absolute form to another host',
      `GET https://evil.example.org/ HTTP/1.1\r\n${host}${auth}\r\n`,
      421,
    ],
    [
      'absolute form, other scheme',
      `GET http://api.example.com/ HTTP/1.1\r\n${host}${auth}\r\n`,
      400,
    ],
    [
      'user in Host',
      `GET / HTTP/1.1\r\nHost: api.example.com@evil.example.org\r\n${auth}\r\n`,
      400,
    ],
    ['other port in Host', `GET / HTTP/1.1\r\nHost: api.example.com:8443\r\n${auth}\r\n`, 421],
    ['CONNECT', `CONNECT evil.example.org:443 HTTP/1.1\r\nHost: evil.example.org:443\r\n\r\n`, 403],
    ['TRACE', `TRACE / HTTP/1.1\r\n${host}${auth}\r\n`, 403],
    [
      'h2c upgrade',
      `GET / HTTP/1.1\r\n${host}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nAuthorization: Bearer ${attacker}\r\n\r\n`,
      403,
    ],
    ['HTTP/0.9', 'GET /\r\n\r\n', 400],
    ['HTTP/2 preface', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
    ['asterisk form', `OPTIONS * HTTP/1.1\r\n${host}${auth}\r\n`, 400],
    [
      'bad chunk size',
      `POST / HTTP/1.1\r\n${host}${auth}Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n`,
      -1,
    ],
  ] as const) {
    const stage = await openStage({
      grants: [grant({ credential: 'k' })],
      credentials: [byHeader],
    })
    const reply = await askRaw(stage, text)
    const status = Number(/^HTTP\/1\.1 (\d+)/.exec(reply)?.[1] ?? 0)
    if (expected > 0) t.equal(status, expected, title)
    const reached = JSON.stringify(stage.seen.map(({ headers, url }) => [headers, url]))
    t.notMatch(reached, new RegExp(`"Bearer ${attacker}"|/evil`), `${title}: nothing arrives`)
    if (expected > 0) t.equal(stage.dials(), 0, `${title}: nothing dialled`)
    await stage.close()
  }
})

t.test('a second request on the same connection is judged by itself', async (t) => {
  const stage = await openStage({ grants: [grant({ credential: 'k' })], credentials: [byHeader] })
  const reply = await askRaw(stage, `GET /good HTTP/1.1\r\n${host}${auth}\r\n${evil}`)
  t.match(reply, /^HTTP\/1\.1 200 [\s\S]*HTTP\/1\.1 403 /)
  t.same(
    stage.seen.map(({ url }) => url),
    ['/good'],
  )
  const other = `GET /other HTTP/1.1\r\nHost: evil.example.org\r\n${auth}\r\n`
  t.match(
    await askRaw(stage, `GET /good HTTP/1.1\r\n${host}${auth}\r\n${other}`),
    /HTTP\/1\.1 421 /,
  )
  t.same(stage.denials(), ['credential-mismatch', 'host-mismatch'])
  await stage.close()
})

t.test('HTTP/2', async (t) => {
  const stage = await openStage({
    grants: [grant({ credential: 'k' }), grant({ id: 'g2', name: 'www.example.org' })],
    credentials: [byHeader],
  })
  const head = (more: Record<string, string | string[]>) => ({
    headers: { ':path': '/v1/x', ...bearer, ...more },
  })
  const replies = await askHttp2(stage, [
    { ...head({ ':method': 'POST' }), body: 'hello' },
    head({ authorization: `Bearer ${attacker}` }),
    // Coalescing: the other name is granted too, but not on this connection.
    head({ ':authority': 'www.example.org' }),
    head({ host: 'www.example.org' }),
    head({ ':authority': 'api.example.com', host: 'www.example.org' }),
    head({ ':scheme': 'https', ':authority': 'api.example.com:8443' }),
    head({ 'x-api-key': attacker }),
    head({ cookie: 'a=b' }),
    head({ ':path': '/x\\..\\y' }),
    head({ ':path': '/last' }),
  ])
  t.same(
    replies.map(({ status }) => status),
    [200, 403, 421, 421, 400, 421, 403, 403, 400, 200],
  )
  // On newer Node its whole connection ends with it.
  const mismatched = head({ ':method': 'POST', 'content-length': '3' })
  const [longer] = await askHttp2(stage, [{ ...mismatched, body: 'longer' }])
  t.equal(longer?.status, 0)
  t.same(
    stage.seen.map(({ url, body }) => [url, body]),
    [
      ['/v1/x', 'hello'],
      ['/last', ''],
    ],
  )
  await stage.close()
})

t.test('a key for one host does not travel to another', async (t) => {
  const placeholder = 'sk-placeholder-00001'
  for (const [title, credential, text] of [
    ['placeholder', pin({ mode: 'inject', placeholder }), placeholder],
    ['pinned key', pin(), key],
  ] as const) {
    const stage = await openStage({
      grants: [grant({ credential: 'k' }), grant({ id: 'g2', name: 'www.example.org' })],
      credentials: [credential],
    })
    for (const more of [
      { headers: { 'x-a': `b ${text}` } },
      { path: `/x?q=${text.replace('s', '%73')}` },
      { headers: basic(text) },
    ]) {
      const reply = await ask(stage, { name: 'www.example.org', ...more })
      t.equal(reply.headers['x-agentjail-denied'], 'credential-elsewhere', title)
    }
    t.equal(stage.dials(), 0)
    t.equal((await ask(stage, { name: 'www.example.org' })).status, 200)
    await stage.close()
  }
})

t.test('plain HTTP: each Host by itself; keys never in the clear', async (t) => {
  const stage: Stage = await openStage({
    grants: [
      grant({ id: 'g1', name: 'www.example.org', inspect: 'sni' }),
      grant({ id: 'g2', credential: 'k' }),
    ],
    credentials: [byHeader],
  })
  const get = (name: string, more = '') => `GET / HTTP/1.1\r\nHost: ${name}\r\n${more}\r\n`
  const reply = await askPlain(stage, get('www.example.org') + get('evil.example.org'))
  t.match(reply, /^HTTP\/1\.1 200 [\s\S]*HTTP\/1\.1 403 /)
  t.match(await askPlain(stage, get('api.example.com', auth)), /denied: protocol-not-granted/)
  t.match(await askPlain(stage, get('203.0.113.9')), /^HTTP\/1\.1 400/)
  t.equal(stage.dials(), 1)
  await stage.close()
})

t.test('generated heads and bodies', (t) => {
  const runs = Number(process.env['FUZZ_N'] ?? 20_000)
  const { allowed } = fuzzHttp(runs, 7)
  t.ok(allowed > runs / 1000, `${String(allowed)} of ${String(runs)} allowed, none wrongly`)
  t.end()
})
