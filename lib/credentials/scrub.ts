/**
 * Takes secrets out of text on its way to a log, an error or a terminal.
 * Invariant: neither a value nor its usual encodings are left.
 */

/** A function that replaces every occurrence of the values, as they are or encoded, by `[ID]`. */
export function createScrub(
  credentials: readonly { readonly id: string; readonly value: string }[],
): (text: string) => string {
  const forms = credentials
    .flatMap(({ id, value }) => encodings(value).map((form) => ({ form, id })))
    // The longest first: a shorter one may be part of it.
    .sort((a, b) => b.form.length - a.form.length)
  return (text) => {
    let out = text
    for (const { form, id } of forms) out = out.replaceAll(form, `[${id}]`)
    return out
  }
}

function encodings(value: string): string[] {
  const bytes = Buffer.from(value)
  const base64 = bytes.toString('base64').replace(/=+$/, '')
  const forms = [
    value,
    encodeURIComponent(value),
    JSON.stringify(value).slice(1, -1),
    base64,
    bytes.toString('base64url'),
    bytes.toString('hex'),
  ]
  return [...new Set(forms)].filter((form) => form !== '')
}
