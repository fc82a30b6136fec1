/**
 * Finds the key that a request presents, compares it with the policy's, and puts the policy's in.
 * Invariant: what leaves is written from the policy's value; the client's bytes are only compared.
 */
import type { ResolvedCredential } from '../protocol.js'
import {
  credentialProtocol,
  isCredentialHeader,
  isCredentialParameter,
  plainHeader,
  plainParameter,
} from './foreign.js'
import { deny, type Denial, type Field } from './message.js'
import { sameSecret, shortHash } from './secrets.js'
import type { Parameter } from './target.js'

/** A request as it is rebuilt around its credential. */
export interface Draft {
  fields: Field[]
  segments: readonly string[] | undefined
  parameters: readonly Parameter[]
}

/** GitHub, GitLab and Bitbucket take a token as password whatever the user; this one all of them accept. */
const basicUser = 'x-access-token'

/** Applies a credential to a draft in place, or says why the request must not leave. */
export function applyCredential(
  draft: Draft,
  given: ResolvedCredential,
  tokenAt: number | undefined,
): Denial | undefined {
  const credential = asPresented(draft, given)
  const foreign = findForeign(draft, credential)
  if (foreign !== undefined) return foreign
  switch (credential.in.kind) {
    case 'header':
      return applyHeader(draft, credential, credential.in.name.toLowerCase())
    case 'basic':
      return applyHeader(draft, credential, 'authorization')
    case 'query':
      return applyQuery(draft, credential, credential.in.name)
    case 'path':
      return applyPath(draft, credential, credential.in.prefix, tokenAt)
    case 'body':
      return undefined // Judged with the body.
  }
}

/**
 * Hosts that take a key in a header of their own take it as a bearer token too, and some clients
 * (Anthropic's since 1.0) send it so: then that is its place. Both at once stay one too many.
 */
function asPresented(draft: Draft, credential: ResolvedCredential): ResolvedCredential {
  if (credential.in.kind !== 'header') return credential
  const own = credential.in.name.toLowerCase()
  const has = (name: string) => draft.fields.some(([field]) => field.toLowerCase() === name)
  if (has(own) || !has('authorization')) return credential
  return { ...credential, in: { kind: 'header', name: 'authorization' }, format: 'Bearer {}' }
}

/** Why a presented key is not the policy's; `undefined`: it is. */
export function judgeKey(presented: string, credential: ResolvedCredential): Denial | undefined {
  const expected = credential.mode === 'inject' ? credential.placeholder : credential.value
  if (expected !== undefined && sameSecret(presented, expected)) return undefined
  return deny(403, 'credential-mismatch', { detail: `key #${shortHash(presented)}` })
}

function findForeign(draft: Draft, credential: ResolvedCredential): Denial | undefined {
  const place = credential.in
  const own =
    place.kind === 'header'
      ? place.name.toLowerCase()
      : place.kind === 'basic'
        ? 'authorization'
        : undefined
  let seen = 0
  for (const [name, value] of draft.fields) {
    const lower = name.toLowerCase()
    if (lower === own && ++seen === 1) continue
    const isOwn = own !== undefined && plainHeader(lower) === plainHeader(own)
    const protocol = lower === 'sec-websocket-protocol' ? credentialProtocol(value) : undefined
    if (isOwn || isCredentialHeader(lower) || protocol !== undefined) {
      return deny(403, 'credential-extra', { detail: `header ${lower} #${shortHash(value)}` })
    }
  }
  const ownParameter = place.kind === 'query' ? place.name : undefined
  const plainOwn = ownParameter === undefined ? undefined : plainParameter(ownParameter)
  let seenParameters = 0
  for (const parameter of draft.parameters) {
    // Some servers also split at `;`.
    for (const piece of [parameter.name, ...laterNames(parameter.value)]) {
      if (piece === ownParameter && ++seenParameters === 1) continue
      if (plainParameter(piece) === plainOwn || isCredentialParameter(piece)) {
        const detail = `parameter ${piece.slice(0, 40)} #${shortHash(parameter.value)}`
        return deny(403, 'credential-extra', { detail })
      }
    }
  }
  return undefined
}

function laterNames(value: string): string[] {
  if (!value.includes(';')) return []
  return value
    .split(';')
    .slice(1)
    .map((piece) => piece.split('=')[0] ?? '')
}

