/**
 * Folds repeated denials into one entry with a count.
 * Invariant: bounded memory whatever the jail tries; what no longer fits is counted, not lost.
 */
import type { Decision } from './record.js'
import { sanitiseDecision } from './sanitise.js'

/** Entries kept apart; a jail that tries more different things than this is told as a number. */
const maxEntries = 1_000

export interface FoldedDenial {
  /** The first of its kind. */
  readonly decision: Decision
  readonly count: number
}

/** Alike: the same destination, port, protocol, request and reason. A and AAAA look-ups are alike. */
export function foldKey(decision: Decision): string {
  const { reason, layer, direction, name, address, port, proto, method, path } = decision
  const place = layer === 'dns' ? ['dns', name] : [proto, name ?? address, port, method, path]
  return JSON.stringify([reason, direction, ...place])
}

/** The first process that is known among alike decisions is the one that is told. */
export function withCaller<D extends Decision>(first: D, { pid, command }: Decision): D {
  if (first.pid !== undefined || pid === undefined) return first
  return { ...first, pid, ...(command === undefined ? {} : { command }) }
}

export class DenialFold {
  readonly #entries = new Map<string, { decision: Decision; count: number }>()
  #overflow = 0
  #total = 0

  /** Returns the entry with its new count; `undefined` for what is no denial or no longer fits. */
  add(given: Decision): FoldedDenial | undefined {
    if (given.verdict !== 'deny') return undefined
    // Most come from the gate, and all are printed on a terminal.
    const decision = sanitiseDecision(given)
    if (decision === undefined) return undefined
    const more = decision.count ?? 1
    this.#total += more
    const key = foldKey(decision)
    const entry = this.#entries.get(key)
    if (entry) {
      entry.count += more
      entry.decision = withCaller(entry.decision, decision)
      return entry
    }
    if (this.#entries.size >= maxEntries) {
      this.#overflow += more
      return undefined
    }
    const fresh = { decision, count: more }
    this.#entries.set(key, fresh)
    return fresh
  }

  /** All denials, the folded and the overflowed. */
  get total(): number {
    return this.#total
  }

  /** Denials that fit no entry. */
  get overflow(): number {
    return this.#overflow
  }

  /** In the order of first occurrence. */
  entries(): readonly FoldedDenial[] {
    return [...this.#entries.values()]
  }
}
