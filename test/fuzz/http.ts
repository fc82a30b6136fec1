/**
 * Generated request heads against the HTTP gate's decision, judged by a second, slower reading of what
 * would be sent. A request that leaves and should not is a crash.
 * Run: node dist/test/fuzz/http.js [N] [seed]; N also from FUZZ_N.
 */
import { judgeBody } from '../../lib/gate/http/body.js'
import { judge } from '../../lib/gate/http/decide.js'
import type { Field, Place, Plan, RequestHead } from '../../lib/gate/http/message.js'
import type { ResolvedCredential } from '../../lib/gate/protocol.js'
import type { Grant } from '../../lib/policy/types.js'

const policyKey = 'sk-0123456789policy'
const attackKey = 'sk-9876543210attack'
const place: Place = { name: 'api.example.com', port: 443, isTls: true }

const base: Omit<Grant, 'id' | 'rules'> = {
  host: { kind: 'exact', name: place.name },
  ports: [{ first: 443, last: 443 }],
  proto: 'tcp',
  inspect: 'http',
  access: 'full',
  within: [],
  private: false,
  limits: {},
  origin: { file: 'fuzz', line: 1, column: 1 },
}
const headerGrant: Grant = {
  ...base,
  id: 'g1',
  credential: 'h',
  rules: [
    { method: 'GET', path: '/v1/models/**' },
    { method: 'POST', path: '/v1/*/send', maxBody: 64, json: { to: [42] } },
  ],
}
const pathGrant: Grant = {
  ...base,
  id: 'g2',
  credential: 'p',
  rules: [{ method: '*', path: '/bot{token}/*' }],
}
const credentials: ResolvedCredential[] = [
  {
    id: 'h',
    mode: 'pin',
    in: { kind: 'header', name: 'authorization' },
    format: 'Bearer {}',
    value: policyKey,
  },
  { id: 'p', mode: 'pin', in: { kind: 'path', prefix: 'bot' }, format: '{}', value: policyKey },
]

const pieces = {
  path: [
    '/',
    '//',
    '/v1',
    '/models',
    '/v1/models',
    '/x',
    '/send',
    '/..',
    '/.',
    '/%2e%2e',
    '/%2E.',
    '%2f',
    '%5c',
    '\\',
    ';',
    '..;',
    '%00',
    '%',
    '%25',
    '%252e',
    `/bot${policyKey}`,
    `/bot${attackKey}`,
    '/bot',
    '/%62ot',
    '/getMe',
    '?',
    '#',
    '&',
    '=',
    'key',
    'token',
    'access_token',
    attackKey,
    policyKey,
    'to=43',
    '*',
    '@',
    'https://api.example.com',
    'http://evil.example.org',
    ' ',
    '\t',
    'é',
    '[',
    ']',
    '{token}',
    '|',
  ],
  name: [
    'authorization',
    'Authorization',
    'AUTHORIZATION',
    'x-api-key',
    'X-Api-Key',
    'cookie',
    'api-key',
    'proxy-authorization',
    'x-auth-token',
    'connection',
    'content-type',
    'content-length',
    'accept',
    'x-a',
    'transfer-encoding',
    'x-http-method-override',
    'x-original-url',
    'x-forwarded-host',
    'te',
    'upgrade',
    'openai-organization',
    'idempotency-key',
    'x-goog-api-key',
    'content-encoding',
    'expect',
  ],
  value: [
    `Bearer ${policyKey}`,
    `Bearer ${attackKey}`,
    `bearer ${policyKey}`,
    `token ${policyKey}`,
    policyKey,
    attackKey,
    `Basic ${Buffer.from(`a:${policyKey}`).toString('base64')}`,
    `Basic ${Buffer.from(`${attackKey}:${policyKey}`).toString('base64')}`,
    'authorization',
    'x-api-key',
    'close',
    'application/json',
    'application/x-www-form-urlencoded',
    'chunked',
    '3',
    '99999',
    'multipart/form-data; boundary=x',
    'DELETE',
    '/v1/files',
    'gzip',
    '',
    ' ',
    `Bearer ${policyKey}, Bearer ${attackKey}`,
  ],
  method: [
    'GET',
    'POST',
    'HEAD',
    'DELETE',
    'PUT',
    'CONNECT',
    'TRACE',
    'get',
    'PROPFIND',
    'G ET',
    '',
  ],
  body: [
    '{"to":42}',
    '{"to":43}',
    '{"to":42,"to":43}',
    '{"to":43,"to":42}',
    '{"To":43,"to":42}',
    'to=42',
    'to=43',
    '&',
    'to=42&to=43',
    `{"to":42,"token":"${attackKey}"}`,
    `&token=${attackKey}`,
    '{"t\\u006f":43,"to":42}',
    '[',
    '{',
    ',',
    '{"a":"\\"","to":42}',
    '\u0000',
    '\ufeff',
    'x'.repeat(70),
  ],
} as const

/** Small and repeatable: mulberry32. */
function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

export interface FuzzResult {
  readonly runs: number
  readonly allowed: number
}