function applyHeader(
  draft: Draft,
  credential: ResolvedCredential,
  name: string,
): Denial | undefined {
  const at = draft.fields.findIndex(([field]) => field.toLowerCase() === name)
  const given = draft.fields[at]
  const isBasic = credential.in.kind === 'basic' || credential.format.includes('{b64:')
  if (given === undefined) {
    if (credential.mode === 'pin') {
      return deny(isBasic ? 401 : 403, 'credential-missing', { challenge: isBasic })
    }
  } else {
    const presented = presentedKey(given[1], name, credential)
    const denial = judgeKey(presented, credential)
    if (denial !== undefined) return denial
  }
  const field: Field = [given?.[0] ?? name, headerValue(credential)]
  draft.fields =
    given === undefined
      ? [...draft.fields, field]
      : draft.fields.map((other, index) => (index === at ? field : other))
  return undefined
}

/** The header's value with the policy's key in its place. */
export function headerValue(credential: ResolvedCredential): string {
  if (credential.in.kind === 'basic') {
    const text = credential.format.includes(':')
      ? credential.format.replace('{}', () => credential.value)
      : `${basicUser}:${credential.value}`
    return `Basic ${Buffer.from(text).toString('base64')}`
  }
  const format =
    credential.in.kind === 'header' &&
    credential.in.name.toLowerCase() === 'authorization' &&
    credential.format === '{}'
      ? 'Bearer {}'
      : credential.format
  return format.replace(/\{(?:b64:([^}]*))?\}/, (_whole, before: string | undefined) =>
    before === undefined
      ? credential.value
      : Buffer.from(before + credential.value).toString('base64'),
  )
}

/** The key within a header's value: after the scheme, or the password of Basic. Its form is not judged: it is rewritten. */
function presentedKey(value: string, name: string, credential: ResolvedCredential): string {
  if (name === 'authorization') {
    const match = /^([a-z]+) +([^ ,]+)$/i.exec(value.trim())
    const scheme = match?.[1]?.toLowerCase()
    const rest = match?.[2] ?? ''
    if (scheme === 'basic') {
      const text = Buffer.from(rest, 'base64').toString('utf8')
      return text.slice(text.indexOf(':') + 1)
    }
    // GitHub's clients say `token` where the documentation says `Bearer`.
    if (scheme === 'bearer' || scheme === 'token') return rest
  }
  const [before = '', after = ''] = credential.format.split(/\{[^}]*\}/)
  const fits =
    value.length >= before.length + after.length &&
    value.toLowerCase().startsWith(before.toLowerCase()) &&
    value.endsWith(after)
  return fits ? value.slice(before.length, value.length - after.length) : value
}

function applyQuery(
  draft: Draft,
  credential: ResolvedCredential,
  name: string,
): Denial | undefined {
  const encoded = {
    raw: `${encodeURIComponent(name)}=${encodeURIComponent(credential.value)}`,
    name,
    value: credential.value,
  }
  const given = draft.parameters.find((parameter) => parameter.name === name)
  if (given === undefined) {
    if (credential.mode === 'pin') return deny(403, 'credential-missing')
    draft.parameters = [...draft.parameters, encoded]
    return undefined
  }
  const denial = judgeKey(given.value, credential)
  if (denial !== undefined) return denial
  draft.parameters = draft.parameters.map((other) => (other === given ? encoded : other))
  return undefined
}

function applyPath(
  draft: Draft,
  credential: ResolvedCredential,
  prefix: string,
  tokenAt: number | undefined,
): Denial | undefined {
  const { segments } = draft
  if (segments === undefined) return deny(403, 'path-not-granted', { detail: 'ambiguous path' })
  // Without a rule that says where: the first segment that could be one, for a host that takes any case too.
  const isOne = (segment: string) => segment.toLowerCase().startsWith(prefix.toLowerCase())
  const at = tokenAt ?? segments.findIndex(isOne)
  const segment = segments[at]
  if (segment === undefined || !isOne(segment)) return deny(403, 'credential-missing')
  let presented: string
  try {
    presented = decodeURIComponent(segment.slice(prefix.length))
  } catch {
    return deny(400, 'http-malformed', { detail: 'invalid encoding in the path' })
  }
  const denial = judgeKey(presented, credential)
  if (denial !== undefined) return denial
  // A colon is Telegram's own and legal in a segment (RFC 3986 §3.3).
  const written = prefix + encodeURIComponent(credential.value).replaceAll('%3A', ':')
  draft.segments = segments.map((other, index) => (index === at ? written : other))
  return undefined
}
