/**
 * Takes secrets out of text on its way to a log, an error or a terminal.
 * Invariant: neither a value nor its usual encodings are left, in whatever case, nor the beginning of one where the
 * text was cut off.
 */

export type Scrub = (text: string) => string

interface Form {
  /** Lower case. */
  readonly form: string
  readonly id: string
}

/** A beginning this short says nothing: it is a public prefix, or guessed as easily. */
const minBeginning = 8

/** A function that replaces every occurrence of the values, as they are or encoded, by `[ID]`. */
export function createScrub(
  credentials: readonly { readonly id: string; readonly value: string }[],
): Scrub {
  const forms = credentials
    .flatMap(({ id, value }) => encodings(value).map((form) => ({ form: form.toLowerCase(), id })))
    // The longest first: a shorter one may be part of it.
    .sort((a, b) => b.form.length - a.form.length)
  if (forms.length === 0) return (text) => text
  const ids = new Map(forms.map(({ form, id }) => [form, id]))
  // Host names come in lower case.
  const any = new RegExp(forms.map(({ form }) => escape(form)).join('|'), 'gi')
  return (text) =>
    withoutBeginning(
      text.replace(any, (found) => `[${ids.get(found.toLowerCase()) ?? 'secret'}]`),
      forms,
    )
}

/** `error` with its texts scrubbed, its causes' too. */
export function scrubError(error: unknown, scrub: Scrub): unknown {
  if (!(error instanceof Error)) return typeof error === 'string' ? scrub(error) : error
  error.message = scrub(error.message)
  if (error.stack !== undefined) error.stack = scrub(error.stack)
  if ('hint' in error && typeof error.hint === 'string') {
    Object.assign(error, { hint: scrub(error.hint) })
  }
  if (error.cause !== undefined) error.cause = scrubError(error.cause, scrub)
  return error
}

function encodings(value: string): string[] {
  const bytes = Buffer.from(value)
  const forms = [
    value,
    encodeURIComponent(value),
    JSON.stringify(value).slice(1, -1),
    bytes.toString('hex'),
    ...[0, 1, 2].flatMap((before) => base64Within(bytes, before)),
  ]
  return [...new Set(forms)].filter((form) => form.length >= minBeginning)
}

/** What of the base64 of `before` bytes, these, and anything behind is sure: `user:KEY` and the like. */
function base64Within(bytes: Buffer, before: number): string[] {
  const padded = Buffer.concat([Buffer.alloc(before), bytes])
  const first = Math.ceil((before * 8) / 6)
  const sure = Math.floor((padded.length * 8) / 6)
  return [padded.toString('base64'), padded.toString('base64url')].map((text) =>
    text.slice(first, sure),
  )
}

/** Texts are cut to a length: what is left at the end may be most of a key. */
function withoutBeginning(text: string, forms: readonly Form[]): string {
  const body = text.endsWith('…') ? text.slice(0, -1) : text
  const lower = body.slice(-4096).toLowerCase()
  for (const { form, id } of forms) {
    for (let length = Math.min(form.length - 1, lower.length); length >= minBeginning; length--) {
      if (lower.endsWith(form.slice(0, length))) {
        return `${body.slice(0, body.length - length)}[${id}]`
      }
    }
  }
  return text
}

function escape(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')
}