/** Throws at the first wrong allow, with the input that made it. */
export function fuzzHttp(runs: number, seed: number): FuzzResult {
  const random = generator(seed)
  const below = (limit: number) => Math.floor(random() * limit)
  const pick = <T>(from: readonly T[]): T => from[below(from.length)] as T
  const few = (from: readonly string[], most: number) =>
    Array.from({ length: below(most + 1) }, () => pick(from)).join('')
  let allowed = 0
  for (let run = 0; run < runs; run++) {
    const fields: Field[] = Array.from({ length: below(3) }, () => [
      pick(pieces.name),
      pick(pieces.value),
    ])
    // Most inputs start near something allowed: the border is what matters.
    const near = below(3)
    if (near !== 0 && below(4) !== 0) fields.unshift(['authorization', `Bearer ${policyKey}`])
    const start = ['', '/v1/models', `/bot${policyKey}`, '/v1/x/send'][below(4)] ?? ''
    if (start === '/v1/x/send') fields.push(['content-type', pick(pieces.value.slice(11, 13))])
    const body = Buffer.from(few(pieces.body, 3))
    const hasBody = below(2) === 0
    const head: RequestHead = {
      method: below(3) === 0 ? pick(pieces.method) : start === '/v1/x/send' ? 'POST' : 'GET',
      target: start + few(pieces.path, 3),
      fields,
      webSocket: false,
      hasBody,
      contentLength: hasBody && below(2) === 0 ? body.length : undefined,
    }
    const grants = [[headerGrant], [pathGrant], [headerGrant, pathGrant]][below(3)] ?? []
    const input = () =>
      JSON.stringify({ head, body: body.toString(), grants: grants.map((g) => g.id) })
    const judged = judge(head, place, grants, credentials)
    if (!('length' in judged)) continue
    const first = judged[0]
    if (first === undefined) throw new Error(`no plan and no denial: ${input()}`)
    let plan: Plan = first
    let sent: Buffer = hasBody ? body : Buffer.alloc(0)
    if (first.bodyCheck !== undefined) {
      const outcome = judgeBody(head, judged, sent)
      if (outcome.kind === 'deny') continue
      plan = outcome.plan
      sent = outcome.bytes
    }
    allowed++
    const wrong = findWrong(plan, sent)
    if (wrong !== undefined) throw new Error(`wrong allow: ${wrong}: ${input()} -> ${plan.path}`)
  }
  return { runs, allowed }
}

/** The second reading: knows the policy by heart and none of the gate's code. */
function findWrong(plan: Plan, body: Buffer): string | undefined {
  const [path = '', ...queries] = plan.path.split('?')
  const query = queries.join('?')
  if (!/^\/[\x21-\x7e]*$/.test(plan.path) || plan.path.includes('#')) return 'malformed target'
  // However often a server decodes, no other path may come out.
  let text = path
  for (let round = 0; round < 4; round++) {
    if (/\\|\/\/|[\0-\x1f]/.test(text)) return 'ambiguous path'
    if (text.split('/').some((segment) => /^\.{1,2}(?:;|$)/.test(segment))) return 'dot segment'
    text = text.replace(/%([0-9a-f]{2})/gi, (_w, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    )
  }
  const names = plan.fields.map(([name]) => name.toLowerCase())
  if (plan.logPath.includes(policyKey) || plan.logPath.includes('?')) return 'key in the log'
  for (const name of [
    'host',
    'content-length',
    'transfer-encoding',
    'connection',
    'upgrade',
    'te',
  ]) {
    if (names.includes(name)) return `${name} passed`
  }
  const keyish = /api-?key|auth|cookie|token|organization|method-override|original-url|forwarded/
  const authorizations = plan.fields.filter(([name]) => name.toLowerCase() === 'authorization')
  for (const name of names) {
    if (name !== 'authorization' && keyish.test(name)) return `${name} passed`
  }
  const parameters = [...query.split(/[&;]/)].map(
    (piece) => piece.split('=')[0]?.toLowerCase() ?? '',
  )
  if (parameters.some((name) => /^(?:key|token|access_token)$/.test(name)))
    return 'key in the query'
  if (plan.grant.id === 'g2') {
    if (!new RegExp(`^/bot${policyKey}/[^/]+$`).test(path)) return 'path'
    if (authorizations.length > 0) return 'second key'
    return undefined
  }
  if (authorizations.length !== 1 || authorizations[0]?.[1] !== `Bearer ${policyKey}`) return 'key'
  if (/^\/v1\/models(?:\/|$)/.test(path)) {
    return plan.method === 'GET' || plan.method === 'HEAD' ? undefined : 'method'
  }
  if (!/^\/v1\/[^/]+\/send$/.test(path) || plan.method !== 'POST') return 'path or method'
  if (body.length > 64) return 'body too large'
  const content = body.toString()
  if (content.includes(attackKey)) return "attacker's key in the body"
  if (/43/.test(content)) return 'recipient'
  return content.includes('42') ? undefined : 'no recipient'
}

if (process.argv[1]?.endsWith('fuzz/http.js') === true) {
  const runs = Number(process.argv[2] ?? process.env['FUZZ_N'] ?? 1_000_000)
  const seed = Number(process.argv[3] ?? 1)
  const started = performance.now()
  const result = fuzzHttp(runs, seed)
  const seconds = ((performance.now() - started) / 1000).toFixed(1)
  process.stdout.write(`${JSON.stringify({ fuzz: 'http', seed, ...result })} in ${seconds} s\n`)
}
