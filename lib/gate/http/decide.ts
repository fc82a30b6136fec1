/**
 * Judges a request's head against the grants of its host. Pure.
 * Invariant: a request is allowed only by one grant (and one of its rules) as a whole, and nothing of
 * the request reaches upstream but what the resulting plan holds.
 */
import { METHODS } from 'node:http'
import type { ReasonCode } from '../../audit/record.js'
import type { Grant, HttpRule } from '../../policy/types.js'
import { reportGrant } from '../grants.js'
import type { ResolvedCredential } from '../protocol.js'
import { applyCredential, type Draft } from './credential.js'
import { endToEnd, fieldProblem } from './fields.js'
import { isCredentialHeader, overrideHeaders, plainHeader } from './foreign.js'
import {
  type BodyCheck,
  type BodyScan,
  deny,
  type Denial,
  type Judgement,
  type Place,
  type Plan,
  type RequestHead,
} from './message.js'
import { guardedPath, maskedPath } from './log-path.js'
import { MethodScan } from './method-scan.js'
import { matchPath } from './path-rules.js'
import {
  decodeLoosely,
  joinSegments,
  type Parameter,
  parseAuthority,
  parseParameters,
  parseTarget,
  type Target,
} from './target.js'

const knownMethods = new Set(METHODS)
const readMethods = new Set(['GET', 'HEAD', 'OPTIONS'])
const writeMethods = new Set([...readMethods, 'POST', 'PUT', 'PATCH'])

/** Later is nearer to being allowed; the nearest denial is the one reported. */
const nearness: readonly ReasonCode[] = [
  'protocol-not-granted',
  'path-not-granted',
  'method-not-granted',
  'credential-extra',
  'credential-missing',
  'credential-mismatch',
  'body-too-large',
  'body-not-granted',
]

/** Checks the authority that a request names against the connection it came on. */
export function judgeAuthority(authority: string, place: Place): Denial | undefined {
  const named = parseAuthority(authority)
  if (named === undefined) {
    return deny(400, 'http-malformed', { detail: `Host ${authority.slice(0, 100)}` })
  }
  const port = named.port ?? (place.isTls ? 443 : 80)
  if (named.name === place.name && port === place.port) return undefined
  const detail = `Host ${authority.slice(0, 100)}`
  return deny(421, 'host-mismatch', { detail, asked: { name: named.name, port } })
}

/**
 * The plans that could carry the request, best first; those with a `bodyCheck` still need its body.
 * `grants`: those of the place's name and port; never empty.
 */
export function judge(
  head: RequestHead,
  place: Place,
  grants: readonly Grant[],
  credentials: readonly ResolvedCredential[],
): Judgement {
  const malformed = fieldProblem(head.fields)
  if (malformed !== undefined) return deny(400, 'http-malformed', { detail: malformed })
  if (head.webSocket && head.hasBody) {
    return deny(400, 'http-malformed', { detail: 'a WebSocket with a body' })
  }
  if (!knownMethods.has(head.method) || head.method === 'CONNECT' || head.method === 'TRACE') {
    return deny(403, 'method-not-granted', { detail: head.method.slice(0, 40) })
  }
  const target = parseTarget(head.target)
  if (target === undefined) return deny(400, 'http-malformed', { detail: 'request target' })
  if (target.absolute !== undefined) {
    const denial = judgeAbsolute(target.absolute, place)
    if (denial !== undefined) return denial
  }
  // A stricter grant is not undone by a laxer one for the same name: inspected grants decide alone.
  const inspected = grants.filter((grant) => grant.inspect === 'http')
  const judged = inspected.length > 0 ? inspected : grants
  const elsewhere = findElsewhere(head, judged, credentials)
  if (elsewhere !== undefined) return elsewhere

  const plans: Plan[] = []
  const denials: Denial[] = []
  for (const grant of judged) {
    for (const rule of grant.inspect === 'http' && grant.rules.length > 0
      ? grant.rules
      : [undefined]) {
      const outcome = judgeRule(head, place, target, grant, rule, credentials)
      if (outcome.kind === 'allow') plans.push(outcome)
      else denials.push({ ...outcome, grant })
    }
  }
  if (plans.length > 0) return plans.sort(byEase)
  denials.sort((a, b) => nearness.indexOf(b.reason) - nearness.indexOf(a.reason))
  return denials[0] ?? deny(403, 'name-not-granted')
}

/** Plans that need no body first, then the larger limit. */
function byEase(a: Plan, b: Plan): number {
  const needs = Number(a.bodyCheck !== undefined) - Number(b.bodyCheck !== undefined)
  return needs || (b.maxBody ?? Infinity) - (a.maxBody ?? Infinity) || 0
}

