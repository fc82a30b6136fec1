/**
 * Colour for people.
 * Invariant: no escape sequence leaves where stderr or stdout is no terminal or NO_COLOR is set.
 */

export interface Palette {
  bold(text: string): string
  red(text: string): string
  green(text: string): string
  yellow(text: string): string
  dim(text: string): string
}

/** Select Graphic Rendition codes, ECMA-48 §8.3.117. */
export function palette(isColour: boolean): Palette {
  const wrap = (on: number, off: number) => (text: string) =>
    isColour ? `\u001b[${String(on)}m${text}\u001b[${String(off)}m` : text
  return {
    bold: wrap(1, 22),
    dim: wrap(2, 22),
    red: wrap(31, 39),
    green: wrap(32, 39),
    yellow: wrap(33, 39),
  }
}

/** Whether to colour what goes to `stream`: https://no-color.org, and TERM=dumb. */
export function wantsColour(
  stream: { readonly isTTY?: boolean },
  env: Readonly<Record<string, string | undefined>>,
): boolean {
  return stream.isTTY === true && !env['NO_COLOR'] && env['TERM'] !== 'dumb'
}
