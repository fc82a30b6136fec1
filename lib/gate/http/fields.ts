/**
 * Header fields: which may come once, which end at this hop (RFC 9110 §7.6.1).
 * Invariant: framing fields never pass; they are written anew by the HTTP library for each side.
 */
import type { Field } from './message.js'

const hopByHop = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
])

/** Written by this side of the connection. */
const rewritten = new Set(['host', 'content-length', 'expect', 'date'])

/** Two of these, and two servers may take different ones. */
const single = new Set([
  'host',
  'content-length',
  'content-type',
  'content-encoding',
  'transfer-encoding',
  'expect',
])

/** Why fields can't stand beside each other; `undefined`: they can. */
export function fieldProblem(fields: readonly Field[]): string | undefined {
  const seen = new Set<string>()
  for (const [name] of fields) {
    const lower = name.toLowerCase()
    if (single.has(lower) && seen.has(lower)) return `two ${lower}`
    seen.add(lower)
  }
  if (seen.has('content-length') && seen.has('transfer-encoding')) {
    return 'content-length and transfer-encoding'
  }
  // It would be judged, and not be sent.
  for (const option of connectionOptions(fields)) {
    if (seen.has(option) && !hopByHop.has(option)) return `connection: ${option}`
  }
  return undefined
}

/** The fields of a request that go on to the other side, in order. */
export function endToEnd(fields: readonly Field[]): Field[] {
  const named = connectionOptions(fields)
  return fields.filter(([name]) => {
    const lower = name.toLowerCase()
    return !hopByHop.has(lower) && !rewritten.has(lower) && !named.has(lower)
  })
}

/** The fields of a response that go on to the client; `content-length` and `date` are the origin's. */
export function endToEndResponse(fields: readonly Field[]): Field[] {
  const named = connectionOptions(fields)
  return fields.filter(([name]) => {
    const lower = name.toLowerCase()
    return !hopByHop.has(lower) && !named.has(lower)
  })
}

function connectionOptions(fields: readonly Field[]): Set<string> {
  const options = new Set<string>()
  for (const [name, value] of fields) {
    if (name.toLowerCase() !== 'connection') continue
    for (const option of value.split(',')) options.add(option.trim().toLowerCase())
  }
  return options
}

/** Pairs from Node's flat `rawHeaders`. */
export function pairs(raw: readonly string[]): Field[] {
  const out: Field[] = []
  for (let index = 0; index + 1 < raw.length; index += 2) {
    out.push([raw[index] ?? '', raw[index + 1] ?? ''])
  }
  return out
}
