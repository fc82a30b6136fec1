/**
 * What the command sees instead of an injected key: the same shape, none of its content.
 * Invariant: only the well-known, public prefix of a key's kind is kept.
 */
import { randomInt } from 'node:crypto'

/** Prefixes that say which kind of key it is; clients check some of them. From the vendors' documentation. */
const prefixes =
  /^(?:sk-ant-[a-z]{3,5}\d\d-|sk-(?:proj|svcacct|admin|ant|or-v\d)-|[psr]k_(?:live|test)_|sk-|xox[a-z]-|xapp-|gh[pousr]_|github_pat_|glpat-|hf_|npm_|pypi-|AIza|gsk_|r8_|lin_api_|secret_|ntn_|SG\.)/

const classes = [
  { test: /[0-9]/, letters: '0123456789' },
  { test: /[a-z]/, letters: 'abcdefghijklmnopqrstuvwxyz' },
  { test: /[A-Z]/, letters: 'ABCDEFGHIJKLMNOPQRSTUVWXYZ' },
] as const

/** Same length, same prefix, same classes of characters, random else. Never the value itself. */
export function placeholderFor(value: string): string {
  const prefix = prefixes.exec(value)?.[0] ?? ''
  for (;;) {
    let out = prefix
    for (const char of value.slice(prefix.length)) {
      const { letters } = classes.find(({ test }) => test.test(char)) ?? { letters: char }
      out += letters[randomInt(letters.length)] ?? char
    }
    if (out !== value) return out
  }
}
