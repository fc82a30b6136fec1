/**
 * A mistake in something that was written by hand: what is wrong and what would be right.
 * Invariant: parsers of single values return it instead of throwing, so that all mistakes can be told
 * at once; text from outside gets into a message only through `quote`.
 */
import { looksSecret } from './secrets.js'

export interface Problem {
  /** What is wrong, as a clause: `"*" grants every name`. */
  readonly problem: string
  /** What would be right: `name the hosts`. */
  readonly hint: string
}

export function problem(what: string, hint: string): Problem {
  return { problem: what, hint }
}

export function isProblem(value: unknown): value is Problem {
  return typeof value === 'object' && value !== null && 'problem' in value && 'hint' in value
}

/** Quotes text of unknown origin for a message: one line, printable ASCII, at most 60 characters, no secret. */
export function quote(text: string): string {
  if (looksSecret(text)) return '(a secret, not shown)'
  const clean = text.replace(
    /[^\x20-\x7e]/gu,
    (c) => `\\u{${(c.codePointAt(0) ?? 0).toString(16)}}`,
  )
  return `"${clean.length > 60 ? `${clean.slice(0, 57)}...` : clean}"`
}
