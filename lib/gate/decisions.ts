/**
 * Collects decisions and hands them on in batches, alike ones folded into one with a count.
 * Invariant: the queue is bounded, and what does not fit is counted, never lost unseen.
 */
import type { Decision } from '../audit/record.js'
import type { Clients } from './clients.js'
import type { ReportedDecision } from './protocol.js'

/** Longest wait of a decision in the gate. */
const batchMs = 40
/** Distinct decisions in one batch; a jail that makes more in 40 ms is only counted. */
const maxBatch = 2000

/** Sends one batch; resolves when the other side has taken it. */
export type SendBatch = (decisions: readonly ReportedDecision[], dropped: number) => Promise<void>

export class Decisions {
  readonly #send: SendBatch
  readonly #clients: Clients | undefined
  readonly #byText = new Map<string, Folded>()
  /** Cached answers report the same object again and again: no text is made for those. */
  readonly #byIdentity = new Map<Decision, number>()
  #dropped = 0
  #timer: NodeJS.Timeout | undefined
  #sending = false

  constructor(send: SendBatch, clients?: Clients) {
    this.#send = send
    this.#clients = clients
  }

  /**
   * `client`: the port of the client's own socket; of alike denials the first one's is looked at.
   * Where the result is a promise, the client is best answered once it settles, in milliseconds.
   */
  report(decision: Decision, client?: number): Promise<void> | undefined {
    const clean = sanitise(decision)
    const { up, down, count = 1, ...alike } = clean
    // Opening and closing records of a connection are kept apart.
    const key = JSON.stringify(alike) + (up === undefined ? '' : '+')
    const known = this.#byText.get(key)
    if (known === undefined) {
      if (this.#byText.size >= maxBatch) {
        this.#dropped += count
        return undefined
      }
      const isLookedFor = client !== undefined && clean.verdict === 'deny'
      const look = isLookedFor ? this.#clients?.look(clean, client) : undefined
      const told = look === undefined || client === undefined ? clean : { ...clean, client }
      this.#byText.set(key, { decision: told, count, up: up ?? 0, down: down ?? 0 })
      this.#arm()
      return look
    }
    known.count += count
    known.up += up ?? 0
    known.down += down ?? 0
    this.#arm()
    return undefined
  }

  /** Whose look-up of a granted name it is; as `report` has it looked at. Reports nothing. */
  lookGranted(
    name: string,
    proto: string,
    client: number | undefined,
    isReady: boolean,
  ): Promise<void> | undefined {
    if (client === undefined) return undefined
    return this.#clients?.lookGranted(name, proto, client, isReady)
  }

  /** As `report`, for a decision object that is kept and reported many times. */
  reportShared(decision: Decision): void {
    const count = this.#byIdentity.get(decision)
    if (count === undefined && this.#byIdentity.size >= maxBatch) {
      this.#dropped++
      return
    }
    this.#byIdentity.set(decision, (count ?? 0) + 1)
    if (count === undefined) this.#arm()
  }

  /** Sends what there is now. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#sending) return
    for (const [decision, count] of this.#byIdentity) void this.report({ ...decision, count })
    this.#byIdentity.clear()
    clearTimeout(this.#timer)
    this.#timer = undefined
    const batch = [...this.#byText.values()].map(unfold)
    const dropped = this.#dropped
    if (batch.length === 0 && dropped === 0) return
    this.#byText.clear()
    this.#dropped = 0
    this.#sending = true
    try {
      await this.#send(batch, dropped)
    } finally {
      this.#sending = false
      if (this.#byText.size > 0 || this.#byIdentity.size > 0 || this.#dropped > 0) this.#arm()
    }
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#sending) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      // The channel is gone only when the warden is, and then the gate ends by itself.
      this.flush().catch(() => undefined)
    }, batchMs)
  }
}

interface Folded {
  readonly decision: ReportedDecision
  count: number
  up: number
  down: number
}

function unfold(folded: Folded): ReportedDecision {
  const { decision, count, up, down } = folded
  return {
    ...decision,
    ...(decision.up === undefined ? {} : { up, down }),
    ...(count === 1 ? {} : { count }),
  }
}

/** Free text from the network: printable ASCII, at most 256 characters, so that no log line can act on a terminal. */
function sanitise(decision: Decision): Decision {
  const text: { name?: string; detail?: string; path?: string; method?: string } = {}
  if (decision.name !== undefined) text.name = printable(decision.name)
  if (decision.detail !== undefined) text.detail = printable(decision.detail)
  if (decision.path !== undefined) text.path = printable(decision.path)
  if (decision.method !== undefined) text.method = printable(decision.method)
  return { ...decision, ...text }
}

/** Printable ASCII, at most 256 characters; all else becomes `?`. */
function printable(text: string): string {
  return text.slice(0, 256).replace(/[^\x20-\x7e]/g, '?')
}
