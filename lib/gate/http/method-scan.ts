/**
 * Looks for a field `_method` in a query or a body as it streams: Rails, Laravel, Symfony and WordPress act on it in
 * place of the request's own method.
 * Invariant: a name is found in any spelling that one of them reads, wherever the chunks are cut.
 */
import { deny, type Denial } from './message.js'

/** Of a field that stands alone, as of a part of a multipart body. */
export function isMethodField(name: string): boolean {
  return /^\s*[_.]method[^a-z0-9]*$/i.test(name)
}

const hex = (letter: string): string => letter.charCodeAt(0).toString(16)
const spelt = (escape: string): string =>
  'method'.replace(/./g, (m) => `(?:${m}|${escape}${hex(m)}|${escape}${hex(m.toUpperCase())})`)
const blank = String.raw`(?:[\s+]|%20|%09|%0[ad])`
/** PHP takes blanks off the front, a dot for the underscore, and ends a name at NUL. */
const inForm = new RegExp(
  `[&;]${blank}*(?:[_.]|%5f|%2e)${spelt('%')}(?:%00[^=&;]*|(?:%[0-9a-f]{2}|[^a-z0-9=&;%])*)=`,
  'i',
)
const formStart = new RegExp(`^([&;])${blank}+`, 'i')
/** In a string of JSON a quote has a backslash before it. */
const inJson = new RegExp(
  String.raw`"(?:_|\\u005f)` + spelt(String.raw`\\u00`) + String.raw`"\s*(?::|$)`,
  'i',
)
/** Longer than any spelling of the name. */
const kept = 256

export class MethodScan {
  readonly #format: 'form' | 'json'
  #tail: string

  constructor(format: 'form' | 'json') {
    this.#format = format
    this.#tail = format === 'form' ? '&' : ''
  }

  /** Asked before each chunk goes on. */
  look(chunk: Buffer): Denial | undefined {
    const text = this.#tail + chunk.toString('latin1')
    if ((this.#format === 'form' ? inForm : inJson).test(text))
      return deny(403, 'method-not-granted', { detail: 'field _method' })
    this.#tail = this.#format === 'form' ? beginningOfLast(text) : text.slice(-kept)
    return undefined
  }
}

/** Of the last field, which may go on; blanks in front, of which there may be any number, are one. */
function beginningOfLast(form: string): string {
  const last = form.slice(Math.max(form.lastIndexOf('&'), form.lastIndexOf(';')))
  return last.replace(formStart, '$1').slice(0, kept)
}