function judgeAbsolute(
  absolute: { readonly scheme: string; readonly authority: string },
  place: Place,
): Denial | undefined {
  if (absolute.scheme !== (place.isTls ? 'https' : 'http')) {
    return deny(400, 'http-malformed', { detail: `scheme ${absolute.scheme}` })
  }
  return judgeAuthority(absolute.authority, place)
}

function judgeRule(
  head: RequestHead,
  place: Place,
  target: Target,
  grant: Grant,
  rule: HttpRule | undefined,
  credentials: readonly ResolvedCredential[],
): Plan | Denial {
  const credential = credentials.find((each) => each.id === grant.credential)
  if (grant.credential !== undefined && grant.inspect === 'http') {
    if (credential === undefined) return deny(403, 'credential-missing', { detail: 'no value' })
    // A key never travels in the clear.
    if (!place.isTls) return deny(403, 'protocol-not-granted', { detail: 'a key needs TLS' })
  }
  const own = grant.inspect === 'http' ? credential : undefined
  const isFree = grant.inspect !== 'http'

  const access = isFree ? undefined : judgeAccess(head, grant)
  if (access !== undefined) return access
  // Without rules no path is judged, and package names with an encoded slash must pass as they are.
  const judgesPath = rule !== undefined || own?.in.kind === 'path'
  if (judgesPath && target.segments === undefined) {
    return deny(403, 'path-not-granted', { detail: 'ambiguous path' })
  }
  const match = rule === undefined ? undefined : matchPath(rule.path, target.segments ?? [])
  if (rule !== undefined && match === undefined) return deny(403, 'path-not-granted')
  if (rule !== undefined && !methodFits(rule.method, head.method)) {
    return deny(403, 'method-not-granted')
  }
  const parameters = parseParameters(target.query ?? '')
  const judgesQuery = rule?.query !== undefined || rule?.json !== undefined || own !== undefined
  if (parameters === undefined && judgesQuery) {
    return deny(400, 'http-malformed', { detail: 'query encoding' })
  }
  if (rule !== undefined && !queryFits(rule, parameters ?? [])) {
    return deny(403, 'path-not-granted', { detail: 'query' })
  }
  const fields = endToEnd(head.fields).filter(([name]) => !isDropped(name))
  const override = isFree ? undefined : findOverride(fields)
  if (override !== undefined) return override
  const judgesMethod =
    !isFree && (grant.access !== 'full' || (rule !== undefined && rule.method !== '*'))
  const asked = judgesMethod
    ? new MethodScan('form').look(Buffer.from(target.query ?? '', 'latin1'))
    : undefined
  if (asked !== undefined) return asked

  const draft: Draft = { fields, segments: target.segments, parameters: parameters ?? [] }
  if (own !== undefined) {
    const denial = applyCredential(draft, own, match?.tokenAt)
    if (denial !== undefined) return denial
  }
  const maxBody = bodyLimit(grant, rule)
  if (maxBody !== undefined && (head.contentLength ?? 0) > maxBody) {
    return deny(413, 'body-too-large', { detail: `${String(head.contentLength)} bytes` })
  }
  const scan = bodyScan(head, { credentials: own !== undefined, method: judgesMethod })
  if (scan?.credentials === true && isEncoded(head)) {
    return deny(403, 'body-not-granted', { detail: 'compressed body' })
  }
  const path = judgesPath && draft.segments ? joinSegments(draft.segments) : target.rawPath
  const query = own === undefined ? target.query : queryText(draft.parameters, target.query)
  return {
    kind: 'allow',
    grant,
    rule,
    method: head.method,
    path: query === undefined ? path : `${path}?${query}`,
    logPath:
      grant.id === reportGrant
        ? guardedPath(target.rawPath)
        : maskedPath(
            judgesPath ? joinSegments(target.segments ?? []) : target.rawPath,
            credentials,
          ),
    fields: draft.fields,
    maxBody,
    bodyCheck: bodyCheck(head, rule, own),
    scan,
    credential: own,
  }
}

function judgeAccess(head: RequestHead, grant: Grant): Denial | undefined {
  const methods =
    grant.access === 'read-only'
      ? readMethods
      : grant.access === 'read-write'
        ? writeMethods
        : undefined
  if (methods !== undefined && !methods.has(head.method)) return deny(403, 'method-not-granted')
  if (head.webSocket && grant.access === 'read-only') {
    return deny(403, 'method-not-granted', { detail: 'a WebSocket writes' })
  }
  return undefined
}

/** HEAD asks for no more than GET does. */
function methodFits(rule: string, method: string): boolean {
  return rule === '*' || rule === method || (rule === 'GET' && method === 'HEAD')
}

function queryFits(rule: HttpRule, parameters: readonly Parameter[]): boolean {
  for (const [name, values] of Object.entries(rule.query ?? {})) {
    const given = parameters.filter((parameter) => sameName(parameter.name, name))
    if (given.length !== 1) return false
    const only = given[0]
    if (only?.name !== name || !values.includes(only.value)) return false
  }
  // A field judged in the body must not come in the query as well: which one wins is the server's choice.
  const judged = Object.keys(rule.json ?? {})
  return !parameters.some(({ name }) => judged.some((field) => sameName(name, field)))
}

