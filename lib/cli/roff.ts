/**
 * Text for roff(7). Pure.
 */

/** Text that roff takes as it is: no escapes, no line that is read as a request, hyphens that stay hyphens. */
export function roff(text: string): string {
  return text
    .replaceAll('\\', String.raw`\e`)
    .replaceAll('…', '...')
    .replaceAll('-', String.raw`\-`)
    .replace(/^([.'])/, String.raw`\&$1`)
}
