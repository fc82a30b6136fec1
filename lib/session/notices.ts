/**
 * What the user was told while a jail ran, for those who look at it later: `agentjail status` shows it.
 * Invariant: bounded; the latest stay.
 */
import type { Scrub } from '../credentials/scrub.js'
import type { WardenEvents } from './platform.js'

const maxNotices = 10

export interface Remembered<E> {
  /** To be used instead of the events given. */
  readonly events: E
  /** Oldest first, each once. */
  readonly notices: () => readonly string[]
}

/** The same events, with notices scrubbed and remembered. */
export function rememberNotices<E extends Pick<WardenEvents, 'onNotice'>>(
  events: E,
  scrub: Scrub,
): Remembered<E> {
  const notices = new Set<string>()
  const onNotice = (given: string): void => {
    const text = scrub(given)
    notices.delete(text)
    notices.add(text)
    const [oldest] = notices
    if (notices.size > maxNotices && oldest !== undefined) notices.delete(oldest)
    events.onNotice(text)
  }
  return { events: { ...events, onNotice }, notices: () => [...notices] }
}
