/**
 * HTTP rules of a grant: method, path, query, JSON fields, body size.
 * Invariant: a path that the gate would see in another form after normalising is refused, so that a
 * rule always means what it says.
 */
import { compact } from '../layer.js'
import { type Problem, problem, quote } from '../problem.js'
import type { HttpRule } from '../types.js'
import { parseSize } from '../units.js'
import type { Field, Reader } from './reader.js'

/** One HttpRule for each method that is named. */
export function readRules(reader: Reader, field: Field | undefined): readonly HttpRule[] {
  return reader.list(field).flatMap((item) => readRule(reader, item))
}

function readRule(reader: Reader, item: Field): readonly HttpRule[] {
  const fields = reader.map(item, 'rule')
  if (!reader.isMap(item)) return []
  for (const key of ['method', 'path'] as const) {
    if (!fields.has(key)) {
      reader.failAt(
        item,
        `${item.where} has no ${key}`,
        key === 'path' ? 'write path: /v1/**' : 'write method: POST, or "*" for all',
      )
    }
  }
  const methods = reader
    .listOrOne(fields.get('method'))
    .map((field) => reader.parsed(field, parseMethod))
  const path = reader.parsed(fields.get('path'), parsePath)
  const rest = compact({
    query: readChoices(reader, fields.get('query'), (field) => reader.text(field)),
    json: readChoices(reader, fields.get('json'), (field) => reader.scalar(field)),
    maxBody: reader.parsedNumber(fields.get('maxBody'), parseSize),
  })
  if (path === undefined) return []
  return methods.flatMap((method) => (method === undefined ? [] : [{ method, path, ...rest }]))
}

/** RFC 9110 §5.6.2: a method is a token. */
function parseMethod(text: string): string | Problem {
  if (text === '*') return text
  if (/^[A-Z][A-Z-]{0,31}$/.test(text)) return text
  return problem(
    `${quote(text)} is not a method`,
    /^[a-z-]+$/i.test(text)
      ? `write ${text.toUpperCase()}`
      : 'write e.g. GET, POST, or "*" for all',
  )
}

/** A path glob: `*` within one segment, `**` as a whole segment for any number of them. */
function parsePath(text: string): string | Problem {
  const given = quote(text)
  if (!text.startsWith('/'))
    return problem(`the path ${given} starts with no slash`, `write /${text}`)
  if (/[?#]/.test(text)) {
    return problem(`the path ${given} has a query in it`, 'write parameters under query')
  }
  if (!/^[\x21-\x7e]+$/.test(text)) {
    return problem(`the path ${given} is not plain ASCII`, 'write other characters as %XX')
  }
  if (text.includes('\\') || /%(?:2f|5c|2e|25|00)/i.test(text)) {
    return problem(
      `the path ${given} has a character that changes its meaning when decoded`,
      'leave out encoded slashes, dots and percent signs, and backslashes',
    )
  }
  if (/%(?![0-9A-Fa-f]{2})/.test(text)) {
    return problem(`the path ${given} has a broken escape`, 'write %XX with two hex digits')
  }
  const segments = text.slice(1).split('/')
  if (segments.some((segment) => segment === '.' || segment === '..')) {
    return problem(`the path ${given} has dot segments`, 'write the path as it ends up')
  }
  if (segments.slice(0, -1).includes('')) {
    return problem(`the path ${given} has a doubled slash`, 'write one slash')
  }
  if (segments.some((segment) => segment.includes('**') && segment !== '**')) {
    return problem(
      `the path ${given} has ** inside a segment`,
      'write /**/ as a segment of its own',
    )
  }
  // Each ** may try every length: a few bound the gate's work.
  if (segments.filter((segment) => segment === '**').length > 3) {
    return problem(`the path ${given} has more than three **`, 'write several rules')
  }
  const tokens = text.match(/\{[^}]*\}?/g) ?? []
  if (tokens.some((token) => token !== '{token}') || tokens.length > 1) {
    return problem(`the path ${given} has braces in it`, 'only {token}, once, stands for the key')
  }
  return text
}

/** `name: value` or `name: [value, value]`. */
function readChoices<T>(
  reader: Reader,
  field: Field | undefined,
  read: (field: Field) => T | undefined,
): Readonly<Record<string, readonly T[]>> | undefined {
  if (!field) return undefined
  const choices: [string, readonly T[]][] = []
  for (const [name, value] of reader.dictionary(field)) {
    const values = reader.listOrOne(value).map(read)
    choices.push([name, values.filter((v): v is T & {} => v !== undefined)])
  }
  return Object.fromEntries(choices)
}
