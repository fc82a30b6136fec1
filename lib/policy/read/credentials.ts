/**
 * credentials: where a key comes from, where it may stand in a request, how the command sees it.
 * Invariant: the value itself is never in a policy, and no message repeats what might be one.
 */
import { compact } from '../layer.js'
import { type Problem, problem, quote } from '../problem.js'
import type { Credential, CredentialPlace, CredentialSource } from '../types.js'
import { parseVariable } from './settings.js'
import type { Field, Reader } from './reader.js'

const sourceHint = 'write env:NAME, file:/path, exec:COMMAND, keychain:ITEM or systemd:NAME'

export function readCredentials(
  reader: Reader,
  field: Field | undefined,
): ReadonlyMap<string, Credential> {
  const credentials = new Map<string, Credential>()
  if (!field) return credentials
  for (const [id, entry] of reader.dictionary(field)) {
    if (!/^[a-z][a-z0-9-]{0,62}$/.test(id)) {
      reader.fail(
        reader.originAt(entry.at.range?.[0] ?? 0),
        `${quote(id)} is not a credential's name`,
        'write lower-case letters, digits and hyphens',
      )
      continue
    }
    const credential = readCredential(reader, id, entry)
    if (credential) credentials.set(id, credential)
  }
  return credentials
}

function readCredential(reader: Reader, id: string, entry: Field): Credential | undefined {
  const fields = reader.map(entry, 'credential')
  if (!reader.isMap(entry)) return undefined
  for (const [key, hint] of [
    ['from', sourceHint],
    ['in', placeHint],
  ] as const) {
    if (!fields.has(key)) {
      reader.fail(reader.originAt(entry.at.range?.[0] ?? 0), `${entry.where} has no ${key}`, hint)
    }
  }
  const from = readSource(reader, fields.get('from'))
  const place = reader.parsed(fields.get('in'), parsePlace)
  const mode = reader.oneOf(fields.get('mode'), ['pin', 'inject']) ?? 'pin'
  const format = reader.parsed(fields.get('format'), parseFormat)
  const env =
    reader.parsed(fields.get('env'), parseVariable) ??
    (from?.kind === 'env' && !fields.has('env') ? from.name : undefined)
  const optional = reader.bool(fields.get('optional')) ?? false
  if (mode === 'inject' && from && env === undefined && !fields.has('env')) {
    reader.fail(
      reader.originAt(entry.at.range?.[0] ?? 0),
      `${entry.where} injects a key, and the command sees no placeholder`,
      'add env: NAME, the variable that the command reads',
    )
  }
  if (place && format !== undefined && !fitsFormat(place, format)) {
    reader.failAt(
      fields.get('format') ?? entry,
      `the format ${quote(format)} does not go with in: ${place.kind}`,
      place.kind === 'basic' ? 'write USER:{}' : 'leave it out',
    )
  }
  if (!from || !place) return undefined
  const origin = reader.originAt(entry.at.range?.[0] ?? 0)
  const shape = format ?? defaultFormat(place)
  return { id, from, mode, in: place, format: shape, optional, origin, ...compact({ env }) }
}

function defaultFormat(place: CredentialPlace): string {
  return place.kind === 'header' && place.name === 'authorization' ? 'Bearer {}' : '{}'
}

function readSource(reader: Reader, field: Field | undefined): CredentialSource | undefined {
  if (!field || !reader.isMap(field)) return reader.parsed(field, parseSource)
  const items = reader.list(reader.map(field, 'exec').get('exec'))
  const argv = items.map((item) => reader.text(item))
  const known = argv.filter((word) => word !== undefined)
  if (known.length === 0 || known.length < argv.length) return undefined
  return { kind: 'exec', argv: known }
}

/** A source never shows its text in a message: it may be the key itself. */
function parseSource(text: string): CredentialSource | Problem {
  const colon = text.indexOf(':')
  const rest = text.slice(colon + 1)
  switch (colon < 0 ? '' : text.slice(0, colon)) {
    case 'env':
      return /^[A-Za-z_][A-Za-z0-9_]{0,127}$/.test(rest)
        ? { kind: 'env', name: rest }
        : problem('env: is followed by no variable name', 'write e.g. env:OPENAI_API_KEY')
    case 'file':
      return rest.startsWith('/') && !rest.split('/').includes('..')
        ? { kind: 'file', path: rest }
        : problem('file: is followed by no absolute path', 'write e.g. file:/etc/agentjail/key')
    case 'exec':
      return parseExec(rest)
    case 'keychain':
      return /^[\x20-\x7e]{1,128}$/.test(rest) && !rest.startsWith('-')
        ? { kind: 'keychain', item: rest }
        : problem('keychain: is followed by no item name', 'write e.g. keychain:openai')
    case 'systemd':
      return /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(rest)
        ? { kind: 'systemd', name: rest }
        : problem('systemd: is followed by no credential name', 'write e.g. systemd:openai')
    default:
      return problem('from names no source (its text is not shown: it may be the key)', sourceHint)
  }
}

function parseExec(rest: string): CredentialSource | Problem {
  const hint = 'write from: {exec: [gh, auth, token]}'
  if (/["'\\$`|&;<>(){}*?~]/.test(rest)) {
    return problem('exec: has characters of a shell in it, and no shell reads it', hint)
  }
  const argv = rest.split(' ').filter((word) => word !== '')
  return argv.length > 0 ? { kind: 'exec', argv } : problem('exec: is followed by no command', hint)
}

const placeHint = 'write header:NAME, query:NAME, path:PREFIX, basic or body:NAME'

/** Headers that frame or route the request (RFC 9110, 9112): a key in one of them would break it. */
const framing: ReadonlySet<string> = new Set([
  'host',
  'connection',
  'content-length',
  'content-type',
  'transfer-encoding',
  'te',
  'trailer',
  'upgrade',
  'expect',
])

function parsePlace(text: string): CredentialPlace | Problem {
  const [kind = '', ...more] = text.split(':')
  const name = more.join(':')
  if (kind === 'basic' && more.length === 0) return { kind }
  if (kind === 'path' && /^[A-Za-z0-9_.-]{0,64}$/.test(name)) return { kind, prefix: name }
  if (kind === 'header') {
    if (framing.has(name.toLowerCase())) {
      return problem(`the header ${name.toLowerCase()} never holds a key`, 'name the right header')
    }
    // RFC 9110 §5.1: a field name is a token.
    if (/^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$/.test(name)) return { kind, name: name.toLowerCase() }
  }
  if ((kind === 'query' || kind === 'body') && /^[A-Za-z0-9_.[\]-]{1,64}$/.test(name)) {
    return { kind, name }
  }
  return problem(`${quote(text)} is no place for a key`, placeHint)
}

/** The key as it is, or base64 of a prefix and the key (`{b64:user:}`, RFC 7617 by hand). */
const keyMark = /\{(?:b64:[^{}]*)?\}/g

function parseFormat(text: string): string | Problem {
  const marks = text.match(keyMark)?.length ?? 0
  if (marks === 1 && /^[\x20-\x7e]+$/.test(text)) return text
  return problem(
    `the format has ${marks > 1 ? 'more than one {}' : 'no {}'}`,
    'write {} once where the key stands, e.g. "Bearer {}"',
  )
}

function fitsFormat(place: CredentialPlace, format: string): boolean {
  if (place.kind === 'basic') return /^[^:{}]+:\{\}$/.test(format)
  return place.kind !== 'path'
}