/** `chat_id[]`, `Chat_Id` and ` chat_id` may all be `chat_id` to some server. */
function sameName(a: string, b: string): boolean {
  return plain(a) === plain(b)
}

function plain(name: string): string {
  return name.trim().toLowerCase().replace(/\[.*$/s, '')
}

function findOverride(fields: readonly (readonly [string, string])[]): Denial | undefined {
  for (const [name] of fields) {
    const what = overrideHeaders.get(plainHeader(name))
    if (what === 'method') return deny(403, 'method-not-granted', { detail: name.slice(0, 60) })
    if (what === 'path') return deny(403, 'path-not-granted', { detail: name.slice(0, 60) })
  }
  return undefined
}

function isDropped(name: string): boolean {
  return overrideHeaders.get(plainHeader(name)) === 'host'
}

function bodyLimit(grant: Grant, rule: HttpRule | undefined): number | undefined {
  if (grant.inspect !== 'http') return undefined
  // The body of a GET is an upload like any other.
  return grant.access === 'read-only' ? 0 : rule?.maxBody
}

const formType = /^application\/x-www-form-urlencoded(?:[;\s]|$)/
const jsonType = /^application\/(?:[a-z0-9.-]+\+)?json(?:[;\s]|$)/
const mediaType = /^[a-z0-9.+-]+\/[a-z0-9.+-]+\s*(?:;|$)/

function bodyCheck(
  head: RequestHead,
  rule: HttpRule | undefined,
  credential: ResolvedCredential | undefined,
): BodyCheck | undefined {
  const credentialField = credential?.in.kind === 'body' ? credential.in.name : undefined
  const needed =
    rule?.json !== undefined ||
    credentialField !== undefined ||
    // A form can carry a further key; so can whatever is not what it says.
    (credential !== undefined && isForm(contentType(head)) && head.hasBody)
  return needed ? { json: rule?.json, credentialField } : undefined
}

function bodyScan(
  head: RequestHead,
  { credentials, method }: Omit<BodyScan, 'format'>,
): BodyScan | undefined {
  const type = contentType(head)
  if (type.startsWith('multipart/'))
    return credentials || method ? { format: 'multipart', credentials, method } : undefined
  if (!method) return undefined
  const format = isForm(type) ? 'form' : jsonType.test(type) ? 'json' : undefined
  return format && { format, credentials: false, method }
}

/** Without a type that can be read, some servers look for a form. */
function isForm(type: string): boolean {
  return formType.test(type) || !mediaType.test(type)
}

/** Lower case, with parameters. */
export function contentType(head: Pick<RequestHead, 'fields'>): string {
  const field = head.fields.find(([name]) => name.toLowerCase() === 'content-type')
  return (field?.[1] ?? '').trim().toLowerCase()
}

/** The body is compressed. */
export function isEncoded({ fields }: Pick<RequestHead, 'fields'>): boolean {
  const encoding = fields.find(([name]) => name.toLowerCase() === 'content-encoding')?.[1]
  return encoding !== undefined && encoding.trim().toLowerCase() !== 'identity'
}

function queryText(parameters: readonly Parameter[], given: string | undefined) {
  if (parameters.length === 0 && given === undefined) return undefined
  return parameters.map((parameter) => parameter.raw).join('&')
}

/** A placeholder, or a pinned key, on its way to a host that it is not for. */
function findElsewhere(
  head: RequestHead,
  grants: readonly Grant[],
  credentials: readonly ResolvedCredential[],
): Denial | undefined {
  const isOwn = ({ id }: ResolvedCredential) => grants.some((grant) => grant.credential === id)
  // Two credentials may be one key in two places.
  const own = new Set(credentials.filter(isOwn).map(shownKey))
  const foreign = credentials.filter((credential) => !own.has(shownKey(credential)))
  if (foreign.length === 0) return undefined
  const texts = [head.target, decodeLoosely(head.target)]
  for (const [name, value] of head.fields) {
    texts.push(value)
    const basic = isCredentialHeader(name) && /^basic +(\S+)$/i.exec(value)
    if (basic) texts.push(Buffer.from(basic[1] ?? '', 'base64').toString('utf8'))
  }
  for (const credential of foreign) {
    const known = shownKey(credential)
    if (known === undefined || known.length < 8) continue
    if (texts.some((text) => text.includes(known))) {
      return deny(403, 'credential-elsewhere', { detail: `credential ${credential.id}` })
    }
  }
  return undefined
}

/** What the command holds of a credential. */
function shownKey(credential: ResolvedCredential): string | undefined {
  return credential.mode === 'inject' ? credential.placeholder : credential.value
}
