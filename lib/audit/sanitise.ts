/**
 * Takes decisions in from the gate, which the warden does not trust.
 * Invariant: what comes out has only known fields of the right kinds, bounded, and no character that
 * a terminal would obey.
 */
import { type Decision, type Layer, type ReasonCode, reasons } from './record.js'

/** Longest free text in a record, in characters. */
const maxText = 256

const layers: ReadonlySet<string> = new Set<Layer>(['dns', 'tcp', 'udp', 'sni', 'http', 'kernel'])

// C0 and C1 controls, DEL, and everything invisible or reordering (bidi, zero width): a name must not
// be able to move the cursor, set a title, or look like another.
const unsafe =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g

/** Text of a stranger made safe to print: controls as `\x1b`, at most `limit` characters. */
export function safeText(text: string, limit = maxText): string {
  const cut = text.length > limit ? `${text.slice(0, limit - 1)}…` : text
  return cut.replace(unsafe, (c) => {
    const code = c.charCodeAt(0).toString(16)
    return code.length <= 2 ? `\\x${code.padStart(2, '0')}` : `\\u${code.padStart(4, '0')}`
  })
}

/** The decision, or `undefined` where its essentials are missing or of the wrong kind. */
export function sanitiseDecision(value: unknown): Decision | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const v = value as Readonly<Record<string, unknown>>
  const { verdict, direction } = v
  if (verdict !== 'allow' && verdict !== 'deny') return undefined
  if (direction !== 'out' && direction !== 'in') return undefined
  if (typeof v['reason'] !== 'string' || !Object.hasOwn(reasons, v['reason'])) return undefined
  if (typeof v['layer'] !== 'string' || !layers.has(v['layer'])) return undefined
  if (typeof v['proto'] !== 'string') return undefined
  return {
    verdict,
    reason: v['reason'] as ReasonCode,
    layer: v['layer'] as Layer,
    direction,
    proto: safeText(v['proto'], 16),
    ...text(v, 'address', 64),
    ...count(v, 'port', 65535),
    ...text(v, 'name'),
    ...text(v, 'grant', 32),
    ...text(v, 'method', 32),
    ...text(v, 'path'),
    ...count(v, 'up'),
    ...count(v, 'down'),
    ...count(v, 'count'),
    ...text(v, 'detail'),
    ...count(v, 'pid', 0x7fffffff),
    ...text(v, 'command'),
  }
}

/** Those that are decisions; the others are counted as `bad`. */
export function sanitiseDecisions(values: unknown): {
  readonly decisions: readonly Decision[]
  readonly bad: number
} {
  if (!Array.isArray(values)) return { decisions: [], bad: 1 }
  const decisions = values.map(sanitiseDecision).filter((d) => d !== undefined)
  return { decisions, bad: values.length - decisions.length }
}

type Fields = Readonly<Record<string, unknown>>

function text<K extends string>(v: Fields, key: K, limit = maxText): Partial<Record<K, string>> {
  const value = v[key]
  return typeof value === 'string' ? ({ [key]: safeText(value, limit) } as Record<K, string>) : {}
}

function count<K extends string>(
  v: Fields,
  key: K,
  max = Number.MAX_SAFE_INTEGER,
): Partial<Record<K, number>> {
  const value = v[key]
  const isCount = typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max
  return isCount ? ({ [key]: value } as Record<K, number>) : {}
}
