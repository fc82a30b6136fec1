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
      if (depth === 1 && /^\s*:/.test(text.slice(end, end + 64))) {
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

function stringEnd(text: string, start: number): number {
  let at = start + 1
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at + 1
}
