/**
 * Looks for credentials, and for another method, among the fields of a multipart body as it streams (RFC 7578).
 * Invariant: a field's name is read as any server could read it: folded lines, several `name`s, every encoding; what cannot
 * be read is refused.
 */
import { isCredentialParameter } from './foreign.js'
import { type BodyScan, deny, type Denial } from './message.js'
import { isMethodField } from './method-scan.js'

/** Longest head of a part that is read; real ones have a few hundred bytes. */
const maxLine = 8192
const disposition = /content-disposition\s*:([^\r\n]*)/gi
const beginning = /(?:^|[\r\n])[ \t]*content-disposition/gi
/** A line break that no folded line follows. */
const end = /[\r\n][^\r\n \t]|\r\n\r\n|\n\n/
/** As a parameter: `filename` is another. `*` and digits: in pieces, or encoded (RFC 2231). */
const names =
  /(?<![a-z0-9_-])name(\*[0-9]*\*?)?\s*=\s*(?:[a-z0-9-]*'[a-z-]*')?(?:"((?:[^"\\]|\\.)*)|([^;\s"]*))/gi

export class MultipartScan {
  readonly #scan: Pick<BodyScan, 'credentials' | 'method'>
  #tail = ''

  constructor(scan: Pick<BodyScan, 'credentials' | 'method'>) {
    this.#scan = scan
  }

  /** Asked before each chunk of the body goes on. */
  look(chunk: Buffer): Denial | undefined {
    const text = this.#tail + chunk.toString('latin1')
    for (const [, line = ''] of text.replace(/[\r\n]+[ \t]+/g, ' ').matchAll(disposition)) {
      const denial = judge(line, this.#scan)
      if (denial !== undefined) return denial
    }
    const begun = [...text.matchAll(beginning)].at(-1)?.index
    const rest = begun === undefined ? '' : text.slice(begun + 1)
    if (begun === undefined || end.test(rest)) {
      // The word itself may come in two chunks.
      this.#tail = text.slice(-64)
      return undefined
    }
    this.#tail = text.slice(begun)
    if (rest.length <= maxLine) return undefined
    return deny(400, 'http-malformed', { detail: "a part's head is too long to be judged" })
  }
}

function judge(
  line: string,
  { credentials, method }: Pick<BodyScan, 'credentials' | 'method'>,
): Denial | undefined {
  for (const [, form = '', quoted, plain] of line.matchAll(names)) {
    const name = decode(quoted ?? plain ?? '')
    if (/[0-9]/.test(form)) {
      return deny(400, 'http-malformed', { detail: "a part's name comes in pieces" })
    }
    if (method && isMethodField(name)) {
      return deny(403, 'method-not-granted', { detail: 'part _method' })
    }
    if (credentials && isCredentialParameter(name)) {
      return deny(403, 'credential-extra', { detail: `part ${name.slice(0, 40)}` })
    }
  }
  return undefined
}

function decode(name: string): string {
  try {
    return decodeURIComponent(name)
  } catch {
    return name
  }
}
