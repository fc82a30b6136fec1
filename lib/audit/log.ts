/**
 * The audit log of one jail: JSON Lines, one record a decision.
 * Invariant: a record is on its way to the disk or counted in a `dropped` record; memory is bounded;
 * nobody waits for the disk.
 */
import { errorMessage } from '../errors.js'
import { foldKey, withCaller } from './fold.js'
import type { AuditRecord, Decision } from './record.js'
import { sanitiseDecision } from './sanitise.js'
import { Sink } from './sink.js'

export interface AuditLogOptions {
  /** Usually /var/log/agentjail; made 0700. */
  readonly dir: string
  readonly jail: string
  readonly uid: number
  /** Bytes before a file is rotated; default 10 MiB. */
  readonly maxBytes?: number
  /** Files kept with the written one; default 5, at most 10. */
  readonly files?: number
  /** Records a second that are taken for long; default 2,000: so that a jail cannot push the evidence
   * out of the files within seconds. Alike denials are folded before they count. */
  readonly rate?: number
  /** Records taken at once; default 20,000. */
  readonly burst?: number
  /** Bytes waiting for the disk; default 4 MiB. */
  readonly maxPending?: number
  /** Milliseconds since the epoch. */
  readonly now?: () => number
  /** Told the system's words once when writing starts to fail, and once when it works again (`undefined`). */
  readonly onTrouble?: (message: string | undefined) => void
}

/** Counts what is missing at this place of the log. */
export interface DroppedRecord {
  readonly v: 1
  readonly time: string
  readonly jail: string
  readonly uid: number
  readonly dropped: number
}

export interface AuditLog {
  /** Never blocks, never throws. */
  write(decisions: readonly Decision[]): void
  /** Counts records that were lost before they came here (the gate's own). */
  drop(count: number): void
  /** Everything taken so far is on the disk, or counted. */
  flush(): Promise<void>
  close(): Promise<void>
  /** All that were not written, since the log was opened. */
  readonly dropped: number
  readonly written: number
}

/** Milliseconds that records wait for company: alike denials within it become one with a count. */
const flushDelay = 50

/** Opens (or makes) the log. Throws `JailError` STATE where the place is not safe. */
export function openAuditLog(options: AuditLogOptions): Promise<AuditLog> {
  return new Promise((resolve) => {
    const sink = Sink.open({
      dir: options.dir,
      jail: options.jail,
      maxBytes: options.maxBytes ?? 10 * 1024 * 1024,
      files: Math.min(options.files ?? 5, 10),
    })
    resolve(new BufferedLog(sink, options))
  })
}

interface Slot {
  record: AuditRecord
}

class BufferedLog implements AuditLog {
  readonly #sink: Sink
  readonly #options: AuditLogOptions
  readonly #now: () => number
  readonly #rate: number
  readonly #burst: number
  readonly #maxPending: number

  #slots: Slot[] = []
  #folded = new Map<string, Slot>()
  #pendingBytes = 0
  #tokens: number
  #refilled: number
  #timer: NodeJS.Timeout | undefined
  #flushing: Promise<void> | undefined
  #isClosed = false
  #trouble: string | undefined

  written = 0
  dropped = 0
  /** Dropped, and not yet told in the file. */
  #untold = 0

  constructor(sink: Sink, options: AuditLogOptions) {
    this.#sink = sink
    this.#options = options
    this.#now = options.now ?? Date.now
    this.#rate = options.rate ?? 2_000
    this.#burst = options.burst ?? 20_000
    this.#maxPending = options.maxPending ?? 16 * 1024 * 1024
    this.#tokens = this.#burst
    this.#refilled = this.#now()
  }

  write(decisions: readonly Decision[]): void {
    const now = this.#now()
    this.#refill(now)
    const time = new Date(now).toISOString()
    for (const given of decisions) {
      const decision = sanitiseDecision(given)
      if (!decision) this.drop(1)
      else this.#take(decision, time)
    }
    this.#schedule()
  }

  drop(count: number): void {
    if (!Number.isSafeInteger(count) || count <= 0) return
    this.dropped += count
    this.#untold += count
    this.#schedule()
  }

  async flush(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    // One write at a time, in order; what came meanwhile goes with the next.
    while (this.#flushing) await this.#flushing
    if (this.#slots.length === 0 && this.#untold === 0) return
    this.#flushing = this.#writeOut().finally(() => {
      this.#flushing = undefined
    })
    await this.#flushing
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    await this.flush()
    this.#sink.close()
  }

  #take(decision: Decision, time: string): void {
    const isFoldable = decision.verdict === 'deny' && decision.up === undefined
    const key = isFoldable ? `${decision.layer} ${foldKey(decision)}` : undefined
    const alike = key === undefined ? undefined : this.#folded.get(key)
    if (alike) {
      const count = (alike.record.count ?? 1) + (decision.count ?? 1)
      alike.record = { ...withCaller(alike.record, decision), count }
      return
    }
    const size = sizeOf(decision)
    if (this.#isClosed || this.#tokens < 1 || this.#pendingBytes + size > this.#maxPending) {
      this.drop(decision.count ?? 1)
      return
    }
    this.#tokens -= 1
    this.#pendingBytes += size
    const { jail, uid } = this.#options
    const slot: Slot = { record: { v: 1, time, jail, uid, ...decision } }
    this.#slots.push(slot)
    if (key !== undefined) this.#folded.set(key, slot)
  }

  /** Token bucket. A clock that jumps back takes nothing away. */
  #refill(now: number): void {
    const elapsed = Math.max(0, now - this.#refilled)
    this.#tokens = Math.min(this.#burst, this.#tokens + (elapsed * this.#rate) / 1000)
    this.#refilled = now
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#isClosed) return
    this.#timer = setTimeout(() => void this.flush(), flushDelay)
    // The command's end must not wait for the log; `close` flushes.
    this.#timer.unref()
  }

  async #writeOut(): Promise<void> {
    const slots = this.#slots
    const bytes = this.#pendingBytes
    const untold = this.#untold
    this.#slots = []
    this.#folded = new Map()
    this.#untold = 0
    const lines = slots.map(({ record }) => JSON.stringify(record))
    if (untold > 0) lines.push(JSON.stringify(this.#droppedRecord(untold)))
    try {
      await this.#sink.append(Buffer.from(`${lines.join('\n')}\n`))
      this.written += slots.length
      this.#tell(undefined)
    } catch (error) {
      this.#untold += untold
      const lost = slots.reduce((sum, { record }) => sum + (record.count ?? 1), 0)
      this.dropped += lost
      this.#untold += lost
      this.#tell(errorMessage(error))
    } finally {
      this.#pendingBytes -= bytes
    }
  }

  #droppedRecord(dropped: number): DroppedRecord {
    const { jail, uid } = this.#options
    return { v: 1, time: new Date(this.#now()).toISOString(), jail, uid, dropped }
  }

  #tell(trouble: string | undefined): void {
    if ((this.#trouble === undefined) === (trouble === undefined)) return
    this.#trouble = trouble
    this.#options.onTrouble?.(trouble)
  }
}

/** Roughly, and never less than half of the line: good enough to bound memory. */
function sizeOf({ name, names, path, detail, command }: Decision): number {
  const texts =
    (name?.length ?? 0) + (names?.join().length ?? 0) + (path?.length ?? 0) + (detail?.length ?? 0)
  return 300 + texts + (command?.length ?? 0)
}
