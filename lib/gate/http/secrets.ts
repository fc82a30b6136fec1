/**
 * Comparing and naming secrets.
 * Invariant: comparison takes the same time wherever two values differ, and a log line gets a keyed
 * hash that is useless outside this process.
 */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'

const processKey = randomBytes(32)

/** Both sides are hashed first, so that neither content nor length shows in the time. */
export function sameSecret(a: string, b: string): boolean {
  return timingSafeEqual(digest(a), digest(b))
}

/** 8 hex digits: enough to tell two foreign keys apart in one run's log. */
export function shortHash(value: string): string {
  return digest(value).toString('hex').slice(0, 8)
}

function digest(value: string): Buffer {
  return createHmac('sha256', processKey).update(value).digest()
}
