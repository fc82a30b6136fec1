/**
 * Paths for the log.
 * Invariant: no query, and nothing that is a key of the policy or stands where a key would.
 */
import type { ResolvedCredential } from '../protocol.js'
import { decodeLoosely } from './target.js'

/** Another's key in the credential's place is a secret too; shorter segments are words. */
const minKey = 8

/** The path of a request target, decoded so that no encoding hides a key, at most 256 characters. */
export function maskedPath(target: string, credentials: readonly ResolvedCredential[]): string {
  let path = decodeLoosely(target.split('?')[0] ?? '')
  for (const credential of credentials) {
    for (const secret of [credential.value, credential.placeholder]) {
      if (secret !== undefined && secret !== '') path = path.replaceAll(secret, '{token}')
    }
    if (credential.in.kind !== 'path') continue
    const { prefix } = credential.in
    const isOne = (segment: string) => segment.toLowerCase().startsWith(prefix.toLowerCase())
    path = path
      .split('/')
      .map((segment) =>
        isOne(segment) && segment.length >= prefix.length + minKey ? `${prefix}{token}` : segment,
      )
      .join('/')
  }
  return path.slice(0, 256)
}

/** The path as it was sent, where no credential is known: whatever could be a key is not shown. */
export function guardedPath(rawPath: string): string {
  return rawPath
    .split('/')
    .map((segment) => (couldBeKey(decodeLoosely(segment)) ? '{token}' : segment))
    .join('/')
    .slice(0, 256)
}

/** Long and with digits among letters, or in two parts as Telegram's (`bot123:abc`). */
function couldBeKey(segment: string): boolean {
  if (/^[^:]*\d:[\w-]{6,}$/.test(segment)) return true
  return segment.length >= 20 && /\d/.test(segment) && /[a-z]/i.test(segment)
}
