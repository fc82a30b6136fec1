/**
 * The member names of a JSON object's top level, duplicates included, in order.
 * Invariant: sees every name that any JSON parser could see; JSON.parse alone hides all but the last.
 */

/** `text` must be valid JSON (checked by JSON.parse before). */
export function topLevelKeys(text: string): string[] {
  const keys: string[] = []
  let depth = 0
  let at = 0
  while (at < text.length) {
    const char = text[at]
    if (char === '"') {
      const end = stringEnd(text, at)
      if (depth === 1 && isColonNext(text, end)) {
        keys.push(JSON.parse(text.slice(at, end)) as string)
      }
      at = end
      continue
    }
    if (char === '{' || char === '[') depth++
    else if (char === '}' || char === ']') depth--
    at++
  }
  return keys
}

/** After as much white space as there may be. */
function isColonNext(text: string, from: number): boolean {
  const colon = /[ \t\r\n]*:/y
  colon.lastIndex = from
  return colon.test(text)
}

function stringEnd(text: string, start: number): number {
  let at = start + 1
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at + 1
}
